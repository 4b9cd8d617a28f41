# SPDX-License-Identifier: Apache-2.0
"""How a registry wants to be authenticated to: WWW-Authenticate, and where credentials may go.

The challenge comes from the registry, or whoever answers in its place, so it is not believed: the
credentials are sent to the registry's own host, to a host of the same domain (auth.docker.io for
registry-1.docker.io), or to one the user has logged in to, never from HTTPS to plain HTTP
(CVE-2019-10214, CVE-2020-15157).
"""

from __future__ import annotations

import ipaddress
import re
from typing import final
from urllib.parse import urlsplit

from pyrunc.errors import RegistryError

_PAIR = re.compile(r'\s*([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')
_MAX_HEADER = 8192


@final
class Challenge:
    """One WWW-Authenticate header: `scheme` in lower case, and its parameters."""

    __slots__ = ("parameters", "scheme")

    def __init__(self, scheme: str, parameters: dict[str, str]) -> None:
        self.scheme = scheme
        self.parameters = parameters


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """The challenges of a 401's WWW-Authenticate headers that can be read (RFC 9110, 11.6.1)."""
    found = []
    for header in headers:
        scheme, _, rest = header[:_MAX_HEADER].strip().partition(" ")
        parameters: dict[str, str] = {}
        position = 0
        while match := _PAIR.match(rest, position):
            value = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
            parameters.setdefault(match[1].lower(), value)
            position = match.end()
        found.append(Challenge(scheme.lower(), parameters))
    return found


def check_realm(realm: str, registry_scheme: str, where: str) -> None:
    """Raises RegistryError unless a token may be asked for at `realm`."""
    try:
        parts = urlsplit(realm)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username is not None:
        raise RegistryError(f"{where}: it wants a token from {realm[:200]!a}, which is not a URL")
    if parts.scheme == "http" and registry_scheme == "https":
        raise RegistryError(f"{where}: it wants a token over plain HTTP, from {parts.netloc}",
                            hint="credentials are not sent there")


def may_have_credentials(realm: str, registry: str) -> bool:
    """Whether the token service at `realm` may be given the credentials for `registry` (host[:port])."""
    asked = (urlsplit(realm).hostname or "").lower()
    own = (urlsplit(f"//{registry}").hostname or "").lower()
    if asked == own:
        return True
    if _is_address(asked) or _is_address(own):
        return False
    parent = own.partition(".")[2]
    labels = parent.split(".")
    # A domain as common as `com` or `co.uk` makes no two hosts one's own.
    if len(labels) < 2 or (len(labels) == 2 and len(labels[1]) == 2 and len(labels[0]) <= 3):
        return asked.endswith(f".{own}")
    return asked == parent or asked.endswith(f".{parent}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        return "." not in host
