# SPDX-License-Identifier: Apache-2.0
"""Where a registry is reached: mirrors, insecure ones, certificates.

Two configurations are understood, of which the first that knows the registry counts:

    /etc/containerd/certs.d/HOST/hosts.toml     containerd's (hosts.md)
    /etc/containers/registries.conf (and .d)    containers-registries.conf(5), version 2

Certificates are also looked for where docker and podman have them, in certs.d/HOST below /etc/docker and
/etc/containers.  Only a registry on this machine may be spoken to in plain HTTP without being told so.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from typing import TYPE_CHECKING, Any, final
from urllib.parse import urlsplit

from pyrunc.errors import ImageError

from .reference import DOCKER_HUB

if TYPE_CHECKING:
    from .reference import Reference

_HUB_HOST = "registry-1.docker.io"
_MAX_FILE = 1 << 20


@final
class Endpoint:
    """One place to ask for `repository`: `schemes` are tried in order."""

    __slots__ = ("base", "ca", "client", "headers", "host", "mirror", "push", "repository", "resolve", "schemes",
                 "verify")

    def __init__(self, host: str, repository: str, *, schemes: tuple[str, ...] = ("https",), base: str = "/v2",
                 verify: bool = True, mirror: bool = False, push: bool = True, resolve: bool = True,
                 ca: tuple[str, ...] = (), client: tuple[tuple[str, str], ...] = (),
                 headers: dict[str, str] | None = None) -> None:
        self.host = host
        self.repository = repository
        self.schemes = schemes
        self.base = base
        self.verify = verify
        self.mirror = mirror
        self.push = push
        self.resolve = resolve
        self.ca = ca
        self.client = client
        self.headers = headers or {}

    def __repr__(self) -> str:
        return f"Endpoint({self.host!r}, {self.repository!r}, schemes={self.schemes}, mirror={self.mirror})"


def is_local(host: str) -> bool:
    """Whether `host[:port]` is this machine (docker's rule for plain HTTP)."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@final
class Hosts:
    """The configuration below `root` ("/" but in tests); `insecure` is the command line's --tls-verify=false."""

    def __init__(self, root: str = "/", *, insecure: bool = False) -> None:
        self.root = root
        self.insecure = insecure

    def endpoints(self, reference: Reference) -> list[Endpoint]:
        """Where to ask for `reference`, mirrors first.  Raises ImageError when the configuration blocks it."""
        host = _HUB_HOST if reference.registry == DOCKER_HUB else reference.registry
        found = self._containerd(reference, host)
        if found is None:
            found = self._containers(reference, host)
        for endpoint in found:
            self._certificates(endpoint)
            if self.insecure:
                endpoint.verify = False
                if endpoint.schemes == ("https",):
                    endpoint.schemes = ("https", "http")
        return found

    # containerd's hosts.toml

    def _containerd(self, reference: Reference, host: str) -> list[Endpoint] | None:
        for name in (reference.registry, reference.registry.replace(":", "_"), "_default"):
            path = self._path("etc/containerd/certs.d", name, "hosts.toml")
            data = _toml(path)
            if data is not None:
                return self._hosts_toml(data, path, reference, host)
        return None

    def _hosts_toml(self, data: dict[str, Any], path: str, reference: Reference, host: str) -> list[Endpoint]:
        found = []
        hosts = data.get("host", {})
        if not isinstance(hosts, dict):
            raise ImageError(f"{path}: host is not a table")
        for url, table in hosts.items():
            capabilities = table.get("capabilities", ["pull", "resolve", "push"])
            endpoint = self._from_url(url, table, path, reference.repository)
            endpoint.mirror = True
            endpoint.push = "push" in capabilities
            endpoint.resolve = "resolve" in capabilities
            if "pull" in capabilities:
                found.append(endpoint)
        own = Endpoint(host, reference.repository, schemes=_schemes(host))
        if "server" in data:
            own = self._from_url(str(data["server"]), data, path, reference.repository)
        return [*found, own]

    def _from_url(self, url: str, table: dict[str, Any], path: str, repository: str) -> Endpoint:
        parts = urlsplit(url if "//" in url else f"https://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ImageError(f"{path}: {url!a} is not the URL of a registry")
        prefix = parts.path.rstrip("/")
        base = (prefix or "/v2") if table.get("override_path") else \
            prefix if prefix.endswith("/v2") else f"{prefix}/v2"
        client = []
        for pair in _listed(table.get("client")):
            client.append((str(pair[0]), str(pair[1])) if isinstance(pair, list) else (str(pair), ""))
        where = os.path.dirname(path)
        return Endpoint(parts.netloc.rpartition("@")[2], repository, schemes=(parts.scheme,), base=base,
                        verify=not table.get("skip_verify", False),
                        ca=tuple(os.path.join(where, str(item)) for item in _listed(table.get("ca"))),
                        client=tuple((os.path.join(where, cert), os.path.join(where, key) if key else "")
                                     for cert, key in client),
                        headers={str(key): value if isinstance(value, str) else ", ".join(map(str, value))
                                 for key, value in table.get("header", {}).items()})

    # containers' registries.conf

    def _containers(self, reference: Reference, host: str) -> list[Endpoint]:
        best: dict[str, Any] = {}
        for table in self._registries():
            prefix = str(table.get("prefix") or table.get("location") or "")
            if _matches(prefix, reference.name) and len(prefix) > len(str(best.get("prefix", ""))):
                best = {**table, "prefix": prefix}
        if not best:
            return [Endpoint(host, reference.repository, schemes=_schemes(host))]
        if best.get("blocked"):
            raise ImageError(f"{reference.name}: blocked by {best['file']}")
        found = []
        for mirror in best.get("mirror", []):
            wanted = mirror.get("pull-from-mirror", "digest-only" if best.get("mirror-by-digest-only") else "all")
            if (wanted == "digest-only" and not reference.digest) or (wanted == "tag-only" and reference.digest):
                continue
            endpoint = self._located(str(mirror.get("location", "")), best["prefix"], reference,
                                     bool(mirror.get("insecure")))
            endpoint.mirror, endpoint.push = True, False
            found.append(endpoint)
        own = self._located(str(best.get("location") or best["prefix"]), best["prefix"], reference,
                            bool(best.get("insecure")))
        return [*found, own]

    def _located(self, location: str, prefix: str, reference: Reference, insecure: bool) -> Endpoint:
        """`reference` with `prefix` replaced by `location`."""
        rest = reference.name if prefix.startswith("*.") else reference.name[len(prefix):]
        name = (location + rest if not prefix.startswith("*.") else location or rest).strip("/")
        host, _, repository = name.partition("/")
        if host == DOCKER_HUB:
            host = _HUB_HOST
        schemes = ("https", "http") if insecure else _schemes(host)
        return Endpoint(host, repository or reference.repository, schemes=schemes, verify=not insecure)

    def _registries(self) -> list[dict[str, Any]]:
        own = os.environ.get("CONTAINERS_REGISTRIES_CONF") if self.root == "/" else None
        home = os.path.join(os.environ.get("XDG_CONFIG_HOME") or
                            os.path.join(os.environ.get("HOME") or "/root", ".config"), "containers")
        if own:
            files = [own]
        else:
            main = f"{home}/registries.conf"
            if self.root != "/" or os.geteuid() == 0 or not os.path.exists(main):
                main = self._path("etc/containers", "registries.conf")
            files = [main, *_conf_files(f"{os.path.splitext(main)[0]}.conf.d")]
        tables = []
        for path in files:
            data = _toml(path)
            for table in (data or {}).get("registry", []):
                if not isinstance(table, dict):
                    raise ImageError(f"{path}: registry is not a table")
                tables.append({**table, "file": path})
        return tables

    def _certificates(self, endpoint: Endpoint) -> None:
        """What certs.d has for the host: *.crt are authorities, NAME.cert and NAME.key the client's."""
        for base in ("etc/containers/certs.d", "etc/docker/certs.d"):
            directory = self._path(base, endpoint.host)
            try:
                files = sorted(os.listdir(directory))
            except OSError:
                continue
            endpoint.ca += tuple(f"{directory}/{name}" for name in files if name.endswith(".crt"))
            endpoint.client += tuple((f"{directory}/{name}", f"{directory}/{name[:-5]}.key")
                                     for name in files if name.endswith(".cert"))

    def _path(self, *parts: str) -> str:
        return os.path.join(self.root, *parts)


def _schemes(host: str) -> tuple[str, ...]:
    return ("https", "http") if is_local(host) else ("https",)


def _matches(prefix: str, name: str) -> bool:
    """Whether `prefix` is a host, a namespace or a repository that `name` lies in; `*.example.com` a domain."""
    if prefix.startswith("*."):
        return name.partition("/")[0].endswith(prefix[1:])
    return bool(prefix) and (name == prefix or name.startswith(f"{prefix}/"))


def _conf_files(directory: str) -> list[str]:
    try:
        return [f"{directory}/{name}" for name in sorted(os.listdir(directory)) if name.endswith(".conf")]
    except OSError:
        return []


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _toml(path: str) -> dict[str, Any] | None:
    """The file, None where there is none.  Raises ImageError."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE)
        return tomllib.loads(data.decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ImageError(f"{path}: {error}") from None
