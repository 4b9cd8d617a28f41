# SPDX-License-Identifier: Apache-2.0
"""A process that has loaded everything and waits: the next shims are forked from it.

An interpreter and the runtime in it take longer to start than a container.  So the first `start` leaves a
process behind, for a minute after the last of them; the launcher (launcher/shim.c) gives it the next ones:
arguments, environment, working directory and standard streams.  It has never seen a container, and what is
forked from it has its code in common with the others, in memory too.

It serves only who is in the same namespaces, cgroups and limits as itself and has the same privileges, so
that a shim of it is what containerd would have started; and only as long as the package is the one it has
loaded.  Everybody else starts an interpreter, which is also what happens when anything is amiss here.
"""

from __future__ import annotations

import array
import fcntl
import gc
import os
import sys
import time
from _socket import AF_UNIX, CMSG_LEN, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SO_PEERCRED, SOCK_CLOEXEC, SOL_SOCKET, socket
from _struct import unpack

import pyrunc
from pyrunc.linux.process import close_all_but
from pyrunc.paths import make_private

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal  # what `signal` wraps; that one costs importing enum

_SOCK_SEQPACKET = 5
_MAX_REQUEST = 65536
_DESCRIPTORS = 4  # working directory, stdin, stdout, stderr
_REST_SECONDS = 0.5  # until the first container, which we aren't to slow down, has started
_IDLE_SECONDS = 60.0
_STEP, _POOL, _MAX_FILLED = 16, 16384, 256  # bytes; the allocator's, and up to which size of objects it pays
_MOST = 8192  # objects of one size
_REQUEST_SECONDS = 5.0
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts")
_STATUS = (b"Umask", b"Uid", b"Gid", b"Groups", b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb", b"NoNewPrivs",
           b"Seccomp", b"Seccomp_filters", b"Cpus_allowed", b"Mems_allowed")


def leave_behind(path: str) -> None:
    """Fork the template, unless there is one at that socket; it is nobody's error if there can't be.

    The launcher names the socket after its own file and the namespaces that it is in.
    """
    try:
        package = _package()  # by now, and not by when the rest of it is loaded
        make_private(os.path.dirname(path))
        held = _hold(path)
        if held < 0:
            return
        if not os.fork():
            _become(path, held, package)
        os.close(held)
    except OSError:
        pass


def _hold(path: str) -> int:
    """A lock that says that the template lives; -1 if somebody has it."""
    fd = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_ino == os.stat(f"{path}.lock").st_ino:  # one that has ended removes it
            return fd
    except OSError:
        pass
    os.close(fd)
    return -1


def _become(path: str, held: int, package: list[tuple[int, int, int]]) -> None:
    """The template; it doesn't return."""
    status = 1
    try:
        os.setpgid(0, 0)
        os.chdir("/")
        _rename(os.fsencode(sys.argv[0]) + b"\0template\0")
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        close_all_but({0, 1, 2, held})
        _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # nobody waits for the shims
        time.sleep(_REST_SECONDS)
        template = Template(package)
        _remove_dead(os.path.dirname(path))
        listener = socket(AF_UNIX, _SOCK_SEQPACKET | SOCK_CLOEXEC)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        mask = os.umask(0o177)
        listener.bind(path)
        os.umask(mask)
        listener.listen(128)
        try:
            template.serve(listener, held)
        finally:
            os.unlink(path)
            os.unlink(f"{path}.lock")
        status = 0
    finally:
        os._exit(status)


def _remove_dead(directory: str) -> None:
    """Those that were killed, of versions and namespaces that have gone, leave their files."""
    for name in os.listdir(directory):
        if name.endswith(".lock"):
            held = _hold(f"{directory}/{name[:-5]}")
            if held >= 0:
                for file in (name[:-5], name):
                    try:
                        os.unlink(f"{directory}/{file}")
                    except FileNotFoundError:
                        pass
                os.close(held)


class Template:
    """All code, in a process that has done nothing yet."""

    def __init__(self, package: list[tuple[int, int, int]]) -> None:
        from . import daemon

        self._package = package
        daemon.load(list(daemon.modules()))
        daemon.loaded = True
        os.environ.clear()
        # A page that a shim writes to it has to itself, and whatever it looks at it counts references in.
        gc.collect()
        self._filling = _fill_gaps()
        gc.freeze()
        sys._clear_type_cache()  # whose names a shim would let go of, all over the place

    def serve(self, listener: socket, held: int) -> None:
        """Fork shims until nobody has wanted one for a while, or the package is another."""
        listener.settimeout(_IDLE_SECONDS)
        while True:
            try:
                fd, _ = listener._accept()  # type: ignore[attr-defined]  # what `socket` has around _socket's
            except TimeoutError:
                return
            connection = socket(AF_UNIX, _SOCK_SEQPACKET, 0, fileno=fd)
            try:
                if _package() != self._package:
                    return
                self._request(connection, listener, held)
            except OSError:
                pass  # it starts an interpreter then
            finally:
                connection.close()

    def _request(self, connection: socket, listener: socket, held: int) -> None:
        connection.settimeout(_REQUEST_SECONDS)
        data, ancillary, _, _ = connection.recvmsg(_MAX_REQUEST, CMSG_LEN(4 * _DESCRIPTORS), MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, kind, piece in ancillary:
            if (level, kind) == (SOL_SOCKET, SCM_RIGHTS):
                fds.frombytes(piece[:len(piece) - len(piece) % fds.itemsize])
        try:
            pid, uid, gid = unpack("iII", connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))  # struct ucred, unix(7)
            if len(fds) != _DESCRIPTORS or pid == 0 or (uid, gid) != (os.geteuid(), os.getegid()):
                return
            if _surroundings(pid) != _surroundings(os.getpid()):
                return
            count, *words = data.split(b"\0")
            arguments, environment = words[:int(count)], words[int(count):]
            if sum(map(len, arguments)) + len(arguments) > _command_line()[1]:
                return
            if not os.fork():
                listener.close()
                os.close(held)
                _shim(connection, list(fds), arguments, environment)
        finally:
            for fd in fds:
                os.close(fd)


def _fill_gaps() -> list[bytes]:
    """Objects in all the gaps that others have left: what a shim allocates comes to lie in pages of its own.

    Of the sizes that are most common.  A pool (Objects/obmalloc.c) without a gap holds blocks one after the other:
    a row of them as long as a pool says that there are no more.
    """
    filling = []
    header = b"".__sizeof__()
    for size in range(3 * _STEP, _MAX_FILLED + 1, _STEP):
        row = last = 0
        for _ in range(_MOST):  # another allocator may have no such rows
            filling.append(bytes(size - header))
            row = row + 1 if id(filling[-1]) == last + size else 0
            last = id(filling[-1])
            if row == _POOL // size - 2:
                break
    return filling


def _package() -> list[tuple[int, int, int]]:
    """What tells one installation from the next."""
    try:
        files = [os.stat(file or "") for file in (pyrunc.__file__, __file__)]
    except OSError:  # gone
        return []
    return [(found.st_dev, found.st_ino, found.st_mtime_ns) for found in files]


def _surroundings(pid: int) -> list[bytes]:
    """What a process has of the one that started it: proc(5)."""
    base = f"/proc/{pid}"
    found = [os.fsencode(os.readlink(f"{base}/ns/{name}")) for name in _NAMESPACES]
    found.append(os.fsencode(os.readlink(f"{base}/root")))
    found += [_read(f"{base}/{name}") for name in ("cgroup", "limits", "oom_score_adj", "attr/current")]
    found += [line for line in _read(f"{base}/status").split(b"\n") if line.partition(b":")[0] in _STATUS]
    found += [b"%d" % os.getpriority(os.PRIO_PROCESS, pid), b"%d" % os.getsid(pid)]
    return found


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    except OSError as error:
        return b"%d" % (error.errno or 0)  # attr/current without a security module: EINVAL
    finally:
        os.close(fd)


_where: tuple[int, int] | None = None


def _command_line() -> tuple[int, int]:
    """Where the kernel takes our command line from, and how many bytes: arg_start and arg_end, proc_pid_stat(5)."""
    global _where
    if _where is not None:  # forks have theirs in the same place
        return _where
    text = _read("/proc/self/stat")
    fields = text[text.rindex(b")") + 2:].split()
    _where = int(fields[45]), int(fields[46]) - int(fields[45])
    return _where


def _rename(words: bytes) -> None:
    """Have the command line be ours, and not that of the first shim; `words` end with NUL each."""
    begin, size = _command_line()
    if len(words) > size:
        return
    memory = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(memory, words.ljust(size, b"\0"), begin)
    finally:
        os.close(memory)


def _shim(connection: socket, fds: list[int], arguments: list[bytes], environment: list[bytes]) -> None:
    """In the fork: what the launcher's process would have become."""
    from pyrunc.errors import PyruncError

    from .arguments import Arguments
    from .starting import start_here

    status = 1
    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        connection.send(b"accepted")  # from here on the launcher leaves it to us
        directory, *streams = fds
        os.fchdir(directory)
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        for fd in fds:
            os.close(fd)
        _rename(b"\0".join((*arguments, b"")))
        sys.argv = [os.fsdecode(word) for word in arguments]
        for pair in environment:
            name, equals, value = pair.partition(b"=")
            if equals:
                os.environb[name] = value

        def answered() -> None:
            connection.send(b"\0")
            connection.close()

        given = Arguments(sys.argv[1:])
        given.require()
        status = start_here(given, answered)
    except PyruncError as error:
        os.write(2, f"containerd-shim-pyrunc-v1: {error}\n".encode("utf-8", "surrogateescape"))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            connection.send(bytes([status]))
        except OSError:
            pass  # it has been told, or is gone
        os._exit(status)
