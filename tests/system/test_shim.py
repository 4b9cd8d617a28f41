# SPDX-License-Identifier: Apache-2.0
"""The shim as containerd drives it, call by call: containers, processes of exec, events, exits, errors.

shim.proto's calls and what containerd-shim-runc-v2 answers to them; the real containerd is in
conformance/lanes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyrunc_shim import messages as m
from pyrunc_shim import ttrpc
from pyrunc_shim.ttrpc import RpcError
from shim_client import (
    NAMESPACE,
    SHIM,
    Events,
    Shim,
    end_templates,
    fifos,
    program,
    read_all,
)
from support import Bundle, Runtime, wait_for

PROCESS = {"args": ["sh", "-c", "true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}


def process(script: str, **more: Any) -> dict[str, Any]:
    return {**PROCESS, "args": ["sh", "-c", script], **more}


@pytest.fixture
def events(tmp_path: Path) -> Iterator[Events]:
    events = Events(tmp_path / "events")
    yield events
    events.close()


class Box:
    """A shim, and bundles for its containers."""

    def __init__(self, tmp_path: Path, events: Events, make_bundle: Callable[[str], Bundle]) -> None:
        self.root = tmp_path / "shim-root"
        self.events = events
        self._make_bundle = make_bundle
        self.tmp_path = tmp_path
        self.shims: list[Shim] = []
        self.created: list[tuple[str, Path]] = []

    def make_bundle(self, name: str) -> Bundle:
        """With a cgroup that no other run of the tests has, the ids being the same; a `group` is for several ids."""
        bundle = self._make_bundle(name)
        if name != "group":
            bundle.linux["cgroupsPath"] = f"{name}-{os.getpid()}"
        return bundle

    def launch(self, container_id: str, bundle: Path, stdin: bytes = b"") -> Shim:
        (bundle / "log").touch()
        done = program(bundle, container_id, self.events, "-debug", "start", stdin=stdin)
        assert done.returncode == 0 and not done.stderr, done
        address = done.stdout.decode()
        assert (bundle / "address").read_text() == address
        shim = Shim(address)
        self.shims.append(shim)
        self.created.append((container_id, bundle))
        return shim

    def settle(self, container_id: str) -> None:
        """Wait until the shim that was launched for the container has loaded all its code."""
        log = dict(self.created)[container_id] / "log"
        wait_for(lambda: "all code is loaded" in log.read_text(), "the shim to load its code")

    def run(self, container_id: str, script: str, change: Callable[[Bundle], object] | None = None,
            start: bool = True, **more: Any) -> Shim:
        """A container in a shim of its own."""
        bundle = self.make_bundle(container_id).args(script)
        if change is not None:
            change(bundle)
        bundle.save()
        shim = self.launch(container_id, bundle.path)
        shim.create(container_id, bundle.path, self.root, **more)
        if start:
            shim.start(container_id)
        return shim

    def clean_up(self) -> None:
        for container_id, bundle in self.created:
            for shim in self.shims:
                try:
                    pid = shim.pid()
                except (OSError, AssertionError):  # it has ended
                    continue
                os.kill(pid, signal.SIGKILL)
            (bundle / "options.json").write_text(json.dumps({"root": str(self.root), "systemd_cgroup": False}))
            program(bundle, container_id, self.events, "delete", "-bundle", str(bundle))
        for shim in self.shims:
            shim.close()
            Path(shim.address.removeprefix("unix://")).unlink(missing_ok=True)
        end_templates()


@pytest.fixture
def box(tmp_path: Path, events: Events, make_bundle: Callable[[str], Bundle]) -> Iterator[Box]:
    box = Box(tmp_path, events, make_bundle)
    yield box
    box.clean_up()


def gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def test_a_container_from_create_to_shutdown(box: Box) -> None:
    """Every step, what it answers, and the events in their order."""
    shim = box.run("c1", "read line; echo said $line; exit 3", start=False, **(streams := fifos(box.tmp_path)))
    state = shim.state("c1")
    assert (state.status, state.exit_status, state.bundle) == (m.CREATED, 0, str(box.created[0][1]))
    assert (state.stdin, state.stdout, state.stderr) == tuple(streams.values())
    assert shim.call("Connect", m.ConnectRequest(id="c1"), m.ConnectResponse).task_pid == state.pid
    output: list[bytes] = []
    reader = read_all(streams["stdout"], output)
    assert shim.start("c1") == state.pid
    assert shim.state("c1").status == m.RUNNING
    waiting = shim.send("Wait", m.WaitRequest(id="c1"))
    with open(streams["stdin"], "w") as stdin:
        stdin.write("hello\n")
    assert shim.receive(waiting, m.WaitResponse).exit_status == 3
    assert shim.wait("c1") == 3  # also afterwards
    assert (shim.state("c1").status, shim.state("c1").exit_status) == (m.STOPPED, 3)
    deleted = shim.delete("c1")
    assert (deleted.pid, deleted.exit_status) == (state.pid, 3) and deleted.exited_at is not None
    assert abs(deleted.exited_at.seconds - time.time()) < 120
    reader.join(20)
    assert output == [b"said hello\n"]
    with pytest.raises(RpcError, match="container not created") as caught:
        shim.state("c1")
    assert caught.value.code == ttrpc.NOT_FOUND
    pid = shim.pid()
    shim.do("Shutdown", m.ShutdownRequest(id="c1"))
    wait_for(lambda: gone(pid), "the shim to end")
    assert not os.path.exists(shim.address.removeprefix("unix://"))
    assert box.events.topics("c1") == ["create", "start", "exit", "delete"]
    created = box.events.wait("c1", "create")
    assert (created.pid, created.io.stdout) == (state.pid, streams["stdout"])
    left = box.events.wait("c1", "exit")
    assert (left.id, left.exit_status, left.exited_at) == ("c1", 3, deleted.exited_at)
    assert box.events.namespaces == {NAMESPACE}


def test_both_names_of_the_service_and_no_other(box: Box) -> None:
    shim = box.run("c1", "sleep 1000")
    shim.service = "containerd.task.v3.Task"
    assert shim.state("c1").status == m.RUNNING
    shim.service = "containerd.task.v1.Task"
    with pytest.raises(RpcError, match=r"service containerd\.task\.v1\.Task") as caught:
        shim.state("c1")
    assert caught.value.code == ttrpc.UNIMPLEMENTED
    shim.service = "containerd.task.v2.Task"  # what cleans up asks it who it is


def test_exec(box: Box) -> None:
    """Exec registers, Start starts; its exit is its own, and the container goes on."""
    shim = box.run("c1", "sleep 1000")
    streams = fifos(box.tmp_path, ("stdout", "stderr"))
    output: list[bytes] = []
    errors: list[bytes] = []
    readers = [read_all(streams["stdout"], output), read_all(streams["stderr"], errors)]
    shim.exec("c1", "e1", process("echo out; echo err >&2; exit 4"), **streams)
    assert shim.state("c1", "e1").status == m.CREATED
    with pytest.raises(RpcError) as caught:
        shim.exec("c1", "e1", process("true"))
    assert caught.value.code == ttrpc.ALREADY_EXISTS
    pid = shim.start("c1", "e1")
    assert shim.wait("c1", "e1") == 4
    deleted = shim.delete("c1", "e1")
    assert (deleted.pid, deleted.exit_status) == (pid, 4)
    for reader in readers:
        reader.join(20)
    assert (output, errors) == ([b"out\n"], [b"err\n"])
    with pytest.raises(RpcError, match="process does not exist e1") as caught:
        shim.state("c1", "e1")
    assert caught.value.code == ttrpc.NOT_FOUND
    assert shim.state("c1").status == m.RUNNING
    box.events.wait("c1", "exit")
    assert box.events.topics("c1") == ["create", "start", "exec-added", "exec-started", "exit"]


def test_a_program_that_is_not_there(box: Box) -> None:
    """An error of Create, of Start for an exec, with runc's words; the container lives on."""
    bundle = box.make_bundle("c0").args("nosuch", "x")
    bundle.save()
    shim = box.launch("c0", bundle.path)
    with pytest.raises(RpcError, match=r'OCI runtime create failed: .*"nosuch": executable file not found in .PATH'):
        shim.create("c0", bundle.path, box.root)
    other = box.run("c1", "sleep 1000")
    other.exec("c1", "e1", {**PROCESS, "args": ["nosuch"]})
    with pytest.raises(RpcError, match=r'OCI runtime exec failed: .*"nosuch": executable file not found in .PATH'):
        other.start("c1", "e1")
    other.delete("c1", "e1")
    assert other.state("c1").status == m.RUNNING
    with pytest.raises(RpcError) as caught:  # the control: it was never created
        shim.state("c0")
    assert caught.value.code == ttrpc.NOT_FOUND


def test_kill(box: Box) -> None:
    shim = box.run("c1", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
    shim.exec("c1", "e1", process("sleep 1000"))
    with pytest.raises(RpcError, match="process not created"):
        shim.kill("c1", exec_id="e1")
    shim.start("c1", "e1")
    shim.kill("c1", signal.SIGKILL, exec_id="e1")
    assert shim.wait("c1", "e1") == 137
    with pytest.raises(RpcError, match="process already finished") as caught:
        shim.kill("c1", exec_id="e1")
    assert caught.value.code == ttrpc.NOT_FOUND
    with pytest.raises(RpcError, match="cannot delete a running process") as caught:
        shim.delete("c1")
    assert caught.value.code == ttrpc.FAILED_PRECONDITION
    time.sleep(0.3)  # for the trap
    shim.kill("c1", signal.SIGTERM)
    assert shim.wait("c1") == 9
    with pytest.raises(RpcError, match="process already finished"):
        shim.kill("c1")


def test_a_kill_is_answered_before_the_exit_is_told(box: Box) -> None:
    """On the exit containerd deletes the container and lets go of its connection, with the call still on its way."""
    bundle = box.make_bundle("group").args("sleep 1000")
    bundle.save()
    shim = box.launch("group", bundle.path)
    for number in range(12):
        container_id = f"c{number}"
        shim.create(container_id, bundle.path, box.root)
        shim.start(container_id)
        shim.order.clear()
        waiting = shim.send("Wait", m.WaitRequest(id=container_id))
        killing = shim.send("Kill", m.KillRequest(id=container_id, signal=9, all=True))
        assert [shim.next_answer(), shim.next_answer()] == [killing, waiting]
        shim.delete(container_id)


def test_the_exits_of_execs_come_before_that_of_the_init(box: Box) -> None:
    """Clients take the init's for the end of all; in a pid namespace of the host's, too, where nobody dies with it."""
    for container_id, change in (("own", None), ("shared", lambda bundle: bundle.without("pid"))):
        shim = box.run(container_id, "sleep 1000", change)
        for exec_id in ("e1", "e2"):
            shim.exec(container_id, exec_id, process("sleep 1000"))
            shim.start(container_id, exec_id)
        shim.kill(container_id)
        assert shim.wait(container_id) == 137
        box.events.wait(container_id, "exit", 3)
        ids = [event.id for topic, event in box.events.seen  # type: ignore[attr-defined]
               if topic == "/tasks/exit" and event.container_id == container_id]  # type: ignore[attr-defined]
        assert sorted(ids[:2]) == ["e1", "e2"] and ids[2] == container_id


def test_a_container_that_ends_at_once(box: Box) -> None:
    """Its exit is never told before its start, however often it is tried."""
    bundle = box.make_bundle("group").args("true")
    bundle.save()
    shim = box.launch("group", bundle.path)
    for number in range(15):
        shim.create(f"c{number}", bundle.path, box.root)
        shim.start(f"c{number}")
        assert shim.wait(f"c{number}") == 0
        shim.delete(f"c{number}")
        box.events.wait(f"c{number}", "delete")
        assert box.events.topics(f"c{number}") == ["create", "start", "exit", "delete"]


def test_out_of_memory_is_told_before_the_exit(box: Box) -> None:
    shim = box.run("c1", "a=x; while :; do a=$a$a; done",
                   lambda bundle: bundle.linux.update(resources={"memory": {"limit": 16 << 20}}))
    assert shim.wait("c1") == 137
    box.events.wait("c1", "exit")
    first, second, *oom, last = box.events.topics("c1")
    assert (first, second, last) == ("create", "start", "exit")
    assert set(oom) == {"oom"}  # cgroup v1 tells each time that the limit was hit


def test_pause_resume_pids_stats_update(box: Box) -> None:
    shim = box.run("c1", "while :; do sleep 0.1; done")
    shim.exec("c1", "e1", process("sleep 1000"))
    pid = shim.start("c1", "e1")
    shim.do("Pause", m.PauseRequest(id="c1"))
    assert shim.state("c1").status == m.PAUSED
    with pytest.raises(RpcError):
        shim.do("Pause", m.PauseRequest(id="c1"))
    shim.do("Resume", m.ResumeRequest(id="c1"))
    assert shim.state("c1").status == m.RUNNING
    listed = {info.pid: info.info for info in shim.call("Pids", m.PidsRequest(id="c1"), m.PidsResponse).processes}
    assert {shim.state("c1").pid, pid} <= listed.keys()
    assert listed[pid] == m.Any(type_url="containerd.runc.v1.ProcessDetails",
                                value=m.ProcessDetails(exec_id="e1").encode())
    assert listed[shim.state("c1").pid] is None
    limit = m.Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
                  value=b'{"pids": {"limit": 77}}')
    shim.do("Update", m.UpdateTaskRequest(id="c1", resources=limit))
    stats = shim.call("Stats", m.StatsRequest(id="c1"), m.StatsResponse).stats
    assert stats is not None
    from pyrunc_shim import metrics_v1, metrics_v2

    version = stats.type_url.split(".")[-2]
    metrics: Any = {"v1": metrics_v1, "v2": metrics_v2}[version].Metrics.decode(stats.value)
    assert metrics.pids.limit == 77 and metrics.pids.current >= 2
    # nerdctl looks into them unasked.
    assert None not in ((metrics.cpu, metrics.memory, metrics.blkio) if version == "v1" else
                        (metrics.cpu, metrics.memory, metrics.io))
    limit.value = b'{"pids": {"limit": "many"}}'
    with pytest.raises(RpcError, match="/linux/resources/pids/limit"):
        shim.do("Update", m.UpdateTaskRequest(id="c1", resources=limit))
    box.events.wait("c1", "resumed")
    assert box.events.topics("c1") == ["create", "start", "exec-added", "exec-started", "paused", "resumed"]


def test_nothing_is_counted_without_a_cgroup(box: Box) -> None:
    """Of a container that will be restored, when it is started: containerd 2.3 asks often, and logs other answers."""
    shim = box.run("c1", "true", start=False, checkpoint="/nosuch")
    with pytest.raises(RpcError, match="nobody counts") as raised:
        shim.call("Stats", m.StatsRequest(id="c1"), m.StatsResponse)
    assert raised.value.code == ttrpc.NOT_FOUND


def test_bad_requests(box: Box) -> None:
    """One clear error each, with the code that clients look at, and nothing left."""
    shim = box.run("c1", "sleep 1000")
    bundle = box.created[0][1]
    cases: list[tuple[Callable[[], object], int, str]] = [
        (lambda: shim.create("c1", bundle, box.root), ttrpc.ALREADY_EXISTS, "already exists"),
        (lambda: shim.create("../x", bundle, box.root), ttrpc.INVALID_ARGUMENT, "invalid container ID format"),
        (lambda: shim.exec("c1", "../x", process("true")), ttrpc.INVALID_ARGUMENT, "invalid container ID format"),
        (lambda: shim.start("c1"), ttrpc.FAILED_PRECONDITION, "not in the created state"),
        (lambda: shim.start("none"), ttrpc.NOT_FOUND, "container not created"),
        (lambda: shim.wait("none"), ttrpc.NOT_FOUND, "container not created"),
        (lambda: shim.create("c2", bundle, box.root, stdout="nosuch://x"), ttrpc.UNKNOWN, "STDIO scheme nosuch"),
        (lambda: shim.create("c2", bundle, box.root, stdout="/nonexistent/fifo"), ttrpc.UNKNOWN, "no such file"),
        (lambda: shim.create("c2", bundle, box.root, rootfs=[m.Mount(type="nosuchfs", source="x")]), ttrpc.UNKNOWN,
         "OCI runtime create failed: mount nosuchfs x on .*: no such device"),
        (lambda: shim.kill("c1", 77), ttrpc.UNKNOWN, "77"),
    ]
    for attempt, code, text in cases:
        with pytest.raises(RpcError, match=text) as caught:
            attempt()
        assert caught.value.code == code, text
    assert shim.state("c1").status == m.RUNNING
    with pytest.raises(RpcError):
        shim.state("c2")


def test_what_a_container_shares_a_shim_with(box: Box) -> None:
    """The sandbox's id in the annotations decides; another sandbox has a shim of its own."""
    addresses = {}
    for container_id, sandbox in (("pause", "s1"), ("app", "s1"), ("other", "s2")):
        bundle = box.make_bundle(container_id).args("sleep 1000")
        bundle.config["annotations"] = {"io.kubernetes.cri.sandbox-id": sandbox}
        bundle.save()
        shim = box.launch(container_id, bundle.path)
        shim.create(container_id, bundle.path, box.root)
        shim.start(container_id)
        addresses[container_id] = (shim.address, shim.pid())
    assert addresses["pause"] == addresses["app"] != addresses["other"]
    shim.do("Shutdown", m.ShutdownRequest(id="other"))
    assert shim.state("other").status == m.RUNNING  # it stays while it has a container


def test_the_shim_is_killed(box: Box, runtime: Runtime) -> None:
    """`delete`, which containerd runs then, ends the container, unmounts its root and answers 137."""
    bundle = box.make_bundle("c1").args("sleep 1000")
    bundle.save()
    lower = bundle.path / "image"
    bundle.rootfs.rename(lower)
    bundle.rootfs.mkdir()
    shim = box.launch("c1", bundle.path)
    pid = shim.create("c1", bundle.path, box.root, rootfs=[
        m.Mount(type="bind", source=str(lower), options=["rbind", "ro"])])
    shim.start("c1")
    assert str(bundle.rootfs) in Path("/proc/self/mountinfo").read_text()
    shim_pid = shim.pid()
    os.kill(shim_pid, signal.SIGKILL)
    wait_for(lambda: gone(shim_pid), "the shim to be gone")
    assert not gone(pid)  # the container outlives it
    done = program(bundle.path, "c1", box.events, "-bundle", str(bundle.path), "delete")
    assert done.returncode == 0, done
    answer = m.DeleteResponse.decode(done.stdout)
    assert (answer.pid, answer.exit_status) == (pid, 137)
    wait_for(lambda: gone(pid), "the container to be gone")
    assert str(bundle.rootfs) not in Path("/proc/self/mountinfo").read_text()
    assert not any(box.root.rglob("c1"))
    socket_path = Path(shim.address.removeprefix("unix://"))
    assert not socket_path.exists()
    # A pod's other shim at that path, which is alive, keeps its socket.
    other = box.launch("c1", bundle.path)
    assert other.address == shim.address
    again = program(bundle.path, "c1", box.events, "-bundle", str(bundle.path), "delete")
    assert again.returncode == 0  # nothing is there any more, which is fine
    assert socket_path.is_socket() and not gone(other.pid())


def test_a_client_that_comes_back(box: Box) -> None:
    """containerd restarts: the shim and the container go on, exits that nobody saw are kept, events are retried."""
    shim = box.run("c1", "sleep 0.5; exit 6")
    shim.close()
    box.events.refuse = 2
    again = Shim(shim.address)
    box.shims.append(again)
    assert again.wait("c1") == 6
    assert box.events.wait("c1", "exit").exit_status == 6
    # containerd cleans a task without any up when it starts, and how it has ended would be lost.
    listed = again.call("Pids", m.PidsRequest(id="c1"), m.PidsResponse).processes
    assert [info.pid for info in listed] == [again.state("c1").pid]
    assert again.call("Connect", m.ConnectRequest(id="c1"), m.ConnectResponse).shim_pid == again.pid()


def test_an_upgrade_under_a_shim(box: Box, tmp_path: Path) -> None:
    """All that it will need is loaded soon after its start: the package may be replaced, or go."""
    copy = tmp_path / "installed"
    site = next(path for path in Path(SHIM).parents[1].glob("lib/python3*/site-packages"))
    target = copy / site.relative_to(Path(SHIM).parents[1])
    target.mkdir(parents=True)
    (copy / "bin").mkdir()
    for name in ("pyrunc", "pyrunc_shim"):
        shutil.copytree(site / name, target / name)
    shutil.copy2(SHIM, copy / "bin")
    bundle = box.make_bundle("c1").args("sleep 1000")
    bundle.linux["resources"] = {"pids": {"limit": 50}, "memory": {"limit": 64 << 20}}
    bundle.config["mounts"].append({"destination": "/t", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]})
    bundle.save()
    import shim_client

    before = shim_client.SHIM
    shim_client.SHIM = copy / "bin" / SHIM.name
    try:
        shim = box.launch("c1", bundle.path)
    finally:
        shim_client.SHIM = before
    box.settle("c1")
    shutil.rmtree(copy)
    shim.create("c1", bundle.path, box.root)
    shim.start("c1")
    shim.exec("c1", "e1", process("exit 5"))
    shim.start("c1", "e1")
    assert shim.wait("c1", "e1") == 5
    shim.do("Update", m.UpdateTaskRequest(id="c1", resources=m.Any(value=b'{"pids": {"limit": 60}}')))
    shim.do("Pause", m.PauseRequest(id="c1"))
    shim.do("Resume", m.ResumeRequest(id="c1"))
    assert shim.call("Stats", m.StatsRequest(id="c1"), m.StatsResponse).stats is not None
    shim.kill("c1")
    assert shim.wait("c1") == 137
    shim.delete("c1")
