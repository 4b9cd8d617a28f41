# SPDX-License-Identifier: Apache-2.0
"""checkpoint: a running container's processes into files, by criu (runc-checkpoint(8)).

The files are interchangeable with runc's: the same names for what comes from outside the container
(external mounts and namespaces), and descriptors.json, which tells what the standard streams were.
"""

from __future__ import annotations

import os
import stat

from . import criu as rpc
from . import lsm, mounts
from .cgroup_mounts import KeptOptions, mounted
from .devices import plan as plan_devices
from .errors import ConfigError, ContainerError, PyruncError, UsageError, kernel_error
from .linux.fs import mount_id
from .linux.process import CLONE_NEWCGROUP, CLONE_NEWNET, CLONE_NEWPID
from .namespaces import TYPES
from .namespaces import plan as plan_namespaces
from .paths import clean, make_private, open_in_root, unescape
from .rootfs import open_proc
from .spec.load import dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from .cgroup import Cgroup
    from .criu import Value
    from .lifecycle import Container
    from .mounts import MountStep
    from .spec.types import Config

DESCRIPTORS = "descriptors.json"
DUMP_LOG = "dump.log"
RESTORE_LOG = "restore.log"
#: What criu writes to --work-path.
_WRITTEN = frozenset((DUMP_LOG, RESTORE_LOG, "stats-dump", "stats-restore"))
DEFAULT_IMAGES = "checkpoint"
#: Where criu looks for options of the administrator's, for containers that don't name another place.
CONFIG_FILE = "/etc/criu/runc.conf"
CONFIG_ANNOTATION = "org.criu.config"
NULL = "/dev/null"
#: How criu's names of terminals from outside begin (criu(8), --external).
TERMINAL = "tty["
#: The major numbers that criu takes for terminals' (Documentation/admin-guide/devices.txt).
_TERMINALS = frozenset((4, 5, *range(136, 144), 188, 204))


class CriuOptions:
    """What the command lines of checkpoint and restore have in common; the names are criu's."""

    __slots__ = ("auto_dedup", "cgroups_mode", "criu", "empty_ns", "ext_unix_sk", "file_locks", "image_path",
                 "lazy_pages", "shell_job", "tcp_established", "work_path")

    def __init__(self, *, image_path: str = "", work_path: str = "", tcp_established: bool = False,
                 ext_unix_sk: bool = False, shell_job: bool = False, file_locks: bool = False, cgroups_mode: str = "",
                 empty_ns: Sequence[str] = (), auto_dedup: bool = False, lazy_pages: bool = False,
                 criu: str = "") -> None:
        if cgroups_mode not in rpc.CGROUP_MODES:
            raise UsageError(f"--manage-cgroups-mode {cgroups_mode}: is soft, full, strict or ignore")
        for name in empty_ns:
            if name != "network":
                raise UsageError(f"--empty-ns {name}: only a network namespace can be left empty", hint="network")
        self.image_path = os.path.abspath(image_path or DEFAULT_IMAGES)
        self.work_path = os.path.abspath(work_path) if work_path else ""
        self.tcp_established = tcp_established
        self.ext_unix_sk = ext_unix_sk
        self.shell_job = shell_job
        self.file_locks = file_locks
        self.cgroups_mode = cgroups_mode
        self.auto_dedup = auto_dedup
        self.lazy_pages = lazy_pages
        self.criu = criu  # its program; "" is what PATH has

    @property
    def log_path(self) -> str:
        """The directory that criu logs to."""
        return self.work_path or self.image_path

    def to_criu(self, config: Config, log: str) -> dict[str, Any]:
        """As criu_opts; the first descriptor criu is given is the images' directory, the second --work-path's.

        A network namespace's own devices are never criu's to deal with: pyrunc makes none.
        """
        options: dict[str, Any] = {
            "images_dir_fd": rpc.FIRST_FD, "log_level": rpc.LOG_LEVEL, "log_file": log, "manage_cgroups": True,
            "manage_cgroups_mode": rpc.CGROUP_MODES[self.cgroups_mode], "notify_scripts": True,
            "shell_job": self.shell_job, "tcp_established": self.tcp_established, "ext_unix_sk": self.ext_unix_sk,
            "file_locks": self.file_locks, "empty_ns": CLONE_NEWNET, "orphan_pts_master": True,
            "auto_dedup": self.auto_dedup, "lazy_pages": self.lazy_pages,
        }
        if self.work_path:
            options["work_dir_fd"] = rpc.FIRST_FD + 1
        extra = (config.get("annotations") or {}).get(CONFIG_ANNOTATION, CONFIG_FILE)
        if extra:
            options["config_file"] = extra
        return options


class CheckpointOptions(CriuOptions):
    """The command line of checkpoint."""

    __slots__ = ("leave_running", "link_remap", "page_server", "parent_path", "pre_dump", "status_fd",
                 "tcp_skip_in_flight")

    def __init__(self, *, parent_path: str = "", leave_running: bool = False, tcp_skip_in_flight: bool = False,
                 link_remap: bool = False, pre_dump: bool = False, page_server: str = "", status_fd: int = -1,
                 **common: Any) -> None:
        super().__init__(**common)
        self.parent_path = parent_path
        self.leave_running = leave_running
        self.tcp_skip_in_flight = tcp_skip_in_flight
        self.link_remap = link_remap
        self.pre_dump = pre_dump
        self.page_server = _address(page_server) if page_server else None
        self.status_fd = status_fd
        if parent_path.startswith("/"):
            raise UsageError("--parent-path must be relative", hint="to --image-path, so that both can be moved")


def _address(text: str) -> tuple[str, int]:
    """ADDRESS:PORT, the address of IPv6 in brackets.  Raises UsageError."""
    address, _, port = text.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if not address or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"--page-server {text}: is not ADDRESS:PORT")
    return address, int(port)


def checkpoint(container: Container, options: CheckpointOptions) -> None:
    """Write the container's processes to files; then it has ended and is deleted, unless it is left running.

    Raises ContainerError when it isn't running or paused, PyruncError with the end of criu's log when
    criu can't; the container runs on then.
    """
    container.directory.lock()
    try:
        container.refresh()
        status = container.status()
        if status not in ("running", "paused"):
            # runc's words.
            raise ContainerError(f"Container cannot be checkpointed in {status} state")
        program = rpc.find(options.criu)
        found = rpc.version(program)
        container.report("debug", f"{program} is version {found}")
        if options.pre_dump:
            rpc.need_feature(program, "mem_track", "pre-dumps")
        if options.lazy_pages:
            rpc.need_feature(program, "lazy_pages", "lazy pages")
            _check_status_fd(options.status_fd)
        _Checkpoint(container, options, program).run()
        if not options.leave_running and not options.pre_dump:
            container.destroy()
    finally:
        if container.directory.fd >= 0:
            container.directory.unlock()


def _check_status_fd(fd: int) -> None:
    if fd < 0:
        return
    try:
        if not os.get_inheritable(fd):
            raise OSError  # ours, not the caller's
        os.write(fd, b"")
    except OSError:
        raise UsageError(f"--status-fd {fd}: is not a descriptor that can be written to") from None


def make_directory(path: str, option: str) -> int:
    """Open a directory for criu to write to, made if missing.  Raises KernelError, UsageError."""
    try:
        make_private(path)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise kernel_error(f"{option} {path}", error) from None
    try:
        check_files(fd, f"{option} {path}", _WRITTEN if option == "--work-path" else None)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_files(directory: int, what: str, names: frozenset[str] | None = None) -> None:
    """Raise UsageError where criu would be led elsewhere, or for ever: it follows links, and waits at fifos.

    `names`: those of interest, None for all.  `parent` it makes itself, a link to the checkpoint before.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name == "parent" or (names is not None and entry.name not in names):
                continue
            kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
            if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFSOCK):
                found = "a link" if kind == stat.S_IFLNK else "not a file"
                raise UsageError(f"{what}: {entry.name} is {found}",
                                 hint="criu would follow it, or wait; a checkpoint has nothing of that kind")


class _Checkpoint:
    """One on its way."""

    __slots__ = ("container", "mounts", "options", "program")

    def __init__(self, container: Container, options: CheckpointOptions, program: str) -> None:
        self.container = container
        self.options = options
        self.program = program
        self.mounts = mounts_of(container.pid)

    def run(self) -> None:
        options = self.options
        images = make_directory(options.image_path, "--image-path")
        work = -1
        try:
            if options.work_path:
                work = make_directory(options.work_path, "--work-path")
            wanted = self._options()
            if not options.pre_dump:
                stdio = list((self.container.data or {}).get("stdio") or [NULL] * 3)
                for fd, key in self._external_files():
                    stdio[fd] = key
                    if key not in wanted["external"]:
                        wanted["external"].append(key)
                _write_descriptors(images, stdio)
            for name, value in wanted.items():
                self.container.report("debug", f"criu option {name}: {value}")
            kind = rpc.PRE_DUMP if options.pre_dump else rpc.DUMP
            with KeptOptions(), rpc.Criu(self.program, fds=[fd for fd in (images, work) if fd >= 0]) as criu:
                answer = criu.call(rpc.request(kind, wanted), self._notify)
                # A pre-dumping criu waits for the dump to come, and calls its absence an error.
                status = criu.finish()
            if not answer.number(2) or (status and not options.pre_dump):
                what = "pre-dump" if options.pre_dump else "dump"
                raise rpc.failed(f"{what} the container", options.log_path, DUMP_LOG, answer)
        finally:
            for fd in (images, work):
                if fd >= 0:
                    os.close(fd)

    def _notify(self, point: str, pid: int, fd: int) -> None:
        self.container.report("debug", f"criu: {point}")
        if point == "post-dump":
            self._check_label()
        elif point == "status-ready" and self.options.status_fd >= 0:
            os.write(self.options.status_fd, b"\0")
            os.close(self.options.status_fd)
            self.options.status_fd = -1

    def _check_label(self) -> None:
        """While the container can run on still: what criu has no label of it would restore unconfined.

        Raises PyruncError.
        """
        proc = open_proc()
        try:
            label = lsm.current(proc, self.container.pid)
            lost = label != lsm.current(proc, os.getpid())
        finally:
            os.close(proc)
        if lost and not rpc.knows_labels(self.options.image_path):
            raise PyruncError(f"criu leaves the label {label} out, which would be lost on restore",
                              hint=f"{self.program} was built without SELinux, or finds no AppArmor in "
                                   "/sys/kernel/security")

    def _options(self) -> dict[str, Any]:
        container, options = self.container, self.options
        config = container.config
        wanted = options.to_criu(config, DUMP_LOG)
        wanted.update({
            "pid": container.pid, "root": (container.data or {}).get("rootfs", ""),
            "leave_running": options.leave_running, "tcp_skip_in_flight": options.tcp_skip_in_flight,
            "link_remap": options.link_remap, "external": list(self._external_namespaces()),
        })
        if (cgroup := container.cgroup) is not None and (freezer := cgroup.freezer()):
            wanted["freeze_cgroup"] = freezer
        if options.page_server is not None:
            address, port = options.page_server
            wanted["ps"] = ((1, address), (2, port))
        if options.parent_path:
            if not os.path.isdir(os.path.join(options.image_path, options.parent_path)):
                raise UsageError(f"--parent-path {options.parent_path}: there is no such directory",
                                 hint=f"it counts from {options.image_path}")
            wanted["parent_img"] = options.parent_path
            wanted["track_mem"] = True
        if not options.pre_dump:
            wanted["ext_mnt"] = self._external_mounts()
        return wanted

    def _external_namespaces(self) -> Iterator[str]:
        """The network and pid namespaces that were joined: another's, and not written down."""
        for join in plan_namespaces(self.container.config).joins:
            if join.flag in (CLONE_NEWNET, CLONE_NEWPID):
                name = TYPES[join.type][1]
                # Of the init itself: the path may be gone, or another namespace's by now.
                inode = os.stat(f"/proc/{self.container.pid}/ns/{name}").st_ino
                yield f"{name}[{inode}]:{namespace_key(name)}"

    def _external_files(self) -> Iterator[tuple[int, str]]:
        """(descriptor, name in the images) of standard streams that are files of no mount in the container.

        They are for the one who restores to give, as its own; runc can't write such a container down.
        Raises UsageError for a terminal without --shell-job.
        """
        known = {number for number, _ in self.mounts}
        for fd in range(3):
            directory = f"/proc/{self.container.pid}"
            try:
                info = os.stat(f"{directory}/fd/{fd}")
                number = mount_id(f"{directory}/fdinfo/{fd}")
            except OSError:
                continue
            if number in known:
                continue
            device = stat.S_ISCHR(info.st_mode)
            if stat.S_ISREG(info.st_mode) or (device and info.st_rdev == os.makedev(1, 3)):
                yield fd, f"file[{number:x}:{info.st_ino:x}]"
            elif device and os.major(info.st_rdev) in _TERMINALS:
                if not self.options.shell_job:
                    raise UsageError(f"the container's descriptor {fd} is a terminal that isn't its own",
                                     hint="--shell-job leaves that out: restore --shell-job puts its caller's there")
                yield fd, f"{TERMINAL}{info.st_rdev:x}:{info.st_dev:x}]"

    def _external_mounts(self) -> list[Value]:
        """(mount point in the container, name in the images) of what was mounted from outside."""
        config = self.container.config
        bundle = (self.container.data or {}).get("bundle", "")
        root = os.open(f"/proc/{self.container.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = {}
            steps = mounts.plan(config, bundle)
            for step in steps:
                if step.idmap:
                    raise ConfigError(step.pointer, "criu can't restore idmapped mounts")
            for target, _ in outside(steps, cgroup_binds(config, self.container.cgroup)):
                if place := resolve(root, target):
                    found[place] = place
            for path in (config.get("linux") or {}).get("maskedPaths") or ():
                place = resolve(root, path)
                if place and not os.path.isdir(f"/proc/self/fd/{root}{place}"):
                    found[place] = NULL
            for node in plan_devices(config):
                if place := resolve(root, node.path):
                    found[place] = place
        finally:
            os.close(root)
        points = {point for _, point in self.mounts}
        return [((1, check_name(place)), (2, name)) for place, name in found.items() if place in points]


def _write_descriptors(images: int, stdio: list[str]) -> None:
    try:
        fd = os.open(DESCRIPTORS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                     dir_fd=images)
        try:
            os.write(fd, dump(stdio).encode("utf-8", "surrogateescape"))
        finally:
            os.close(fd)
    except OSError as error:
        raise kernel_error(f"write {DESCRIPTORS}", error) from None


def namespace_key(name: str) -> str:
    """runc's name for a namespace from outside: extRootNetNS."""
    return f"extRoot{name.capitalize()}NS"


def check_name(place: str) -> str:
    """`place`, if criu can tell where that name of a mount ends.  Raises PyruncError.

    It keeps `mnt[NAME]:VALUE`, and an image can have names that make two of one (CVE-2026-119101, CVE-2026-115520).
    """
    if "]:" in place:
        raise PyruncError(f"criu would take {place[:200]!a}, where something is mounted, for two names",
                          hint="]: can't be part of it")
    return place


def outside(steps: list[MountStep], cgroup: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(target, source) of each mount that comes from the host: binds, and v1's cgroups without a namespace."""
    for step in steps:
        if isinstance(step, mounts.BindMount):
            yield step.unsafe_target, step.source
        elif isinstance(step, mounts.CgroupMount):
            for name, source in cgroup.items():
                yield f"{step.unsafe_target}/{name}", source


def cgroup_binds(config: Config, cgroup: Cgroup | None) -> dict[str, str]:
    """What a v1 cgroup mount without a cgroup namespace consists of: directory name -> the container's cgroup.

    Or its caller's, where it has none (cgroup_mounts.mount_cgroup).
    """
    if cgroup is None or cgroup.mode == "unified" or plan_namespaces(config).has(CLONE_NEWCGROUP):
        return {}
    binds = {}
    for place, (controllers, current) in mounted().items():
        own = [path for name, path in cgroup.paths.items() if name in controllers and path not in cgroup.skipped]
        binds[place.rpartition("/")[2]] = own[0] if own else current
    return binds


def resolve(root: int, unsafe_path: str) -> str:
    """`unsafe_path` without its links, counted from the root of the mount namespace of `root`; "" if there is none."""
    try:
        fd = open_in_root(root, clean(unsafe_path))
    except OSError:
        return ""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
    finally:
        os.close(fd)


def mounts_of(pid: int) -> list[tuple[int, str]]:
    """(id, mount point) of what is in the process's mount namespace (proc_pid_mountinfo(5))."""
    try:
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            fields = [line.split(b" ") for line in file]
    except OSError as error:
        raise PyruncError("read the mounts of the container", errno=error.errno or 0) from None
    return [(int(field[0]), unescape(os.fsdecode(field[4]))) for field in fields]
