# SPDX-License-Identifier: Apache-2.0
"""What CRI-O and conmon ask of a runtime, beyond pods and containers: streams, stopping, restarts, agents, hooks."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from conformance.checks import Table, wait_for
from conformance.errors import Failed
from conformance.lanes.base import QUOTA, cgroup_file
from conformance.lanes.cri import EXITED, POD, RUNNING, TARGET, Container, Message, text
from conformance.lanes.cri_stream import STDERR, STDOUT, Stream
from conformance.lanes.crio import PIDS, ROOT, Crio

LOCALHOST = 2  # SecurityProfile.ProfileType
USR1 = 29  # Signal
FIRST = "tr '\\0' ' ' </proc/1/cmdline"
TABLE: Table[Crio] = Table()
PAUSE: Table[Crio] = Table()  # with pause containers
check = TABLE.check


def stream(crio: Crio, container: Container, *command: str, terminal: bool = False) -> Stream:
    request: Message = {1: container.id, 2: list(command), 3: int(terminal), 4: 1, 5: 1, 6: int(not terminal)}
    return Stream(text(crio.cri.call("Exec", request), 1))


def attach(crio: Crio, container: Container, *, terminal: bool) -> Stream:
    request: Message = {1: container.id, 2: 1, 3: int(terminal), 4: 1, 5: int(not terminal)}
    return Stream(text(crio.cri.call("Attach", request), 1))


@check("exec, streamed: standard input, output and error, exit code", "got it|and an error|6", short=True)
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod, stream(crio, pod.container(), "sh", "-c",
                                       "read word; echo got $word; echo and an error >&2; exit 6") as it:
        it.write("it\n")
        code = it.end()
        return f"{it.text().strip()}|{it.text(STDERR).strip()}|{code}"


@check("exec, streamed: a megabyte comes through", "1048576 0")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod, stream(crio, pod.container(), "sh", "-c", "head -c 1048576 /dev/zero") as it:
        code = it.end()
        return f"{len(it.shown[STDOUT])} {code}"


@check("exec -it: a terminal, its size, its resizing, exit code", "31 97, then 40 120; 5", short=True)
def _(crio: Crio) -> str:
    script = "exec 3<&0; (while :; do stty size <&3; sleep 0.1; done) & read word; kill $!; tty >/dev/null && exit 5"
    with crio.cri.pod() as pod, stream(crio, pod.container(), "sh", "-c", script, terminal=True) as it:
        seen = []
        for size in ((31, 97), (40, 120)):
            it.resize(*size)
            seen.append("{} {}".format(*size))
            it.until(f"{seen[-1]}\n")
        it.write("end\n")
        return f"{', then '.join(seen)}; {it.end()}"


@check("exec -it: no such program", matches=r"(1|127|255) .*(no such file or directory|executable file not found).*")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container()
        for _ in range(20):  # CRI-O closes the terminal when the runtime has ended, and may not have read what it said
            with stream(crio, container, "no-such-program", terminal=True) as it:
                code = it.end()
                if it.text():
                    return f"{code} {it.text()}".lower()
        return f"{code}, and nothing is said"


@check("exec: no such program", matches=r".*(no such file or directory|executable file not found).*")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        try:
            return "{} {}".format(*pod.container().exec("no-such-program")).lower()
        except Failed as error:
            return str(error).lower()


@check("exec: what it leaves in the background doesn't hold it up", "in front")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        return pod.container().exec("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo in front")[1]


@check("exec: its time is up", "-1 command timed out; then it is gone")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container()
        code, out = container.exec("sleep", "4714", seconds=1)
        wait_for(lambda: crio.command("pgrep", "-f", "^sleep 4714").code == 1, "the process to end")
        return f"{code} {out}; then it is gone"


@check("attach: a container with a terminal", "got it, and the log has it; 3", short=True)
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container("sh", "-c", "tty >/dev/null && read word; echo got $word; exit 3",
                                  more={12: 1, 14: 1})
        with attach(crio, container, terminal=True) as it:
            it.write("it\n")
            shown = it.until("got it\n").splitlines()[-1]
        code = container.wait()
        return f"{shown}, and the log {'has' if 'got it' in container.log() else 'lacks'} it; {code}"


@check("attach: a container without a terminal", "got it|not it")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container("sh", "-c", "read word; echo got $word; echo not $word >&2; sleep 1000",
                                  more={12: 1})
        with attach(crio, container, terminal=False) as it:
            it.write("it\n")
            shown = it.until("got it\n").strip()
        wait_for(lambda: "not it" in container.log(), "the other line")
        return f"{shown}|not it"


@check("pause, resume, over CRI-O's own interface", "running, paused, running; it went on", short=True)
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container("sh", "-c", "while :; do date +%s%N >/time; sleep 0.05; done")
        seen = [crio.told(container)["status"]]
        crio.get(f"/pause/{container.id}")
        seen.append(crio.told(container)["status"])
        crio.get(f"/unpause/{container.id}")
        seen.append(crio.told(container)["status"])
        first = container.sh("cat /time")
        wait_for(lambda: container.sh("cat /time") not in ("", first), "it to go on")
        return f"{', '.join(seen)}; it went on"


@check("stop: a container that is paused", "exited 137")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container()
        crio.get(f"/pause/{container.id}")
        crio.cri.call("StopContainer", {1: container.id, 2: 1})
        return f"exited {container.wait()}" if container.state() == EXITED else f"state {container.state()}"


@check("stop: SIGTERM is trapped, and there is time", "7, before its time is up", short=True)
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container("sh", "-c", "trap 'exit 7' TERM; touch /ready; while :; do sleep 0.1; done")
        wait_for(lambda: container.exec("test", "-e", "/ready")[0] == 0, "the trap")
        began = time.monotonic()
        crio.cri.call("StopContainer", {1: container.id, 2: 30})
        return f"{container.wait()}, {'before' if time.monotonic() - began < 20 else 'after'} its time is up"


@check("stop: the signal that the container asks for", "8")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container("sh", "-c", "trap 'exit 8' USR1; touch /ready; while :; do sleep 0.1; done",
                                  more={18: USR1})
        wait_for(lambda: container.exec("test", "-e", "/ready")[0] == 0, "the trap")
        crio.cri.call("StopContainer", {1: container.id, 2: 30})
        return str(container.wait())


@check("stop: without time, and again", "137, once more")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
        for _ in range(2):
            crio.cri.call("StopContainer", {1: container.id, 2: 0})
        return f"{container.wait()}, once more"


@check("a limit of processes, from CRI-O's configuration", str(PIDS), short=True)
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        return pod.container().sh(cgroup_file("pids/pids.max", "pids.max"))


@check("update: CPU set, shares, quota", "0, 0; 20000, 40000")
def _(crio: Crio) -> str:
    cpuset = cgroup_file("cpuset/cpuset.cpus", "cpuset.cpus")
    with crio.cri.pod() as pod:
        container = pod.container(resources={1: 100000, 2: 20000, 3: 512, 6: "0"})
        seen = [container.sh(cpuset)], [container.sh(QUOTA)]
        crio.cri.call("UpdateContainerResources", {1: container.id, 2: {1: 100000, 2: 40000, 3: 1024, 6: "0"}})
        seen[0].append(container.sh(cpuset))
        seen[1].append(container.sh(QUOTA))
        return "; ".join(map(", ".join, seen))


@PAUSE.check("a pod's containers in one PID namespace: the pause container's", "sleep 100000; one sees two", short=True)
def _(crio: Crio) -> str:
    shared: Message = {2: POD}
    with crio.cri.pod({1: shared}) as pod:
        one = pod.container(security={3: shared})
        pod.container("sleep", "4715", security={3: shared})
        first = one.sh(FIRST)
        return f"{first}; one {'sees' if '4715' in one.sh('ps -o args') else 'does not see'} two"


@check("a container in the PID namespace of another (kubectl debug --target)", "sleep 4716 is 1")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        target = pod.container("sleep", "4716")
        other = pod.container(security={3: {2: TARGET, 4: target.id}})
        return f"{other.sh(FIRST)} is 1"


@check("seccomp: a profile of the node's", "no directory; 2")
def _(crio: Crio) -> str:
    profile = {"defaultAction": "SCMP_ACT_ALLOW",
               "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}
    file = crio.file(json.dumps(profile))
    with crio.cri.pod() as pod:
        container = pod.container(security={15: {1: LOCALHOST, 2: str(file)}})
        return container.sh("mkdir /x 2>/dev/null || echo -n 'no directory; '; grep Seccomp: /proc/self/status | "
                            "cut -f 2")


@check("seccomp: CRI-O's agent stops a container for a system call",
       "seccomp killed: Used forbidden syscalls: mkdir (1x)")
def _(crio: Crio) -> str:
    profile = {"defaultAction": "SCMP_ACT_ALLOW",
               "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}
    file = crio.file(json.dumps(profile))
    notes: Message = {7: [{1: "lane", 2: ""}, {1: "seccomp-notifier-action.crio.io", 2: "stop"}]}
    with crio.cri.pod(more=notes) as pod:
        container = pod.container("sh", "-c", "mkdir /x; sleep 1000", security={15: {1: LOCALHOST, 2: str(file)}})
        container.wait()
        return ": ".join(text(container.status(), number) for number in (10, 11))


@check("hooks that CRI-O adds: prestart and poststop", matches="creat(ing|ed), stopped", short=True)
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container(more={10: [{1: "hooked", 2: "yes"}]})
    told = [json.loads(line) for line in crio.hooked.read_text().splitlines()]
    return ", ".join(state["status"] if state["id"] == container.id else "another's" for state in told)


@check("CRI-O is killed and started again: containers go on, what ended meanwhile has its exit code",
       "1 hello, 5; stopped 137", short=True)
def _(crio: Crio) -> str:
    where = crio.directory()
    with crio.cri.pod() as pod:
        stays = pod.container()
        ends = pod.container("sh", "-c", "while [ ! -e /v/go ]; do sleep 0.05; done; exit 5",
                             mounts=[{1: "/v", 2: str(where)}])
        pid = crio.told(ends)["pid"]
        crio.process.send_signal(signal.SIGKILL)
        crio.process.wait()
        crio.daemons.remove(crio.process)
        (where / "go").touch()
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the container to end")
        crio.socket.unlink()
        crio.serve()
        seen = f"{stays.state()} {stays.sh('echo hello')}, {ends.wait()}"
        crio.cri.call("StopContainer", {1: stays.id, 2: 1})
        return f"{seen}; stopped {stays.wait()}"


@check("CRI-O is stopped and started again: a container that was created is started then", "created; running")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container(start=False)
        first = crio.told(container)["status"]
        crio.process.terminate()
        crio.process.wait()
        crio.daemons.remove(crio.process)
        crio.socket.unlink(missing_ok=True)
        crio.serve()
        crio.cri.call("StartContainer", {1: container.id})
        return f"{first}; {'running' if container.state() == RUNNING else 'not running'}"


@check("a container that was never started is removed", "nothing")
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container(start=False)
        crio.cri.call("RemoveContainer", {1: container.id})
        return crio.must("find", ROOT, "-name", container.id) or "nothing"


@check("nothing is left: no state, no cgroup, no process, no mount", "nothing", short=True)
def _(crio: Crio) -> str:
    with crio.cri.pod() as pod:
        container = pod.container("sleep", "4717")
    names = f"-name *{pod.id}* -o -name *{container.id}*".split()
    left = crio.must("find", ROOT, "/sys/fs/cgroup", *names)
    left += crio.command("pgrep", "-f", "sleep 4717").out
    left += "\n".join(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if container.id in line)
    return left or "nothing"
