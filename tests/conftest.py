# SPDX-License-Identifier: Apache-2.0
"""Fixtures: `runtime` and `bundle` on a real kernel; `--runtime` drives another one, `--long` the long figures."""

from __future__ import annotations

import copy
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machines
import pytest
from attacks import collect, write_table
from support import GLIBCS_OWN, PYRUNC, Bundle, Host, Runtime, make_rootfs

from conformance import reachable
from pyrunc.linux import mount as k
from pyrunc.linux.process import CLONE_NEWNS
from pyrunc.linux.syscall import call


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runtime", default=PYRUNC, help="the runtime to test: a path (default: the installed pyrunc)")
    parser.addoption("--long", action="store_true", help="the long figures")
    parser.addoption("--attack-table", metavar="FILE", type=Path,
                     help="write what tests/system/security has shown into this document's table")


def pytest_configure(config: pytest.Config) -> None:
    if os.geteuid() == 0 and reachable.closed(config.rootpath):
        call("unshare", CLONE_NEWNS)
        # Nothing of ours goes out; what systemd mounts comes in: a user's /run/user/UID is one of its mounts.
        k.mount(None, "/", None, k.MS_SLAVE | k.MS_REC)
        reachable.open_up(config.rootpath)


def pytest_collection_finish(session: pytest.Session) -> None:
    """In a whole run the virtual machines work beside the tests on the host, from here on."""
    wanted = [item for item in session.items if item.path.name == "test_vm_lane.py"]
    if not wanted or len(session.items) < 500 or session.config.option.collectonly:
        return
    last = [item for item in session.items if item not in wanted]
    session.items[:] = [*last, *wanted]
    runtime = shutil.which(str(session.config.getoption("--runtime")))
    if runtime and os.geteuid() == 0:
        directory = Path(tempfile.mkdtemp(prefix="pyrunc-machines-"))
        session.config.stash[machines.RUNNING] = machines.Machines(
            directory, runtime, bool(session.config.getoption("--long")))


def pytest_unconfigure(config: pytest.Config) -> None:
    running = config.stash.get(machines.RUNNING, None)
    if running is not None:
        running.stop()
        shutil.rmtree(running.directory, ignore_errors=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    document = session.config.getoption("--attack-table")
    if document and session.testscollected and not session.testsfailed:
        write_table(collect(session.config), document)


@pytest.fixture(scope="session", autouse=True)
def signals_as_from_a_shell() -> None:
    """GNU make ignores two signals for what it starts, others block some.

    runc hands that on, which is no difference to look at.
    """
    for number in GLIBCS_OWN:
        call("rt_sigaction", number, bytes(32), None, 8)
    call("rt_sigprocmask", 2, bytes(8), None, 8)


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long figures are asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def runtime_path(request: pytest.FixtureRequest) -> str:
    path = str(request.config.getoption("--runtime"))
    found = shutil.which(path)
    assert found, f"no runtime at {path}"
    assert os.geteuid() == 0, "these tests need root"
    return found


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A busybox root and the default config.json, without a terminal."""
    path = tmp_path_factory.mktemp("template")
    make_rootfs(path / "rootfs")
    subprocess.run([PYRUNC, "spec"], cwd=path, check=True)
    config = json.loads((path / "config.json").read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["true"]
    config["root"]["readonly"] = False
    return path, config


@pytest.fixture(scope="session")
def debian() -> Path:
    """The root of a small Debian, which nobody writes to.

    debootstrap makes it once and it is kept: below PYRUNC_TEST_CACHE, or the user's cache directory.
    """
    cache = Path(os.environ.get("PYRUNC_TEST_CACHE")
                 or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyrunc-tests")
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / "debian-bookworm"
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            work = cache / f"{root.name}.part"
            shutil.rmtree(work, ignore_errors=True)
            made = subprocess.run(["debootstrap", "--variant=minbase", "--include=python3-minimal", "bookworm",
                                   work, *os.environ.get("PYRUNC_TEST_MIRROR", "").split()],
                                  capture_output=True, text=True, timeout=900)
            assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
            for package in (work / "var/cache/apt/archives").glob("*.deb"):
                package.unlink()
            work.rename(root)
    return root


@pytest.fixture
def make_bundle(template: tuple[Path, dict[str, Any]], tmp_path: Path) -> Callable[[str], Bundle]:
    """A function that makes a bundle by name."""

    def make(name: str = "bundle") -> Bundle:
        path = tmp_path / name
        path.mkdir()
        shutil.copytree(template[0] / "rootfs", path / "rootfs", symlinks=True)
        bundle = Bundle(path, copy.deepcopy(template[1]))
        bundle.save()
        return bundle

    return make


@pytest.fixture
def bundle(make_bundle: Callable[[str], Bundle]) -> Bundle:
    return make_bundle("bundle")


@pytest.fixture
def make_runtime(tmp_path: Path) -> Iterator[Callable[[str], Runtime]]:
    """A function that makes a Runtime, or a kind of it, from a path or a name, cleaned up at the end."""
    made: list[Runtime] = []

    def make(path: str, kind: type[Runtime] = Runtime) -> Runtime:
        found = shutil.which(path)
        assert found, f"{path} is not installed"
        runtime = kind(found, tmp_path / f"state-{len(made)}" / "root")
        runtime.root.mkdir(parents=True)
        made.append(runtime)
        return runtime

    yield make
    for runtime in made:
        runtime.clean_up()


@pytest.fixture
def runtime(runtime_path: str, make_runtime: Callable[[str], Runtime]) -> Runtime:
    """The runtime under test."""
    return make_runtime(runtime_path)


V2_LANE = """#!/bin/sh
# On a machine of v2 alone a mount of it would change the options of the one that is there.
[ ! -e /sys/fs/cgroup/cgroup.controllers ] || exec {path} "$@"
exec unshare --mount --propagation private sh -c 'umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup &&
    exec "$@"' _ {path} "$@"
"""


@pytest.fixture
def v2(runtime: Runtime, make_runtime: Callable[[str], Runtime], tmp_path: Path) -> Runtime:
    """The runtime on a machine whose cgroups are v2 alone: each command in a mount namespace that has it so."""
    lane = tmp_path / "v2-lane"
    lane.write_text(V2_LANE.format(path=runtime.path))
    lane.chmod(0o755)
    return make_runtime(str(lane))


@pytest.fixture
def host(runtime: Runtime) -> Iterator[Host]:
    """The host as it was; after the test it has to be so again."""
    host = Host(runtime.root)
    yield host
    runtime.clean_up()
    host.assert_unchanged()
