# SPDX-License-Identifier: Apache-2.0
"""config-linux.md, Control groups: where a container is put, that all of it can be killed, that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mountinfo import host_mount
from support import Bundle, Host, Runtime, wait_for

ROOT = Path("/sys/fs/cgroup")


def cgroups_of(pid: int) -> dict[str, str]:
    """The path by hierarchy, as the host sees it; v2's is named ''."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines}


def directories(name: str) -> list[Path]:
    """Every cgroup of that name, in whatever hierarchy and depth."""
    return [Path(path) for path, _, _ in os.walk(ROOT) if os.path.basename(path) == name]


def freezer(path: str) -> Path:
    """The directory of a cgroup in the freezer's hierarchy (v1 or hybrid)."""
    return ROOT / "freezer" / path.lstrip("/")


@pytest.fixture
def name(host: Host) -> Iterator[str]:
    """A cgroup name of our own; nothing of it may be left that the test did not make."""
    name = f"pyrunc-{uuid.uuid4().hex[:10]}"
    yield name


# When it is limited

READ_LIMIT = """pid=$(sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p')
cat "{place}$(sed -n 's/^[0-9]*:{controller}://p' /proc/$pid/cgroup)/{file}" > {out}"""


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_limited_before_the_hooks_of_create(runtime: Runtime, v2: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                            kind: str, version: str) -> None:
    """A hook of create's (runtime.md, Lifecycle) finds the limits in place, as with runc: some go by them."""
    controller, place, file, resources = {
        "v1": ("pids", ROOT / "pids", "pids.max", {"pids": {"limit": 77}}),
        "v2": ("", ROOT, "cgroup.max.descendants", {"unified": {"cgroup.max.descendants": "77"}}),
    }[version]
    out = tmp_path / "out"
    script = READ_LIMIT.format(controller=controller, place=place, file=file, out=out)
    bundle.config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    each = runtime if version == "v1" else v2
    unlimited = bundle.linux["resources"]
    for limits, found in ((resources, "77\n"), ({}, "max\n")):
        bundle.linux["resources"] = {**unlimited, **limits}
        result = each.run(bundle, "true")
        assert result.code == 0 and out.read_text() == found, result


# How it gets there

def test_the_init_is_moved_by_nobody(runtime: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    """That would wait for an RCU grace period, for longer than all the rest takes.

    It puts itself into the cgroups of v1, and is born in v2's.
    """
    bundle.args("cat", "/proc/self/cgroup").save()
    trace = tmp_path / "trace"
    command = runtime.command("run", "--bundle", bundle.path, "moves")
    done = subprocess.run(["strace", "-f", "-qq", "-y", "-e", "trace=write", "-o", trace, *command], check=True,
                          timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    lines = [line for line in trace.read_text().splitlines() if f"<{ROOT}/" in line]
    # strace may break a line off, and tell the result in another; of a failure it says so in one or the other.
    itself = [line for line in lines if '/tasks>, "0"' in line]
    assert " = -1 " not in trace.read_text()
    moved = [line for line in lines if "/cgroup.procs>" in line]
    version_1 = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.split(":")[1]]
    assert len(itself) == len(version_1) and moved == [], "\n".join(lines)
    assert all(line.endswith("/moves") for line in done.stdout.splitlines()), done.stdout
    assert len(done.stdout.splitlines()) == len(Path("/proc/self/cgroup").read_text().splitlines())


# Where it is

@pytest.mark.parametrize("shape", ["default", "absolute", "relative", "nested", "dots"])
def test_placed_as_runc_places_it(runtime: Runtime, bundle: Bundle, host: Host, name: str,
                                  make_runtime: Callable[[str], Runtime], shape: str) -> None:
    """Absolute: from the mount point; relative: from the runtime's own; none: the id's.  runc is asked on the spot."""
    paths = {"absolute": f"/{name}", "relative": name, "nested": f"/{name}/a/b", "dots": f"/{name}/./a/../b"}
    seen = []
    for each in (runtime, make_runtime("runc")):
        if shape in paths:
            bundle.linux["cgroupsPath"] = paths[shape]
        container = each.create(bundle, container_id=name)
        found = cgroups_of(each.state(container)["pid"])
        assert each("delete", "--force", container).code == 0
        if each is not runtime:
            found.setdefault("", "")
        seen.append(found)
        left = directories(name)
        for path in left:
            for below, _, _ in os.walk(path, topdown=False):
                os.rmdir(below)
        seen.append({str(path): "left" for path in left})
    ours, ours_left, runcs, runcs_left = seen
    assert {key: path for key, path in ours.items() if key} == {key: path for key, path in runcs.items() if key}
    assert all(path.rstrip("/").endswith({"nested": "/b", "dots": "/b"}.get(shape, name))
               for key, path in ours.items() if key)
    assert set(ours_left) <= set(runcs_left) | {path for path in ours_left if "/unified/" in path}


def test_a_path_that_names_no_cgroup(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    for path in ("/", ".", "/..", "/../../up", "../up"):
        bundle.linux["cgroupsPath"] = path
        result = runtime.run(bundle, "true")
        assert result.code == 1 and "/linux/cgroupsPath" in result.err, result


@pytest.mark.parametrize("version", ["host", "v2"])
def test_a_cgroup_that_was_killed_before_is_used_again(runtime: Runtime, v2: Runtime, bundle: Bundle, host: Host,
                                                       name: str, tmp_path: Path, version: str) -> None:
    """Later kernels kill whoever is born in one (CLONE_INTO_CGROUP) after it was killed as a whole (cgroup.kill)."""
    there = v2 if version == "v2" else runtime
    with host_mount(tmp_path / "hierarchy", fstype="cgroup2") as hierarchy:
        given = hierarchy / name
        given.mkdir()
        try:
            sleeper = subprocess.Popen(["sleep", "100"])
            (given / "cgroup.procs").write_text(str(sleeper.pid))
            (given / "cgroup.kill").write_text("1")
            assert sleeper.wait(20) == -signal.SIGKILL
            bundle.linux["cgroupsPath"] = f"/{name}"
            container = there.create(bundle.args("sleep", "100"))
            assert there("start", container).code == 0
            assert f"0::/{name}" in there("exec", container, "cat", "/proc/self/cgroup").lines
            assert there("delete", "--force", container).code == 0
        finally:
            given.rmdir()


def test_an_empty_cgroup_given_is_used_and_kept(runtime: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    """runtime.md, Delete: resources not created by the container must not be deleted."""
    given = freezer(name)
    given.mkdir()
    try:
        bundle.linux["cgroupsPath"] = f"/{name}"
        container = runtime.create(bundle)
        pid = runtime.state(container)["pid"]
        assert given.joinpath("cgroup.procs").read_text().split() == [str(pid)]
        assert len(directories(name)) > 1  # in the other hierarchies it is made
        assert runtime("delete", "--force", container).code == 0
        assert directories(name) == [given]
        assert given.joinpath("cgroup.procs").read_text() == ""
    finally:
        given.rmdir()


def test_a_cgroup_in_use_is_refused(runtime: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    bundle.linux["cgroupsPath"] = f"/{name}"
    first = runtime.create(bundle)
    pid = runtime.state(first)["pid"]
    result = runtime("create", "--bundle", bundle.path, runtime.new_id())
    assert result.code == 1 and len(result.errors) == 1, result
    assert "not empty" in result.err and str(pid) in result.err and "/linux/cgroupsPath" in result.err
    assert runtime.state(first)["status"] == "created"
    assert len(directories(name)) > 1


def test_a_frozen_cgroup_is_refused(runtime: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    given = freezer(name)
    given.mkdir()
    try:
        (given / "freezer.state").write_text("FROZEN")
        bundle.linux["cgroupsPath"] = f"/{name}"
        result = runtime.run(bundle, "true", timeout=20)
        assert result.code == 1 and "frozen" in result.err and len(result.errors) == 1, result
        assert directories(name) == [given]
    finally:
        (given / "freezer.state").write_text("THAWED")
        given.rmdir()


# Killing all of it

def descendants(path: Path) -> list[int]:
    return [int(pid) for below, _, _ in os.walk(path) for pid in Path(below, "cgroup.procs").read_text().split()]


DAEMONS = "for n in 1 2 3; do setsid sh -c 'trap \"\" TERM HUP INT; while :; do sleep 100; done' & done; {then}"


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_kill_all_without_a_pid_namespace(runtime: Runtime, v2: Runtime, bundle: Bundle, host: Host, name: str,
                                          version: str, paused: bool) -> None:
    """Daemons of other sessions, which ignore what can be ignored, after the init has gone; one in a cgroup below."""
    each = runtime if version == "v1" else v2
    bundle.linux["cgroupsPath"] = f"/{name}"
    container = each.create(bundle.without("pid").args(DAEMONS.format(then="exit 0")))
    (cgroup,) = [freezer(name)] if version == "v1" else v2_directories(name)
    assert each("start", container).code == 0
    each.wait(container)
    wait_for(lambda: len(descendants(cgroup)) == 6, "three daemons and their sleeps")
    (cgroup / "below").mkdir()
    (cgroup / "below/cgroup.procs").write_text(str(descendants(cgroup)[0]))
    assert each("kill", "--all", container, "TERM").code == 0
    time.sleep(0.1)  # the control: they do ignore it
    assert len(descendants(cgroup)) >= 3
    if paused:
        file, word = ("freezer.state", "FROZEN") if version == "v1" else ("cgroup.freeze", "1")
        (cgroup / file).write_text(word)
    assert each("kill", "--all", container, "KILL").code == 0
    wait_for(lambda: not descendants(cgroup), "all to be gone")
    assert each("delete", container).code == 0
    assert not cgroup.exists()


def test_kill_takes_all_without_a_pid_namespace(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Without its own pid namespace nobody dies with the init: SIGKILL is for all of them."""
    container = runtime.create(bundle.without("pid").args(DAEMONS.format(then="sleep 100")))
    cgroup = freezer(cgroups_of(runtime.state(container)["pid"])["freezer"])
    assert runtime("start", container).code == 0
    wait_for(lambda: len(descendants(cgroup)) >= 7, "three daemons and the program")
    assert runtime("kill", container, "KILL").code == 0
    wait_for(lambda: not descendants(cgroup), "all to be gone")
    runtime.wait(container)
    assert runtime("delete", container).code == 0


def test_delete_takes_what_the_init_left(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle.without("pid").args(DAEMONS.format(then="exit 0")))
    cgroup = freezer(cgroups_of(runtime.state(container)["pid"])["freezer"])
    assert runtime("start", container).code == 0
    runtime.wait(container)
    wait_for(lambda: len(descendants(cgroup)) == 6, "three daemons and their sleeps")
    assert runtime("delete", container).code == 0
    assert not cgroup.exists()


@pytest.mark.parametrize("pid_namespace", [True, False])
def test_delete_force_of_a_fork_storm(runtime: Runtime, bundle: Bundle, host: Host, pid_namespace: bool) -> None:
    if not pid_namespace:
        bundle.without("pid")
    bundle.args("trap '' TERM HUP INT; storm() { while :; do (:) & (:); done; }; storm & storm & storm")
    container = runtime.create(bundle)
    cgroup = freezer(cgroups_of(runtime.state(container)["pid"])["freezer"])
    assert runtime("start", container).code == 0
    wait_for(lambda: len(descendants(cgroup)) > 3, "the storm")
    started = time.monotonic()
    assert runtime("delete", "--force", container).code == 0
    assert time.monotonic() - started < 10
    assert not cgroup.exists()


def test_delete_force_of_sub_cgroups_made_inside(runtime: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    """The container's processes are spread over cgroups below its own."""
    bundle.linux["cgroupsPath"] = f"/{name}"
    container = runtime.create(bundle.without("pid").args("sleep 100 & sleep 100 & sleep 100"))
    cgroup = freezer(name)
    assert runtime("start", container).code == 0
    wait_for(lambda: len(descendants(cgroup)) >= 3, "the program")
    for below, pid in zip(("a", "a/b", "odd name"), descendants(cgroup), strict=False):
        (cgroup / below).mkdir()
        (cgroup / below / "cgroup.procs").write_text(str(pid))
    assert not (cgroup / "cgroup.procs").read_text().strip() or len(descendants(cgroup)) > 3
    assert runtime("delete", "--force", container).code == 0
    assert directories(name) == []


# Frozen

@pytest.fixture
def frozen(runtime: Runtime, bundle: Bundle, host: Host, name: str) -> Iterator[tuple[str, Path]]:
    """A running container that somebody has frozen by hand."""
    bundle.linux["cgroupsPath"] = f"/{name}"
    container = runtime.create(bundle.args("while :; do sleep 0.01; done"))
    assert runtime("start", container).code == 0
    state = freezer(name) / "freezer.state"
    state.write_text("FROZEN")
    wait_for(lambda: state.read_text() == "FROZEN\n", "it to freeze")
    yield container, state
    if state.exists():
        state.write_text("THAWED")


def test_frozen_by_hand_is_paused(runtime: Runtime, frozen: tuple[str, Path]) -> None:
    container, state = frozen
    assert runtime.state(container)["status"] == "paused"
    assert "not stopped: paused" in runtime("delete", container).err
    state.write_text("THAWED")
    assert runtime.state(container)["status"] == "running"


def test_kill_of_a_frozen_one_thaws_it(runtime: Runtime, frozen: tuple[str, Path]) -> None:
    """A frozen process dies only when it is thawed (cgroup v1); TERM doesn't thaw."""
    container, state = frozen
    assert runtime("kill", container, "TERM").code == 0
    assert state.read_text() == "FROZEN\n"
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    assert runtime("delete", container).code == 0


def test_delete_force_of_a_frozen_one(runtime: Runtime, frozen: tuple[str, Path]) -> None:
    container, state = frozen
    assert runtime("delete", "--force", container).code == 0
    assert not state.exists()


# cgroup v2

def v2_directories(name: str) -> list[Path]:
    """On this machine v2 is mounted beside v1, on a v2 machine alone."""
    base = ROOT / "unified" if (ROOT / "unified").exists() else ROOT
    return [Path(path) for path, _, _ in os.walk(base) if os.path.basename(path) == name]


def test_v2_life(v2: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    bundle.linux["cgroupsPath"] = f"/{name}"
    container = v2.create(bundle.args("sleep 100"))
    pid = v2.state(container)["pid"]
    assert cgroups_of(pid)[""] == f"/{name}"
    assert all(name not in path for hierarchy, path in cgroups_of(pid).items() if hierarchy)
    assert v2("start", container).code == 0
    assert v2("kill", container, "KILL").code == 0
    v2.wait(container)
    assert len(v2_directories(name)) == 1
    assert v2("delete", container).code == 0
    assert v2_directories(name) == []


def test_v2_the_namespace_is_rooted_at_the_containers(v2: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    """config-linux.md, cgroup namespace: /proc/self/cgroup shows `/`; without one the control shows the path."""
    bundle.linux["cgroupsPath"] = f"/{name}"
    bundle.without("cgroup")
    assert f"0::/{name}" in v2.run(bundle, "cat /proc/self/cgroup").lines
    bundle.namespace("cgroup")
    assert "0::/" in v2.run(bundle, "cat /proc/self/cgroup").lines


def test_v2_kill_and_delete_of_a_stubborn_tree(v2: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    bundle.linux["cgroupsPath"] = f"/{name}"
    container = v2.create(bundle.without("pid").args(DAEMONS.format(then="exit 0")))
    assert v2("start", container).code == 0
    v2.wait(container)
    (cgroup,) = v2_directories(name)
    wait_for(lambda: len(descendants(cgroup)) == 6, "three daemons and their sleeps")
    (cgroup / "below").mkdir()
    (cgroup / "below" / "cgroup.procs").write_text(str(descendants(cgroup)[0]))
    assert v2("delete", container).code == 0
    assert v2_directories(name) == []


def test_v2_frozen_is_paused_and_can_be_killed(v2: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    bundle.linux["cgroupsPath"] = f"/{name}"
    container = v2.create(bundle.args("sleep 100"))
    assert v2("start", container).code == 0
    (cgroup,) = v2_directories(name)
    (cgroup / "cgroup.freeze").write_text("1")
    wait_for(lambda: "frozen 1" in (cgroup / "cgroup.events").read_text(), "it to freeze")
    assert v2.state(container)["status"] == "paused"
    assert v2("kill", container, "KILL").code == 0
    v2.wait(container)
    assert v2("delete", container).code == 0
    assert v2_directories(name) == []


def test_v2_a_cgroup_given_is_kept(v2: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    base = ROOT / "unified" if (ROOT / "unified").exists() else ROOT
    (base / name).mkdir()
    try:
        bundle.linux["cgroupsPath"] = f"/{name}"
        assert v2.run(bundle, "true").code == 0
        assert v2_directories(name) == [base / name]
    finally:
        (base / name).rmdir()


def test_v2_a_cgroup_given_that_passes_controllers_on(v2: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    """cgroup-v2.rst, No Internal Process Constraint: it can't hold the init, which is said in a line."""
    base = ROOT / "unified" if (ROOT / "unified").exists() else ROOT
    bundle.linux["cgroupsPath"] = f"/{name}"
    passed_on = (base / "cgroup.subtree_control").read_text().split()
    assert v2.run(bundle, "true").code == 0  # the control; and it has passed all controllers down to there
    (base / name).mkdir()
    try:
        available = (base / name / "cgroup.controllers").read_text().split()
        assert available, "this machine's v2 hierarchy has no controllers"
        (base / name / "cgroup.subtree_control").write_text(f"+{available[0]}")
        for namespaces in ("plain", "staged"):
            if namespaces == "staged":
                bundle.namespace("time")
            result = v2.run(bundle, "true")
            assert result.code == 1 and len(result.errors) == 1, result
            assert "/linux/cgroupsPath" in result.err and f"the cgroup /sys/fs/cgroup/{name}: " in result.err, result
            assert "EBUSY" in result.err and "passes controllers on to cgroups below it" in result.err, result
            assert list(v2.root.iterdir()) == []
    finally:
        (base / name).rmdir()
        for controller in set((base / "cgroup.subtree_control").read_text().split()) - set(passed_on):
            (base / "cgroup.subtree_control").write_text(f"-{controller}")


def test_a_dead_init_is_not_mistaken_for_another_process(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """kill of a container whose init is a zombie says that it isn't running."""
    bundle.args("exit 0").save()
    container = runtime.new_id()
    process = subprocess.Popen(runtime.command("run", "--keep", "--bundle", bundle.path, container))
    assert process.wait(20) == 0
    result = runtime("kill", container, str(int(signal.SIGTERM)))
    assert result.code == 1 and "container not running" in result.err
