# SPDX-License-Identifier: Apache-2.0
"""The container side: from the fork to execve.  The trusted part: keep it small.

It may import only what stands here.  After the root is entered nothing is imported, opened or
dlopened by path, but the program itself: every module this needs was imported by the parent before
the fork.  It talks to the parent over a channel, and leaves by execve or _exit.

    parent                                    init
                                <- joined --  v1 cgroups, itself (only where there are such)
    id maps, limits, cgroup     -- go -->     namespaces' content, mounts, devices
    prestart, createRuntime     <- mounted -  (these two lines only where there are such hooks)
                                -- go -->
                                              createContainer, pivot_root, masks, privileges
    the listener, to the agent  <- seccomp -
                                -- taken ->   (these two lines only where a filter notifies one)
                                <- ready --
    memory limit, if tight      -- limited ->
    state.json                  <- settled -  (these two lines only then)
                                -- commit ->  waits on exec.fifo; startContainer; execve
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from _socket import AF_INET, SOCK_DGRAM, socket
from _struct import pack

from . import cgroupfs, console, devices, rootfs
from .errors import PyruncError, attempt, kernel_error, reference_token, unexplained
from .hooks import hooks_of, run_hooks
from .linux import process as k
from .namespaces import take_over
from .process import join_keyring
from .rootfs import RootFs
from .spec.load import dump
from .spec.sysctl import sysctl_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any, NoReturn

    from .cgroup import Cgroup
    from .channel import Channel
    from .devices import DeviceNode
    from .mounts import MountStep
    from .namespaces import NamespacePlan
    from .process import ProcessPlan
    from .spec.types import Config
else:
    import _signal  # what `signal` wraps; that one costs importing enum

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_FIFO_PAUSE = 0.00005  # seconds; `start` unlinks right after it has opened
_STOP_SIGNALS = (1, 2, 3, 6, 10, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30)


class InitPlan:
    """Everything the init needs, made by the parent before the fork."""

    __slots__ = ("cgroup", "channel", "config", "console_fd", "devices", "fifo_fd", "id", "joins_late",
                 "keep_fds", "keyring", "mounts", "namespaces", "pivot", "proc", "process", "rootfs", "sources",
                 "state", "tasks", "umask")

    def __init__(self, *, config: Config, rootfs_path: str, container_id: str, channel: Channel,
                 namespaces: NamespacePlan, mounts: list[MountStep], device_nodes: list[DeviceNode],
                 process: ProcessPlan | None, cgroup: Cgroup | None, sources: dict[int, int], proc: int,
                 fifo_fd: int, console_fd: int, keep_fds: list[int], pivot: bool, keyring: bool,
                 state: dict[str, Any], joins_late: bool = False) -> None:
        self.config = config
        self.rootfs = rootfs_path
        self.id = container_id
        self.channel = channel
        self.namespaces = namespaces
        self.mounts = mounts
        self.devices = device_nodes
        self.process = process
        self.cgroup = cgroup
        self.joins_late = joins_late  # the cgroup, so its memory limit is tight
        self.tasks: dict[str, int] = {}  # of the cgroup, to be joined at once: Doors.tasks
        self.sources = sources
        self.proc = proc
        self.fifo_fd = fifo_fd
        self.console_fd = console_fd
        self.keep_fds = keep_fds
        self.pivot = pivot
        self.keyring = keyring
        self.state = state
        self.umask = 0  # the caller's: _build

    def has_create_hooks(self) -> bool:
        """Whether hooks run between the mounts and pivot_root, which both sides wait for."""
        return any(hooks_of(self.config, kind) for kind in ("prestart", "createRuntime", "createContainer"))

    def own_fds(self) -> list[int]:
        """The descriptors the init lives on, until execve closes them."""
        fds = [self.channel.fd, self.proc, self.fifo_fd, self.console_fd, *self.sources.values()]
        fds += [join.fd for join in self.namespaces.joins]
        return [fd for fd in fds if fd >= 0]


def main(plan: InitPlan) -> NoReturn:
    """Become the container.  Every failure goes to whoever waits: `create`, later `start`."""
    fifo = -1
    try:
        _detach(plan)
        root = _build(plan)
        program = _enter(plan, root)
        plan.channel.send("ready")
        if plan.joins_late:
            plan.channel.expect("limited")
            plan.channel.send("settled")  # and not killed for it
        plan.channel.expect("commit")
        plan.channel.close()
        fifo = _wait_for_start(plan, root)
        _run(plan, program, fifo)
    except EOFError:
        pass  # the parent is gone: nobody wants this container any more
    except PyruncError as error:
        _report(plan, fifo, error)
    except OSError as error:
        _report(plan, fifo, unexplained(error, "container init"))
    except BaseException as error:  # no traceback: it would read files below the container's root
        _report(plan, fifo, PyruncError(f"container init: {type(error).__name__}: {error}"))
    finally:
        os._exit(1)


def _report(plan: InitPlan, fifo: int, error: PyruncError) -> None:
    try:
        if fifo >= 0:
            os.write(fifo, dump(error.to_data()).encode("utf-8", "surrogatepass"))
        else:
            plan.channel.send_error(error)
    except OSError:
        pass  # nobody listens


def _detach(plan: InitPlan) -> None:
    """Leave the caller's session, close what it left open, wait until the parent has placed us."""
    namespaces = plan.namespaces
    k.forget_arguments(plan.proc)
    _signal.set_wakeup_fd(-1)  # `run` has one, which we are about to close
    if plan.tasks:
        plan.channel.send("joined", paths=cgroupfs.enter(plan.tasks))
    if not namespaces.create & k.CLONE_NEWUSER:
        # With a user namespace /proc/PID/uid_map must belong to its maker until it is written.
        k.prctl(k.PR_SET_DUMPABLE, 0)
    k.close_all_but({0, 1, 2, *plan.keep_fds, *plan.own_fds()})
    try:
        os.setsid()
    except PermissionError:
        pass  # a session leader already (a pid namespace's first process can be)
    cgroup_ns = -1
    if plan.joins_late and namespaces.create & k.CLONE_NEWCGROUP:
        cgroup_ns = plan.channel.receive_descriptor()  # made for us, since we aren't in the cgroup yet
    plan.channel.expect("go")
    if namespaces.create & k.CLONE_NEWUSER:
        take_over(namespaces)
        k.prctl(k.PR_SET_DUMPABLE, 0)
    if plan.keyring:
        _join_keyring(plan)
    # Only now: the namespace is rooted in the cgroup we stand in.
    if cgroup_ns >= 0:
        k.setns(cgroup_ns, k.CLONE_NEWCGROUP)
        os.close(cgroup_ns)
    elif namespaces.create & k.CLONE_NEWCGROUP:
        k.unshare(k.CLONE_NEWCGROUP)


def _join_keyring(plan: InitPlan) -> None:
    if plan.process is None:
        join_keyring(plan.id)
    else:
        plan.process.join_keyring(plan.id, plan.proc)


def _build(plan: InitPlan) -> RootFs:
    """Fill the namespaces: network, names, the tree of mounts, devices."""
    config, namespaces = plan.config, plan.namespaces
    plan.umask = os.umask(0)  # modes below are what they say
    if namespaces.create & k.CLONE_NEWNET:
        attempt("/linux/namespaces", "set the loopback device up", loopback_up)
    if config.get("hostname"):
        attempt("/hostname", "set the hostname", lambda: k.sethostname(config.get("hostname") or ""))
    if config.get("domainname"):
        attempt("/domainname", "set the domainname", lambda: k.setdomainname(config.get("domainname") or ""))
    proc_self = os.open("self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=plan.proc)
    root = RootFs(
        rootfs.open_root(plan.rootfs) if _mounts_nothing(plan) else
        rootfs.attach(plan.rootfs, namespaces.create, config),
        plan.rootfs,
        proc_self,
        private=bool(namespaces.create & k.CLONE_NEWNS),
        user_namespace=namespaces.has(k.CLONE_NEWUSER),
        cgroup_namespace=namespaces.has(k.CLONE_NEWCGROUP),
        cgroup=plan.cgroup,
        sources=plan.sources,
        mount_label=(config.get("linux") or {}).get("mountLabel") or "",
    )
    for step in plan.mounts:
        step.apply(root)
    for node in plan.devices:
        node.apply(root)
    if plan.devices:
        devices.make_links(root)
    if plan.has_create_hooks():
        plan.channel.send("mounted")
        plan.channel.expect("go")
    return root


def _mounts_nothing(plan: InitPlan) -> bool:
    """Whether the root can stay as it is in a mount namespace that was joined: what is mounted in there stays there.

    Nobody could take it away later but by entering that namespace again.
    """
    linux = plan.config.get("linux") or {}
    mounting = (plan.mounts, plan.config["root"].get("readonly"), linux.get("rootfsPropagation"),
                linux.get("maskedPaths"), linux.get("readonlyPaths"), plan.console_fd >= 0,
                plan.namespaces.has(k.CLONE_NEWUSER))  # where devices are bound
    return plan.namespaces.joins_a(k.CLONE_NEWNS) and not any(mounting)


def loopback_up() -> None:
    """Set `lo` up in a new network namespace, as runc does (netdevice(7), SIOCSIFFLAGS)."""
    query = socket(AF_INET, SOCK_DGRAM)
    try:
        fcntl.ioctl(query.fileno(), _SIOCSIFFLAGS, pack("=16sH22x", b"lo", _IFF_UP))
    finally:
        query.close()


def _create_hooks(plan: InitPlan) -> None:
    """The createContainer hooks; what they make on the host is made as their caller's other programs would."""
    hooks = hooks_of(plan.config, "createContainer")
    if hooks:
        os.umask(plan.umask)
        run_hooks("createContainer", hooks, _state(plan, "creating"), pointer="/hooks/createContainer", cwd=plan.rootfs)
        os.umask(0)


def _state(plan: InitPlan, status: str) -> dict[str, object]:
    # In the container the pid is the one seen there (runtime.md, State).
    return {**plan.state, "status": status, "pid": os.getpid()}


def _enter(plan: InitPlan, root: RootFs) -> str:
    """Enter the root; do everything that can fail now; drop the privileges.  The program's path."""
    linux = plan.config.get("linux") or {}
    process = plan.process
    _create_hooks(plan)
    if process is not None and process.terminal:
        size = process.config.get("consoleSize")
        console.set_up(root, plan.console_fd, (size["height"], size["width"]) if size else None, process.uid)
        os.close(plan.console_fd)  # not at `start` only: who has the terminal may read until the end
        plan.console_fd = -1
        console.take_control()
    elif process is not None and plan.devices:  # not in a /dev bound from outside, which is left alone
        devices.own_null(root)
    if not root.private:
        rootfs.change_root(root)
    elif plan.pivot:
        rootfs.pivot(root)
    else:
        rootfs.move_root(root)
    if process is not None:
        process.make_cwd(root.fd)
        process.prepare(root.fd, root.proc_self)
    rootfs.finish_mounts(root, plan.config)
    _sysctls(plan.proc, linux.get("sysctl") or {})
    rootfs.readonly_paths(root, list(linux.get("readonlyPaths") or ()))
    rootfs.mask_paths(root, list(linux.get("maskedPaths") or ()))
    rootfs.set_propagation(root, plan.config)
    os.close(root.fd)
    if process is None:
        return ""
    process.scheduling.apply_scheduler()
    process.scheduling.apply()
    process.drop_privileges()
    # Entering other credentials makes a process dumpable or not by its own rules: decide again.
    k.prctl(k.PR_SET_DUMPABLE, 0)
    program = process.find_program()
    if process.seccomp is not None and process.seccomp.listens:
        # Here, while there is a parent to hand the listener on; as late as that allows.
        process.confine_for_agent(plan.channel)
    return program


def _sysctls(proc: int, sysctl: dict[str, str]) -> None:
    """Write linux.sysctl below the host's procfs, which shows the values of the namespaces we are in."""
    for name, value in sysctl.items():
        pointer = "/linux/sysctl/" + reference_token(name)
        path = "sys/" + sysctl_path(name)
        try:
            fd = rootfs.openat2_proc(proc, path, os.O_WRONLY)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise kernel_error(f'sysctl {name}="{value}"', error, pointer=pointer) from None


def _wait_for_start(plan: InitPlan, root: RootFs) -> int:
    """Block until `start` opens the fifo and has taken it away; the fifo's descriptor.

    A signal that ends a process ends this one, although the kernel spares the first process of a pid
    namespace signals without a handler.
    """
    for number in _STOP_SIGNALS:
        _signal.signal(number, _stop)
    fifo = os.open(f"fd/{plan.fifo_fd}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=root.proc_self)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    # `start` unlinks the fifo and then knows that nobody will find the container `created` again.
    # Should it die before that, we have not started either.
    poller = select.poll()
    poller.register(fifo, 0)
    pause = _FIFO_PAUSE
    while os.fstat(fifo).st_nlink:
        if poller.poll(0):  # POLLERR: no reader is left
            os._exit(1)
        time.sleep(pause)
        pause = min(pause * 2, 0.01)
    return fifo


def _stop(number: int, _frame: object) -> NoReturn:
    os._exit(128 + number)


def _run(plan: InitPlan, program: str, fifo: int) -> None:
    """The startContainer hooks, then the program.

    No descriptor of ours is open then that a path could lead through (CVE-2024-21626): the fifo's takes the error.
    """
    process = plan.process
    if process is None:
        raise PyruncError("the container has no process to start", pointer="/process")
    confined = process.seccomp is None or process.seccomp.listens
    hooks = hooks_of(plan.config, "startContainer")
    if hooks:
        if not confined:  # their programs are the image's: the filter is for them as well
            process.confine()
            confined = True
        # Where and as the program will be: in its working directory, which has been entered, with its environment.
        run_hooks("startContainer", hooks, _state(plan, "created"), pointer="/hooks/startContainer",
                  env_default=[f"{name}={value}" for name, value in process.env.items()])
    k.close_all_but({0, 1, 2, fifo, *plan.keep_fds})
    for fd in plan.keep_fds:
        os.set_inheritable(fd, True)
    k.reset_signals()
    process.apply_limits()
    if not confined:
        process.confine()
    process.execute(program)
