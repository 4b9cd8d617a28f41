# SPDX-License-Identifier: Apache-2.0
"""A bundle whose container gets its networks from hooks, whichever runtime runs it.

`set_up` writes into config.json what that takes: the hooks createRuntime and poststop, a network namespace of the
container's own, and mounts of /etc/hosts, /etc/resolv.conf and /etc/hostname.  `attach` and `detach` are what the hooks
do, with the state that the runtime gives them (runtime.md, State).
"""

from __future__ import annotations

import os

from pyrunc.__main__ import command_line
from pyrunc.errors import BundleError, NetworkError, PyruncError, UsageError, kernel_error
from pyrunc.paths import create_anew
from pyrunc.spec.load import dump_pretty, parse

from . import attachments, cni_config, cni_host, hosts, networks, rootless
from .model import check_address, check_host_name, check_mac, parse_publish
from .store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

TIMEOUT = 150  # seconds: longer than the locks and plugins behind a hook wait
_KINDS = ("createRuntime", "poststart", "poststop")
_MARK = ("net", "hook")
_FILES = ("hosts", "resolv.conf", "hostname")
_MOUNTED = ["bind", "nosuid", "nodev", "noexec", "rprivate"]


class Wish:
    """What a container is to have: places in networks of ours, and in one that CNI's plugins make."""

    def __init__(self, *, names: Sequence[str] = (), publish: Sequence[str] = (), ip: Sequence[str] = (),
                 mac: str = "", aliases: Sequence[str] = (), dns: Sequence[str] = (), search: Sequence[str] = (),
                 cni: str = "", plugins: Sequence[str] = (), cache: str = "", root: str = "",
                 container: str = "") -> None:
        self.container = container  # whose files of names go with it; "": they are the bundle's
        self.cni = os.path.abspath(cni) if cni else ""
        self.networks = list(dict.fromkeys(names)) or ([] if cni else [networks.DEFAULT])
        self.publish = list(publish)
        self.ip = [check_address(address) for address in ip]
        self.mac = check_mac(mac) if mac else ""
        self.aliases = [check_host_name(alias) for alias in aliases]
        self.dns = [check_address(address) for address in dns]
        self.search = [check_host_name(domain) for domain in search]
        self.plugins = [os.path.abspath(directory) for directory in plugins]
        self.cache = os.path.abspath(cache) if cache else ""
        self.root = os.path.abspath(root) if root else ""
        self.ports = [parse_publish(text) for text in self.publish]
        self.program = ""  # what an ordinary user's network is made with
        if rootless.is_ordinary():
            self._for_an_ordinary_user()

    def _for_an_ordinary_user(self) -> None:
        """Raises UsageError, NetworkError."""
        named = [name for name in self.networks if name != networks.DEFAULT]
        if self.cni or named[1:] or (named and named[0] not in rootless.PROGRAMS):
            raise UsageError("bridges and CNI's plugins take root",
                             hint="an ordinary user has --net pasta, or slirp4netns")
        if self.ip or self.mac or self.aliases:
            raise UsageError("pasta and slirp4netns choose the address themselves")
        self.program = os.path.basename(rootless.find(named[0] if named else ""))
        self.networks = []

    def options(self) -> list[str]:
        """As the words of `net hook` that say the same."""
        given = [("net", self.networks or [self.program]), ("publish", self.publish), ("ip", self.ip),
                 ("alias", self.aliases), ("mac", [self.mac]), ("cni", [self.cni]), ("plugins", self.plugins),
                 ("cache", [self.cache]), ("forget", [self.container]), ("net-root", [self.root])]
        return [f"--{name}={value}" for name, values in given for value in values if value]


# Into the bundle

def set_up(bundle: str, wish: Wish) -> None:
    """Write it into the bundle's config.json, in the place of what an earlier call has written.  Raises PyruncError."""
    config = _read(bundle)
    _take_away(config, bundle)
    store = Store(wish.root)
    found = [networks.find(store, name) for name in wish.networks]
    if wish.cni:
        cni_config.load(wish.cni)
    linux = config.setdefault("linux", {})
    namespaces = linux.setdefault("namespaces", [])
    if not any(each.get("type") == "network" for each in namespaces):
        namespaces.append({"type": "network"})
    hooks = config.setdefault("hooks", {})
    for kind, action in (("poststart" if wish.program else "createRuntime", "attach"), ("poststop", "detach")):
        words = command_line("net", "hook", *wish.options(), action)
        hook = {"path": words[0], "args": words, "env": _environment(), "timeout": TIMEOUT}
        # First to come, last to go: other hooks find the network there.
        hooks[kind] = [hook, *hooks.get(kind, [])] if action == "attach" else [*hooks.get(kind, []), hook]
    taken = {str(mount.get("destination")).rstrip("/") for mount in config.get("mounts", [])}
    mounts = config.setdefault("mounts", [])
    for name, source, options in _files(bundle, config, store, found, wish):
        if f"/etc/{name}" not in taken:
            mounts.append({"destination": f"/etc/{name}", "type": "bind", "source": source,
                           "options": [*_MOUNTED, *options]})
    _write(bundle, config)


def undo(bundle: str) -> None:
    """Take what `set_up` has written out of the bundle.  Raises PyruncError."""
    config = _read(bundle)
    _take_away(config, bundle)
    _write(bundle, config)


def _environment() -> list[str]:
    """A hook has exactly what is here: PATH for plugins of CNI, and what says where things are kept."""
    kept = [name for name in ("PYRUNC_NET_ROOT", "PYRUNC_CNI_CACHE", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "HOME")
            if os.environ.get(name)]
    return ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            *(f"{name}={os.environ[name]}" for name in kept)]


def _files(bundle: str, config: dict[str, Any], store: Store, found: list[Any],
           wish: Wish) -> list[tuple[str, str, list[str]]]:
    """The files of names: what they are called in /etc, where they are, further options of the mount."""
    made = []
    key = wish.container or _key(bundle)
    if wish.networks:
        # A network's file is seen by all its containers: none of them may write to it.
        made.append(("hosts", hosts.file_for(store, wish.networks, key), ["ro"]))
    resolver = hosts.resolv_conf(store, found, key, wish.dns, wish.search)
    made.append(("resolv.conf", resolver, []))
    if isinstance(config.get("hostname"), str):
        made.append(("hostname", hosts.hostname(store, key, config["hostname"]), []))
    return made


def _key(bundle: str) -> str:
    """What a bundle's files are filed under: it has no container yet."""
    info = os.stat(bundle)
    name = "".join(char for char in os.path.basename(os.path.abspath(bundle)) if char.isascii() and char.isalnum())
    return f"bundle-{name[:40]}-{info.st_dev:x}-{info.st_ino:x}"


def forget(bundle: str, root: str = "") -> None:
    """Remove the files that are the bundle's alone."""
    hosts.forget_container(Store(root), _key(bundle))


def _take_away(config: dict[str, Any], bundle: str) -> None:
    hooks = config.get("hooks") or {}
    for kind in _KINDS:
        if kind in hooks:
            hooks[kind] = [hook for hook in hooks[kind] if not _is_ours(hook)]
            if not hooks[kind]:
                del hooks[kind]
    if "hooks" in config and not hooks:
        del config["hooks"]
    if "mounts" in config:
        config["mounts"] = [mount for mount in config["mounts"] if not (
            str(mount.get("destination")) in {f"/etc/{name}" for name in _FILES} and
            any(place in str(mount.get("source")) for place in (f"/hosts/of-{_key(bundle)}/", "/hosts/net-")))]


def _is_ours(hook: dict[str, Any]) -> bool:
    args = list(hook.get("args") or ())
    return any(tuple(args[at:at + 2]) == _MARK for at in range(len(args)))


def _read(bundle: str) -> dict[str, Any]:
    path = f"{bundle}/config.json"
    try:
        with open(path, "rb") as file:
            config = parse(file.read(), path)
    except OSError as error:
        raise kernel_error(f"read {path}", error, syscall="openat") from None
    sections: dict[str, type] = {"hooks": dict, "linux": dict, "mounts": list}
    if not isinstance(config, dict) or any(not isinstance(config.get(name, kind()), kind)
                                           for name, kind in sections.items()):
        raise BundleError(f"{path} is no configuration of a container", hint="`pyrunc explain` says what is wrong")
    return config


def _write(bundle: str, config: dict[str, Any]) -> None:
    aside = f"{bundle}/.config.json"
    try:
        with open(create_anew(aside, 0o600), "w") as file:
            file.write(dump_pretty(config) + "\n")
            os.fchmod(file.fileno(), os.stat(f"{bundle}/config.json").st_mode & 0o777)
        os.rename(aside, f"{bundle}/config.json")
    except OSError as error:
        raise kernel_error(f"write {bundle}/config.json", error) from None


# In the hooks

class State:
    """What a hook reads on stdin (runtime.md, State).  Raises BundleError."""

    def __init__(self, data: bytes) -> None:
        state = parse(data, "the state on stdin")
        if not isinstance(state, dict) or not isinstance(state.get("id"), str):
            raise BundleError("the state on stdin has no id", hint="`net hook` is run by a runtime, as a hook")
        self.id: str = state["id"]
        self.pid = state.get("pid") or 0
        if type(self.pid) is not int or self.pid < 0:
            raise BundleError(f"the state on stdin has a pid of {self.pid!a}")


def attach(state: State, wish: Wish, warn: Callable[[str], None]) -> None:
    """Give the container its places; all of them, or none.  Raises PyruncError."""
    if not state.pid:
        raise NetworkError(f"{state.id} has no process", hint="createRuntime is the hook that attaches")
    if wish.program:
        rootless.attach(state.id, state.pid, wish.program, wish.ports)
        return
    netns = f"/proc/{state.pid}/ns/net"
    store = Store(wish.root)
    try:
        for at, name in enumerate(wish.networks):
            first = at == 0
            attachments.attach(store, name, container=state.id, netns=netns, aliases=wish.aliases, warn=warn,
                               ip=wish.ip if first else (), mac=wish.mac if first else "",
                               publish=wish.ports if first else ())
        if wish.cni:
            cni_host.add(cni_host.Cache(wish.cache), _cni(state, wish, netns))
    except BaseException:
        _let_go(state, wish, lambda _: None)
        raise


def _cni(state: State, wish: Wish, netns: str) -> cni_host.Attachment:
    told: dict[str, Any] = {}
    if not wish.networks:  # else they are for the first of ours
        told = {"portMappings": cni_host.port_mappings(wish.ports), "ips": wish.ip, "mac": wish.mac}
    network = cni_config.load(wish.cni)
    if "aliases" in network.capabilities:
        told["aliases"] = wish.aliases
    return cni_host.Attachment(network, state.id, netns, ifname=f"eth{len(wish.networks)}",
                               capabilities={name: value for name, value in told.items() if value}, paths=wish.plugins)


def detach(state: State, wish: Wish, warn: Callable[[str], None]) -> None:
    """Take the container out of them all; what fails is told at the end.  Raises NetworkError."""
    try:
        if wish.program:
            rootless.detach(state.id)
        else:
            _let_go(state, wish, warn)
    finally:
        if wish.container:
            hosts.forget_container(Store(wish.root), wish.container)


def _let_go(state: State, wish: Wish, warn: Callable[[str], None]) -> None:
    failures = []
    store = Store(wish.root)
    for name in reversed(wish.networks):
        try:
            attachments.detach(store, name, container=state.id, warn=warn)
        except PyruncError as error:
            failures.append(f"{name}: {error}")
    if wish.cni:
        cache = cni_host.Cache(wish.cache)
        for attachment in cache.attachments(container=state.id):
            try:
                cni_host.delete(cache, attachment)
            except PyruncError as error:
                failures.append(f"{attachment.network.name}: {error}")
    if failures:
        raise NetworkError("; ".join(failures))
