# SPDX-License-Identifier: Apache-2.0
"""config.md, POSIX-platform Hooks, and runtime.md, Lifecycle: when hooks run, where, with what, how they fail."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support import BUSYBOX, Bundle, Host, Runtime, wait_for

AT_CREATE = ("prestart", "createRuntime", "createContainer")
AT_START = ("startContainer", "poststart")
KINDS = (*AT_CREATE, *AT_START, "poststop")
ON_THE_HOST = ("prestart", "createRuntime", "poststart", "poststop")
NAMESPACES = ("mnt", "pid", "uts", "ipc", "net", "cgroup")


class Notes:
    """A directory that hooks write to: /notes of the host's, bound to the same place in the container."""

    def __init__(self, path: Path, bundle: Bundle) -> None:
        self.path = path
        self.bundle = bundle
        path.mkdir()
        bundle.mount(path, "/notes")

    def hook(self, kind: str, script: str, **more: Any) -> dict[str, Any]:
        """Add a hook; $NOTES is the directory as the hook sees it."""
        where = "/notes" if kind == "startContainer" else self.path
        hook = {"path": "/bin/busybox" if kind == "startContainer" else BUSYBOX,
                "args": ["busybox", "sh", "-c", script],
                "env": ["PATH=/bin:/usr/bin:/usr/sbin:/sbin", f"NOTES={where}"], **more}
        self.bundle.config.setdefault("hooks", {}).setdefault(kind, []).append(hook)
        return hook

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def lines(self, name: str) -> list[str]:
        return self.read(name).splitlines() if (self.path / name).exists() else []


@pytest.fixture
def notes(bundle: Bundle, tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes", bundle)


def live(runtime: Runtime, bundle: Bundle) -> tuple[str, int]:
    """Create, start, kill, delete; the id and the init's pid."""
    container = runtime.create(bundle.args("sleep", "100"))
    pid = runtime.state(container)["pid"]
    started = runtime("start", container)
    assert started.code == 0, started
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    assert runtime("delete", container).code == 0
    return container, pid


# When and in which order

def test_order_of_the_kinds_and_within(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes) -> None:
    """runtime.md, Lifecycle, 4 to 13; config.md: hooks must be called in the listed order."""
    for kind in reversed(KINDS):
        for number in (1, 2):
            notes.hook(kind, f"echo {kind} {number} >> $NOTES/order")
    container = runtime.create(bundle.args("echo program >> /notes/order; sleep 100"))
    created = [f"{kind} {number}" for kind in AT_CREATE for number in (1, 2)]
    assert notes.lines("order") == created
    assert runtime("start", container).code == 0
    wait_for(lambda: "program" in notes.lines("order") and "poststart 2" in notes.lines("order"), "the program")
    # The program and the poststart hooks run side by side.
    assert [line for line in notes.lines("order")[len(created):] if line != "program"] == [
        "startContainer 1", "startContainer 2", "poststart 1", "poststart 2"]
    assert notes.lines("order").index("program") > notes.lines("order").index("startContainer 2")
    runtime("kill", container, "KILL")
    runtime.wait(container)
    assert not any("poststop" in line for line in notes.lines("order"))
    assert runtime("delete", container).code == 0
    assert notes.lines("order")[-2:] == ["poststop 1", "poststop 2"]


def test_run_has_them_all_too(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes) -> None:
    for kind in KINDS:
        notes.hook(kind, f"echo {kind} >> $NOTES/order")
    assert runtime.run(bundle, "true").code == 0
    assert notes.lines("order") == list(KINDS)


def test_poststop_sees_nothing_left(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes) -> None:
    """runtime.md, Lifecycle, 12 and 13: destroyed first, then the poststop hooks."""
    notes.hook("poststop", f"ls -d {runtime.root}/t* > $NOTES/left 2>&1; ls -d /sys/fs/cgroup/*/t* >> $NOTES/left 2>&1")
    container, _ = live(runtime, bundle)
    assert container not in notes.read("left")


# Where: namespaces and paths

@pytest.mark.parametrize("kind", KINDS)
def test_namespaces_a_hook_runs_in(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes, kind: str) -> None:
    """config.md: createContainer and startContainer in the container's namespaces, the others in the runtime's."""
    look = "; ".join(f"readlink /proc/self/ns/{name}" for name in NAMESPACES)
    notes.hook(kind, f"({look}) > $NOTES/hook")
    bundle.namespace("cgroup")
    container = runtime.create(bundle.args(f"({look}) > /notes/container; sleep 100"))
    assert runtime("start", container).code == 0
    wait_for(lambda: len(notes.lines("container")) == len(NAMESPACES), "the program")
    assert runtime("delete", "--force", container).code == 0
    ours = [os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES]
    assert not set(ours) & set(notes.lines("container"))
    assert notes.lines("hook") == (ours if kind in ON_THE_HOST else notes.lines("container"))


@pytest.mark.parametrize("kind", KINDS)
def test_paths_a_hook_is_looked_for_at(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes, kind: str) -> None:
    """config.md: startContainer's path resolves in the container's namespace, all others in the runtime's."""
    (bundle.rootfs / "where").write_text("inside\n")
    (notes.path.parent / "where").write_text("outside\n")
    notes.hook(kind, f"cat {notes.path.parent}/where /where > $NOTES/where 2>/dev/null; true")
    live(runtime, bundle)
    assert notes.read("where") == ("inside\n" if kind == "startContainer" else "outside\n")


def test_a_program_only_the_host_has(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes) -> None:
    """createContainer finds it, startContainer doesn't."""
    program = notes.path.parent / "only-here"
    program.write_text(f"#!{BUSYBOX} sh\necho ran >> {notes.path}/ran\n")
    program.chmod(0o755)
    bundle.config["hooks"] = {"createContainer": [{"path": str(program)}]}
    live(runtime, bundle)
    assert notes.lines("ran") == ["ran"]
    bundle.config["hooks"] = {"startContainer": [{"path": str(program)}]}
    container = runtime.create(bundle)
    failed = runtime("start", container)
    assert failed.code == 1 and "/hooks/startContainer/0" in failed.err and "ENOENT" in failed.err


# With what: the state, arguments, environment

@pytest.mark.parametrize("kind", KINDS)
def test_state_on_stdin(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes, kind: str) -> None:
    """config.md: the state of the container must be passed to hooks over stdin; runtime.md: pid as seen there.

    What a prestart hook is told of the status is left open: runc says `creating`, crun `created`, which the
    validation programs of runtime-tools want.
    """
    bundle.config["annotations"] = {"com.example": "é\n"}
    notes.hook(kind, "cat > $NOTES/state")
    container, pid = live(runtime, bundle)
    state = json.loads(notes.read("state"))
    expected = {"ociVersion": bundle.config["ociVersion"], "id": container, "bundle": str(bundle.path),
                "annotations": {"com.example": "é\n"}}
    assert {key: state[key] for key in expected} == expected
    assert state["status"] == {"prestart": "created", "startContainer": "created", "poststart": "running",
                               "poststop": "stopped"}.get(kind, "creating")
    assert state.get("pid", 0) == {"createContainer": 1, "startContainer": 1, "poststop": 0}.get(kind, pid)


@pytest.mark.parametrize("kind", KINDS)
def test_args_and_environment_are_exactly_these(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes,
                                                kind: str) -> None:
    script = "cat /proc/$$/cmdline > $NOTES/args; cat /proc/$$/environ > $NOTES/env; true"
    if kind == "createContainer":  # the host's /proc hasn't the container's pids: ask cat, which has the same
        script = script.replace("$$", "self")
    hook = notes.hook(kind, script)
    hook["args"] += ["a b", "", "é"]
    live(runtime, bundle)
    if kind != "createContainer":
        assert notes.read("args").split("\0") == [*hook["args"], ""]
        assert notes.read("env").rstrip("\0").split("\0") == hook["env"]
    else:
        assert set(hook["env"]) <= set(notes.read("env").rstrip("\0").split("\0"))


def test_start_container_defaults_to_the_programs_environment(runtime: Runtime, bundle: Bundle, host: Host,
                                                              notes: Notes) -> None:
    """As runc; hooks on the host have an empty one."""
    bundle.process["env"] = ["PATH=/bin", "FROM=process"]
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    notes.path.chmod(0o777)
    for kind in ("createRuntime", "startContainer"):
        where = "/notes" if kind == "startContainer" else notes.path
        del notes.hook(kind, f"/bin/busybox cat /proc/$$/environ > {where}/{kind}; true")["env"]
    live(runtime, bundle)
    assert {"PATH=/bin", "FROM=process", "HOME=/home/alice"} <= set(notes.read("startContainer").split("\0"))
    assert notes.read("createRuntime") == ""


@pytest.mark.parametrize("kind", KINDS)
def test_where_a_hook_starts_and_with_which_umask(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes,
                                                  kind: str) -> None:
    """As with runc (but poststop hooks: where `delete` is called), the specification leaves it open."""
    bundle.process["cwd"] = "/tmp"
    bundle.process["user"]["umask"] = 0o027
    notes.hook(kind, "pwd > $NOTES/cwd; umask > $NOTES/umask")
    before = os.umask(0o026)
    try:
        live(runtime, bundle)
    finally:
        os.umask(before)
    there = {"createContainer": bundle.rootfs, "startContainer": "/tmp"}.get(kind, bundle.path)
    umask = "0027" if kind == "startContainer" else "0026"
    assert (notes.lines("cwd"), notes.lines("umask")) == ([str(there)], [umask])


# Failures

@pytest.mark.parametrize("kind", [*AT_CREATE, *AT_START])
def test_a_failing_hook_stops_and_destroys(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes,
                                           kind: str) -> None:
    """runtime.md, Lifecycle, 4 to 9: must generate an error, stop the container, and continue at step 12."""
    notes.hook(kind, "echo first >> $NOTES/ran")
    notes.hook(kind, "echo what went wrong >&2; echo and more >&2; exit 3")
    notes.hook(kind, "echo third >> $NOTES/ran")
    notes.hook("poststop", "cat > $NOTES/poststop")
    bundle.args("echo program >> /notes/program; sleep 100").save()
    container = runtime.new_id()
    result = runtime("create", "--bundle", bundle.path, container)
    if kind in AT_START:
        assert result.code == 0, result
        result = runtime("start", container)
    assert result.code == 1 and len(result.errors) == 1, result
    assert f"/hooks/{kind}/1" in result.err
    assert "exit status 3" in result.err and "what went wrong and more" in result.err
    assert notes.lines("ran") == ["first"]
    assert json.loads(notes.read("poststop"))["status"] == "stopped"
    assert os.listdir(runtime.root) == []
    if kind != "poststart":
        assert not notes.lines("program")


def test_a_failing_hook_fails_run(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes) -> None:
    notes.hook("poststart", "exit 1")
    notes.hook("poststop", "echo poststop >> $NOTES/ran")
    result = runtime.run(bundle, "sleep 100")
    assert result.code == 1 and "/hooks/poststart/0" in result.err
    assert notes.lines("ran") == ["poststop"]


def test_a_poststop_hook_may_remove_the_bundle(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes) -> None:
    """As one that tidies up does: those after it run, too."""
    notes.hook("poststop", f"pwd >> $NOTES/ran; rm -r {bundle.path}")
    notes.hook("poststop", "pwd >> $NOTES/ran")
    assert not runtime.run(bundle.args("true")).errors
    assert notes.lines("ran") == [str(bundle.path), "/"]


def test_poststop_failures_are_warnings_and_the_rest_run(runtime: Runtime, bundle: Bundle, host: Host,
                                                         notes: Notes) -> None:
    """runtime.md, Lifecycle, 13: must log a warning, but the remaining hooks and lifecycle continue."""
    notes.hook("poststop", "echo 1 >> $NOTES/ran; echo sorry >&2; exit 1")
    notes.hook("poststop", "echo 2 >> $NOTES/ran", path="/nowhere")
    notes.hook("poststop", "echo 3 >> $NOTES/ran")
    container = runtime.create(bundle)
    runtime("start", container)
    runtime.wait(container)
    result = runtime("delete", container)
    assert result.code == 0, result
    assert [("warn" in line, pointer in line) for line, pointer in
            zip(result.errors, ("/hooks/poststop/0", "/hooks/poststop/1"), strict=True)] == [(True, True)] * 2
    assert "sorry" in result.errors[0] and "ENOENT" in result.errors[1]
    assert notes.lines("ran") == ["1", "3"]
    assert "does not exist" in runtime("state", container).err


@pytest.mark.parametrize("kind", [*AT_CREATE, *AT_START])
def test_timeout(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes, kind: str) -> None:
    """config.md: the hook is aborted after this number of seconds; its children go with it."""
    notes.hook(kind, "sleep 30 & sleep 30", timeout=1)
    bundle.args("sleep", "100").save()
    container = runtime.new_id()
    started = time.monotonic()
    result = runtime("create", "--bundle", bundle.path, container)
    if kind in AT_START:
        result = runtime("start", container)
    assert 0.9 < time.monotonic() - started < 10
    assert result.code == 1 and "timed out" in result.err and f"/hooks/{kind}/0" in result.err, result
    assert "does not exist" in runtime("state", container).err


# What hooks are for

def test_a_hook_enters_the_namespaces_by_pid(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes) -> None:
    """createRuntime: the namespaces are there, the program isn't: it finds what the hook has set up."""
    name = f"pyv{os.getpid() % 100000}"
    notes.hook("createRuntime", "")["args"] = ["busybox", "sh", "-ec", f"""
        pid=$(sed 's/.*"pid": *\\([0-9]*\\).*/\\1/')
        /sbin/ip link add {name} type veth peer name inside netns $pid
        /usr/bin/nsenter -t $pid -u hostname renamed
    """]
    result = runtime.run(bundle, "hostname; ls /sys/class/net | tr '\\n' ' '")
    assert result.code == 0, result
    assert result.lines == ["renamed", "inside lo "]
    wait_for(lambda: subprocess.run(["ip", "link", "show", name], capture_output=True).returncode != 0,
             "the pair to go with the namespace")


def test_create_container_can_mount_into_the_root(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes) -> None:
    """It runs in the container's mount namespace, before pivot_root; the host doesn't see the mount."""
    (notes.path / "file").write_text("mounted\n")
    notes.hook("createContainer", f"mount -o bind $NOTES {bundle.rootfs}/mnt")
    result = runtime.run(bundle, "cat /mnt/file")
    assert (result.code, result.lines) == (0, ["mounted"]), result
    assert not os.listdir(bundle.rootfs / "mnt")


def test_start_container_runs_as_the_last_before_the_program(runtime: Runtime, bundle: Bundle, host: Host,
                                                             notes: Notes) -> None:
    """Inside the root, as the container's user."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    notes.path.chmod(0o777)
    notes.hook("startContainer", "id -u > $NOTES/id; pwd >> $NOTES/id; ls / >> $NOTES/id")
    assert runtime.run(bundle, "ls /").code == 0
    assert notes.lines("id")[:2] == ["1000", "/"]
    assert "bin" in notes.lines("id") and "notes" in notes.lines("id")


def test_hooks_hold_no_descriptor_of_the_runtimes(runtime: Runtime, bundle: Bundle, host: Host, notes: Notes) -> None:
    for kind in KINDS:
        notes.hook(kind, "ls /proc/self/fd | tr '\\n' ' ' > $NOTES/" + kind)
    live(runtime, bundle)
    assert {kind: notes.read(kind) for kind in KINDS} == dict.fromkeys(KINDS, "0 1 2 3 ")  # 3 is ls's own


def test_a_start_that_never_ends_is_no_shelter(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """A startContainer hook's program is the image's: it must not keep `delete --force` from its work."""
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]}
    container = runtime.create(bundle.args("true"))
    start = subprocess.Popen(runtime.command("start", container), stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: not (runtime.root / container / "exec.fifo").exists(), "the start to be on its way")
        began = time.monotonic()
        result = runtime("delete", "--force", container)
        assert result.code == 0 and time.monotonic() - began < 5, result  # it would wait 10 s for the lock
        assert start.wait(10) == 1
    finally:
        start.kill()
        start.wait()
        start.stderr.close()
    assert runtime("state", container).code == 1
