# SPDX-License-Identifier: Apache-2.0
"""The plan of a create in words: each step with the JSON pointer it comes from."""

from __future__ import annotations

from . import bundle as bundles
from . import cgroup as cgroups
from . import devices, mounts, namespaces, netdevices, process, rdt
from .errors import reference_token
from .hooks import hooks_of
from .linux.process import CLONE_NEWNS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .bundle import Bundle
    from .spec.types import Config

_HOOKS_BEFORE = ("prestart", "createRuntime", "createContainer")
_HOOKS_AFTER = ("startContainer", "poststart", "poststop")


def explain(bundle_path: str, container_id: str = "ID") -> list[str]:
    """The lines.  Raises PyruncError where create would refuse the configuration."""
    bundle = bundles.load(bundle_path)
    return [line(pointer, text) for pointer, text in steps(bundle, container_id)]


def line(pointer: str, text: str) -> str:
    """One step: the pointer in a column of its own."""
    return f"{pointer:<36} {text}"


def steps(bundle: Bundle, container_id: str) -> list[tuple[str, str]]:
    """(pointer, what is done) in the order of doing."""
    config = bundle.config
    linux = config.get("linux") or {}
    found: list[tuple[str, str]] = []
    cgroup = cgroups.plan(linux.get("cgroupsPath"), container_id)
    found += [("/linux/cgroupsPath", f"cgroup {path}") for path in cgroup.directories()]
    spaces = namespaces.plan(config)
    found += spaces.lines
    for name, mappings in (("uidMappings", linux.get("uidMappings")), ("gidMappings", linux.get("gidMappings"))):
        for index, entry in enumerate(mappings or ()):
            found.append((f"/linux/{name}/{index}",
                          f"{entry['containerID']} in the container is {entry['hostID']} here, {entry['size']} ids"))
    found += [(device.pointer, device.describe()) for device in netdevices.plan(config)]
    if (wanted := linux.get("intelRdt")) is not None:
        found.append((rdt.POINTER, rdt.describe(wanted, container_id)))
    for name in ("hostname", "domainname"):
        if config.get(name):
            found.append((f"/{name}", f"{name} {config.get(name)}"))
    found.append(("/root/path", f"root {bundle.rootfs}, propagation {linux.get('rootfsPropagation') or 'rslave'}"))
    found += [(step.pointer, step.describe()) for step in mounts.plan(config, bundle.path)]
    found += [(node.pointer, node.describe()) for node in devices.plan(config)]
    found += _limits("/linux/resources", linux.get("resources") or {})
    found += _hooks(config, _HOOKS_BEFORE)
    found.append(("", "pivot_root" if spaces.create & CLONE_NEWNS else "chroot: the mount namespace is not its own"))
    if config["root"].get("readonly"):
        found.append(("/root/readonly", "the root becomes read-only"))
    found += [(f"/linux/sysctl/{reference_token(name)}", f"sysctl {name} = {value}")
              for name, value in (linux.get("sysctl") or {}).items()]
    for index, path in enumerate(linux.get("readonlyPaths") or ()):
        found.append((f"/linux/readonlyPaths/{index}", f"read-only {path}"))
    for index, path in enumerate(linux.get("maskedPaths") or ()):
        found.append((f"/linux/maskedPaths/{index}", f"mask {path}"))
    process_plan = process.plan(config)
    if process_plan is not None:
        found += process_plan.lines
        found += [("", f"warning: {warning}") for warning in process_plan.warnings]
    return found + _hooks(config, _HOOKS_AFTER)


def _hooks(config: Config, kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(f"/hooks/{kind}/{index}", f"{kind} hook {hook['path']}")
            for kind in kinds
            for index, hook in enumerate(hooks_of(config, kind))]


def _limits(pointer: str, value: object) -> list[tuple[str, str]]:
    """Each limit that is set, at its own pointer; a device rule in one line."""
    if isinstance(value, dict) and "allow" not in value:
        return [line for key, part in value.items()
                for line in _limits(f"{pointer}/{reference_token(key)}", part)]
    if isinstance(value, list):
        return [line for index, part in enumerate(value) for line in _limits(f"{pointer}/{index}", part)]
    if isinstance(value, dict) and "type" not in value and "major" not in value:
        return [(pointer, f"devices: {'allow' if value['allow'] else 'deny'} {value.get('access') or 'rwm'} of all")]
    if isinstance(value, dict):
        numbers = ":".join("*" if value.get(key) in (None, -1) else str(value[key]) for key in ("major", "minor"))
        return [(pointer, f"devices: {'allow' if value['allow'] else 'deny'} {value.get('access') or 'rwm'} of "
                          f"{value.get('type') or 'a'} {numbers}")]
    name = pointer.removeprefix("/linux/resources/").replace("/", ".")
    return [] if value is None else [(pointer, f"cgroup limit {name} = {value}")]
