# SPDX-License-Identifier: Apache-2.0
"""`start`: answer with the address of a shim for the container.

Of one that is there for its group, or of a new one: this process forked, or where it comes of the
template (template.py) this process itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, socket

from pyrunc import bundle as bundles
from pyrunc.errors import UsageError, kernel_error
from pyrunc.spec.load import parse

from .arguments import Surroundings, read_stdin

try:
    from _sha256 import sha256  # hashlib costs 2 ms
except ImportError:
    from _sha2 import sha256  # Python 3.12

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .arguments import Arguments

_MAX_PATH = 106  # unix(7)
# A client that doesn't block in connect(2), as those in Go, fails where more than this wait to be accepted.  The
# kernel makes it net.core.somaxconn (listen(2)).
_BACKLOG = 65535
# By which of these annotations a container says whose shim it shares.
_GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
_RUNC_GROUP, _SANDBOX = (name.encode() for name in _GROUPS)
_PR_SCHED_CORE, _PR_SCHED_CORE_CREATE, _PROCESS_GROUP = 62, 1, 2  # prctl(2)


def group(container_id: str) -> str:
    """Whose shim the container in the current directory shares; its own id for one of its own."""
    data = bundles.read_file("config.json")
    if b"\\" not in data and _RUNC_GROUP not in data and _SANDBOX not in data:
        return container_id  # most often, and without the time that reading it takes
    config = parse(data, "config.json", drop_null=True)
    annotations = config.get("annotations") if isinstance(config, dict) else None
    for name in _GROUPS:
        if isinstance(annotations, dict) and annotations.get(name):
            return str(annotations[name])
    return container_id


def socket_path(directory: str, address: str, namespace: str, of: str) -> str:
    """Raises UsageError where it would be too long to be one."""
    path = f"{directory}/{sha256('/'.join((address, namespace, of, 'pyrunc')).encode()).hexdigest()}"
    if len(path) > _MAX_PATH:
        raise UsageError(f"the path of the shim's socket, {path}, is longer than {_MAX_PATH}")
    return path


def open_socket(path: str) -> socket | None:
    """The socket to serve on; None if a shim is there that serves on it.  Raises KernelError."""
    try:
        try:
            held = hold(path)
        except FileNotFoundError:
            from pyrunc.paths import make_private

            make_private(os.path.dirname(path))
            held = hold(path)
        try:
            remove_dead(path)
            return listen(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return None
        finally:
            os.close(held)
    except OSError as error:
        raise kernel_error(f"listen on {path}", error) from None


def hold(path: str) -> int:
    """Until it is closed nobody else takes a dead socket away: the next one at that path may be a living one's."""
    fd = os.open(path.rpartition("/")[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def remove_dead(path: str) -> None:
    """Remove the socket of a shim that has died."""
    probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
    finally:
        probe.close()


def listen(path: str) -> socket:
    """A listening socket at `path`, for us alone.  Raises OSError."""
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def start(arguments: Arguments) -> int:
    """In a process of its own; the shim is another."""
    template = os.environ.pop("PYRUNC_SHIM_TEMPLATE", "")  # template.py
    around = Surroundings(arguments, read_stdin())
    path = _path(arguments, around)
    listener = open_socket(path)
    if listener is not None:
        if os.environ.get("SCHED_CORE"):
            _own_core()
        pid = os.fork()
        if not pid:
            _detach()
            from .daemon import serve

            serve(arguments, around, listener, path)
            os._exit(0)
        listener.close()
        _place(pid, arguments, around)
    _answer(path)
    if template and listener is not None:
        from .template import leave_behind

        leave_behind(template)
    return 0


def start_here(arguments: Arguments, answered: Callable[[], object]) -> int:
    """The shim is this process, which has loaded it already; `answered` is called when containerd has its answer."""
    around = Surroundings(arguments, read_stdin())
    path = _path(arguments, around)
    listener = open_socket(path)
    if listener is not None:
        _place(os.getpid(), arguments, around)
    _answer(path)
    answered()
    if listener is not None:
        _detach()
        from .daemon import serve

        serve(arguments, around, listener, path)
    return 0


def _path(arguments: Arguments, around: Surroundings) -> str:
    return socket_path(around.sockets, arguments["address"], arguments["namespace"], group(arguments["id"]))


def _answer(path: str) -> None:
    address = f"unix://{path}"
    fd = os.open("address", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    os.write(fd, address.encode())
    os.close(fd)
    os.write(1, address.encode())


def _own_core() -> None:
    from pyrunc.linux.process import prctl

    try:
        prctl(_PR_SCHED_CORE, _PR_SCHED_CORE_CREATE, 0, _PROCESS_GROUP, 0)
    except OSError as error:
        raise kernel_error("core scheduling", error) from None


def _detach() -> None:
    """Away from containerd's group and pipes: it waits until nobody has its pipe open any more.

    Not from its session: the scheduler has a share of the processors for each (autogroup, sched(7)), and
    where they are scarce every word between the two would wait for that of somebody else.
    """
    os.setpgid(0, 0)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    try:
        log = os.open("log", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # no log then
    os.dup2(log, 2)
    os.close(log)


def _place(pid: int, arguments: Arguments, around: Surroundings) -> None:
    """The cgroup that shims are to be in, and a better target for the OOM killer than containerd."""
    if around.options.shim_cgroup:
        from pyrunc import cgroup as cgroups

        cgroup = cgroups.plan(around.options.shim_cgroup, arguments["id"])
        cgroup.create()
        cgroup.add(pid)
    try:
        fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(fd, b"%d" % min(int(os.read(fd, 16)) + 1, 1000), 0)
        finally:
            os.close(fd)
    except OSError:
        pass  # not allowed to: then it is as likely a target
