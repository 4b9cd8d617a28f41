# SPDX-License-Identifier: Apache-2.0
"""A cluster of one node: control plane and kubelet above containerd, the runtime named by a RuntimeClass.

Kubernetes 1.36 or newer, etcd and containerd 2 come from --clients.  The kubelet sets a few things for the whole
machine: it is shown them as done.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conformance import snippets
from conformance.checks import Table, wait_for
from conformance.errors import Failed
from conformance.lanes import containerd
from conformance.lanes.base import Done, output
from conformance.lanes.containerd import IMAGE
from conformance.sandbox import Room

Object = dict[str, Any]
ADDRESS = "192.0.2.1"
NODE = "conformance"
SERVER = f"https://{ADDRESS}:6443"
PODS = "/api/v1/namespaces/default/pods"
MERGE = "application/strategic-merge-patch+json"
# What a kubelet sets for the whole machine: in a mount namespace of its own it finds that done.
TUNABLES = {"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
            "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000"}


class Kubernetes(containerd.Containerd):
    needs = (*containerd.Containerd.needs, "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
             "kubelet", "kubectl", "openssl")

    def start(self) -> None:
        super().start()
        self.home = self.scratch / "kubernetes"
        self.home.mkdir()
        for words in (("link", "add", "node0", "type", "bridge"), ("address", "add", f"{ADDRESS}/24", "dev", "node0"),
                      ("link", "set", "node0", "up"), ("route", "add", "default", "dev", "node0")):
            self.must("ip", *words)
        self.token = secrets.token_hex()
        self.start_control_plane()
        self.start_kubelet()
        self.wait_for_node()
        wait_for(lambda: self.there("/api/v1/namespaces/default/serviceaccounts/default"), "the controllers' beginning")
        self.kubectl("apply", "-f", self.file(snippets.snippet("Kubernetes", "")))

    def start_control_plane(self) -> None:
        """etcd, the API server, the controllers and the scheduler."""
        key, config, certificates = self.home / "accounts.key", self.home / "kubeconfig", self.home / "certificates"
        self.must("openssl", "genrsa", "-out", key, "2048")
        (self.home / "tokens").write_text(f"{self.token},admin,1,system:masters\n")
        config.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "lane",
            "clusters": [{"name": "lane", "cluster": {"server": SERVER,
                                                      "certificate-authority": str(certificates / "apiserver.crt")}}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "lane", "context": {"cluster": "lane", "user": "admin"}}]}))
        self.daemon(["etcd", "--data-dir", self.home / "etcd", "--unsafe-no-fsync"], self.home / "etcd.log")
        self.daemon(["kube-apiserver", "--etcd-servers", "http://127.0.0.1:2379", "--advertise-address", ADDRESS,
                     "--endpoint-reconciler-type", "none", "--cert-dir", certificates, "--token-auth-file",
                     self.home / "tokens", "--authorization-mode", "AlwaysAllow", "--service-account-issuer", SERVER,
                     "--service-account-key-file", key, "--service-account-signing-key-file", key,
                     "--service-cluster-ip-range", "10.96.0.0/16", "--kubelet-preferred-address-types", "InternalIP",
                     "--allow-privileged"], self.home / "apiserver.log", certificates / "apiserver.crt")
        self.trust = ssl.create_default_context(cafile=certificates / "apiserver.crt")
        wait_for(lambda: self.there("/readyz"), "the API server")
        self.daemon(["kube-controller-manager", "--kubeconfig", config, "--service-account-private-key-file", key,
                     "--leader-elect=false"], self.home / "controllers.log")
        self.daemon(["kube-scheduler", "--kubeconfig", config, "--leader-elect=false"], self.home / "scheduler.log")

    def start_kubelet(self) -> None:
        node, configuration = self.home / "node", self.home / "kubelet.json"
        (self.home / "resolv.conf").write_text("")
        configuration.write_text(json.dumps({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"}, "containerRuntimeEndpoint": f"unix://{self.place}/socket",
            "cgroupDriver": "cgroupfs", "failCgroupV1": False, "failSwapOn": False, "oomScoreAdj": 0,
            "resolvConf": str(self.home / "resolv.conf"), "podLogsDir": str(self.home / "logs"),
            "volumePluginDir": str(self.home / "plugins"), "makeIPTablesUtilChains": False,
            "evictionHard": {"memory.available": "1Mi"}}))
        script = []
        for name, value in TUNABLES.items():
            file = self.home / "tunables" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(value + "\n")
            script.append(f"mount --bind {file} /proc/sys/{name}")
        if not node.exists():  # what is mounted there, as volumes are, containerd has to see
            node.mkdir()
            self.must("mount", "--bind", node, node)
            self.must("mount", "--make-shared", node)
        self.kubelet = self.daemon(
            ["unshare", "--mount", "--propagation", "unchanged", "sh", "-ec", "; ".join([*script, 'exec "$@"']), "sh",
             "kubelet", "--config", configuration, "--kubeconfig", self.home / "kubeconfig", "--root-dir", node,
             "--hostname-override", NODE, "--node-ip", ADDRESS], self.home / "kubelet.log")

    def wait_for_node(self) -> None:
        def ready() -> bool:
            path = f"/api/v1/nodes/{NODE}"
            return self.there(path) and any(each["type"] == "Ready" and each["status"] == "True"
                                            for each in self.api("GET", path)["status"]["conditions"])

        wait_for(ready, "the node to be ready")

    def api(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        """The API server's answer.  Raises Failed with its words."""
        request = urllib.request.Request(SERVER + path, None if body is None else json.dumps(body).encode(),
                                         {"Authorization": f"Bearer {self.token}", "Content-Type": kind}, method=method)
        try:
            with urllib.request.urlopen(request, context=self.trust) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {path}: {error.code} {error.read().decode()}") from None
        except (OSError, ssl.SSLError) as error:
            raise Failed(f"{method} {path}: {error}") from None
        found: Object = json.loads(text) if text.startswith(b"{") else {}
        return found

    def there(self, path: str) -> bool:
        try:
            self.api("GET", path)
        except Failed:
            return False
        return True

    def command_of_kubectl(self, *words: str | Path) -> list[str | Path]:
        return ["kubectl", "--kubeconfig", self.home / "kubeconfig", *words]

    def try_kubectl(self, *words: str | Path) -> Done:
        return self.command(*self.command_of_kubectl(*words))

    def kubectl(self, *words: str | Path) -> str:
        return output(self.try_kubectl(*words), words)

    @contextmanager
    def pod(self, *containers: Object, **spec: Any) -> Iterator[Pod]:
        """A pod of the documents' RuntimeClass, deleted afterwards."""
        pod = Pod(self, self.api("POST", PODS, {"metadata": {"name": self.name("pod")},
                                                "spec": template(*containers, **spec)}))
        yield pod
        pod.delete()

    def ours(self, container: str) -> bool:
        """Is the runtime of that container the one that is measured?"""
        runtime = json.loads(self("-n", "k8s.io", "containers", "info", container))["Runtime"]
        return self.runtime.encode() in base64.b64decode((runtime["Options"] or {}).get("value", ""))

    def clean(self) -> None:
        for kind in ("apis/apps/v1/namespaces/default/deployments", "apis/batch/v1/namespaces/default/jobs"):
            self.api("DELETE", f"/{kind}", {"propagationPolicy": "Background"})
        self.api("DELETE", PODS, {"gracePeriodSeconds": 1})
        wait_for(lambda: not self.api("GET", PODS)["items"], "the pods' end")

    def table(self) -> Table[Any]:
        from conformance.lanes import kubernetes_checks

        return kubernetes_checks.TABLE


def template(*containers: Object, **spec: Any) -> Object:
    """A pod's spec."""
    return {"runtimeClassName": snippets.NAME, "automountServiceAccountToken": False, "enableServiceLinks": False,
            "dnsPolicy": "Default", "terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "containers": list(containers), **spec}


def box(*command: str, name: str = "main", **fields: Any) -> Object:
    """A container of a pod, of the lane's image."""
    return {"name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": list(command or ("sleep", "1000")),
            **fields}


class Pod:
    """A pod that the API server knows."""

    def __init__(self, lane: Kubernetes, made: Object) -> None:
        self.lane = lane
        self.name: str = made["metadata"]["name"]
        self.uid: str = made["metadata"]["uid"]
        self.path = f"{PODS}/{self.name}"

    def status(self) -> Object:
        found: Object = self.lane.api("GET", self.path)["status"]
        return found

    def container(self, name: str = "main", kind: str = "containerStatuses") -> Object:
        """The status of one container, {} before there is one."""
        return next((each for each in self.status().get(kind, []) if each["name"] == name), {})

    def id(self, name: str = "main") -> str:
        return str(self.container(name)["containerID"]).removeprefix("containerd://")

    def started(self) -> Pod:
        """Wait until it is ready."""

        def ready() -> bool:
            status = self.status()
            if status["phase"] in ("Succeeded", "Failed"):
                raise Failed(f"it has ended: {status}")
            return any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", []))

        wait_for(ready, f"{self.name} to be ready")
        return self

    def ended(self) -> int:
        """Wait until all of its containers have ended; the first one's exit code."""
        wait_for(lambda: self.status()["phase"] in ("Succeeded", "Failed"), f"{self.name} to end")
        return int(self.status()["containerStatuses"][0]["state"]["terminated"]["exitCode"])

    def log(self, container: str = "main") -> str:
        return self.lane.kubectl("logs", self.name, "-c", container)

    def exec(self, *command: str, container: str = "main") -> Done:
        return self.lane.try_kubectl("exec", self.name, "-c", container, "--", *command)

    def sh(self, script: str, container: str = "main") -> str:
        return output(self.exec("sh", "-c", script, container=container), (script,))

    def delete(self) -> None:
        """Delete it, unless that was done, and wait until it is gone."""
        if self.lane.there(self.path):
            self.lane.api("DELETE", self.path)
        wait_for(lambda: not self.lane.there(self.path), f"{self.name} to be gone")


def make(room: Room, runtime: str, suite: str) -> Kubernetes:
    return Kubernetes(room, runtime)
