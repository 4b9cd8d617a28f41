# SPDX-License-Identifier: Apache-2.0
"""The runtime's side of CNI: an existing configuration's plugins, run for a container (Section 3).

What a container has been given is kept: the configuration as it was, what the plugins were told, and their result, for
CHECK and DEL.  It is written before the first plugin runs, so that whatever a crash has left can be taken away.
"""

from __future__ import annotations

import fcntl
import os
import select
import time

from pyrunc.errors import BundleError, NetworkError, UsageError, kernel_error
from pyrunc.paths import make_private
from pyrunc.spec.load import dump, parse

from .cni import (
    OWN_FAILURE,
    UNDECODABLE,
    CniError,
    check_result,
    is_interface,
    is_name,
    key_of,
    result_as,
)
from .cni_config import NetworkList, from_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .model import Publish
else:
    import _signal  # what `signal` wraps; that one costs importing enum

PLUGINS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
CACHE = "/var/lib/pyrunc/cni"
PLUGIN_TIMEOUT = 120.0  # seconds; a DHCP server may take its time
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_OUTPUT = 1 << 20
_SHOWN = 600  # characters of what a plugin says
_KIND = "pyrunc-cni-1"


def plugin_path(given: Sequence[str] = ()) -> list[str]:
    """Where plugins are looked for: as given, else $CNI_PATH, else the usual places."""
    found = list(given) or [name for name in os.environ.get("CNI_PATH", "").split(":") if name] or list(PLUGINS)
    return [os.path.abspath(name) for name in found]


def port_mappings(ports: Iterable[Publish]) -> list[dict[str, Any]]:
    """Published ports as the capability portMappings has them: an entry each.  Raises UsageError."""
    found: list[dict[str, Any]] = []
    for port in ports:
        if not port.host:
            raise UsageError(f"port {port.container}: CNI's plugins have to be told the port of the host")
        found += [{"hostPort": port.host + at, "containerPort": port.container + at, "protocol": port.protocol,
                   **({"hostIP": port.host_ip} if port.host_ip else {})} for at in range(port.count)]
    return found


class Attachment:
    """One container's interface in one network: what identifies it, and what the plugins are told."""

    __slots__ = ("args", "capabilities", "container", "ifname", "netns", "netns_id", "network", "paths", "result",
                 "version")

    def __init__(self, network: NetworkList, container: str, netns: str, *, ifname: str = "eth0",
                 args: dict[str, str] | None = None, capabilities: dict[str, Any] | None = None,
                 paths: Iterable[str] = ()) -> None:
        self.network = network
        self.container = container
        self.netns = netns
        self.netns_id = _identity(netns)
        self.ifname = ifname
        self.args = args or {}
        self.capabilities = capabilities or {}
        self.paths = list(paths) or plugin_path()
        self.version = ""
        self.result: dict[str, Any] | None = None
        if not is_name(container):
            raise UsageError(f"{container!a} is no container for CNI", hint="letters, digits, and inside _ . -")
        if not is_interface(ifname):
            raise UsageError(f"{ifname!a} is no name of a network device", hint="at most 15 characters")
        for key, value in self.args.items():
            if not key or not value or set(key + value) & {";", "=", "\0"}:
                raise UsageError(f"{key}={value}: an argument of CNI has neither ; nor =")
        unknown = set(self.capabilities) - network.capabilities
        if unknown:
            known = ", ".join(sorted(network.capabilities)) or "none"
            raise NetworkError(f"no plugin of the network {network.name} takes {', '.join(sorted(unknown))}",
                               hint=f'"capabilities" in {network.path} says what they take: {known}')

    @property
    def is_alive(self) -> bool:
        """Whether the path still leads to the namespace; a pid may be another process's by now."""
        return bool(self.netns_id) and _identity(self.netns) == self.netns_id

    @property
    def key(self) -> str:
        """What it is filed under; none of the three can have an @ in it but the last."""
        return f"{self.network.name}@{self.container}@{self.ifname}"

    def environment(self, command: str) -> dict[str, str]:
        args = ";".join(f"{key}={value}" for key, value in self.args.items())
        return {"CNI_CONTAINERID": self.container, "CNI_NETNS": self.netns, "CNI_IFNAME": self.ifname,
                **({"CNI_ARGS": args} if args else {}), **_environment(command, self.paths)}

    def to_data(self) -> dict[str, Any]:
        return {"kind": _KIND, "network": self.network.to_data(), "path": self.network.path,
                "container": self.container, "netns": self.netns, "netnsID": self.netns_id, "ifname": self.ifname,
                "args": self.args, "capabilities": self.capabilities, "paths": self.paths, "version": self.version,
                "result": self.result}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Attachment:
        """Raises KeyError, TypeError, NetworkError, UsageError for what `to_data` never wrote."""
        if data["kind"] != _KIND:
            raise KeyError(data["kind"])
        found = cls(from_data(data["network"], str(data["path"])), data["container"], str(data["netns"]),
                    ifname=data["ifname"], args=data["args"], capabilities=data["capabilities"], paths=data["paths"])
        found.netns_id = str(data["netnsID"])
        found.version = str(data["version"])
        found.result = data["result"]
        return found


def _identity(path: str) -> str:
    """DEVICE:INODE of the namespace; "" where there is none."""
    try:
        info = os.stat(path)
    except OSError:
        return ""
    return f"{info.st_dev}:{info.st_ino}"


class Cache:
    """The attachments that are there, a file each below `path`, and the locks.

    The lock on the directory is shared by ADD, DEL and CHECK and kept from them by GC; the one on a container's file is
    held by whoever works on it: no two plugins work on the same container at once (Section 3, Lifecycle).
    """

    def __init__(self, path: str = "") -> None:
        self.path = os.path.abspath(path or os.environ.get("PYRUNC_CNI_CACHE") or CACHE)
        try:
            make_private(self.path)
        except OSError as error:
            raise kernel_error(f"the directory {self.path}", error, syscall="mkdir",
                               hint="--cache names another place") from None

    def load(self, key: str) -> Attachment | None:
        path = f"{self.path}/{key}.json"
        try:
            with open(path, "rb") as file:
                data = parse(file.read(), path)
        except FileNotFoundError:
            return None
        try:
            return Attachment.from_data(data)
        except (KeyError, TypeError, BundleError):
            raise NetworkError(f"{path} is damaged", hint="remove it, and with `pyrunc net cni del` give the "
                                                          "configuration and the namespace") from None

    def attachments(self, *, network: str = "", container: str = "") -> list[Attachment]:
        """Those of the network and of the container, where given."""
        found = []
        for name in sorted(os.listdir(self.path)):
            parts = name.removesuffix(".json").split("@", 2)
            if not name.endswith(".json") or name.startswith(".") or len(parts) < 3:
                continue
            if (not network or parts[0] == network) and (not container or parts[1] == container):
                attachment = self.load(name[:-5])
                if attachment is not None:
                    found.append(attachment)
        return found

    def save(self, attachment: Attachment) -> None:
        """Written aside, and renamed: the old one or the new one is there."""
        aside = f"{self.path}/.{attachment.key}"
        try:
            with open(aside, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
                file.write(dump(attachment.to_data()))
            os.rename(aside, f"{self.path}/{attachment.key}.json")
        except OSError as error:
            raise kernel_error(f"write {self.path}/{attachment.key}.json", error) from None

    def forget(self, attachment: Attachment) -> None:
        try:
            os.unlink(f"{self.path}/{attachment.key}.json")
        except FileNotFoundError:
            pass

    def lock(self, container: str = "") -> _Lock:
        """For a `with`: of one container, or of all of them."""
        return _Lock(self.path, container)


class _Lock:
    def __init__(self, directory: str, container: str) -> None:
        self._directory = directory
        self._file = f"{directory}/.lock-{container}" if container else ""
        self._fds: list[int] = []

    def __enter__(self) -> None:
        self._fds.append(os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        fcntl.flock(self._fds[0], fcntl.LOCK_SH if self._file else fcntl.LOCK_EX)
        while self._file:
            fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                self._fds.append(fd)
                return
            os.close(fd)  # who held it has removed it

    def __exit__(self, *_: object) -> None:
        if self._file:
            os.unlink(self._file)
        while self._fds:
            os.close(self._fds.pop())


# What can be done

def add(cache: Cache, attachment: Attachment) -> dict[str, Any]:
    """Run all plugins of the network; the last one's result.  What fails is undone.  Raises NetworkError."""
    network = attachment.network
    if not attachment.netns_id:
        raise NetworkError(f"there is no network namespace {attachment.netns}")
    with cache.lock(attachment.container):
        if cache.load(attachment.key) is not None:
            raise NetworkError(f"{attachment.container} has {attachment.ifname} in the network {network.name} already",
                               hint=f"`pyrunc net cni del {network.name} {attachment.container}` takes it away")
        programs = [_program(plugin["type"], attachment.paths) for plugin in network.plugins]
        attachment.version = _common_version(network, programs, attachment.paths)
        cache.save(attachment)
        try:
            for plugin, program in zip(network.plugins, programs, strict=True):
                request = network.request(plugin, attachment.version, arguments=attachment.capabilities,
                                          previous=_previous(attachment))
                said = _execute(program, "ADD", attachment.environment("ADD"), request)
                attachment.result = check_result(_parse(said, plugin["type"]), f"plugin {plugin['type']}")
        except BaseException:
            _undo(cache, attachment)
            raise
        assert attachment.result is not None
        cache.save(attachment)
        return result_as(attachment.result, attachment.version)


def _undo(cache: Cache, attachment: Attachment) -> None:
    """A DEL must follow, even if the ADD has failed; what it says is not the cause."""
    try:
        _delete(attachment)
        cache.forget(attachment)
    except (NetworkError, OSError):
        pass  # the attachment stays known, and `del` can be tried again


def _delete(attachment: Attachment) -> None:
    for plugin in reversed(attachment.network.plugins):
        request = attachment.network.request(plugin, attachment.version, arguments=attachment.capabilities,
                                             previous=_previous(attachment))
        _execute(_program(plugin["type"], attachment.paths), "DEL", attachment.environment("DEL"), request)


def delete(cache: Cache, attachment: Attachment) -> None:
    """Undo `add`, with what is known of it; no harm if it isn't there.  Raises NetworkError."""
    with cache.lock(attachment.container):
        known = cache.load(attachment.key)
        if known is not None:
            if not known.is_alive:
                known.netns = ""  # it has gone, and what is in it too
            attachment = known
        if not attachment.version:
            attachment.version = attachment.network.versions[0]
            if len(attachment.network.versions) > 1:
                programs = [_program(plugin["type"], attachment.paths) for plugin in attachment.network.plugins]
                attachment.version = _common_version(attachment.network, programs, attachment.paths)
        _delete(attachment)
        cache.forget(attachment)


def check(cache: Cache, key: str) -> None:
    """Ask the plugins whether all is as they made it.  Raises NetworkError."""
    attachment = cache.load(key)
    if attachment is None or attachment.result is None:
        name, container, ifname = key.split("@", 2)
        raise NetworkError(f"{container} has no {ifname} in the network {name}",
                           hint="`pyrunc net cni ls` shows what there is")
    if attachment.network.disable_check:
        return
    if key_of(attachment.version) < (0, 4):
        raise NetworkError(f"version {attachment.version} of CNI, which {attachment.network.name} is used with, has no "
                           "CHECK", hint="0.4.0 and later have")
    with cache.lock(attachment.container):
        for plugin in attachment.network.plugins:
            request = attachment.network.request(plugin, attachment.version, arguments=attachment.capabilities,
                                                 previous=_previous(attachment))
            _execute(_program(plugin["type"], attachment.paths), "CHECK", attachment.environment("CHECK"), request)


def collect(cache: Cache, network: NetworkList, paths: Sequence[str] = ()) -> list[str]:
    """GC: DEL for the attachments whose namespace has gone, and then the plugins clean up; what could not be done."""
    paths = plugin_path(paths)
    failures = []
    for attachment in cache.attachments(network=network.name):
        if not attachment.is_alive:
            try:
                delete(cache, attachment)
            except NetworkError as error:
                failures.append(str(error))
    if network.disable_gc:
        return failures
    with cache.lock():
        valid = [{"containerID": each.container, "ifname": each.ifname}
                 for each in cache.attachments(network=network.name)]
        programs = [_program(plugin["type"], paths) for plugin in network.plugins]
        version = _common_version(network, programs, paths)
        if key_of(version) < (1, 1):
            return failures
        for plugin, program in zip(network.plugins, programs, strict=True):
            request = network.request(plugin, version)
            # The second name is what the specification's first text had.
            request["cni.dev/valid-attachments"] = request["cni.dev/attachments"] = valid
            try:
                _execute(program, "GC", _environment("GC", paths), request)
            except NetworkError as error:  # go on, and report them all
                failures.append(str(error))
    return failures


def status(network: NetworkList, paths: Sequence[str] = ()) -> None:
    """Whether the network takes containers.  Raises NetworkError when not."""
    paths = plugin_path(paths)
    programs = [_program(plugin["type"], paths) for plugin in network.plugins]
    version = _common_version(network, programs, paths)
    for plugin, program in zip(network.plugins, programs, strict=True):
        if key_of(version) >= (1, 1):
            _execute(program, "STATUS", _environment("STATUS", paths), network.request(plugin, version))


# Plugins

def _previous(attachment: Attachment) -> dict[str, Any] | None:
    return None if attachment.result is None else result_as(attachment.result, attachment.version)


def _environment(command: str, paths: Sequence[str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CNI_")}
    return {"PATH": _PATH, **kept, "CNI_COMMAND": command, "CNI_PATH": ":".join(paths)}


def _program(kind: str, paths: Sequence[str]) -> str:
    for directory in paths:
        path = os.path.join(directory, kind)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise NetworkError(f"the CNI plugin {kind} is not installed", hint=f"looked for in {', '.join(paths)}")


def _common_version(network: NetworkList, programs: Sequence[str], paths: Sequence[str]) -> str:
    """The highest that the configuration, all plugins and we support; plugins are asked if there is a choice."""
    candidates = network.versions
    if len(candidates) == 1:
        return candidates[0]
    for program in dict.fromkeys(programs):
        said = _parse(_execute(program, "VERSION", _environment("VERSION", paths), {"cniVersion": candidates[0]}),
                      os.path.basename(program))
        supported = said.get("supportedVersions") if isinstance(said, dict) else None
        if not isinstance(supported, list):
            raise CniError(UNDECODABLE, f"plugin {os.path.basename(program)}: VERSION lists no supportedVersions")
        candidates = [version for version in candidates if version in supported]
    if not candidates:
        raise NetworkError(f"no version of CNI is supported by all plugins of the network {network.name}",
                           hint=f"{network.path} has {', '.join(network.versions)}")
    return candidates[0]


def _execute(program: str, command: str, environment: dict[str, str], request: dict[str, Any]) -> bytes:
    """Run a plugin; what it printed.  Raises CniError with the plugin's words."""
    kind = os.path.basename(program)
    fds: list[int] = []
    try:
        for name in ("request", "stdout", "stderr"):  # files, not pipes: nobody has to wait for anybody
            fds.append(os.memfd_create(name, os.MFD_CLOEXEC))
        os.write(fds[0], dump(request).encode())
        os.lseek(fds[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(fds)]
        try:
            pid = os.posix_spawn(program, [program], environment, file_actions=actions, setsigdef=[_signal.SIGPIPE])
        except OSError as error:
            raise CniError(OWN_FAILURE, f"plugin {kind}: {program} can't be executed: {error.strerror}") from None
        status = _wait(pid, kind, command)
        out, err = (os.pread(fd, _MAX_OUTPUT + 1, 0) for fd in fds[1:])
    finally:
        for fd in fds:
            os.close(fd)
    if len(out) > _MAX_OUTPUT:
        raise CniError(UNDECODABLE, f"plugin {kind} ({command}): more than {_MAX_OUTPUT} bytes of output")
    if status != 0:
        raise _failure(kind, command, status, out, err)
    return out


def _wait(pid: int, kind: str, command: str) -> int:
    """Its exit code, negative for a signal."""
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        deadline = time.monotonic() + PLUGIN_TIMEOUT
        while (left := deadline - time.monotonic()) > 0:
            if poller.poll(left * 1000):
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.kill(pid, _signal.SIGKILL)
        os.waitpid(pid, 0)
        raise CniError(OWN_FAILURE, f"plugin {kind} ({command}): no answer for {PLUGIN_TIMEOUT:g} s")
    finally:
        os.close(pidfd)


def _failure(kind: str, command: str, status: int, out: bytes, err: bytes) -> CniError:
    """What the plugin says: an error of the protocol on stdout, else whatever it wrote."""
    where = f"plugin {kind} ({command})"
    try:
        said = parse(out, kind)
        code, message, details = said["code"], said["msg"], said.get("details", "")
        if isinstance(code, int) and isinstance(message, str) and isinstance(details, str):
            text = ": ".join(_line(part) for part in (message, details) if part)
            return CniError(code, f"{where}: {text} (code {code})")
    except (BundleError, KeyError, TypeError, AttributeError):
        pass
    how = f"exit status {status}" if status > 0 else f"killed by signal {-status}"
    text = _line((err or out).decode("utf-8", "backslashreplace"))
    return CniError(OWN_FAILURE, f"{where}: {how}{': ' + text if text else ''}")


def _line(text: str) -> str:
    """The end of it on one line that can't harm a terminal."""
    line = " ".join(text.split())
    line = line if len(line) <= _SHOWN else "…" + line[-_SHOWN:]
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def _parse(out: bytes, kind: str) -> Any:
    try:
        return parse(out, f"the result of plugin {kind}")
    except BundleError as error:
        raise CniError(UNDECODABLE, str(error)) from None
