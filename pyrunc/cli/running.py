# SPDX-License-Identifier: Apache-2.0
"""What `image unpack` and `image run` let the command line say otherwise than the image."""

from __future__ import annotations

import os

from pyrunc.cli.options import Option
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cli.options import Args
    from pyrunc.registry.conversion import Overrides, Security
    from pyrunc.spec.types import Seccomp

OVERRIDES = (
    Option("env", "e", kind="list", metavar="NAME=VALUE", help="set a variable; a name alone takes the caller's value"),
    Option("user", "u", kind="text", metavar="USER[:GROUP]", help="another user than the image's"),
    Option("workdir", "w", kind="text", metavar="DIR", help="another working directory"),
    Option("volume", "v", kind="list", metavar="HOST:DIR[:OPTIONS]",
           help="a directory or file of the host in the container; options as ro, rprivate; again for more"),
    Option("memory", "m", kind="text", metavar="SIZE", help="the most memory it may use: bytes, or with k, m, g"),
    Option("entrypoint", kind="text", metavar="PROGRAM", help="instead of the image's entrypoint and command"),
    Option("tty", "t", help="give it a terminal"),
    Option("hostname", kind="text", metavar="NAME", help="its host name"),
    Option("read-only", help="its root read-only"),
    Option("cap-add", kind="list", metavar="CAP_NAME", help="another capability; again for more"),
    Option("cap-drop", kind="list", metavar="CAP_NAME", help="one capability less, or ALL; again for more"),
    Option("security-opt", kind="list", metavar="NAME[=VALUE]",
           help="seccomp=unconfined, seccomp=FILE (a linux.seccomp in JSON), apparmor=PROFILE, no-new-privileges"),
)
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_PROPAGATION = ("shared", "rshared", "slave", "rslave", "private", "rprivate")
_OPTIONS = ("ro", "rw", "nosuid", "nodev", "noexec", *_PROPAGATION)


def overrides(args: Args, words: list[str] | None = None) -> Overrides:
    """Raises UsageError."""
    from pyrunc.registry.conversion import Overrides

    return Overrides(
        args=words, entrypoint=args["entrypoint"] if "entrypoint" in args.values else None, env=args.lists["env"],
        user=args["user"], workdir=args["workdir"], hostname=args["hostname"], terminal=args.flag("tty"),
        memory=size(args["memory"]) if args["memory"] else 0, mounts=[volume(text) for text in args.lists["volume"]],
        read_only=args.flag("read-only"), cap_add=args.lists["cap-add"], cap_drop=args.lists["cap-drop"],
        security=security(args.lists["security-opt"]))


def security(texts: list[str]) -> Security:
    """docker's --security-opt.  Raises UsageError."""
    from pyrunc.registry.conversion import Security

    found = Security()
    for text in texts:
        # Docker's documentation has a colon in places.
        name, _, value = text.partition("=" if "=" in text else ":")
        if name == "seccomp" and value:
            found.seccomp = _profile(value)
        elif name == "apparmor" and value:
            found.apparmor = value
        elif name == "no-new-privileges" and value in ("", "true", "false"):
            found.no_new_privileges = value != "false"
        else:
            raise UsageError(f"--security-opt {text[:100]}: not known",
                             hint="seccomp=unconfined|FILE, apparmor=PROFILE or no-new-privileges")
    return found


def _profile(path: str) -> Seccomp:
    """Empty for `unconfined`."""
    import json
    from typing import cast

    if path == "unconfined":
        return cast("Seccomp", {})
    try:
        with open(path, "rb") as file:
            profile = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"--security-opt seccomp={path}: {error}") from None
    if not isinstance(profile, dict) or "defaultAction" not in profile:
        raise UsageError(f"--security-opt seccomp={path}: not a linux.seccomp", hint="an object with a defaultAction")
    if "archMap" in profile or any(rule.get("includes") or rule.get("excludes") for rule in profile.get("syscalls", [])
                                   if isinstance(rule, dict)):
        # Without those conditions it would allow more than it says.
        raise UsageError(f"--security-opt seccomp={path}: docker's conditions (includes, excludes, archMap) are not of "
                         "the runtime-spec", hint="`pyrunc spec --seccomp` writes a profile that is")
    return cast("Seccomp", profile)


def size(text: str) -> int:
    """`512m` or `1.5g` in bytes; 0 is no limit."""
    number, unit = text.rstrip("bB"), ""
    if number and number[-1].lower() in _UNITS:
        number, unit = number[:-1], number[-1].lower()
    whole, dot, fraction = number.partition(".")
    if not (number.isascii() and whole.isdigit() and len(number) < 16 and (fraction.isdigit() or not dot)):
        raise UsageError(f'--memory takes a size, not "{text}"', hint="bytes, or a number with k, m or g")
    divisor: int = 10 ** len(fraction)
    return int(whole + fraction) * _UNITS[unit] // divisor


def volume(text: str) -> dict[str, Any]:
    """`HOST:DIR[:OPTIONS]` as a mount."""
    source, _, rest = text.partition(":")
    target, _, names = rest.partition(":")
    if not source.startswith(("/", ".")) or not target.startswith("/"):
        raise UsageError(f'--volume {text}: not HOST:DIR', hint="a path of the host, and one in the container")
    source = os.path.abspath(source)
    if not os.path.exists(source):
        raise UsageError(f"--volume {text}: there is no {source}", hint="make it first")
    options = [name for name in names.split(",") if name]
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise UsageError(f"--volume {text}: unknown option {unknown[0]}", hint=", ".join(_OPTIONS))
    if not any(name in _PROPAGATION for name in options):
        options.append("rprivate")
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", *options]}
