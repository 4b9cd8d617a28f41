# SPDX-License-Identifier: Apache-2.0
"""An image's configuration as a config.json of the runtime (conversion.md)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, final

from pyrunc.errors import ImageError, PyruncError, UsageError
from pyrunc.libseccomp import Library
from pyrunc.paths import clean
from pyrunc.signals import parse_signal
from pyrunc.spec.default import default_config
from pyrunc.spec.seccomp_default import default_seccomp

from . import users

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyrunc.spec.types import Config, Seccomp

    from .idmap import Ownership
    from .store import Image

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What docker, podman and containerd give, and images are made for.
CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
                "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
                "CAP_AUDIT_WRITE")
#: Annotations that runtimes and their shims obey: not for an image to set (CVE-2024-3154, CVE-2026-53488).
_RESERVED = ("org.systemd.property.", "run.oci.", "org.criu.", "containerd.io/", "io.containerd.",
             "io.cri-containerd", "io.kubernetes.cri", "io.podman.annotations", "io.katacontainers.", "org.pyrunc.")


@final
class Security:
    """What confines it besides capabilities; `seccomp` is the default profile when None, and none when empty."""

    __slots__ = ("apparmor", "no_new_privileges", "seccomp")

    def __init__(self, *, seccomp: Seccomp | None = None, apparmor: str = "", no_new_privileges: bool = False) -> None:
        self.seccomp = seccomp
        self.apparmor = apparmor
        self.no_new_privileges = no_new_privileges

    def into(self, config: Config, warn: Callable[[str], None]) -> None:
        """Write it into `config`, whose capabilities are there already."""
        process = config["process"]
        process["noNewPrivileges"] = self.no_new_privileges
        if self.apparmor:
            process["apparmorProfile"] = self.apparmor
        profile = self.seccomp
        if profile is None:
            try:
                Library()
            except PyruncError as error:
                warn(f"no system call is filtered: {error}")
                return
            profile = default_seccomp(process["capabilities"]["bounding"], os.uname().machine)
        if profile:
            config["linux"]["seccomp"] = profile


@final
class Overrides:
    """What the command line says otherwise than the image."""

    __slots__ = ("args", "cap_add", "cap_drop", "entrypoint", "env", "hostname", "memory", "mounts", "read_only",
                 "security", "terminal", "user", "workdir")

    def __init__(self, *, args: list[str] | None = None, entrypoint: str | None = None, env: list[str] | None = None,
                 user: str = "", workdir: str = "", hostname: str = "", terminal: bool = False, memory: int = 0,
                 mounts: list[dict[str, Any]] | None = None, read_only: bool = False,
                 cap_add: list[str] | None = None, cap_drop: list[str] | None = None,
                 security: Security | None = None) -> None:
        self.args = args or []
        self.entrypoint = entrypoint
        self.env = env or []
        self.user = user
        self.workdir = workdir
        self.hostname = hostname
        self.terminal = terminal
        self.memory = memory
        self.mounts = mounts or []
        self.read_only = read_only
        self.cap_add = cap_add or []
        self.cap_drop = cap_drop or []
        self.security = security or Security()


def convert(image: Image, root_fd: int, overrides: Overrides, ownership: Ownership, *,
            warn: Callable[[str], None] = lambda text: None, command_needed: bool = False) -> Config:
    """The config.json; names are looked up below `root_fd`, the unpacked root.  Raises ImageError.

    An image that names no command gets a shell, unless one is needed.
    """
    inner = image.config.inner
    rootless = os.geteuid() != 0
    config = default_config(rootless, os.geteuid(), os.getegid())
    process = config["process"]
    process["terminal"] = overrides.terminal
    process["args"] = arguments(inner, overrides) or ([] if command_needed else ["sh"])
    if not process["args"]:
        raise ImageError("the image names no command", hint="give one after the image's name")
    process["cwd"] = _workdir(overrides.workdir or inner.get("WorkingDir") or "/")
    process["env"] = _environment(inner.get("Env") or [], overrides, warn)
    uid, gid, additional = users.resolve(root_fd, overrides.user or inner.get("User") or "")
    process["user"] = {"uid": uid, "gid": gid}
    if not ownership.squash:  # one id alone has no groups (user_namespaces(7))
        process["user"]["additionalGids"] = [number for number in additional if not ownership.gids or any(
            inside <= number < inside + size for inside, _, size in ownership.gids)]
    names = _capabilities(overrides)
    # Another user than root gains them by a setuid program only, as execve(2) would have it.
    process["capabilities"] = {"bounding": names, "effective": names if uid == 0 else [],
                               "permitted": names if uid == 0 else []}
    overrides.security.into(config, warn)
    process.pop("rlimits", None)
    config["root"]["readonly"] = overrides.read_only
    config["hostname"] = overrides.hostname or "pyrunc"
    config["annotations"] = image_annotations(image, warn)
    config["mounts"] += overrides.mounts  # type: ignore[arg-type]
    if ownership.uids or ownership.gids:
        if not rootless:  # it has one already
            config["linux"]["namespaces"].append({"type": "user"})
        for field, ranges in (("uidMappings", ownership.uids), ("gidMappings", ownership.gids)):
            config["linux"][field] = [  # type: ignore[literal-required]
                {"containerID": inside, "hostID": host, "size": size} for inside, host, size in ranges]
    if overrides.memory:
        resources: Any = config["linux"].setdefault("resources", {})
        resources["memory"] = {"limit": overrides.memory}
    return config


def arguments(inner: dict[str, Any], overrides: Overrides) -> list[str]:
    """Entrypoint and Cmd; words of the command line take Cmd's place, --entrypoint both's."""
    if overrides.entrypoint is not None:
        return [*([overrides.entrypoint] if overrides.entrypoint else []), *overrides.args]
    command = overrides.args or inner.get("Cmd") or []
    return [*(inner.get("Entrypoint") or []), *command]


def _workdir(text: str) -> str:
    if "\0" in text:
        raise ImageError("the working directory has a NUL in its name")
    return "/" + clean(text)


def _environment(image_env: list[str], overrides: Overrides, warn: Callable[[str], None]) -> list[str]:
    """The image's, then the command line's over it, where a name alone takes the caller's value.

    Not so in the image: what the caller has in the environment is none of its business.
    """
    found: dict[str, str] = {}
    for entry in image_env:
        name, equals, _ = entry.partition("=")
        if name and equals and "\0" not in entry:
            found[name] = entry
        else:
            warn(f"{entry[:100]!a} of the image left out: it is not a variable of the environment")
    for entry in overrides.env:
        name, equals, value = entry.partition("=")
        if not name or "\0" in entry:
            raise ImageError(f"{entry[:100]!a} is not a variable of the environment")
        if not equals:
            if entry not in os.environ:
                continue
            value = os.environ[name]
        found[name] = f"{name}={value}"
    listed = list(found.values())
    if "PATH" not in found:
        listed.insert(0, _PATH)
    if overrides.terminal and "TERM" not in found:
        listed.append("TERM=xterm")
    return listed


def _capabilities(overrides: Overrides) -> list[str]:
    from pyrunc.capabilities import NAMES

    def named(text: str) -> list[str]:
        name = text.upper()
        if name == "ALL":
            return list(NAMES)
        name = name if name.startswith("CAP_") else f"CAP_{name}"
        if name not in NAMES:
            raise ImageError(f"{text[:60]!a} is not a capability")
        return [name]

    dropped = {name for text in overrides.cap_drop for name in named(text)}
    kept = [name for name in CAPABILITIES if name not in dropped]
    added = [name for text in overrides.cap_add for name in named(text) if name not in kept]
    return [*kept, *dict.fromkeys(added)]


def image_annotations(image: Image, warn: Callable[[str], None]) -> dict[str, str]:
    """Annotation Fields and Labels; what labels say comes first."""
    data, inner = image.config.data, image.config.inner
    prefix = "org.opencontainers.image."
    found: dict[str, str] = {}
    for field in ("os", "architecture", "variant", "author", "created"):
        if data.get(field):
            found[prefix + field] = data[field]
    if data.get("os.version"):
        found[prefix + "os.version"] = data["os.version"]
    if data.get("os.features"):
        found[prefix + "os.features"] = ",".join(str(feature) for feature in data["os.features"])
    if inner.get("StopSignal"):
        try:
            parse_signal(inner["StopSignal"])
            found[prefix + "stopSignal"] = inner["StopSignal"]
        except UsageError as error:
            warn(f"the image's stop signal left out: {error}")
    if inner.get("ExposedPorts"):
        found[prefix + "exposedPorts"] = ",".join(sorted(inner["ExposedPorts"]))
    for name, value in (inner.get("Labels") or {}).items():
        if name.startswith(_RESERVED):
            warn(f"label {name[:100]} left out: a runtime would obey it")
        elif name:
            found[name] = value
    return found


def volumes(image: Image) -> list[str]:
    """Where the image wants data kept apart; cleaned, so that `..` leads nowhere (CVE-2022-23648)."""
    found = []
    for path in image.config.inner.get("Volumes") or {}:
        cleaned = clean(path)
        if not cleaned or "\0" in path:
            raise ImageError(f"the image declares the volume {path[:100]!a}, which can't be one")
        found.append(f"/{cleaned}")
    return sorted(set(found))
