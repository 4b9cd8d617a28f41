# SPDX-License-Identifier: Apache-2.0
"""restore: a container from what checkpoint has written, by criu (runc-restore(8)).

A create whose init is not forked but restored: the id, the cgroup and its limits, hooks, the state and
the undoing of a failure are creation.py's.

    runtime                                  the process that becomes criu
    claim the id, make the cgroup
    fork ----------------------------------> a mount namespace of its own: missing mount points are
                                             made, the root is bound to where criu wants it
    into the container's cgroup <----------- execve
    request -------------------------------> namespaces
    loopback up; prestart, createRuntime <-- setup-namespaces
    terminal's master sent on <------------- orphan-pts-master
    limits; pid into state.json <----------- post-restore: all is there, and stopped
    pid file <------------------------------ the answer: it runs
"""

from __future__ import annotations

import os

from . import console, handover, lsm, restored
from . import criu as rpc
from . import state as states
from .bundle import load as load_bundle
from .cgroup_mounts import KeptOptions
from .checkpoint import (
    DESCRIPTORS,
    NULL,
    RESTORE_LOG,
    TERMINAL,
    CriuOptions,
    cgroup_binds,
    check_files,
    check_name,
    make_directory,
    namespace_key,
    outside,
    resolve,
)
from .creation import Creation
from .devices import plan as plan_devices
from .errors import ConfigError, PyruncError, UsageError, kernel_error
from .init import loopback_up
from .linux import mount as m
from .linux import process as k
from .linux.fs import AT_FDCWD
from .mounts import BindMount, CgroupMount, FilesystemMount
from .namespaces import TYPES
from .paths import is_directory
from .process import join_keyring
from .rootfs import RootFs, open_proc
from .spec.load import parse
from .state import StateDir, process_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .criu import Value
    from .lifecycle import Container, Report
    from .options import CreateOptions
    from .spec.types import Process

_WITHOUT_SELINUX = "selinux not supported by kernel"
_LSM_SINCE = 31600  # before, criu took another profile for the one it had dumped
_LSM_TYPES = ("apparmor", "selinux")
_MAX_DESCRIPTORS = 65536


class RestoreOptions(CriuOptions):
    """The command line of restore, beside what it has in common with create."""

    __slots__ = ("lsm_mount_context", "lsm_profile")

    def __init__(self, *, lsm_profile: str = "", lsm_mount_context: str = "", **common: Any) -> None:
        super().__init__(**common)
        kind, _, name = lsm_profile.partition(":")
        if lsm_profile and not (name and kind in _LSM_TYPES):
            raise UsageError(f"--lsm-profile {lsm_profile}: is not TYPE:NAME", hint="TYPE is apparmor or selinux")
        self.lsm_profile = lsm_profile
        self.lsm_mount_context = lsm_mount_context

    def relabel(self, process: Process) -> None:
        """Put the profile or label that is asked for in the place of the one in config.json."""
        kind, _, name = self.lsm_profile.partition(":")
        if kind == "apparmor":
            process["apparmorProfile"] = name
        elif kind == "selinux":
            process["selinuxLabel"] = name


def restore(bundle_path: str, container_id: str, root: str, options: CreateOptions, images: RestoreOptions,
            report: Report) -> Container:
    """Make the container `container_id`, whose processes go on where the checkpoint has stopped them.

    Raises PyruncError, and leaves nothing behind then.
    """
    if len(os.listdir("/proc/self/task")) > 1:
        raise UsageError("a threaded program can't restore a container: forking is safe with one thread only",
                         hint="run the command `pyrunc restore`")
    program = rpc.find(images.criu)
    stdio = _read_descriptors(images.image_path)
    _check_terminals(stdio, images.shell_job)
    found = rpc.version(program)
    report("debug", f"{program} is version {found}")
    if images.lsm_profile or images.lsm_mount_context:
        rpc.need(found, _LSM_SINCE, "--lsm-profile and --lsm-mount-context")
    if images.lsm_mount_context:
        lsm.check_mount_context(images.lsm_mount_context, "--lsm-mount-context")
    directory = StateDir.claim(root, container_id)
    try:
        restoration = Restoration(directory, load_bundle(bundle_path), options, images, report)
    except BaseException:
        directory.remove()
        raise
    restoration.program = program
    restoration.was = stdio
    return restoration.run()


def _read_descriptors(path: str) -> list[str]:
    """What the checkpoint's standard streams were.  Raises UsageError if there is no checkpoint."""
    try:
        # The images may have come from elsewhere: no links, and not a fifo to wait for.
        images = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            check_files(images, f"--image-path {path}")
            fd = os.open(DESCRIPTORS, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=images)
        finally:
            os.close(images)
        try:
            data = os.read(fd, _MAX_DESCRIPTORS)
        finally:
            os.close(fd)
    except OSError as error:
        raise UsageError(f"--image-path {path}: no checkpoint", errno=error.errno or 0,
                         hint=f"a checkpoint has a file {DESCRIPTORS}; one of --pre-dump can't be restored") from None
    found = parse(data, f"{path}/{DESCRIPTORS}")
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise PyruncError(f"{path}/{DESCRIPTORS} is not a list of names")
    return found


def _streams_from_outside(stdio: list[str]) -> dict[str, int]:
    """What the images call them, and the first of our standard streams in the place of each."""
    entries: dict[str, int] = {}
    for fd, name in enumerate(stdio[:3]):
        if name.startswith(("pipe:", "file[", TERMINAL)):
            entries.setdefault(name, fd)
    return entries


def _check_terminals(stdio: list[str], shell_job: bool) -> None:
    """Raises UsageError unless there is one for each that the checkpoint has been without."""
    for name, fd in _streams_from_outside(stdio).items():
        if not name.startswith(TERMINAL):
            continue
        if not shell_job:
            raise UsageError(f"the container's descriptor {fd} was a terminal that wasn't its own",
                             hint="--shell-job gives it yours")
        if not os.isatty(fd):
            raise UsageError(f"--shell-job: descriptor {fd} is no terminal, and the container's was one")


class Restoration(Creation):
    """One restore on its way."""

    __slots__ = ("criu", "images", "program", "was")

    def __init__(self, directory: StateDir, bundle: Any, options: CreateOptions, images: RestoreOptions,
                 report: Report) -> None:
        if (wanted := bundle.config.get("process")) is not None:
            images.relabel(wanted)
        super().__init__(directory, bundle, options, [], report)
        self.images = images
        self.program = ""
        self.was: list[str] = []
        self.criu: rpc.Criu | None = None
        self.late_join = False

    def _run(self) -> None:
        directory, images = self.container.directory, self.images
        data = self.container.data
        assert data is not None
        directory.write(states.CONFIG, self.bundle.data)
        directory.write_state(data)
        proc = self._keep(open_proc())
        self.namespaces.open()
        if self.options.console_socket:
            self.console_fd = self._keep(console.connect(self.options.console_socket))
        elif self.options.console_fd >= 0:
            self.console_fd = self.options.console_fd
        if images.work_path:
            os.close(make_directory(images.work_path, "--work-path"))
        self._make_cgroup()
        self._make_rdt()
        inherited, fds = self._inherited()
        stdin = 0 if images.shell_job else -1
        with KeptOptions(), rpc.Criu(self.program, fds=fds, stdin=stdin, prepare=self._prepare) as criu:
            self.criu = criu
            self.cgroup.add(criu.pid)
            if self.cgroup.made_by_joining:
                self._own_cgroup()
            if self.rdt is not None:
                self.rdt.add([criu.pid])
            if images.cgroups_mode in ("full", "strict"):
                self._limit()  # before criu puts in what they were: that's what is asked for
            wanted = self._options(criu.pid)
            wanted["inherit_fd"] = inherited
            for name, value in wanted.items():
                self.report("debug", f"criu option {name}: {value}")
            answer = criu.call(rpc.request(rpc.RESTORE, wanted), lambda *what: self._notify(proc, *what))
            status = criu.finish()
            if not answer.number(2) or status:
                failure = rpc.failed("restore the container", images.log_path, RESTORE_LOG, answer)
                if _WITHOUT_SELINUX in failure.message:  # the kernel has it, that has been checked
                    raise PyruncError(f"--lsm-profile {images.lsm_profile}: {self.program} was built without SELinux",
                                      hint=failure.hint)
                raise failure
        handover.write_pid_file(self.options.pid_file, self.pid)

    # What criu is asked for

    def _inherited(self) -> tuple[list[Value], list[int]]:
        """(key, criu's descriptor) of what is handed to criu, and ours: standard streams from outside, namespaces."""
        entries = _streams_from_outside(self.was)
        for join in self.namespaces.joins:
            if join.flag in (k.CLONE_NEWNET, k.CLONE_NEWPID):
                entries[namespace_key(TYPES[join.type][1])] = join.fd
        first = rpc.FIRST_FD + len(self._directories())
        return [((1, key), (2, first + index)) for index, key in enumerate(entries)], list(entries.values())

    def _directories(self) -> list[str]:
        return [path for path in (self.images.image_path, self.images.work_path) if path]

    def _options(self, criu_pid: int) -> dict[str, Value | list[Value]]:
        images = self.images
        wanted = images.to_criu(self.bundle.config, RESTORE_LOG)
        wanted.update({
            "root": self._root(), "evasive_devices": True, "rst_sibling": True, "ext_mnt": self._external_mounts(),
            "join_ns": self._joined(), "cg_root": _cgroup_roots(criu_pid),
        })
        if images.lsm_profile:
            wanted["lsm_profile"] = images.lsm_profile
        if images.lsm_mount_context:
            wanted["lsm_mount_context"] = images.lsm_mount_context
        return wanted

    def _joined(self) -> list[Value]:
        """Namespaces that criu joins by path; those of network and pid are handed to it open."""
        found: list[Value] = []
        for join in self.namespaces.joins:
            if join.flag == k.CLONE_NEWCGROUP:
                raise ConfigError(join.pointer, "criu can't restore into a cgroup namespace that is joined")
            if join.flag not in (k.CLONE_NEWNET, k.CLONE_NEWPID):
                found.append(((1, TYPES[join.type][1]), (2, join.path)))
        return found

    def _external_mounts(self) -> list[Value]:
        """(name in the images, host's path); a target that leads through links goes by both of its names.

        The names in config.json come first: a link must not put a mount in the place of another (CVE-2026-119101).
        """
        given = list(outside(self.mounts, cgroup_binds(self.bundle.config, self.cgroup)))
        found = {node.path: node.path for node in plan_devices(self.bundle.config)}
        found.update(given)
        if (self.bundle.config.get("linux") or {}).get("maskedPaths"):
            found[NULL] = NULL
        rootfs = os.open(self.bundle.rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for target, source in given:
                place = resolve(rootfs, target)
                if not place.startswith(self.bundle.rootfs + "/"):
                    continue
                name = place[len(self.bundle.rootfs):]
                if name != target and found.setdefault(name, source) != source:
                    raise PyruncError(f"{target} leads to {name}, where something else is mounted",
                                      hint="by links in the rootfs; criu would take one for the other")
        finally:
            os.close(rootfs)
        return [((1, check_name(name)), (2, source)) for name, source in found.items()]

    # What is done before and meanwhile

    def _root(self) -> str:
        return f"{self.container.directory.path}/root"

    def _prepare(self) -> list[int]:
        """In the process that becomes criu: a mount namespace as criu needs it, which goes with it.

        criu wants its root to be a mount point, of a mount that nothing covers (criu(8), --root), so it
        is bound below a tmpfs.  That lies on the container's state directory, which criu has no use for.
        """
        place = self.container.directory.path
        try:
            # Without us nobody answers it; what it has restored by then goes with the cgroup.
            k.prctl(k.PR_SET_PDEATHSIG, 9)
            k.unshare(k.CLONE_NEWNS)
            m.mount(None, "/", None, m.MS_SLAVE | m.MS_REC)
            m.mount("tmpfs", place, "tmpfs", 0, "mode=700")
            m.mount(None, place, None, m.MS_PRIVATE)
            scratch = f"{place}/scratch"
            for path in (scratch, self._root()):
                os.mkdir(path)
            self._make_mount_points(self._attach(scratch), scratch)
            m.umount(scratch, m.MNT_DETACH)
            os.close(self._attach(self._root()))
            # Opened here: criu mounts in its working directory.
            directories = [os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in self._directories()]
        except OSError as error:
            raise kernel_error(f"make the root {self.bundle.rootfs} ready", error, pointer="/root/path") from None
        join_keyring(self.container.id)
        return directories

    def _attach(self, target: str) -> int:
        tree = m.open_tree(AT_FDCWD, self.bundle.rootfs, recursive=True)
        place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        m.move_mount(tree, place)
        os.close(place)
        return tree

    def _make_mount_points(self, tree: int, path: str) -> None:
        """What create would make of directories and files to mount on: criu takes them to be there.

        Binds are done for the while, for others may be below.  What is below a file system that criu
        fills itself (a tmpfs) comes from the images.
        """
        proc = open_proc()
        proc_self = os.open("self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
        root = RootFs(tree, path, proc_self, private=True, user_namespace=False, cgroup_namespace=False, cgroup=None,
                      sources={})
        os.umask(0o022)
        filled: list[str] = []
        for step in self.mounts:
            if any(step.unsafe_target.startswith(above) for above in filled):
                continue
            if isinstance(step, BindMount):
                _bind(step, root)
            elif isinstance(step, (FilesystemMount, CgroupMount)):
                procfs = isinstance(step, FilesystemMount) and step.fstype == "proc"
                os.close(root.make_target(step.unsafe_target, directory=True, pointer=step.pointer,
                                          follow=step.fstype not in ("proc", "sysfs"), procfs=procfs))
                filled.append(step.unsafe_target + "/")

    def _notify(self, proc: int, point: str, pid: int, fd: int) -> None:
        self.report("debug", f"criu: {point}" + (f" {pid}" if pid else ""))
        if point == "setup-namespaces":
            self.pid = pid  # our child: rst_sibling
            if self.criu is not None:
                self.criu.watch(pid)
            if self.namespaces.create & k.CLONE_NEWNET:
                _raise_loopback(pid)
            self._move_net_devices(proc)
            self._create_hooks()
        elif point == "orphan-pts-master" and fd >= 0:
            if self.console_fd < 0:
                raise PyruncError("the checkpoint has a terminal, and nobody to give it to",
                                  pointer="/process/terminal", hint="it is false in config.json")
            console.send_descriptor(self.console_fd, fd, "/dev/pts/ptmx")
        elif point == "post-restore":
            restored.check_read_only(pid, self.mounts)
            self._restored(pid)
        elif point == "pre-resume":
            self._check_label(proc)
            self._check_capabilities()

    def _restored(self, pid: int) -> None:
        data = self.container.data
        assert data is not None
        self.pid = pid
        if self.images.cgroups_mode not in ("full", "strict"):
            self._limit()
        self._delegate()
        data.update({"pid": pid, "start_time": process_start(pid), "cgroup": self.cgroup.to_data()})
        self.container.directory.write_state(data, durable=True)

    def _check_label(self, proc: int) -> None:
        """Before it goes on: criu leaves a label out that it knows nothing of, and the process has criu's own then.

        Raises PyruncError when that is not the one in config.json, or of --lsm-profile.
        """
        labels = self.process.labels if self.process is not None else None
        wanted = (labels.apparmor or labels.selinux) if labels is not None else ""
        found = lsm.current(proc, self.pid)
        assert self.criu is not None
        if not wanted or found == wanted or found != lsm.current(proc, self.criu.pid):
            return  # one of its own: it may have changed to that itself
        self._end()
        raise PyruncError(f"criu has restored the container as {found}, not as {wanted}",
                          hint="the checkpoint holds no label: it had none, or criu there knew nothing of labels")

    def _check_capabilities(self) -> None:
        """The same for what they may do.  Raises PyruncError."""
        if self.process is None:
            return
        try:
            restored.check_capabilities(self.pid, self.process.capabilities)
        except PyruncError:
            self._end()
            raise

    def _end(self) -> None:
        """All are stopped by criu still, and none runs a step.

        Criu goes too: the init waits for the end of what criu traces, and criu would for the init's.
        """
        assert self.criu is not None
        for pid in (self.pid, self.criu.pid):
            os.kill(pid, 9)  # our children


def _bind(step: BindMount, root: RootFs) -> None:
    """Where it goes is all that matters, not how; but what is to be read is not to get mount points."""
    options = step.options
    try:
        tree = m.open_tree(AT_FDCWD, step.source, recursive=options.recursive)
        for attributes, recursive in ((options.set, False), (options.recursive_set, True)):
            if attributes & m.MOUNT_ATTR_RDONLY:
                m.mount_setattr(tree, set_=m.MOUNT_ATTR_RDONLY, recursive=recursive)
        target = root.make_target(step.unsafe_target, directory=is_directory(tree), pointer=step.pointer)
        m.move_mount(tree, target)
    except OSError as error:
        raise kernel_error(step.describe(), error, pointer=step.pointer) from None
    os.close(target)
    os.close(tree)


def _cgroup_roots(pid: int) -> list[Value]:
    """(controller, path) of where that process is: criu puts what it restores there (proc_pid_cgroup(5))."""
    found: list[Value] = []
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            found += [((1, controller), (2, path)) for controller in controllers.split(",")]
    return found


def _raise_loopback(pid: int) -> None:
    """Set `lo` up in the network namespace of `pid`, as create does: criu leaves it as a new one has it."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            k.setns(fd, k.CLONE_NEWNET)
            loopback_up()
            status = 0
        finally:
            os._exit(status)
    os.close(fd)
    if os.waitpid(child, 0)[1]:
        raise PyruncError("set the loopback interface up")
