# SPDX-License-Identifier: Apache-2.0
"""What both sides of CNI share: versions, names, results and errors (the CNI specification 1.1.0).

Results are handled in the form of 1.x, and turned into the older ones (and back) at the border: there each address
has its family beside it.
"""

from __future__ import annotations

from pyrunc.errors import NetworkError, UsageError

from .model import check_address, family_of, pack_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME = _ALPHANUMERIC | frozenset("_.-")
_SPACE = frozenset(" \t\n\r\v\f")

# Well-known error codes (Section 5, Error).
INCOMPATIBLE_VERSION, UNSUPPORTED_FIELD, UNKNOWN_CONTAINER, BAD_ENVIRONMENT = 1, 2, 3, 4
IO_FAILURE, UNDECODABLE, BAD_CONFIG = 5, 6, 7
UNAVAILABLE = 50
OWN_FAILURE = 100  # from here on codes are a plugin's own


class CniError(NetworkError):
    """A failure with its number, as the protocol has it; `details` is the longer message."""

    def __init__(self, code: int, message: str, details: str = "", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.details = details

    def to_result(self, version: str) -> dict[str, Any]:
        return {"cniVersion": version, "code": self.code, "msg": self.message,
                **({"details": self.details} if self.details else {})}


def key_of(version: str) -> tuple[int, ...]:
    """To compare versions by."""
    return tuple(map(int, version.split(".")))


def check_version(version: object, where: str) -> str:
    """The version, if it is one of the specification that pyrunc speaks.  Raises CniError."""
    if not isinstance(version, str):
        raise CniError(UNDECODABLE, f"{where}: cniVersion is {version!a}, not a text")
    if version not in VERSIONS:
        raise CniError(INCOMPATIBLE_VERSION, f"{where}: version {version!a} of CNI is not spoken here",
                       f"pyrunc speaks {', '.join(VERSIONS)}", hint=f"pyrunc speaks {', '.join(VERSIONS)}")
    return version


def is_name(text: object) -> bool:
    """Whether it may name a network or a container: it becomes part of files' names (CVE-2021-20206)."""
    return isinstance(text, str) and bool(text) and text[0] in _ALPHANUMERIC and _NAME.issuperset(text)


def is_interface(text: object) -> bool:
    """Whether a device may be called so."""
    return isinstance(text, str) and 0 < len(text) < 16 and text not in (".", "..") and "/" not in text and \
        ":" not in text and not _SPACE.intersection(text) and text.isprintable()


def parse_args(text: str) -> dict[str, str]:
    """CNI_ARGS: `A=1;B=2`.  Raises CniError."""
    found: dict[str, str] = {}
    for pair in filter(None, text.split(";")):
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS: {pair!a} is not KEY=VALUE")
        found[key] = value
    return found


def check_result(result: object, where: str) -> dict[str, Any]:
    """The result in the form of 1.x, whichever version it is in.  Raises CniError."""
    if not isinstance(result, dict):
        raise CniError(UNDECODABLE, f"{where}: the result is no object")
    version = check_version(result.get("cniVersion"), where)
    found = dict(result)
    interfaces = _objects(result, "interfaces", where)
    for at, each in enumerate(interfaces):
        if not isinstance(each.get("name"), str):
            raise CniError(UNDECODABLE, f"{where}: /interfaces/{at}/name is no text")
    ips = []
    for at, each in enumerate(_objects(result, "ips", where)):
        ip = dict(each)
        _check_network(ip.get("address"), f"{where}: /ips/{at}/address")
        _check_gateway(ip.get("gateway"), f"{where}: /ips/{at}/gateway")
        index = ip.get("interface")
        if index is not None and not (type(index) is int and 0 <= index < len(interfaces)):
            raise CniError(UNDECODABLE, f"{where}: /ips/{at}/interface: there is no interface {index!a}")
        if key_of(version) < (1,):
            ip.pop("version", None)
        ips.append(ip)
    for at, each in enumerate(_objects(result, "routes", where)):
        _check_network(each.get("dst"), f"{where}: /routes/{at}/dst")
        _check_gateway(each.get("gw"), f"{where}: /routes/{at}/gw")
    if not isinstance(result.get("dns", {}), dict):
        raise CniError(UNDECODABLE, f"{where}: /dns is no object")
    if "ips" in found:
        found["ips"] = ips
    return found


def _objects(result: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    found = result.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise CniError(UNDECODABLE, f"{where}: /{name} is no list of objects")
    return found


def _check_network(text: object, where: str) -> None:
    address, slash, length = text.partition("/") if isinstance(text, str) else ("", "", "")
    try:
        bits = len(pack_address(address)) * 8
    except UsageError:
        bits = -1
    if not slash or not (length.isascii() and length.isdigit() and len(length) < 4 and int(length) <= bits):
        raise CniError(UNDECODABLE, f"{where} is {text!a}, not an address with the length of its mask")


def _check_gateway(text: object, where: str) -> None:
    if text in (None, ""):
        return
    try:
        check_address(str(text))
    except UsageError:
        raise CniError(UNDECODABLE, f"{where} is {text!a}, not an address") from None


def result_as(result: dict[str, Any], version: str) -> dict[str, Any]:
    """A result of 1.x in the form of `version`."""
    found = {**result, "cniVersion": version}
    if key_of(version) < (1,) and "ips" in found:
        found["ips"] = [{"version": str(family_of(ip["address"])), **ip} for ip in found["ips"]]
    if key_of(version) < (1, 1) and "interfaces" in found:
        found["interfaces"] = [{name: each[name] for name in ("name", "mac", "sandbox") if name in each}
                               for each in found["interfaces"]]
    if key_of(version) < (1, 1) and "routes" in found:
        found["routes"] = [{name: each[name] for name in ("dst", "gw") if name in each} for each in found["routes"]]
    return found
