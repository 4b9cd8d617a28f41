# SPDX-License-Identifier: Apache-2.0
"""What a cluster asks of a runtime: pods, probes, volumes, limits that change, what is left when a pod is gone."""

from __future__ import annotations

import base64
import signal
from pathlib import Path

from conformance import snippets
from conformance.checks import Table, wait_for
from conformance.lanes.base import MEMORY, QUOTA
from conformance.lanes.kubernetes import MERGE, NODE, PODS, Kubernetes, Object, box, template

TABLE: Table[Kubernetes] = Table()
check = TABLE.check
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


def limits(cpu: str, memory: str) -> Object:
    return {"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}}


def http(path: str = "/", port: int = 80) -> Object:
    return {"httpGet": {"path": path, "port": port}, "periodSeconds": 1, "failureThreshold": 1}


def command(script: str) -> Object:
    return {"exec": {"command": ["sh", "-c", script]}}


@check("a pod of the RuntimeClass in docs/integrations.md: runtime, output, exit code",
       "this runtime, hello, 3", short=True)
def _(lane: Kubernetes) -> str:
    with lane.pod(box("sh", "-c", "sleep 2; echo hello; exit 3")) as pod:
        wait_for(lambda: "running" in pod.container().get("state", {}), "it to run")
        whose = "this" if lane.ours(pod.id()) else "another"
        code = pod.ended()
        return f"{whose} runtime, {pod.log()}, {code}"


@check("a pod without a RuntimeClass: the node's default (docs/integrations.md)", "this runtime")
def _(lane: Kubernetes) -> str:
    with lane.pod(box(), runtimeClassName=None) as pod:
        return "this runtime" if lane.ours(pod.started().id()) else "another"


@check("RuntimeClass: overhead is in the pod's cgroup, not in the container's", "67108864 below 100663296", short=True)
def _(lane: Kubernetes) -> str:
    name = lane.name("class")
    lane.api("POST", "/apis/node.k8s.io/v1/runtimeclasses", {
        "metadata": {"name": name}, "handler": snippets.NAME, "overhead": {"podFixed": {"cpu": "50m",
                                                                                       "memory": "32Mi"}}})
    with lane.pod(box(resources=limits("100m", "64Mi")), runtimeClassName=name) as pod:
        container = pod.started().sh(MEMORY)
        above = lane.must("find", "/sys/fs/cgroup", "-type", "d", "-name", f"pod{pod.uid}").splitlines()
        values = {Path(path, name).read_text().strip() for path in above
                  for name in ("memory.limit_in_bytes", "memory.max") if Path(path, name).exists()}
        return f"{container} below {' '.join(values)}"


@check("kubectl exec: exit code, standard input", "4 out of it, came in", short=True)
def _(lane: Kubernetes) -> str:
    with lane.pod(box()) as pod:
        done = pod.started().exec("sh", "-c", "echo out of it; exit 4")
        words = lane.command_of_kubectl("exec", "-i", pod.name, "--", "cat")
        return f"{done.code} {done.out}, {lane.must(*words, input='came in')}"


@check("kubectl exec -it: a terminal", "31 97|got it")
def _(lane: Kubernetes) -> str:
    script = "sleep 1; tty >/dev/null && stty size; read word; echo got $word"
    with lane.pod(box()) as pod:
        pod.started()
        _, shown = lane.terminal(lane.command_of_kubectl("exec", "-it", pod.name, "--", "sh", "-c", script),
                                 (("31 97", "it\n"),), size=(31, 97))
        lines = shown.splitlines()
        return f"{lines[0]}|{lines[-1]}"


@check("kubectl attach -i", "got it")
def _(lane: Kubernetes) -> str:
    with lane.pod(box("sh", "-c", "read word; echo got $word", stdin=True, stdinOnce=True)) as pod:
        pod.started()
        words = lane.command_of_kubectl("attach", "-i", pod.name)
        return lane.must(*words, input="it\n").splitlines()[-1]


@check("kubectl port-forward", "hello through it")
def _(lane: Kubernetes) -> str:
    script = "echo hello through it >/index.html; httpd -f -p 80 -h /"
    with lane.pod(box("sh", "-c", script, readinessProbe=http("/index.html"))) as pod:
        pod.started()
        forward = lane.daemon(lane.command_of_kubectl("port-forward", pod.name, "8080:80"), lane.home / "forward.log")
        try:
            fetch = ("curl", "-s", "http://127.0.0.1:8080/")
            wait_for(lambda: lane.command(*fetch).out, "an answer")
            return lane.must(*fetch)
        finally:
            forward.terminate()
            forward.wait()
            lane.daemons.remove(forward)


@check("kubectl cp, there and back", "carried about")
def _(lane: Kubernetes) -> str:
    back = lane.scratch / lane.name("back")
    with lane.pod(box()) as pod:
        pod.started()
        lane.kubectl("cp", lane.file("carried about"), f"{pod.name}:/tmp/there")
        lane.kubectl("cp", f"{pod.name}:/tmp/there", back)
    return back.read_text()


@check("init containers, then a sidecar, then the container: their order", "first second sidecar main")
def _(lane: Kubernetes) -> str:
    def writer(word: str, then: str = "") -> list[str]:
        return ["sh", "-c", f"echo {word} >>/v/order; {then}"]

    mounts: Object = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    begin = [box(*writer("first", "sleep 0.3"), name="first", **mounts),
             box(*writer("second"), name="second", **mounts),
             box(*writer("sidecar", "sleep 1000"), name="sidecar", restartPolicy="Always",
                 startupProbe={**command("grep -q sidecar /v/order"), "periodSeconds": 1}, **mounts)]
    with lane.pod(box(*writer("main", "cat /v/order"), **mounts), initContainers=begin,
                  volumes=[{"name": "v", "emptyDir": {}}]) as pod:
        pod.ended()
        return " ".join(pod.log().split())


@check("probes: a container that isn't alive any more is started again", "1 restart, then ready", short=True)
def _(lane: Kubernetes) -> str:
    script = "touch /alive; [ -e /v/again ] || (sleep 3; touch /v/again; rm /alive) & sleep 1000"
    probe = {**command("test -e /alive"), "periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1}
    with lane.pod(box("sh", "-c", script, livenessProbe=probe, volumeMounts=[{"name": "v", "mountPath": "/v"}]),
                  restartPolicy="Always", volumes=[{"name": "v", "emptyDir": {}}]) as pod:
        wait_for(lambda: pod.container().get("restartCount"), "the restart")
        wait_for(lambda: pod.container()["ready"], "it to be ready again")
        return f"{pod.container()['restartCount']} restart, then ready"


@check("probes: ready by HTTP only when it answers", "not ready, then ready")
def _(lane: Kubernetes) -> str:
    script = "while [ ! -e /go ]; do sleep 0.1; done; touch /index.html; httpd -f -p 80 -h /"
    with lane.pod(box("sh", "-c", script, readinessProbe=http("/index.html"))) as pod:
        wait_for(lambda: pod.container().get("started"), "its start")
        before = "ready" if pod.container()["ready"] else "not ready"
        pod.sh("touch /go")
        pod.started()
        return f"{before}, then ready"


@check("lifecycle: postStart, preStop, the signal, in their order", "started, stopping, TERM")
def _(lane: Kubernetes) -> str:
    where = lane.directory(0o777)
    script = "trap 'echo -n \", TERM\" >>/v/seen; exit' TERM; while :; do sleep 0.1; done"
    hooks = {"postStart": command("echo -n started >>/v/seen"), "preStop": command("echo -n ', stopping' >>/v/seen")}
    with lane.pod(box("sh", "-c", script, lifecycle=hooks, volumeMounts=[{"name": "v", "mountPath": "/v"}]),
                  volumes=[{"name": "v", "hostPath": {"path": str(where)}}], terminationGracePeriodSeconds=20) as pod:
        pod.started()
    return (where / "seen").read_text()


@check("a container that ignores TERM is killed after its grace", "137")
def _(lane: Kubernetes) -> str:
    with lane.pod(box("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"),
                  terminationGracePeriodSeconds=2) as pod:
        pod.started()
        lane.api("PATCH", pod.path, {"metadata": {"finalizers": ["conformance/look"]}}, MERGE)
        lane.api("DELETE", pod.path)
        wait_for(lambda: "terminated" in pod.container()["state"], "its end")
        code = pod.container()["state"]["terminated"]["exitCode"]
        lane.api("PATCH", pod.path, {"metadata": {"finalizers": None}}, MERGE)
        return str(code)


@check("limits; a resize changes them without a restart",
       "67108864 10000, then 100663296 20000, 0 restarts", short=True)
def _(lane: Kubernetes) -> str:
    with lane.pod(box(resources=limits("100m", "64Mi"))) as pod:
        first = f"{pod.started().sh(MEMORY)} {pod.sh(QUOTA)}"
        lane.api("PATCH", f"{pod.path}/resize", {"spec": {"containers": [{"name": "main", "resources": limits(
            "200m", "96Mi")}]}}, MERGE)
        wait_for(lambda: pod.sh(MEMORY) == "100663296", "the new limit")
        wait_for(lambda: pod.sh(QUOTA) == "20000", "the new quota")
        return f"{first}, then {pod.sh(MEMORY)} {pod.sh(QUOTA)}, {pod.container()['restartCount']} restarts"


@check("out of memory", "OOMKilled 137", short=True)
def _(lane: Kubernetes) -> str:
    with lane.pod(box("sh", "-c", "sleep 1; tail /dev/zero", resources=limits("500m", "32Mi"))) as pod:
        pod.ended()
        ended = pod.container()["state"]["terminated"]
        return f"{ended['reason']} {ended['exitCode']}"


@check("a program that isn't there", matches=r"(StartError|RunContainerError) .*(no such file|not found).*")
def _(lane: Kubernetes) -> str:
    with lane.pod(box("no-such-program")) as pod:
        wait_for(lambda: {"terminated"} <= pod.container().get("state", {}).keys(), "its failure")
        ended = pod.container()["state"]["terminated"]
        return f"{ended['reason']} {ended['message']}"


@check("securityContext: user, groups, root, privileges, capabilities, seccomp",
       "1000 1000|77 88 1000|ro|1|0000000000000000|2", short=True)
def _(lane: Kubernetes) -> str:
    security = {"runAsUser": 1000, "runAsGroup": 1000, "runAsNonRoot": True, "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"}}
    with lane.pod(box(securityContext=security), securityContext={
            "supplementalGroups": [77], "fsGroup": 88, "supplementalGroupsPolicy": "Strict"}) as pod:
        return pod.started().sh("echo $(id -u) $(id -g)\\|$(id -G | tr ' ' '\\n' | sort -nu)\\|"
                                "$(touch /x 2>/dev/null || echo ro)\\|"
                                "$(grep NoNewPrivs /proc/self/status | cut -f 2)\\|"
                                "$(grep CapEff /proc/self/status | cut -f 2)\\|"
                                "$(grep Seccomp: /proc/self/status | cut -f 2)")


@check("securityContext: a Localhost seccomp profile", "mkdir: refused")
def _(lane: Kubernetes) -> str:
    profile = lane.home / "node/seccomp/no-mkdir.json"
    profile.parent.mkdir(exist_ok=True)
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], '
                       '"action": "SCMP_ACT_ERRNO"}]}')
    security = {"seccompProfile": {"type": "Localhost", "localhostProfile": profile.name}}
    with lane.pod(box(securityContext=security)) as pod:
        return pod.started().sh("mkdir /tmp/x 2>/dev/null && echo made || echo mkdir: refused")


@check("privileged", "mounted")
def _(lane: Kubernetes) -> str:
    with lane.pod(box(securityContext={"privileged": True})) as pod:
        return pod.started().sh("mkdir /m && mount -t tmpfs tmpfs /m && echo mounted")


@check("sysctls, hostname, hostAliases, the downward API", "1 4000|web|192.0.2.9|its own name")
def _(lane: Kubernetes) -> str:
    sysctls = [{"name": "kernel.shm_rmid_forced", "value": "1"},
               {"name": "net.ipv4.ip_local_port_range", "value": "4000 5000"}]
    name = [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    with lane.pod(box(env=name), securityContext={"sysctls": sysctls}, hostname="web",
                  hostAliases=[{"ip": "192.0.2.9", "hostnames": ["elsewhere"]}]) as pod:
        pod.started()
        seen = pod.sh("cat /proc/sys/kernel/shm_rmid_forced; cut -f 1 /proc/sys/net/ipv4/ip_local_port_range").split()
        host = pod.sh("hostname; grep elsewhere /etc/hosts | cut -f 1").split()
        own = "its own name" if pod.sh("echo $NAME") == pod.name else "another"
        return f"{' '.join(seen)}|{'|'.join(host)}|{own}"


@check("a pod in a user namespace", "root is not root outside, a volume's file is its own", short=True)
def _(lane: Kubernetes) -> str:
    with lane.pod(box(volumeMounts=[{"name": "v", "mountPath": "/v"}]), hostUsers=False,
                  volumes=[{"name": "v", "emptyDir": {}}]) as pod:
        inside, outside, _ = pod.started().sh("cat /proc/self/uid_map").split()
        owner = pod.sh("touch /v/made; stat -c %u /v/made")
        made = lane.home / "node/pods" / pod.uid / "volumes/kubernetes.io~empty-dir/v/made"
        root = "is not root outside" if inside == "0" and int(outside) >= 65536 else f"is {outside} outside"
        return f"root {root}, a volume's file is {'its own' if owner == '0' and made.stat().st_uid == 0 else owner}"


@check("shareProcessNamespace: each sees the other's processes", "the other's")
def _(lane: Kubernetes) -> str:
    with lane.pod(box(), box("sleep", "4714", name="other"), shareProcessNamespace=True) as pod:
        seen = pod.started().sh("ps -o args")
        return "the other's" if "sleep 4714" in seen else seen


@check("hostNetwork, hostPID, hostIPC", "the node's: net pid ipc")
def _(lane: Kubernetes) -> str:
    kinds = ("net", "pid", "ipc")
    with lane.pod(box(), hostNetwork=True, hostPID=True, hostIPC=True) as pod:
        pod.started()
        seen = pod.sh("; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)).split()
    own = [Path(f"/proc/self/ns/{kind}").readlink() for kind in kinds]
    return "the node's: " + " ".join(kind for kind, a, b in zip(kinds, seen, own, strict=True) if a == str(b))


@check("an ephemeral container joins the processes of another", "sleep 1000")
def _(lane: Kubernetes) -> str:
    with lane.pod(box()) as pod:
        pod.started()
        lane.api("PATCH", f"{pod.path}/ephemeralcontainers", {"spec": {"ephemeralContainers": [
            box("sh", "-c", "tr '\\0' ' ' </proc/1/cmdline", name="debugger", targetContainerName="main")]}}, MERGE)
        wait_for(lambda: "terminated" in pod.container("debugger", "ephemeralContainerStatuses").get("state", {}),
                 "the debugger's end")
        return pod.log("debugger")


@check("volumes: memory, a secret's file, a config's key at a path (subPath)",
       "tmpfs|hidden|from the config", short=True)
def _(lane: Kubernetes) -> str:
    config, secret = lane.name("config"), lane.name("secret")
    lane.api("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": config},
                                                              "data": {"key": "from the config"}})
    lane.api("POST", "/api/v1/namespaces/default/secrets", {
        "metadata": {"name": secret}, "data": {"password": base64.b64encode(b"hidden").decode()}})
    mounts = [{"name": "m", "mountPath": "/m"}, {"name": "s", "mountPath": "/s", "readOnly": True},
              {"name": "c", "mountPath": "/etc/the.conf", "subPath": "key"}]
    with lane.pod(box(volumeMounts=mounts), volumes=[
            {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "s", "secret": {
                "secretName": secret}}, {"name": "c", "configMap": {"name": config}}]) as pod:
        return pod.started().sh("echo $(stat -f -c %T /m)\\|$(cat /s/password)\\|$(cat /etc/the.conf)")


@check("volumes: an image", "from the image ro")
def _(lane: Kubernetes) -> str:
    with lane.pod(box(volumeMounts=[{"name": "i", "mountPath": "/i"}]), volumes=[
            {"name": "i", "image": {"reference": box()["image"], "pullPolicy": "Never"}}]) as pod:
        return pod.started().sh("echo $(cat /i/data/file) $(touch /i/x 2>/dev/null || echo ro)")


@check("volumes: mountPropagation Bidirectional and HostToContainer", "out there, in here")
def _(lane: Kubernetes) -> str:
    where = lane.directory()
    lane.must("mount", "-t", "tmpfs", "shared", where)
    lane.must("mount", "--make-shared", where)
    for name in ("out", "in"):
        (where / name).mkdir()
    volumes = [{"name": "v", "hostPath": {"path": str(where)}}]

    def mounts(how: str) -> list[Object]:
        return [{"name": "v", "mountPath": "/v", "mountPropagation": how}]

    try:
        with lane.pod(box(volumeMounts=mounts("Bidirectional"), securityContext={"privileged": True}),
                      box(volumeMounts=mounts("HostToContainer"), name="other"), volumes=volumes) as pod:
            pod.started().sh("mount -t tmpfs out /v/out && echo there >/v/out/file")
            seen = f"out {(where / 'out/file').read_text().strip()}"
            lane.must("mount", "-t", "tmpfs", "in", where / "in")
            (where / "in/file").write_text("here")
            seen += f", in {pod.sh('cat /v/in/file', 'other')}"
            pod.sh("umount /v/out")
        return seen
    finally:
        lane.must("umount", "--recursive", where)


@check("volumes: recursiveReadOnly", "read-only, read-only")
def _(lane: Kubernetes) -> str:
    where = lane.directory()
    (where / "below").mkdir()
    lane.must("mount", "-t", "tmpfs", "below", where / "below")
    try:
        mounts = [{"name": "v", "mountPath": "/v", "readOnly": True, "recursiveReadOnly": "Enabled"}]
        with lane.pod(box(volumeMounts=mounts), volumes=[{"name": "v", "hostPath": {"path": str(where)}}]) as pod:
            pod.started()
            return ", ".join(pod.sh(f"touch {place}/x 2>/dev/null && echo written || echo read-only")
                             for place in ("/v", "/v/below"))
    finally:
        lane.must("umount", where / "below")


@check("a Deployment of three, then of five; a pod that is deleted is replaced", "3, 5, 5 with a new one", timeout=120)
def _(lane: Kubernetes) -> str:
    name = lane.name("deployment")
    labels = {"app": name}
    path = f"{DEPLOYMENTS}/{name}"

    def names() -> set[str]:
        return {each["metadata"]["name"] for each in lane.api("GET", f"{PODS}?labelSelector=app%3D{name}")["items"]
                if "deletionTimestamp" not in each["metadata"]}

    def ready(count: int) -> int:
        wait_for(lambda: lane.api("GET", path)["status"].get("readyReplicas") == count, f"{count} of them")
        return count

    lane.api("POST", DEPLOYMENTS, {"metadata": {"name": name}, "spec": {
        "replicas": 3, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": template(box(), restartPolicy="Always")}}})
    seen = f"{ready(3)}, "
    lane.api("PATCH", path, {"spec": {"replicas": 5}}, MERGE)
    seen += f"{ready(5)}, "
    before = names()
    gone = min(before)
    lane.api("DELETE", f"{PODS}/{gone}")
    wait_for(lambda: not lane.there(f"{PODS}/{gone}") and len(names()) == 5, "another pod")
    seen += f"{ready(5)} with {'a new one' if names() - before else 'the same'}"
    lane.api("DELETE", path, {"propagationPolicy": "Foreground"})
    wait_for(lambda: not lane.there(path), "the deployment's end")
    return seen


@check("a Job of six, three at a time", "6 succeeded", timeout=120)
def _(lane: Kubernetes) -> str:
    name, jobs = lane.name("job"), "/apis/batch/v1/namespaces/default/jobs"
    lane.api("POST", jobs, {"metadata": {"name": name}, "spec": {
        "completions": 6, "parallelism": 3, "template": {"spec": template(box("sh", "-c", "sleep 0.2"))}}})
    wait_for(lambda: lane.api("GET", f"{jobs}/{name}")["status"].get("succeeded") == 6, "the job's end")
    lane.api("DELETE", f"{jobs}/{name}", {"propagationPolicy": "Foreground"})
    wait_for(lambda: not lane.there(f"{jobs}/{name}"), "the job to be gone")
    return "6 succeeded"


@check("the kubelet's figures of a container", "CPU and memory", timeout=120, short=True)
def _(lane: Kubernetes) -> str:
    def used(name: str) -> bool:
        for pod in lane.api("GET", f"/api/v1/nodes/{NODE}/proxy/stats/summary")["pods"]:
            if pod["podRef"]["name"] == name:
                return all(each.get("cpu", {}).get("usageCoreNanoSeconds") and each.get("memory", {}).get(
                    "workingSetBytes") for each in pod.get("containers", [{}]))
        return False

    with lane.pod(box("sh", "-c", "while :; do i=$((i+1)); [ $((i % 10000)) = 0 ] && sleep 0.1; done")) as pod:
        pod.started()
        wait_for(lambda: used(pod.name), "figures")
        return "CPU and memory"


@check("the kubelet is restarted: a pod goes on", "0 restarts, ready, hello", timeout=120)
def _(lane: Kubernetes) -> str:
    with lane.pod(box(), restartPolicy="Always") as pod:
        pod.started()
        lane.kubelet.send_signal(signal.SIGKILL)
        lane.kubelet.wait()
        lane.daemons.remove(lane.kubelet)
        lane.start_kubelet()
        wait_for(lambda: pod.exec("true").code == 0, "the kubelet to answer")
        lane.wait_for_node()
        status = pod.container()
        return (f"{status['restartCount']} restarts, {'ready' if status['ready'] else 'not ready'}, "
                f"{pod.sh('echo hello')}")


@check("twenty pods at once", "20 ready, 20 gone", timeout=240)
def _(lane: Kubernetes) -> str:
    names = [lane.api("POST", PODS, {"metadata": {"name": lane.name("many")}, "spec": template(box())})
             ["metadata"]["name"] for _ in range(20)]

    def ready() -> int:
        return sum(any(each["ready"] for each in pod["status"].get("containerStatuses", []))
                   for pod in lane.api("GET", PODS)["items"] if pod["metadata"]["name"] in names)

    wait_for(lambda: ready() == 20, "all of them")
    for name in names:
        lane.api("DELETE", f"{PODS}/{name}")
    wait_for(lambda: not any(lane.there(f"{PODS}/{name}") for name in names), "their end")
    return f"20 ready, {len(names)} gone"


@check("a pod is gone: nothing is left of it", "no cgroup, no mount, no state", short=True)
def _(lane: Kubernetes) -> str:
    with lane.pod(box(volumeMounts=[{"name": "m", "mountPath": "/m"}]), volumes=[
            {"name": "m", "emptyDir": {"medium": "Memory"}}]) as pod:
        name = pod.started().id()

    def left() -> str:
        cgroups = lane.must("find", "/sys/fs/cgroup", "-type", "d", "-name", f"*{pod.uid}*")
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines()
                  if name in line or pod.uid in line]
        state = lane.must("find", "/run", "-name", f"*{name}*")
        return cgroups or "\n".join(mounts) or state

    wait_for(lambda: not left(), "the rest")
    return "no cgroup, no mount, no state"
