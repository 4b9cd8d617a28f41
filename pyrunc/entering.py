# SPDX-License-Identifier: Apache-2.0
"""exec, the side that enters the container: from the fork to execve, and nothing else.

One process joins the container's namespaces and does all that takes privileges or descriptors of the
host's.  It is in none of the container's pid namespaces, so nobody in there can name it, trace it or look
into it, whatever capabilities they have.  At the end it forks into the pid namespace: what the container
gets to see has nothing but what its program is to have (CVE-2016-9962), and waits for the runtime's word.

What it may import, and when, is as in init.py: all before the fork.
"""

from __future__ import annotations

import errno
import os

from . import cgroupfs, console, namespaces
from .errors import PyruncError, kernel_error, unexplained
from .linux import process as k
from .rootfs import RootFs, change_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn

    from .channel import Channel
    from .lifecycle import Container
    from .namespaces import Join
    from .process import ProcessPlan
else:
    import _signal  # what `signal` wraps; that one costs importing enum

_EARLY = "into a container that has CAP_SYS_PTRACE the filter is loaded earlier; noNewPrivileges spares that"


class EntryPlan:
    """Everything this side needs, made by the runtime before the fork.

    `exposed`: whether the container's processes could trace the one that becomes the program.  `tasks` of the cgroup
    are to be joined at once: Doors.tasks.
    """

    __slots__ = ("channel", "console_fd", "exposed", "id", "joins", "keep_fds", "keyring", "proc", "process", "root",
                 "tasks")

    def __init__(self, container: Container, process: ProcessPlan, joins: list[Join], channel: Channel, proc: int,
                 root: int, console_fd: int, keep_fds: list[int], tasks: dict[str, int], *, exposed: bool) -> None:
        self.id = container.id
        self.keyring = (container.data or {}).get("keyring", True)
        self.process = process
        self.joins = joins
        self.channel = channel
        self.proc = proc
        self.root = root  # where it isn't the root of the mount namespace, else -1
        self.console_fd = console_fd
        self.keep_fds = keep_fds
        self.tasks = tasks
        self.exposed = exposed

    @property
    def confined_early(self) -> bool:
        """Whether the filter has to be loaded before the fork: who is seen must not have what loading it takes.

        Not one that leaves calls to an agent, who is told the pid of the process that is under it.
        """
        filter_ = self.process.seccomp
        return self.exposed and filter_ is not None and not filter_.listens and self.process.has_more_until_execve

    def own_fds(self) -> list[int]:
        """The descriptors that are lived on, until execve closes them."""
        fds = (self.channel.fd, self.proc, self.root, self.console_fd, *(join.fd for join in self.joins))
        return [fd for fd in fds if fd >= 0]


def main(plan: EntryPlan) -> NoReturn:
    """Enter the container and become the program.  Every failure goes to the runtime."""
    channel = plan.channel
    try:
        _get_ready(plan)
        _fork(plan)
        os._exit(0)
    except EOFError:
        pass  # the runtime is gone
    except PyruncError as error:
        _report(channel, error)
    except OSError as error:
        _report(channel, unexplained(error, "getting ready"))
    except BaseException as error:  # no traceback: it would read files below the container's root
        _report(channel, PyruncError(f"exec: {type(error).__name__}: {error}"))
    finally:
        os._exit(255)


def _report(channel: Channel, error: PyruncError) -> None:
    try:
        channel.send_error(error)
    except OSError:
        pass  # nobody listens


def _get_ready(plan: EntryPlan) -> None:
    """All that takes more than the program is to have."""
    wanted = plan.process
    channel = plan.channel
    k.forget_arguments(plan.proc)  # there may be secrets among them: exec --env
    _signal.set_wakeup_fd(-1)  # a caller in the foreground has one
    joined = cgroupfs.enter(plan.tasks)
    k.close_all_but({0, 1, 2, *plan.keep_fds, *plan.own_fds()})
    _lead_session()
    namespaces.enter(plan.joins, keep_groups=wanted.keep_groups)
    channel.send("joined", paths=joined)
    wanted.scheduling.bind_to_cpus("initial")
    channel.expect("go")
    wanted.scheduling.bind_to_cpus("final")
    if plan.keyring:
        wanted.join_keyring(plan.id, plan.proc)
    root = _root(plan)
    if wanted.terminal:
        size = wanted.config.get("consoleSize")
        console.set_up(root, plan.console_fd, (size["height"], size["width"]) if size else None, wanted.uid, bind=False)
    wanted.prepare(root.fd, root.proc_self)
    # From here on no descriptor of the host's is open that a path could lead through (CVE-2024-21626).
    k.close_all_but({0, 1, 2, channel.fd, *plan.keep_fds})
    if not wanted.scheduling.scheduler_is_lost:
        wanted.scheduling.apply_scheduler()
    wanted.scheduling.apply()
    wanted.become_user()
    k.prctl(k.PR_SET_DUMPABLE, 0)


def _fork(plan: EntryPlan) -> None:
    """Fork the process that becomes the program, a sibling, and tell the runtime its pid."""
    channel = plan.channel
    alive, told = os.pipe2(os.O_CLOEXEC)
    if plan.confined_early:
        plan.process.confine_early()
    pid = _fork_into_the_container(plan)
    if pid == 0:
        os.close(told)
        # Nobody but us can tell the runtime of it: without that it would wait for a word that never comes.
        if os.read(alive, 1):
            os.close(alive)
            _become(plan)
        raise EOFError
    channel.send("ready", pid=pid)
    os.write(told, b"!")


def _fork_into_the_container(plan: EntryPlan) -> int:
    try:
        return namespaces.fork_sibling()
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise kernel_error("fork", error, hint=_EARLY if plan.confined_early else "") from None
    # Of the limits that answer so it may be the one of the container's cgroup, which the runtime can get us out of.
    plan.channel.send("crowded")
    plan.channel.expect("go")
    try:
        return namespaces.fork_sibling()
    except OSError as error:
        raise kernel_error("fork", error, hint="a limit on the number of processes is reached") from None


def _become(plan: EntryPlan) -> None:
    """In the container's pid namespace: execute the program, at the runtime's word."""
    wanted = plan.process
    _lead_session()
    if wanted.terminal:
        console.take_control()
    wanted.enter_cwd()  # by now there is a /proc/self, too, which it or the program may lead through
    program = wanted.find_program()
    plan.channel.send("found")
    plan.channel.expect("commit")
    for fd in plan.keep_fds:
        os.set_inheritable(fd, True)
    k.reset_signals()
    wanted.apply_limits()
    if wanted.seccomp is not None and wanted.seccomp.listens:
        wanted.confine_for_agent(plan.channel)
    elif not plan.confined_early:
        wanted.confine()
    wanted.execute(program)


def _lead_session() -> None:
    try:
        os.setsid()
    except PermissionError:
        pass  # it does already


def _root(plan: EntryPlan) -> RootFs:
    """The container's root, which joining its mount namespace has made ours where that is its own."""
    proc_self = os.open("self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=plan.proc)
    fd = plan.root if plan.root >= 0 else os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    root = RootFs(fd, "/", proc_self, private=plan.root < 0, user_namespace=False, cgroup_namespace=False,
                  cgroup=None, sources={})
    if not root.private:
        change_root(root)
    return root
