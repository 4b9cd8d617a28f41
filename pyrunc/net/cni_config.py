# SPDX-License-Identifier: Apache-2.0
"""A network configuration of CNI, read strictly (Section 1), and what each plugin is given of it (Section 3)."""

from __future__ import annotations

import os

from pyrunc.errors import BundleError, NetworkError, UsageError, reference_token
from pyrunc.spec.load import parse

from .cni import VERSIONS, is_name, key_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DIRECTORY = "/etc/cni/net.d"
ENDINGS = (".conflist", ".conf", ".json")
_RESERVED = ("runtimeConfig", "prevResult")  # written by the runtime
_NEWEST = key_of(VERSIONS[-1])


class NetworkList:
    """A network: its plugins' configurations in order, and the versions of the protocol it may be used with."""

    __slots__ = ("disable_check", "disable_gc", "name", "path", "plugins", "versions")

    def __init__(self, name: str, path: str, versions: list[str], plugins: list[dict[str, Any]], *,
                 disable_check: bool = False, disable_gc: bool = False) -> None:
        self.name = name
        self.path = path
        self.versions = versions  # those that we speak, the highest first
        self.plugins = plugins
        self.disable_check = disable_check
        self.disable_gc = disable_gc

    @property
    def capabilities(self) -> set[str]:
        """What at least one plugin of it takes."""
        return {name for plugin in self.plugins for name, wanted in plugin.get("capabilities", {}).items() if wanted}

    def to_data(self) -> dict[str, Any]:
        """To be read again with `from_data`, wherever the file is then."""
        return {"name": self.name, "cniVersion": self.versions[0], "cniVersions": self.versions,
                "disableCheck": self.disable_check, "disableGC": self.disable_gc, "loadOnlyInlinedPlugins": True,
                "plugins": self.plugins}

    def request(self, plugin: dict[str, Any], version: str, *, arguments: dict[str, Any] | None = None,
                previous: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a plugin reads: its configuration, and what belongs to the operation.

        `arguments` are the capability arguments, of which it gets those it takes.
        """
        found = {key: value for key, value in plugin.items() if key != "capabilities"}
        found["cniVersion"], found["name"] = version, self.name
        takes = [name for name, wanted in plugin.get("capabilities", {}).items() if wanted]
        given = {name: arguments[name] for name in takes if name in arguments} if arguments else {}
        if given:
            found["runtimeConfig"] = given
        if previous is not None:
            found["prevResult"] = previous
        return found


def find(text: str, directory: str = "") -> str:
    """The file that `text` means: a path, or the name of a network in the directory of configurations.

    Raises NetworkError.
    """
    if "/" in text or text.endswith(ENDINGS):
        return text
    directory = directory or DIRECTORY
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(ENDINGS))
    except OSError as error:
        raise NetworkError(f"CNI networks are looked for in {directory}", syscall="open",
                           errno=error.errno or 0) from None
    known = []
    for name in names:
        try:
            network = load(os.path.join(directory, name))
        except (NetworkError, BundleError):
            continue  # some other network's, and its user's to mend
        if network.name == text:
            return network.path
        known.append(network.name)
    raise NetworkError(f"no CNI network {text} in {directory}",
                       hint=f"there are {', '.join(known)}" if known else "there is none at all")


def load(path: str) -> NetworkList:
    """The network that the file describes.  Raises NetworkError, BundleError."""
    data = _read(path)
    network = from_data(data, path)
    inlined = data.get("loadOnlyInlinedPlugins", False)
    folder = os.path.join(os.path.dirname(os.path.abspath(path)), network.name)
    if not _flag(inlined, path, "/loadOnlyInlinedPlugins") and os.path.isdir(folder):
        for name in sorted(name for name in os.listdir(folder) if name.endswith(ENDINGS)):
            beside = os.path.join(folder, name)
            plugin = _read(beside)
            _check_plugin(plugin, beside, "")
            network.plugins.append(plugin)
    if not network.plugins:
        raise _wrong(path, "/plugins", "a network has at least one plugin")
    return network


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = parse(file.read(), path)
    except OSError as error:
        raise NetworkError(f"read {path}", syscall="open", errno=error.errno or 0) from None
    if not isinstance(data, dict):
        raise _wrong(path, "", "a network's configuration is an object")
    return data


def from_data(data: dict[str, Any], path: str) -> NetworkList:
    """Raises NetworkError."""
    if "plugins" not in data and "type" in data:  # a single plugin's, as before 0.3.0
        versions: dict[str, Any] = {key: data[key] for key in ("cniVersion", "cniVersions", "name") if key in data}
        plugin = {key: value for key, value in data.items() if key not in versions}
        data = {**versions, "plugins": [plugin]}
    name = data.get("name")
    if not is_name(name):
        raise _wrong(path, "/name", f"{name!a} is no name of a network",
                     "it begins with a letter or a digit; these and _ . - follow")
    plugins = data.get("plugins", [])
    if not isinstance(plugins, list):
        raise _wrong(path, "/plugins", "is no list")
    for at, plugin in enumerate(plugins):
        _check_plugin(plugin, path, f"/plugins/{at}")
    if _flag(data.get("loadOnlyInlinedPlugins", False), path, "/loadOnlyInlinedPlugins") and not plugins:
        raise _wrong(path, "/plugins", "with loadOnlyInlinedPlugins they have to be here")
    return NetworkList(str(name), path, _versions(data, path), list(plugins),
                       disable_check=_flag(data.get("disableCheck", False), path, "/disableCheck"),
                       disable_gc=_flag(data.get("disableGC", False), path, "/disableGC"))


def _versions(data: dict[str, Any], path: str) -> list[str]:
    """The versions it supports and we do, the highest first."""
    listed = data.get("cniVersions", [])
    if not isinstance(listed, list):
        raise _wrong(path, "/cniVersions", "is no list")
    if "cniVersion" in data:
        listed = [*listed, data["cniVersion"]]
    for version in listed:
        if not isinstance(version, str) or not all(part.isascii() and part.isdigit() and len(part) < 6
                                                   for part in version.split(".")) or version.count(".") != 2:
            raise _wrong(path, "/cniVersion", f"{version!a} is no version", "as in 1.0.0")
    usable = [version for version in sorted(set(listed), key=key_of, reverse=True) if version in VERSIONS]
    if not usable:
        said = ", ".join(map(str, listed)) or "none, which means 0.1.0"
        raise _wrong(path, "/cniVersion", f"it supports {said}", f"pyrunc speaks {', '.join(VERSIONS)}")
    return usable


def _check_plugin(plugin: object, path: str, pointer: str) -> None:
    if not isinstance(plugin, dict):
        raise _wrong(path, pointer, "a plugin's configuration is an object")
    kind = plugin.get("type")
    if not isinstance(kind, str) or not kind or "/" in kind or "\\" in kind or "\0" in kind or kind in (".", ".."):
        raise _wrong(path, f"{pointer}/type", f"{kind!a} is no plugin's name", "it is the name of a program")
    for key in plugin:
        if key in _RESERVED or key.startswith("cni.dev/"):
            raise _wrong(path, f"{pointer}/{reference_token(key)}",
                         "is written by the runtime, not in a file")
    capabilities = plugin.get("capabilities", {})
    if not isinstance(capabilities, dict) or not all(isinstance(value, bool) for value in capabilities.values()):
        raise _wrong(path, f"{pointer}/capabilities", "names are true or false there")


def _flag(value: object, path: str, pointer: str) -> bool:
    """A boolean; some write it as a text."""
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise _wrong(path, pointer, f"{value!a} is neither true nor false")


def _wrong(path: str, pointer: str, what: str, hint: str = "") -> NetworkError:
    return NetworkError(f"{path}: {pointer + ': ' if pointer else ''}{what}", hint=hint)


def parse_capability(text: str) -> tuple[str, Any]:
    """`NAME=JSON` of a command line.  Raises UsageError."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"{text!a} is not NAME=JSON", hint='as in mac="02:00:00:00:00:01"')
    try:
        return name, parse(value.encode(), f"--capability {name}")
    except BundleError as error:
        raise UsageError(str(error)) from None
