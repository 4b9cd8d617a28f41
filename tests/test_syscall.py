# SPDX-License-Identifier: Apache-2.0
"""pyrunc.linux._syscall and its ctypes twin: one behaviour."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pyrunc.linux import _syscall_ctypes

ROOT = Path(__file__).resolve().parent.parent
X86 = platform.machine() == "x86_64"
NR = {"getpid": 39 if X86 else 172, "close": 3 if X86 else 57, "pipe2": 293 if X86 else 59,
      "getrandom": 318 if X86 else 278, "lseek": 8 if X86 else 62, "prctl": 157 if X86 else 167, "openat2": 437,
      "nanosleep": 35 if X86 else 101}  # fmt: skip
CLONE_VM, CLONE_THREAD, CLONE_SETTLS, CLONE_FILES, CLONE_PIDFD = 0x100, 0x10000, 0x80000, 0x400, 0x1000
CLONE_PARENT, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWTIME = 0x8000, 0x10000000, 0x20000000, 0x80


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The extension, built from this tree."""
    out = tmp_path_factory.mktemp("syscall")
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--build-lib", out, "--build-temp", out],
                   cwd=ROOT, check=True)
    (path,) = (out / "pyrunc/linux").glob("_syscall*.so")
    assert path.name == "_syscall.abi3.so", "one object for all versions of Python"
    spec = importlib.util.spec_from_file_location("pyrunc.linux._syscall", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["compiled", "ctypes"])
def door(request: pytest.FixtureRequest) -> ModuleType:
    return request.getfixturevalue("compiled") if request.param == "compiled" else _syscall_ctypes


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_result(door: ModuleType) -> None:
    assert door.syscall(NR["getpid"]) == os.getpid()


def test_error(door: ModuleType) -> None:
    with pytest.raises(OSError) as caught:
        door.syscall(NR["close"], -1)
    assert (caught.value.errno, caught.value.strerror) == (errno.EBADF, os.strerror(errno.EBADF))
    with pytest.raises(FileNotFoundError):
        door.syscall(NR["openat2"], -100, b"/nonexistent\0", bytes(24), 24)


def test_paths_and_structures(door: ModuleType, tmp_path: Path) -> None:
    """openat2(2): a struct open_how of flags, mode and resolve."""
    (tmp_path / "file").write_text("seen")
    how = (os.O_RDONLY | os.O_CLOEXEC).to_bytes(8, sys.byteorder) + bytes(16)
    for path in (bytes(tmp_path / "file") + b"\0", bytearray(bytes(tmp_path / "file") + b"\0")):
        for structure in (how, bytearray(how), memoryview(how), memoryview(bytearray(b"12345678" + how))[8:]):
            fd = door.syscall(NR["openat2"], -100, path, structure, len(how))
            assert os.read(fd, 9) == b"seen"
            os.close(fd)


def test_the_kernel_writes_into_buffers(door: ModuleType) -> None:
    ends = bytearray(8)
    assert door.syscall(NR["pipe2"], ends, os.O_CLOEXEC) == 0
    reader, writer = (int.from_bytes(ends[i : i + 4], sys.byteorder) for i in (0, 4))
    os.write(writer, b"x")
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.close(writer)
    noise = bytearray(64)
    assert door.syscall(NR["getrandom"], memoryview(noise)[32:], 32, 0) == 32
    assert noise[:32] == bytes(32) and noise[32:] != bytes(32)
    noise.clear()  # BufferError, were the buffer still held


def test_integers(door: ModuleType, tmp_path: Path) -> None:
    """Signed and unsigned 64-bit values both pass, and results beyond 32 bits return."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        far = 1 << 40
        assert door.syscall(NR["lseek"], fd, far, os.SEEK_SET) == far
        assert door.syscall(NR["lseek"], fd, -24, os.SEEK_CUR) == far - 24
        assert door.syscall(NR["lseek"], fd, (1 << 64) - 16, os.SEEK_CUR) == far - 40
        assert door.syscall(NR["lseek"], fd, None, True) == far - 40
    finally:
        os.close(fd)


@pytest.mark.parametrize("arguments", [("text",), (1.5,), ([],), (0, 1, 2, 3, 4, 5, 6)])
def test_refused_arguments(door: ModuleType, arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        door.syscall(NR["getpid"], *arguments)


def test_empty_buffer(door: ModuleType) -> None:
    assert door.syscall(NR["getrandom"], bytearray(), 0, 0) == 0
    assert door.syscall(NR["getrandom"], b"", 0, 0) == 0


def test_clone3_forks(door: ModuleType) -> None:
    pid = door.clone3(0, signal.SIGCHLD)
    if pid == 0:
        os._exit(37)
    assert wait(pid) == 37


def test_clone3_runs_the_hooks_of_a_fork(door: ModuleType) -> None:
    seen: list[str] = []
    os.register_at_fork(before=lambda: seen.append("before"), after_in_parent=lambda: seen.append("parent"),
                        after_in_child=lambda: seen.append("child"))
    pid = door.clone3(0, signal.SIGCHLD)
    if pid == 0:
        os._exit(0 if seen == ["before", "child"] else 1)
    assert wait(pid) == 0
    assert seen == ["before", "parent"]
    seen.append("done")


def test_clone3_makes_namespaces(door: ModuleType) -> None:
    pid = door.clone3(CLONE_NEWUSER | CLONE_NEWPID, signal.SIGCHLD)
    if pid == 0:
        os._exit(0 if os.getpid() == 1 and os.getuid() == 65534 else 1)
    assert pid > 1 and wait(pid) == 0


def test_clone3_for_a_sibling(door: ModuleType) -> None:
    """CLONE_PARENT: the middle process makes it, we are its parent."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        sibling = door.clone3(CLONE_PARENT, 0)
        if sibling == 0:
            os._exit(21)
        os.write(writer, str(sibling).encode())
        os._exit(0)
    assert wait(middle) == 0
    assert wait(int(os.read(reader, 20))) == 21
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("flags", [CLONE_VM, CLONE_THREAD, CLONE_SETTLS, CLONE_FILES, CLONE_PIDFD, 1 << 40])
def test_clone3_refuses_what_is_no_fork(door: ModuleType, flags: int) -> None:
    with pytest.raises(ValueError, match="fork"):
        door.clone3(flags, signal.SIGCHLD)


def test_clone3_reports_the_kernel(door: ModuleType) -> None:
    with pytest.raises(OSError) as caught:
        door.clone3(CLONE_PARENT, signal.SIGCHLD)  # the signal belongs to the other parent: EINVAL
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        door.clone3(0, signal.SIGCHLD, 0 if os.isatty(0) else os.open("/", os.O_RDONLY))
    assert caught.value.errno == errno.EBADF


def test_clone3_into_a_cgroup(door: ModuleType) -> None:
    """CLONE_INTO_CGROUP, Linux 5.7: the child is there before it runs."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = next(Path(fields[1]) for fields in mounts if fields[2] == "cgroup2")
    group = top / f"pyrunc-test-{os.getpid()}"
    group.mkdir()
    try:
        fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
        pid = door.clone3(0, signal.SIGCHLD, fd)
        if pid == 0:
            os._exit(0 if group.name in Path("/proc/self/cgroup").read_text() else 1)
        os.close(fd)
        assert wait(pid) == 0
    finally:
        group.rmdir()


def test_clone_serves_where_clone3_is_filtered(door: ModuleType) -> None:
    """Container hosts answer ENOSYS to clone3, as a filter can't see its flags (seccomp(2))."""
    middle = os.fork()
    if middle == 0:
        try:
            _answer_enosys(435)
            pid = door.clone3(CLONE_NEWPID, signal.SIGCHLD)
            if pid == 0:
                os._exit(5 if os.getpid() == 1 else 6)
            status = wait(pid)
            try:
                door.clone3(CLONE_NEWTIME, signal.SIGCHLD)
            except OSError as error:  # clone(2) would take the flag for a signal
                os._exit(status if error.errno == errno.ENOSYS else 8)
        finally:
            os._exit(9)
    assert wait(middle) == 5


def _answer_enosys(nr: int) -> None:
    """Install a seccomp filter: `nr` returns ENOSYS, all else is allowed."""
    import ctypes
    from struct import pack

    load, equal, ret = 0x20, 0x15, 0x06
    program = b"".join(pack("HBBI", *instruction) for instruction in (
        (load, 0, 0, 0), (equal, 0, 1, nr), (ret, 0, 0, 0x00050000 | errno.ENOSYS), (ret, 0, 0, 0x7FFF0000)))
    memory = ctypes.create_string_buffer(program)
    fprog = pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(memory))
    _syscall_ctypes.syscall(NR["prctl"], 38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    _syscall_ctypes.syscall(NR["prctl"], 22, 2, fprog)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def test_the_gil_is_released_while_the_kernel_waits(door: ModuleType) -> None:
    """nanosleep(2) in another thread does not stop this one."""
    import threading
    import time

    half_a_second = (0).to_bytes(8, sys.byteorder) + (500_000_000).to_bytes(8, sys.byteorder)
    sleeper = threading.Thread(target=door.syscall, args=(NR["nanosleep"], half_a_second, None))
    before = time.monotonic()
    sleeper.start()
    passed = time.monotonic() - before
    sleeper.join()
    assert passed < 0.3
    assert time.monotonic() - before >= 0.5
