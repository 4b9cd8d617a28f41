# SPDX-License-Identifier: Apache-2.0
"""What Podman 5 has beside what Podman 4 had."""

from __future__ import annotations

from conformance.checks import Table, wait_for
from conformance.lanes.base import cgroup_file
from conformance.lanes.engine import IMAGE, Engine
from conformance.lanes.podman import NO_NETWORK, Podman

TABLE: Table[Engine] = Table()
check = TABLE.check
CPUS = cgroup_file("cpuset/cpuset.cpus", "cpuset.cpus")
PIDS = cgroup_file("pids/pids.max", "pids.max")
IDS = "awk '{print $1, $3}' /proc/self/uid_map"

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: played, annotations: {io.podman.annotations.userns: "auto:size=2048"}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: first
    image: IMAGE
    command: [sh, -c, echo made >/shared/note]
    volumeMounts: [{name: v, mountPath: /shared}]
  containers:
  - name: one
    image: IMAGE
    command: [sleep, "1000"]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
    livenessProbe: {exec: {command: [test, -e, /shared/note]}}
    securityContext: {runAsUser: 1000, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: v, mountPath: /shared}]
  volumes: [{name: v, emptyDir: {}}]
"""


@check("--preserve-fd: run, exec; nothing else is there", "five seven 0 1 2 5 7; five seven 0 1 2 5 7", short=True)
def _(podman: Engine) -> str:
    for name in ("five", "seven"):
        (podman.scratch / name).write_text(f"{name}\n")
    script = "cat <&5; cat <&7; for fd in $(seq 0 30); do test -e /proc/$$/fd/$fd && echo $fd; done; :"
    words = " ".join(map(str, podman.words))
    with podman.container() as name:
        seen = [podman.must("bash", "-c", f"{words} {how} sh -c '{script}' 5<five 7<seven")
                for how in (f"run --rm --preserve-fd 5,7 {IMAGE}", f"exec --preserve-fd 5,7 {name}")]
    return "; ".join(" ".join(text.split()) for text in seen)


@check("--userns auto: a mapping of one's own in it", "0 1|1 2999")
def _(podman: Engine) -> str:
    seen = podman.script(IDS, "--userns", "auto:size=3000,uidmapping=0:5:1")
    return "|".join(" ".join(line.split()) for line in sorted(seen.splitlines()))


@check("--mount type=image, a directory of it", "file|touch: /m/x: Read-only file system", short=True)
def _(podman: Engine) -> str:
    return podman.script("ls /m; touch /m/x 2>&1 || :", "--mount",
                         f"type=image,source={IMAGE},target=/m,subpath=/data").replace("\n", "|")


@check("--mount type=artifact", "a model")
def _(podman: Engine) -> str:
    podman("artifact", "add", "localhost/model:1", podman.file("a model"))
    return podman.script("cat /m", "--mount", "type=artifact,source=localhost/model:1,target=/m")


@check("--health-on-failure: kill, restart", "137, another pid")
def _(podman: Engine) -> str:
    unhealthy = ("--health-cmd", "exit 1", "--health-retries", "1", "--health-interval", "disable", "--stop-timeout",
                 "0", "--health-on-failure")
    with podman.container(*unhealthy, "kill") as killed, podman.container(*unhealthy, "restart") as restarted:
        before = podman.inspect(restarted, "{{.State.Pid}}")
        for name in (killed, restarted):
            podman.do("healthcheck", "run", name)
        wait_for(lambda: podman.inspect(restarted, "{{.State.Pid}}") not in (before, "0"), "the restart")
        return f"{podman('wait', killed)}, another pid"


@check("update: CPUs and processes it may have", "0 77")
def _(podman: Engine) -> str:
    with podman.container("--memory", "64m") as name:
        podman("update", "--cpuset-cpus", "0", name)
        podman("update", "--pids-limit", "77", name)
        return " ".join(podman.sh(name, f"({CPUS}); {PIDS}").split())


@check("kube play: limits, a probe, a user namespace, an init container", "made|67108864|2048|1000|0000000000000000|0",
       timeout=90)
def _(podman: Engine) -> str:
    where = podman.file(POD.replace("IMAGE", IMAGE))
    podman("kube", "play", *NO_NETWORK, where)
    seen = podman.sh("played-one", "cat /shared/note /sys/fs/cgroup/memory/memory.limit_in_bytes "
                                   "/sys/fs/cgroup/memory.max 2>/dev/null; awk '{print $3}' /proc/self/uid_map; "
                                   "id -u; grep CapEff /proc/self/status | cut -f 2")
    health = podman.do("healthcheck", "run", "played-one").code
    podman("kube", "down", "--force", where)
    return "|".join([*seen.split(), str(health)])


@check("ordinary user: --userns keep-id:uid=", "1000")
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    return podman.as_ordinary("run", "--rm", *NO_NETWORK, "--userns", "keep-id:uid=1000,gid=1000", IMAGE, "id", "-u")
