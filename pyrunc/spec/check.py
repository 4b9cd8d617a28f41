# SPDX-License-Identifier: Apache-2.0
"""What config.json must keep beyond its schema: rules that tie one member to another.

Each rule raises ConfigError with the pointer of the member at fault.  What only the kernel can
tell (a capability that can't be granted, a mount it refuses) is left to the kernel.
"""

from __future__ import annotations

import os

from pyrunc.errors import ConfigError, errno_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Config, Hooks, IDMapping, Mount, Process, Scheduler

#: (uid_t) -1, which setresuid(2), chown(2) and their like take for "leave it as it is": root, here.
_NO_ID = 0xFFFFFFFF

#: sethostname(2), setdomainname(2): __NEW_UTS_LEN.
UTS_NAME_MAX = 64

#: The highest number of a processor: CONFIG_NR_CPUS at its largest, less one.
CPU_MAX = 8191

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def check(config: Config) -> None:
    """Raise ConfigError unless the schema-valid `config` makes sense on Linux."""
    from pyrunc.spec.check_linux import check_linux

    check_version(config["ociVersion"])
    if not config["root"]["path"]:
        raise ConfigError("/root/path", "is empty")
    namespaces = check_linux(config.get("linux", {}))
    for member in ("hostname", "domainname"):
        _check_uts_name(member, str(config.get(member, "")), namespaces)
    for index, mount in enumerate(config.get("mounts", [])):
        _check_mount(f"/mounts/{index}", mount, namespaces)
    if "process" in config:
        check_process(config["process"])
    if "hooks" in config:
        _check_hooks(config["hooks"])
    if "" in config.get("annotations", {}):
        raise ConfigError("/annotations", "a key is empty")


def check_bundle(config: Config, bundle: str) -> None:
    """Raise ConfigError unless the root filesystem is a directory (config.md, Root)."""
    path = os.path.join(bundle, config["root"]["path"])
    try:
        os.stat(path + "/.")
    except NotADirectoryError:
        raise ConfigError("/root/path", f"rootfs {path} is not a directory") from None
    except FileNotFoundError:
        raise ConfigError("/root/path", f"rootfs {path} does not exist") from None
    except OSError as error:
        raise ConfigError("/root/path", f"rootfs {path}: {errno_text(error.errno or 0)}") from None


def check_version(version: str) -> None:
    """config.md, Specification version: SemVer 2.0.0; a minor version only ever adds."""
    core = version.split("+", 1)[0].split("-", 1)[0]
    numbers = core.split(".")
    if len(numbers) != 3 or not all(_is_semver_number(number) for number in numbers):
        raise ConfigError("/ociVersion", f'"{version}" is not a version of the form 1.3.0')
    if numbers[0] != "1":
        raise ConfigError("/ociVersion", f"version {version} is not supported (1.0.0 to below 2.0.0 are)")


def check_id_mappings(pointer: str, mappings: list[IDMapping]) -> None:
    """user_namespaces(7): ranges are not empty, end within 32 bits, and share no id on either side."""
    for index, mapping in enumerate(mappings):
        here = f"{pointer}/{index}"
        size = mapping["size"]
        if size == 0:
            raise ConfigError(here + "/size", "a mapping of no ids")
        for side in ("containerID", "hostID"):
            first = mapping[side]
            # The last id, -1, means "leave as it is" to chown(2) and can't be mapped.
            if first + size > 0xFFFFFFFF:
                raise ConfigError(f"{here}/{side}", f"{first} and {size} ids from it go beyond 4294967294")
            for other, earlier in enumerate(mappings[:index]):
                start = earlier[side]
                if first < start + earlier["size"] and start < first + size:
                    raise ConfigError(f"{here}/{side}", f"overlaps with {pointer}/{other}")


def check_process(process: Process, pointer: str = "/process") -> None:
    """config.md, Process; also for the process that exec is given (then with its own pointer)."""
    if not process.get("args"):
        raise ConfigError(pointer + "/args", "is empty: the program to run is missing")
    if not process["cwd"].startswith("/"):
        raise ConfigError(pointer + "/cwd", f'"{process["cwd"]}" is not an absolute path')
    user = process.get("user", {})
    for member in ("uid", "gid"):
        check_id(f"{pointer}/user/{member}", user.get(member))
    for index, group in enumerate(user.get("additionalGids", [])):
        check_id(f"{pointer}/user/additionalGids/{index}", group)
    for index, entry in enumerate(process.get("env", [])):
        if entry.find("=") < 1:
            # Not the entry itself: it may be half a secret.
            raise ConfigError(f"{pointer}/env/{index}", "is not of the form NAME=value")
    _check_rlimits(pointer + "/rlimits", process)
    if "scheduler" in process:
        _check_scheduler(pointer + "/scheduler", process["scheduler"])
    for member, cpus in process.get("execCPUAffinity", {}).items():
        check_list(f"{pointer}/execCPUAffinity/{member}", str(cpus), "CPUs", highest=CPU_MAX)
    if process.get("terminal") and "consoleSize" in process:
        for side, cells in process["consoleSize"].items():
            if isinstance(cells, int) and cells > 0xFFFF:  # struct winsize
                raise ConfigError(f"{pointer}/consoleSize/{side}", f"{cells} is more than 65535")


def check_id(pointer: str, number: object) -> None:
    """A uid or gid that the kernel takes for one."""
    if number == _NO_ID:
        raise ConfigError(pointer, f"{number} is no user or group but the kernel's word for none")


def check_list(pointer: str, text: str, of: str, strides: bool = False, highest: int = 10**10) -> None:
    """A list of numbers, up to `highest`, as cpuset(7) writes it: 0-3,7.  Empty is fine.

    With `strides` also 0-7:2/4, of which each four numbers the first two (the kernel's lib/bitmap-str.c).
    """
    for part in text.split(",") if text else ():
        numbers, colon, stride = part.strip().partition(":")
        used, _, group = stride.partition("/")
        low, dash, high = numbers.partition("-")
        if (not _is_number(low) or (dash and (not _is_number(high) or int(high) < int(low)))
                or (colon and not (strides and dash and _is_number(used) and _is_number(group)
                                   and 0 < int(used) <= int(group)))):
            raise ConfigError(pointer, f'"{text}" is not a list of {of} such as 0-3,7')
        if int(high or low) > highest:
            raise ConfigError(pointer, f"{high or low} is above {highest}, the highest number of {of}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def _is_semver_number(text: str) -> bool:
    return _is_number(text) and (text == "0" or text[0] != "0")


def _check_uts_name(member: str, name: str, namespaces: dict[str, str]) -> None:
    if not name:
        return
    if "uts" not in namespaces:
        raise ConfigError("/" + member, f"can't be set without a uts namespace in /linux/namespaces, "
                          f"or the host's own {member} would change")
    if len(name.encode("utf-8")) > UTS_NAME_MAX:
        raise ConfigError("/" + member, f"is longer than the {UTS_NAME_MAX} bytes the kernel takes")


def _check_mount(pointer: str, mount: Mount, namespaces: dict[str, str]) -> None:
    if not mount["destination"]:
        raise ConfigError(pointer + "/destination", "is empty")
    uids, gids = mount.get("uidMappings", []), mount.get("gidMappings", [])
    if bool(uids) != bool(gids):
        missing = "/gidMappings" if uids else "/uidMappings"
        raise ConfigError(pointer + missing, "is missing: the two mappings of a mount go together")
    check_id_mappings(pointer + "/uidMappings", uids)
    check_id_mappings(pointer + "/gidMappings", gids)
    if not uids and "user" not in namespaces:
        for index, option in enumerate(mount.get("options", [])):
            if option in ("idmap", "ridmap"):
                raise ConfigError(f"{pointer}/options/{index}", f"{option} needs uidMappings and "
                                  "gidMappings, or a user namespace to take them from")


def _check_rlimits(pointer: str, process: Process) -> None:
    seen: dict[str, int] = {}
    for index, limit in enumerate(process.get("rlimits", [])):
        name = limit["type"]
        if name in seen:
            raise ConfigError(f"{pointer}/{index}/type", f"{name} is already set by {pointer}/{seen[name]}")
        seen[name] = index
        if limit["soft"] > limit["hard"]:
            raise ConfigError(f"{pointer}/{index}/soft",
                              f"{limit['soft']} is above the hard limit {limit['hard']}")


def _check_scheduler(pointer: str, scheduler: Scheduler) -> None:
    """sched(7), sched_setattr(2): which parameters go with which policy."""
    policy = scheduler["policy"]
    priority = scheduler.get("priority", 0)
    if policy in ("SCHED_FIFO", "SCHED_RR"):
        if not 1 <= priority <= 99:
            raise ConfigError(pointer + "/priority", f"{priority} is not from 1 to 99, as {policy} needs")
    elif priority:
        raise ConfigError(pointer + "/priority", f"goes with SCHED_FIFO and SCHED_RR, not with {policy}")
    runtime, deadline = scheduler.get("runtime", 0), scheduler.get("deadline", 0)
    period = scheduler.get("period", 0)
    if policy != "SCHED_DEADLINE":
        for member in ("runtime", "deadline", "period"):
            if scheduler.get(member):
                raise ConfigError(f"{pointer}/{member}", f"goes with SCHED_DEADLINE, not with {policy}")
    elif not 0 < runtime <= deadline <= (period or deadline):
        raise ConfigError(pointer, "SCHED_DEADLINE needs 0 < runtime <= deadline <= period")


def _check_hooks(hooks: Hooks) -> None:
    for name, entries in hooks.items():
        if name not in HOOKS:
            continue  # any member the spec does not know is accepted, whatever it is
        for index, hook in enumerate(entries):  # type: ignore[var-annotated, arg-type]
            if not hook["path"].startswith("/"):
                raise ConfigError(f"/hooks/{name}/{index}/path", f'"{hook["path"]}" is not an absolute path')
