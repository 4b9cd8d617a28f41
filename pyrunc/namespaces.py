# SPDX-License-Identifier: Apache-2.0
"""Namespaces: which to make, which to join, and the process that is born into them.

config-linux.md, Namespaces, User and Time namespace mappings; namespaces(7), user_namespaces(7),
time_namespaces(7).
"""

from __future__ import annotations

import errno
import os

from .channel import pair
from .doors import killed_at_birth
from .errors import ConfigError, KernelError, PyruncError, attempt, kernel_error, reference_token
from .linux import process as k
from .linux.syscall import clone3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from .channel import Channel
    from .doors import Doors
    from .spec.types import Config, IDMapping

# The spec's name -> (CLONE_NEW* flag, name in /proc/PID/ns), in the order they are joined: what the
# mount namespace hides (paths) was opened before, so it can go last.
TYPES: dict[str, tuple[int, str]] = {
    "cgroup": (k.CLONE_NEWCGROUP, "cgroup"),
    "network": (k.CLONE_NEWNET, "net"),
    "ipc": (k.CLONE_NEWIPC, "ipc"),
    "uts": (k.CLONE_NEWUTS, "uts"),
    "pid": (k.CLONE_NEWPID, "pid"),
    "time": (k.CLONE_NEWTIME, "time"),
    "mount": (k.CLONE_NEWNS, "mnt"),
    "user": (k.CLONE_NEWUSER, "user"),
}
_PROC_NAMES = {flag: name for flag, name in TYPES.values()}
KEEP_GROUPS = "run.oci.keep_original_groups"  # crun's, and what Podman says for --group-add keep-groups


class Join:
    """A namespace to be joined by path."""

    __slots__ = ("fd", "flag", "path", "pointer", "type")

    def __init__(self, type_: str, path: str, pointer: str) -> None:
        self.type = type_
        self.flag = TYPES[type_][0]
        self.path = path
        self.pointer = pointer
        self.fd = -1

    def describe(self) -> str:
        return f"join the {self.type} namespace {self.path}"


class NamespacePlan:
    """`create`: CLONE_NEW* flags of the namespaces to make; `joins`: those to join."""

    __slots__ = ("config", "create", "joins", "lines")

    def __init__(self, config: Config) -> None:
        self.config = config
        self.create = 0
        self.joins: list[Join] = []
        self.lines: list[tuple[str, str]] = []

    def has(self, flag: int) -> bool:
        """Whether the container's namespace of this kind differs from the runtime's."""
        return bool(self.create & flag) or any(join.flag == flag for join in self.joins)

    def joins_a(self, flag: int) -> bool:
        return any(join.flag == flag for join in self.joins)

    @property
    def keep_groups(self) -> bool:
        return keeps_groups(self.config)

    @property
    def staged(self) -> bool:
        """Whether a process in between is needed: setns(2) and time offsets act on the next child."""
        return bool(self.joins) or bool(self.create & k.CLONE_NEWTIME)

    def open(self) -> None:
        """Open every path and check that it is a namespace of its type.  Raises ConfigError."""
        for join in list(self.joins):
            join.fd = _open_namespace(join)
            if not _is_ours(join):
                continue
            self._refuse_sysctls(join)
            if join.flag == k.CLONE_NEWUSER:
                # Joining the user namespace one is in is EINVAL, and not what anybody means.
                os.close(join.fd)
                self.joins.remove(join)

    def _refuse_sysctls(self, join: Join) -> None:
        """A namespace given by path may be the runtime's own: what is set there is set on the host, as runc sees it.

        (A hostname is set there: config.md, Hostname, has that.)
        """
        from .spec.sysctl import namespace_of, sysctl_path

        for name in (self.config.get("linux") or {}).get("sysctl") or {}:
            if namespace_of(sysctl_path(name)) == join.type:
                raise ConfigError("/linux/sysctl/" + reference_token(name),
                                  f"would change the host's: {join.path} is the runtime's own {join.type} namespace",
                                  hint="a namespace without a path is a new one")

    def user_namespace(self, pid: int, proc: int) -> int:
        """A descriptor of the container's user namespace, which `pid` is in; -1 if it is ours.  Raises KernelError."""
        for join in self.joins:
            if join.flag == k.CLONE_NEWUSER:
                return os.dup(join.fd)
        if not self.create & k.CLONE_NEWUSER:
            return -1
        try:
            return os.open(f"{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        except OSError as error:
            raise kernel_error("open the user namespace of the init", error) from None

    def close(self) -> None:
        for join in self.joins:
            if join.fd >= 0:
                os.close(join.fd)
                join.fd = -1


def plan(config: Config) -> NamespacePlan:
    """The plan for linux.namespaces (the types were checked, none comes twice)."""
    result = NamespacePlan(config)
    for index, entry in enumerate((config.get("linux") or {}).get("namespaces") or ()):
        pointer = f"/linux/namespaces/{index}"
        path = entry.get("path") or ""
        if path:
            join = Join(entry["type"], path, pointer + "/path")
            result.joins.append(join)
            result.lines.append((pointer, join.describe()))
        else:
            result.create |= TYPES[entry["type"]][0]
            result.lines.append((pointer, f"new {entry['type']} namespace"))
    order = list(TYPES)
    result.joins.sort(key=lambda join: order.index(join.type))
    return result


def keeps_groups(config: Config) -> bool:
    """Whether the container's processes keep the supplementary groups of who calls the runtime, mapped or not.

    Those of process.user.additionalGids aren't set then: setgroups(2) is one call for all.
    """
    return (config.get("annotations") or {}).get(KEEP_GROUPS) == "1"


def _is_ours(join: Join) -> bool:
    """Whether it is the namespace that we are in."""
    theirs, ours = os.stat(join.fd), os.stat(f"/proc/self/ns/{_PROC_NAMES[join.flag]}")
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def _open_namespace(join: Join) -> int:
    try:
        fd = os.open(join.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(join.pointer, f"open {join.path}", syscall="openat", errno=error.errno or 0) from None
    wanted = _PROC_NAMES[join.flag]
    try:
        found = k.namespace_type(fd)
    except OSError:
        os.close(fd)
        raise ConfigError(join.pointer, f"{join.path} is not a namespace",
                          hint=f"give the path of /proc/PID/ns/{wanted}") from None
    if found != join.flag:
        os.close(fd)
        raise ConfigError(join.pointer, f"{join.path} is a {_PROC_NAMES.get(found, found)} namespace, not {wanted}",
                          hint=f"give the path of /proc/PID/ns/{wanted}")
    return fd


def spawn(namespaces: NamespacePlan, proc: int, map_ids: Callable[[int], None], child: Callable[[], NoReturn],
          doors: Doors) -> int:
    """Fork the container's init into its namespaces; its pid.

    `child` runs there and never returns.  `map_ids(pid)` is called in the parent for the process
    that has made the user namespace.  The cgroup namespace is left to the child: it is rooted in
    the cgroup its maker stands in at that moment.  Raises KernelError.
    """
    create = namespaces.create & ~k.CLONE_NEWCGROUP
    if namespaces.staged:
        return _spawn_staged(namespaces, proc, map_ids, child)
    if create & k.CLONE_NEWUSER:
        create &= ~k.CLONE_NEWIPC  # see take_over
    try:
        pid = clone3(create, cgroup_fd=doors.fd)
    except OSError as error:
        if doors.fd >= 0 and error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):  # these two: Cgroup.not_born
            # A filter that lets only clone(2) be, a cgroup whose limit of processes is reached: it can be moved in.
            doors.shut()
            return spawn(namespaces, proc, map_ids, child, doors)
        raise kernel_error("make the namespaces", error, pointer="/linux/namespaces", hint=_clone_hint(error)) from None
    if pid == 0:
        child()
    if doors.fd >= 0 and killed_at_birth(pid, proc):
        os.waitpid(pid, 0)
        doors.shut()
        return spawn(namespaces, proc, map_ids, child, doors)
    if create & k.CLONE_NEWUSER:
        map_ids(pid)
    return pid


def fork_sibling(flags: int = 0, cgroup_fd: int = -1) -> int:
    """Fork a child of our parent's, with CLONE_NEW* flags; `cgroup_fd` as clone3's.  Raises OSError."""
    return clone3(flags | k.CLONE_PARENT, exit_signal=0, cgroup_fd=cgroup_fd)  # its signal is ours


def enter(joins: list[Join], *, keep_groups: bool = False) -> None:
    """Join them all, the pid namespace for the next child only.  Raises KernelError."""
    # Processes of the joined namespaces could ptrace us from here on (CVE-2016-9962).
    k.prctl(k.PR_SET_DUMPABLE, 0)
    _join(joins, keep_groups)
    k.prctl(k.PR_SET_DUMPABLE, 0)  # again: with a user namespace come credentials, which decide it anew


def _clone_hint(error: OSError) -> str:
    if error.errno == 28:
        return "a limit in /proc/sys/user/max_*_namespaces is reached"
    if error.errno == 1:
        return "needs CAP_SYS_ADMIN, or a user namespace in linux.namespaces"
    if error.errno == 22:
        return "this kernel lacks one of the namespace types"
    return ""


def _spawn_staged(namespaces: NamespacePlan, proc: int, map_ids: Callable[[int], None],
                  child: Callable[[], NoReturn]) -> int:
    ours, theirs = pair()
    try:
        stage = clone3(0)
    except OSError as error:
        raise kernel_error("fork", error) from None
    if stage == 0:
        ours.close()
        _stage(namespaces, proc, theirs, child)
    theirs.close()
    try:
        while True:
            message = ours.receive()
            if message["kind"] == "pid":
                return int(message["pid"])
            map_ids(stage)
            ours.send("mapped")
    except EOFError:
        raise PyruncError("the process that joins the namespaces died") from None
    finally:
        ours.close()
        os.waitpid(stage, 0)


def _stage(namespaces: NamespacePlan, proc: int, channel: Channel, child: Callable[[], NoReturn]) -> NoReturn:
    """In the process between: join, make the user and time namespaces, fork the init, leave."""
    try:
        k.forget_arguments(proc)  # before there is an init for others to see
        offsets = _open_time_offsets(namespaces, proc)
        if namespaces.joins:
            enter(namespaces.joins, keep_groups=namespaces.keep_groups)
        create = namespaces.create & ~k.CLONE_NEWCGROUP
        if create & k.CLONE_NEWUSER:
            k.unshare(k.CLONE_NEWUSER)
            channel.send("map")
            channel.expect("mapped")
            become_root(keep_groups=namespaces.keep_groups)
            create &= ~k.CLONE_NEWUSER
        if create & k.CLONE_NEWTIME:
            k.unshare(k.CLONE_NEWTIME)
            _write_time_offsets(namespaces.config, offsets)
            create &= ~k.CLONE_NEWTIME
        # A sibling, not a child: the init belongs to the runtime's parent when all this is over.
        pid = fork_sibling(create)
        if pid == 0:
            channel.close()
            child()
        channel.send("pid", pid=pid)
        os._exit(0)
    except PyruncError as failure:
        channel.send_error(failure)
    except OSError as failure:
        channel.send_error(kernel_error("make the namespaces", failure, pointer="/linux/namespaces"))
    except BaseException as failure:
        channel.send_error(PyruncError(f"make the namespaces: {failure!r}"))
    finally:
        os._exit(1)


def _join(joins: list[Join], keep_groups: bool) -> None:
    """Join what can be joined from outside; then the user namespace; then the rest.

    Root may join namespaces of a user namespace below its own from outside; an ordinary user only
    once it is root inside.
    """
    user = [join for join in joins if join.flag == k.CLONE_NEWUSER]
    rest: list[Join] = []
    for join in joins:
        if join.flag == k.CLONE_NEWUSER:
            continue
        if user and join.flag == k.CLONE_NEWNS:
            rest.append(join)
            continue
        try:
            k.setns(join.fd, join.flag)
        except PermissionError as error:
            if not user:
                raise _join_error(join, error) from None
            rest.append(join)
        except OSError as error:
            raise _join_error(join, error) from None
    for join in user:
        try:
            k.setns(join.fd, join.flag)
        except OSError as error:
            raise _join_error(join, error) from None
        become_root(keep_groups=keep_groups)
    for join in rest:
        try:
            k.setns(join.fd, join.flag)
        except OSError as error:
            raise _join_error(join, error) from None


def _join_error(join: Join, error: OSError) -> KernelError:
    return kernel_error(join.describe(), error, pointer=join.pointer)


def take_over(namespaces: NamespacePlan) -> None:
    """In the init: become root of a new user namespace, whose ids are mapped by now.

    And make the ipc namespace, whose mqueue belongs to the ids of its maker: the runtime's are nobody's in here.
    """
    become_root(keep_groups=namespaces.keep_groups)
    if namespaces.create & k.CLONE_NEWIPC and not namespaces.staged:
        try:
            k.unshare(k.CLONE_NEWIPC)
        except OSError as error:
            raise kernel_error("make the ipc namespace", error, pointer="/linux/namespaces",
                               hint=_clone_hint(error)) from None


def become_root(*, keep_groups: bool) -> None:
    """Take uid and gid 0 of the user namespace just entered (unmapped ids own nothing there)."""
    if not keep_groups:
        try:
            os.setgroups([])
        except PermissionError:
            pass  # setgroups is denied in this namespace (user_namespaces(7)); the groups stay as they are
    hints = {errno.EINVAL: "it has to be mapped: what is made in there is its"}
    attempt("/linux/gidMappings", "take gid 0 of the user namespace", lambda: os.setresgid(0, 0, 0), hints)
    attempt("/linux/uidMappings", "take uid 0 of the user namespace", lambda: os.setresuid(0, 0, 0), hints)


def _open_time_offsets(namespaces: NamespacePlan, proc: int) -> int:
    """/proc/self/timens_offsets (time_namespaces(7)), -1 if it isn't needed.

    While it is ours: as root of a user namespace we aren't dumpable, so it is the host's root's.  Who opened it
    is who is asked for CAP_SYS_TIME.
    """
    if not namespaces.create & k.CLONE_NEWTIME or not (namespaces.config.get("linux") or {}).get("timeOffsets"):
        return -1
    try:
        return os.open("self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError as error:
        raise kernel_error("open the clocks' offsets", error, pointer="/linux/timeOffsets") from None


def _write_time_offsets(config: Config, fd: int) -> None:
    """Set them, before a process is in the namespace."""
    offsets = (config.get("linux") or {}).get("timeOffsets") or {}
    lines = []
    for clock, offset in offsets.items():
        values = offset or {}
        lines.append(f"{clock} {values.get('secs') or 0} {values.get('nanosecs') or 0}\n")
    if not lines:
        return
    try:
        os.write(fd, "".join(lines).encode())
    except OSError as error:
        hint = "a clock can't be set below zero" if error.errno == 34 else ""
        raise kernel_error("set the clocks' offsets", error, pointer="/linux/timeOffsets", hint=hint) from None


def write_id_maps(pid: int, proc: int, mappings: Mapping[str, Any], pointer: str) -> None:
    """Write uid_map, setgroups and gid_map of `pid` (user_namespaces(7)).  Raises KernelError.

    `mappings` has uidMappings and gidMappings and stands at `pointer`.

    An ordinary user may map only itself this way; for more, the setuid helpers of shadow do it.
    """
    uids = list(mappings.get("uidMappings") or ())
    gids = list(mappings.get("gidMappings") or ())
    if os.geteuid() == 0:
        _write_map(proc, pid, "uid_map", uids, pointer + "/uidMappings")
        _write_map(proc, pid, "gid_map", gids, pointer + "/gidMappings")
        return
    if _is_own(uids, os.geteuid()):
        _write_map(proc, pid, "uid_map", uids, pointer + "/uidMappings")
    else:
        _run_helper("newuidmap", pid, uids, pointer + "/uidMappings")
    if _is_own(gids, os.getegid()):
        # CVE-2014-8989: giving up a group must not gain what the group is denied.
        _write(proc, f"{pid}/setgroups", "deny")
        _write_map(proc, pid, "gid_map", gids, pointer + "/gidMappings")
    else:
        _run_helper("newgidmap", pid, gids, pointer + "/gidMappings")


def take_joined_ids(namespaces: NamespacePlan, pid: int, proc: int) -> None:
    """Have the mappings of the user namespace that `pid` has joined in the configuration.

    A joined namespace has its own.  Who repeats them in config.json, as containerd and CRI-O do, has to
    know them.  Raises ConfigError.
    """
    if not namespaces.joins_a(k.CLONE_NEWUSER):
        return
    linux = namespaces.config["linux"]
    for member, file in (("uidMappings", "uid_map"), ("gidMappings", "gid_map")):
        found = _read_map(proc, f"{pid}/{file}")
        given: list[IDMapping] = linux.get(member) or []  # type: ignore[assignment]
        if given and _merged(given) != _merged(found):
            is_ = ", ".join(f"{m['containerID']} {m['hostID']} {m['size']}" for m in found)
            raise ConfigError(f"/linux/{member}", f"does not agree with the user namespace that is joined: {is_}",
                              hint="leave it out: a namespace that is joined has its own")
        linux[member] = found  # type: ignore[literal-required]


def _read_map(proc: int, name: str) -> list[IDMapping]:
    return [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in id_map(proc, name)]


def id_map(proc: int, name: str) -> list[list[int]]:
    """The rows of a uid_map or gid_map: the first id inside, the first outside, how many."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=proc)
    with open(fd, encoding="utf-8") as lines:
        return [[int(number) for number in line.split()] for line in lines]


def _merged(mappings: list[IDMapping]) -> list[tuple[int, int, int]]:
    """The same map has one form: in order, and what continues the range before it added to that."""
    merged: list[tuple[int, int, int]] = []
    for inside, outside, size in sorted((m["containerID"], m["hostID"], m["size"]) for m in mappings):
        if merged:
            first, host, length = merged[-1]
            if (first + length, host + length) == (inside, outside):
                merged[-1] = (first, host, length + size)
                continue
        merged.append((inside, outside, size))
    return merged


def _is_own(mappings: list[IDMapping], own: int) -> bool:
    return len(mappings) == 1 and mappings[0]["size"] == 1 and mappings[0]["hostID"] == own


def _write_map(proc: int, pid: int, name: str, mappings: list[IDMapping], pointer: str) -> None:
    text = "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in mappings)
    try:
        _write(proc, f"{pid}/{name}", text)
    except OSError as error:
        raise kernel_error(f"write {name} of the user namespace", error, pointer=pointer) from None


def _write(proc: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=proc)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def find_helper(name: str) -> str:
    """Where newuidmap(1) or newgidmap(1) is, whatever PATH says; empty if nowhere."""
    for directory in ("/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"):
        if os.access(f"{directory}/{name}", os.X_OK):
            return f"{directory}/{name}"
    return ""


def _run_helper(name: str, pid: int, mappings: list[IDMapping], pointer: str) -> None:
    arguments = [name, str(pid)]
    for m in mappings:
        arguments += [str(m["containerID"]), str(m["hostID"]), str(m["size"])]
    path = find_helper(name)
    if not path:
        raise PyruncError(f"{name} is needed to map more than one id as an ordinary user", pointer=pointer,
                          hint="install uidmap (shadow-utils)")
    status = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(path, arguments, dict(os.environ)), 0)[1])
    if status:
        raise PyruncError(f"{' '.join(arguments)}: exit status {status}", pointer=pointer,
                          hint="are the ids granted in /etc/subuid and /etc/subgid?")
