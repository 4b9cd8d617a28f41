# SPDX-License-Identifier: Apache-2.0
"""Names: what a bundle has as /etc/hosts, /etc/resolv.conf and host name.

    NET/hosts/net-NETWORK         the network's containers by address: what a container of one network has as /etc/hosts
    NET/hosts/of-CONTAINER/       hosts of a container of several networks; resolv.conf and hostname of any

A container's /etc/hosts is a bind mount of such a file, so the file is never replaced but changed in place: a line that
comes is appended in one write, one that goes is made a comment by a write of one byte.  Only when most of a file is
such comments it is written anew, in place too.
"""

from __future__ import annotations

import os

from .model import Attachment, check_container, check_host_name, check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .model import Network
    from .store import Store

_HEAD = (b"127.0.0.1\tlocalhost\n"
         b"::1\tlocalhost ip6-localhost ip6-loopback\n")
_WASTE = 4096  # bytes of comments that are not worth a rewrite
_RESOLV_CONF = "/etc/resolv.conf"
_SYSTEMD_UPLINKS = "/run/systemd/resolve/resolv.conf"
_LIMIT = 1 << 16


def add(store: Store, network: Network, attachment: Attachment) -> None:
    """Its names into the network's file, and into those of the containers that are in other networks too."""
    lines = _lines(attachment)
    if not lines:
        return
    for path in [_of_network(store, network.name), *_followers(store, network.name)]:
        _append(path, lines)


def remove(store: Store, attachment: Attachment) -> None:
    """Its names out of them; no harm if they aren't there."""
    lines = _lines(attachment)
    for path in [_of_network(store, attachment.network), *_followers(store, attachment.network)]:
        if os.path.exists(path):
            _strike(path, lines)


def forget(store: Store, network: str) -> None:
    """The network's own file; containers may still have it, as a file without a name."""
    for path in (_of_network(store, network), f"{store.path}/hosts/followers-{check_name(network)}"):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def file_for(store: Store, networks: Sequence[str], container: str) -> str:
    """The path of what the container is to have as /etc/hosts; made now, filled as containers come and go."""
    if len(networks) == 1:
        path = _of_network(store, networks[0])
        with store.locked():  # who made it just now has its lines in it
            _append(path, b"")
        return path
    path = f"{_directory(store, container)}/hosts"
    with store.locked():
        found = b"".join(_lines(attachment) for network in networks
                         for attachment in store.attachments(network=network))
        _rewrite(path, _HEAD + found)
        for network in networks:
            listed = f"{store.path}/hosts/followers-{check_name(network)}"
            if path not in _followers(store, network):
                _write(listed, f"{path}\n".encode(), os.O_APPEND)
    return path


def resolv_conf(store: Store, networks: Iterable[Network], container: str, dns: Sequence[str] = (),
                search: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """The path of what the container is to have as /etc/resolv.conf.

    What is asked for counts, then what the networks say, then what the host has; but never an address that is the
    host's alone, nor the host's servers for a container that reaches no other network.
    """
    found = list(networks)
    servers = list(dns) or [address for network in found for address in network.dns]
    domains = list(search) or [domain for network in found for domain in network.search]
    if not servers and not all(network.internal or network.driver == "none" for network in found):
        own, own_domains, own_options = _host_resolver()
        servers, domains, options = own, domains or own_domains, list(options) or own_options
    lines = [f"nameserver {address}" for address in dict.fromkeys(servers)]
    if domains:
        lines.insert(0, "search " + " ".join(domains))
    if options:
        lines.append("options " + " ".join(options))
    path = f"{_directory(store, container)}/resolv.conf"
    _rewrite(path, "".join(line + "\n" for line in lines).encode())
    return path


def hostname(store: Store, container: str, name: str) -> str:
    """The path of what the container is to have as /etc/hostname."""
    path = f"{_directory(store, container)}/hostname"
    _rewrite(path, check_host_name(name).encode() + b"\n")
    return path


def forget_container(store: Store, container: str) -> None:
    """Remove what was made for the container alone."""
    directory = f"{store.path}/hosts/of-{check_container(container)}"
    mine = f"{directory}/hosts"
    for name in os.listdir(f"{store.path}/hosts"):
        if name.startswith("followers-"):
            path = f"{store.path}/hosts/{name}"
            with store.locked():
                kept = [line for line in _read(path).decode().splitlines() if line and line != mine]
                _rewrite(path, "".join(f"{line}\n" for line in kept).encode())
    for name in ("hosts", "resolv.conf", "hostname"):
        try:
            os.unlink(f"{directory}/{name}")
        except FileNotFoundError:
            pass
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        pass


def _host_resolver() -> tuple[list[str], list[str], list[str]]:
    """The servers, domains and options of the host, where others than the host itself reach them."""
    for path in (_RESOLV_CONF, _SYSTEMD_UPLINKS):
        servers: list[str] = []
        domains: list[str] = []
        options: list[str] = []
        for line in _read(path).decode("utf-8", "replace").splitlines():
            words = line.split()
            if words[:1] == ["nameserver"] and len(words) > 1 and not _is_loopback(words[1]):
                servers.append(words[1])
            elif words[:1] == ["search"] or words[:1] == ["domain"]:
                domains = words[1:]
            elif words[:1] == ["options"]:
                options += [word for word in words[1:] if word not in ("edns0", "trust-ad")]
        if servers:  # else systemd-resolved listens on 127.0.0.53, and keeps the real ones beside
            return servers, domains, options
    return [], [], []


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1" or "%" in address


def _of_network(store: Store, network: str) -> str:
    return f"{store.path}/hosts/net-{check_name(network)}"


def _directory(store: Store, container: str) -> str:
    path = f"{store.path}/hosts/of-{check_container(container)}"
    os.makedirs(path, 0o755, exist_ok=True)
    return path


def _followers(store: Store, network: str) -> list[str]:
    """The files of containers that are in other networks, too."""
    return _read(f"{store.path}/hosts/followers-{check_name(network)}").decode().splitlines()


def _lines(attachment: Attachment) -> bytes:
    """A line an address; its own name first."""
    names = " ".join(dict.fromkeys([*attachment.aliases, attachment.container]))
    return b"".join(f"{address}\t{names}\n".encode() for address in attachment.ips)


def _append(path: str, lines: bytes) -> None:
    if not os.path.exists(path):
        _write(path, _HEAD + lines, os.O_TRUNC)
    elif lines:
        _write(path, lines, os.O_APPEND)


def _strike(path: str, lines: bytes) -> None:
    """Make comments of the lines, or, where there are many already, leave all comments out."""
    data = _read(path)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for line in lines.splitlines(keepends=True):
            at = data.find(b"\n" + line)
            if at >= 0:
                os.pwrite(fd, b"#", at + 1)
                data = data[:at + 1] + b"#" + data[at + 2:]
    finally:
        os.close(fd)
    kept = [line for line in data.splitlines(keepends=True) if not line.startswith(b"#")]
    size = sum(map(len, kept))
    if len(data) - size > max(_WASTE, size):
        _rewrite(path, b"".join(kept))


def _rewrite(path: str, data: bytes) -> None:
    """In place: the longer part first, so that a reader misses nothing that stays."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)  # containers read it, whatever the umask
        os.pwrite(fd, data, 0)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)


def _write(path: str, data: bytes, how: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | how, 0o644)
    try:
        os.fchmod(fd, 0o644)
        os.write(fd, data)
    finally:
        os.close(fd)


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        found = b""
        while True:
            more = os.read(fd, _LIMIT)
            if not more:
                return found
            found += more
    finally:
        os.close(fd)
