# SPDX-License-Identifier: Apache-2.0
"""exec: which cgroup the process is in, and --cgroup (runc-exec(8)); on this machine's v1 or hybrid, and on v2."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from container_cgroup import ContainerCgroup, is_v2, resources
from support import Bundle, Host, Result, Runtime, wait_for

ROOT = Path("/sys/fs/cgroup")
FAILED = 255  # when it is exec itself that fails
NAME = "PATH"  # the container's own cgroup in what is compared

needs_v1 = pytest.mark.skipif(is_v2(), reason="hierarchies of v1")


def cgroups(text: str) -> dict[str, str]:
    """/proc/PID/cgroup: the path by hierarchy, v2's is named ''."""
    return {line.split(":", 2)[1]: line.split(":", 2)[2] for line in text.splitlines()}


@pytest.fixture
def name(host: Host) -> Iterator[str]:
    yield f"pyrunc-{uuid.uuid4().hex[:10]}"


def start(runtime: Runtime, bundle: Bundle, name: str, script: str = "sleep 1000") -> str:
    """A running container in the cgroup `name`, which sees the host's names of cgroups."""
    bundle.linux["cgroupsPath"] = f"/{name}"
    container = runtime.create(bundle.without("cgroup").args(script))
    assert runtime("start", container).code == 0
    return container


def where(runtime: Runtime, container: str, name: str, *options: str) -> dict[str, str]:
    """The cgroups of a process of exec."""
    result = runtime("exec", *options, container, "cat", "/proc/self/cgroup")
    assert result.code == 0, result
    return {hierarchy: path.replace(f"/{name}", f"/{NAME}", 1) for hierarchy, path in cgroups(result.out).items()}


def make_below(runtime: Runtime, container: str, path: str, *hierarchies: str) -> dict[str, Path]:
    """Cgroups below the container's in these hierarchies, in all if none is named."""
    made = {}
    for hierarchy, own in cgroups(Path(f"/proc/{runtime.state(container)['pid']}/cgroup").read_text()).items():
        base = (ROOT / hierarchy.removeprefix("name=") if hierarchy else v2_base()) / own.lstrip("/")
        if base.is_dir() and own != "/" and (not hierarchies or hierarchy in hierarchies):
            (base / path).mkdir(parents=True)
            made[hierarchy] = base / path
            if hierarchy == "cpuset":
                for level in [*reversed((base / path).relative_to(base).parents[:-1]), Path(path)]:
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        (base / level / file).write_text((base / file).read_text())
    return made


@needs_v1
@pytest.mark.parametrize("words", [(), ("pids:a/b",), ("pids,freezer:a/b", "cpu:c"), ("a/b",), ("/a/b",)],
                         ids=["none", "one", "several", "all", "with a slash"])
def test_v1_beside_runc(runtime: Runtime, bundle: Bundle, host: Host, make_runtime: Callable[[str], Runtime],
                        words: tuple[str, ...], name: str) -> None:
    """The same places: the container's own where nothing is said, in every hierarchy if no controller is named."""
    found = {}
    for each in (runtime, make_runtime("runc")):
        own = f"{name}-{each.name}"
        container = start(each, bundle, own)
        make_below(each, container, "a/b")
        make_below(each, container, "c", "cpu")
        found[each.name] = where(each, container, own, *(word for path in words for word in ("--cgroup", path)))
        assert each("delete", "--force", container).code == 0
    assert found["runc"] == found[runtime.name]
    in_a_b = [hierarchy for hierarchy, path in found[runtime.name].items() if path == f"/{NAME}/a/b"]
    expected = {(): [], ("pids:a/b",): ["pids"], ("pids,freezer:a/b", "cpu:c"): ["pids", "freezer"]}
    if words in expected:
        assert sorted(in_a_b) == sorted(expected[words])
        assert found[runtime.name]["cpu"] == f"/{NAME}" + ("/c" if len(words) > 1 else "")
    else:
        assert {"pids", "freezer", "cpu", "memory", "devices"} <= set(in_a_b)


def refused(result: Result, *texts: str) -> None:
    assert result.code == FAILED and len(result.errors) == 1 and not result.out, result
    assert all(text in result.err for text in texts), result


@needs_v1
@pytest.mark.parametrize(("words", "texts"), [
    (("--cgroup", "pids:none"), ("ENOENT", "it has to be there already")),
    (("--cgroup", "none"), ("ENOENT", "it has to be there already")),
    (("--cgroup", "pids:../other"), ("--cgroup ../other: is not below the container's cgroup",)),
    (("--cgroup", "pids:a/../../other"), ("is not below the container's cgroup",)),
    (("--cgroup", "nosuch:a"), ("--cgroup nosuch:a: the container has no cgroup of that controller", "it has ")),
    (("--cgroup", "pids:a", "--cgroup", "b"), ("invalid --cgroup argument: b (missing <controller>: prefix)",)),
    (("--cgroup", "pids:a", "--cgroup", "pids:b"), ("controller pids specified multiple times",)),
    (("--cgroup", ":a"), ("invalid --cgroup argument: :a (empty <controller> prefix)",)),
])
def test_v1_mistakes(runtime: Runtime, bundle: Bundle, host: Host, name: str, words: tuple[str, ...],
                     texts: tuple[str, ...]) -> None:
    """One line, and the process is nowhere."""
    container = start(runtime, bundle, name)
    pids = runtime("ps", "--format", "json", container).out
    refused(runtime("exec", *words, container, "touch", "/ran"), *texts)
    assert runtime("ps", "--format", "json", container).out == pids
    assert not (bundle.rootfs / "ran").exists()


def test_held_to_the_containers_limits(runtime: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    """pids.limit counts it and what it starts; the control is a container with a higher one."""
    script = "for n in 1 2 3 4 5 6 7 8; do sleep 2 & done; wait; echo all"
    container = start(runtime, resources(bundle, pids={"limit": 30}), name)
    assert runtime("exec", container, "sh", "-c", script).lines == ["all"]
    assert runtime("update", "--pids-limit", "5", container).code == 0
    result = runtime("exec", container, "sh", "-c", script)
    assert result.lines == [] and "can't fork" in result.err, result


@pytest.mark.parametrize("capabilities", [(), ("CAP_SYS_PTRACE",)], ids=["default", "CAP_SYS_PTRACE"])
def test_a_container_full_of_processes(runtime: Runtime, bundle: Bundle, host: Host, name: str,
                                       capabilities: tuple[str, ...]) -> None:
    """The limit is one of forks: who looks after a container that can't fork any more gets in (cgroup-v1/pids.rst)."""
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind] += capabilities
    container = start(runtime, resources(bundle, pids={"limit": 1}), name)
    own = ContainerCgroup(runtime.state(container)["pid"])
    assert own.pids_current() == 1
    result = runtime("exec", container, "cat", "/proc/self/cgroup")
    if is_v2() and capabilities:
        # Only outside of its cgroup, and of the rules for devices, could the process be forked: in view of
        # who might take it over there.
        refused(result, "the limit of processes in the container's cgroup is reached", "EAGAIN")
        return
    assert "can't fork" in runtime("exec", container, "sh", "-c", "cat /proc/self/cgroup; true").err
    assert result.code == 0 and all(cgroups(result.out)[hierarchy] == f"/{name}"
                                    for hierarchy in ([""] if is_v2() else ["pids", "devices"])), result
    assert own.pids_current() == 1


def trace_of_exec(each: Runtime, container: str, trace: Path, *options: str | Path) -> tuple[str, list[str]]:
    """What `cat /proc/self/cgroup` printed, and whom exec has moved between cgroups (strace(1))."""
    command = each.command("exec", *options, container, "cat", "/proc/self/cgroup")
    done = subprocess.run(["strace", "-f", "-qq", "-y", "-e", "trace=write", "-o", trace, *command], check=True,
                          timeout=60, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return done.stdout, [line for line in trace.read_text().splitlines() if "/cgroup.procs>" in line]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("who", ["root", "another"])
def test_it_is_moved_by_nobody(runtime: Runtime, v2: Runtime, bundle: Bundle, host: Host, name: str, tmp_path: Path,
                               version: str, who: str) -> None:
    """That would wait for an RCU grace period: it puts itself into v1's cgroups and is born in v2's.

    Where that can't be, it is moved as ever.
    """
    each = runtime if version == "v1" else v2
    container = start(each, bundle, name)
    options = ("--user", "1000:1000") if who == "another" else ()
    inits = Path(f"/proc/{each.state(container)['pid']}/cgroup")
    out, moved = trace_of_exec(each, container, tmp_path / "trace", *options)
    assert out == inits.read_text() and name in out and moved == []
    process = tmp_path / "process.json"
    process.write_text(json.dumps({"args": ["cat", "/proc/self/cgroup"], "cwd": "/", "user": {"uid": 0, "gid": 0},
                                   "execCPUAffinity": {"initial": "0"}}))
    out, moved = trace_of_exec(each, container, tmp_path / "trace", "--process", process)
    assert out == inits.read_text() and moved
    assert each("delete", "--force", container).code == 0


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_not_before_it_has_to_where_memory_is_short(runtime: Runtime, v2: Runtime, bundle: Bundle, host: Host,
                                                    name: str, tmp_path: Path, version: str) -> None:
    """What getting ready takes isn't charged to a container that has little (v2 has no such limit on this machine)."""
    each = runtime if version == "v1" else v2
    for limit, early in ((64 << 20, True), (8 << 20, False)):
        container = start(each, resources(bundle, memory={"limit": limit}) if version == "v1" or is_v2() else bundle,
                          name)
        if version == "v2" and not is_v2():
            state = json.loads((each.root / container / "config.json").read_text())
            state["linux"].setdefault("resources", {})["memory"] = {"limit": limit}
            (each.root / container / "config.json").write_text(json.dumps(state))
        out, moved = trace_of_exec(each, container, tmp_path / "trace")
        assert name in out and (moved == []) == early, (limit, moved)
        assert each("delete", "--force", container).code == 0


def test_all_of_it_ends_with_the_container(runtime: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    """Without a pid namespace only the cgroup tells whose a process of exec is, below it too."""
    container = start(runtime, bundle.without("pid"), name)
    made = make_below(runtime, container, "below")
    hierarchy = "freezer" if "freezer" in made else ""
    for words in ([], ["--cgroup", f"{hierarchy}:below" if hierarchy else "below"]):
        assert runtime("exec", "--detach", *words, container, "sh", "-c", "trap '' TERM; sleep 1000").code == 0
    procs = made[hierarchy] / "cgroup.procs"
    wait_for(lambda: procs.read_text() != "", "the second to be there")
    pids = [int(pid) for pid in procs.read_text().split()]
    assert runtime("kill", container, "KILL").code == 0
    wait_for(lambda: not any(alive(pid) for pid in pids), "them to be gone")
    runtime.wait(container)
    assert runtime("delete", container).code == 0
    assert not made[hierarchy].exists()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# cgroup v2

def v2_base() -> Path:
    """On this machine v2 is mounted beside v1, on a v2 machine alone."""
    return ROOT if is_v2() else ROOT / "unified"


def test_v2_in_the_containers_and_below_it(v2: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    container = start(v2, bundle, name)
    (v2_base() / name / "a/b").mkdir(parents=True)
    for words, path in (((), f"/{NAME}"), (("--cgroup", "a/b"), f"/{NAME}/a/b"), (("--cgroup", "/a"), f"/{NAME}/a"),
                        (("--cgroup", "/"), f"/{NAME}")):
        assert where(v2, container, name, *words)[""] == path
    for words, texts in ((("none",), ("ENOENT", "it has to be there already")),
                         (("../other",), ("is not below the container's cgroup",)),
                         (("hugetlb:a",), ("cgroup v2 has no controllers to name here", "give the path alone"))):
        refused(v2("exec", "--cgroup", *words, container, "true"), *texts)
    assert v2("delete", "--force", container).code == 0


def test_v2_where_the_init_has_passed_controllers_on(v2: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    """As a systemd in a container does: nobody can be in its cgroup then, so exec goes to where the init is."""
    root = v2_base()
    passed_on = (root / "cgroup.subtree_control").read_text().split()
    container = start(v2, bundle, name)
    own = root / name
    assert where(v2, container, name)[""] == f"/{NAME}"  # the control: nothing was passed on yet
    for below in ("init.scope", "other"):
        (own / below).mkdir()
    pid = v2.state(container)["pid"]
    for each in (own / "cgroup.procs").read_text().split():
        (own / "init.scope/cgroup.procs").write_text(each)
    controllers = (own / "cgroup.controllers").read_text().split()
    assert controllers, "this machine's v2 hierarchy has no controllers"
    (own / "cgroup.subtree_control").write_text(f"+{controllers[0]}")
    assert str(pid) in (own / "init.scope/cgroup.procs").read_text().split()
    assert where(v2, container, name)[""] == f"/{NAME}/init.scope"
    assert where(v2, container, name, "--cgroup", "other")[""] == f"/{NAME}/other"
    refused(v2("exec", "--cgroup", "/", container, "true"), "EBUSY")
    assert v2("delete", "--force", container).code == 0
    assert not own.exists()
    for controller in set((root / "cgroup.subtree_control").read_text().split()) - set(passed_on):
        (root / "cgroup.subtree_control").write_text(f"-{controller}")


def test_v2_in_its_own_namespace(v2: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    """cgroup_namespaces(7): the process joins the init's, and sees itself where it is."""
    bundle.namespace("cgroup")
    bundle.linux["cgroupsPath"] = f"/{name}"
    container = v2.create(bundle.args("sleep 1000"))
    assert v2("start", container).code == 0
    (v2_base() / name / "a").mkdir()
    assert cgroups(v2("exec", container, "cat", "/proc/self/cgroup").out)[""] == "/"
    assert cgroups(v2("exec", "--cgroup", "a", container, "cat", "/proc/self/cgroup").out)[""] == "/a"
    assert os.readlink(f"/proc/{v2.state(container)['pid']}/ns/cgroup") != os.readlink("/proc/self/ns/cgroup")
    assert v2("delete", "--force", container).code == 0
