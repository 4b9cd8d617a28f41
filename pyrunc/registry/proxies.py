# SPDX-License-Identifier: Apache-2.0
"""Which proxy leads to a host, by the environment: read as docker, podman and skopeo read it (Go's httpproxy).

Python's own reading of NO_PROXY knows neither networks nor ports, and sends to a proxy what is on this very machine.
"""

from __future__ import annotations

import ipaddress
from urllib.request import getproxies


def proxy_for(scheme: str, host: str, port: int) -> str:
    """The proxy's address as it stands in HTTPS_PROXY or HTTP_PROXY; "" where there is none on the way."""
    found = getproxies()
    proxy = found.get(scheme, "")
    return "" if not proxy or _is_near(host) or passed_by(host, port, found.get("no", "")) else proxy


def _is_near(host: str) -> bool:
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def passed_by(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY names it: itself, with a port, the domain or network that it is in, or all there is (`*`)."""
    host = host.lower()
    address = _address(host)
    for text in no_proxy.lower().split(","):
        entry = text.strip()
        if entry == "*":
            return True
        network = _network(entry)
        if network is not None:
            if address is not None and address in network:
                return True
            continue
        name, colon, number = entry.rpartition(":")
        if colon and number.isascii() and number.isdigit() and (":" not in name or name.endswith("]")):
            if int(number) != port:
                continue
            entry = name
        entry = entry.strip("[]")
        if entry.startswith("*."):
            entry = entry[1:]
        # With a dot in front it is what is below that domain alone.
        if entry and (host.endswith(entry) if entry[0] == "." else host == entry or host.endswith(f".{entry}")):
            return True
    return False


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None
