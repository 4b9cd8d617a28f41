# SPDX-License-Identifier: Apache-2.0
"""What containerd runs the shim's program for: start, delete, -info, -v (core/runtime/v2 of containerd, README).

`start` answers with the address of a shim for the container: of one that is there for its group, or of
a new one, which is this process forked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

from pyrunc import bundle as bundles
from pyrunc._version import __version__
from pyrunc.errors import PyruncError, UsageError, kernel_error
from pyrunc.spec.load import parse

from . import options
from .codec import DecodeError
from .messages import Any, BootstrapParams, DeleteResponse, Options, RuntimeInfo, RuntimeVersion
from .publisher import now
from .server import listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SOCKETS = "/run/containerd/s"
_MAX_STDIN = 10 << 20
_MAX_PATH = 106  # unix(7)
_KILLED = 137
# By which of these annotations a container says whose shim it shares.
_GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")
_PR_SCHED_CORE, _PR_SCHED_CORE_CREATE, _PROCESS_GROUP = 62, 1, 2  # prctl(2)

FLAGS = ("namespace", "address", "publish-binary", "id", "bundle", "socket")
SWITCHES = ("debug", "v", "version", "info")


class Arguments:
    """The command line, in the style of Go's flag package; `action` is start, delete or empty."""

    __slots__ = ("action", "switches", "values")

    def __init__(self, words: list[str]) -> None:
        self.values = dict.fromkeys(FLAGS, "")
        self.switches: set[str] = set()
        rest = list(words)
        while rest and rest[0].startswith("-"):
            name, equals, value = rest.pop(0).lstrip("-").partition("=")
            if name in SWITCHES:
                if value not in ("false", "0"):
                    self.switches.add(name)
            elif name in FLAGS:
                if not equals and not rest:
                    raise UsageError(f"flag needs an argument: -{name}")
                self.values[name] = value if equals else rest.pop(0)
            else:
                raise UsageError(f"flag provided but not defined: -{name}")
        self.action = rest[0] if rest else ""

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def require(self) -> None:
        """What every action needs.  Raises UsageError."""
        if not self["namespace"]:
            raise UsageError("shim namespace cannot be empty")
        if not self["id"]:
            raise UsageError("shim id cannot be empty")


def read_stdin() -> bytes:
    """What containerd wrote there."""
    data = b""
    while len(data) < _MAX_STDIN:
        piece = os.read(0, 65536)
        if not piece:
            break
        data += piece
    return data


class Surroundings:
    """Where this shim is: from the command line, the environment, and since containerd 2.3 from stdin."""

    __slots__ = ("events", "options", "sockets")

    def __init__(self, arguments: Arguments, data: bytes) -> None:
        self.events = os.environ.get("TTRPC_ADDRESS", "")
        self.sockets = SOCKETS
        wanted: Any | None = None
        try:
            params = BootstrapParams.decode(data)
        except DecodeError:
            params = BootstrapParams()
        # An Any of older versions may well decode as that too, but not to these values.
        if params.instance_id == arguments["id"] and params.namespace == arguments["namespace"]:
            self.events = params.containerd_ttrpc_address or self.events
            self.sockets = params.socket_dir or self.sockets
            for extension in params.extensions:
                if extension.value is not None and extension.value.type_url.endswith(".Options"):
                    wanted = extension.value
        else:
            try:
                wanted = Any.decode(data)
            except DecodeError:
                pass
        try:
            self.options = options.decode(wanted)
        except PyruncError:
            self.options = Options()  # Create is told them too, and says what is wrong


def group(container_id: str) -> str:
    """Whose shim the container in the current directory shares; its own id for one of its own."""
    config = parse(bundles.read_file("config.json"), "config.json", drop_null=True)
    annotations = config.get("annotations") if isinstance(config, dict) else None
    for name in _GROUPS:
        if isinstance(annotations, dict) and annotations.get(name):
            return str(annotations[name])
    return container_id


def _sha256(data: bytes) -> str:
    try:
        from _sha2 import sha256  # Python 3.12
    except ImportError:
        from _sha256 import sha256
    digest: str = sha256(data).hexdigest()
    return digest


def socket_path(directory: str, address: str, namespace: str, of: str) -> str:
    """Raises UsageError where it would be too long to be one."""
    path = f"{directory}/{_sha256('/'.join((address, namespace, of, 'pyrunc')).encode())}"
    if len(path) > _MAX_PATH:
        raise UsageError(f"the path of the shim's socket, {path}, is longer than {_MAX_PATH}")
    return path


def open_socket(path: str) -> socket | None:
    """The socket to serve on; None if a shim is there that serves on it.  Raises KernelError."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        held = _hold(path)
        try:
            _remove_dead(path)
            return listen(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return None
        finally:
            os.close(held)
    except OSError as error:
        raise kernel_error(f"listen on {path}", error) from None


def _hold(path: str) -> int:
    """Until it is closed nobody else takes a dead socket away: the next one at that path may be a living one's."""
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _remove_dead(path: str) -> None:
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


def _forget_socket(bundle: str) -> None:
    """That of the shim which `start` told of, if it is dead; in a pod another container's may be alive."""
    try:
        with open(f"{bundle}/address") as file:
            path = file.read(4096).removeprefix("unix://")
        held = _hold(path)
        try:
            _remove_dead(path)
        finally:
            os.close(held)
    except OSError:
        pass  # what `start` does in its stead, for the next shim at that path


def start(arguments: Arguments, serve: Callable[[Arguments, Surroundings, socket, str], None]) -> int:
    """Answer with the address; in the forked shim `serve` is called, which doesn't return before its end."""
    around = Surroundings(arguments, read_stdin())
    path = socket_path(around.sockets, arguments["address"], arguments["namespace"], group(arguments["id"]))
    listener = open_socket(path)
    if listener is not None:
        if os.environ.get("SCHED_CORE"):
            _own_core()
        pid = os.fork()
        if not pid:
            _detach()
            serve(arguments, around, listener, path)
            os._exit(0)
        listener.close()
        _place(pid, arguments, around)
    address = f"unix://{path}"
    with open("address", "w") as file:
        file.write(address)
    os.write(1, address.encode())
    return 0


def _own_core() -> None:
    from pyrunc.linux.process import prctl

    try:
        prctl(_PR_SCHED_CORE, _PR_SCHED_CORE_CREATE, 0, _PROCESS_GROUP, 0)
    except OSError as error:
        raise kernel_error("core scheduling", error) from None


def _detach() -> None:
    """Away from containerd's session, group and pipes: it waits until nobody has its pipe open any more."""
    os.setsid()
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
        with open("/proc/self/oom_score_adj") as file:
            score = int(file.read())
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(min(score + 1, 1000)))
    except OSError:
        pass  # not allowed to: then it is as likely a target


def delete(arguments: Arguments) -> int:
    """After the shim has died: whatever is left of the container goes."""
    from . import operations

    bundle = arguments["bundle"] or os.getcwd()
    root = options.state_root(options.load(bundle), arguments["namespace"])
    try:
        with open(f"{bundle}/init.pid") as file:
            pid = int(file.read())
    except (OSError, ValueError):
        pid = 0
    operations.delete(arguments["id"], root, bundle, True)
    _forget_socket(bundle)
    os.write(1, DeleteResponse(pid=pid, exit_status=_KILLED, exited_at=now()).encode())
    return 0


def info() -> int:
    """-info: what the runtime can do, as a RuntimeInfo; kubelet learns from it."""
    from pyrunc.spec.features import features
    from pyrunc.spec.load import dump

    data = read_stdin()
    wanted: Any | None = None
    try:
        wanted = Any.decode(data) if data else None
    except DecodeError:
        pass
    os.write(1, RuntimeInfo(
        name="io.containerd.pyrunc.v1", version=RuntimeVersion(version=__version__), options=wanted,
        features=Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/features/Features",
                     value=dump(features()).encode())).encode())
    return 0


def version() -> int:
    print(f"{os.path.basename(sys.argv[0] or 'containerd-shim-pyrunc-v1')}:\n  Version:  {__version__}")
    return 0
