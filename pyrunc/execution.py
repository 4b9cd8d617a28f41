# SPDX-License-Identifier: Apache-2.0
"""exec: another process in a container that is there (runc-exec(8)); the runtime's side.

It joins the container's namespaces as they are, through its init, and the container's cgroup, and
is given up if the container ends meanwhile.  The other side is in entering.py.

    runtime                                  the one that gets ready
    fork, into the cgroup        -------->   joins the namespaces
                                 <- joined -
    limits, OOM score; cgroup,   -- go -->   keyring, terminal, user, capabilities;
    where it isn't in already                it forks                         the process
                                 <- ready -  that one's pid
                                 <- found --------------------------------    looks its program up
    pid file, pidfd              -- commit -------------------------------->
    the listener, to the agent  <- seccomp ---------------------------------
                                 -- taken --------------------------------->  (these two only where
                                                                              a filter notifies one)
    the channel closes, or has why it failed                                  execve
"""

from __future__ import annotations

import errno
import gc
import os
import time

from . import capabilities, console, entering, handover, joining, namespaces, process
from .channel import Unheard, pair
from .doors import Doors, killed_at_birth
from .errors import ContainerError, ContainerNotFound, PyruncError, UsageError, kernel_error, unexplained
from .limits import has_small_memory
from .linux import process as k
from .linux.syscall import clone3
from .options import ExecOptions
from .rootfs import open_proc
from .state import TRACER, process_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any

    from .channel import Channel
    from .entering import EntryPlan
    from .lifecycle import Container
    from .namespaces import Join
    from .seccomp_agent import Agent
    from .spec.types import Config, Process
else:
    import _signal  # what `signal` wraps; that one costs importing enum

# What a process that doesn't say it itself has from config.json's process, as with runc.
_INHERITED = ("capabilities", "apparmorProfile", "selinuxLabel", "scheduler", "ioPriority", "execCPUAffinity",
              "oomScoreAdj")
_DYING = 2.0  # seconds for an init whose pid namespace takes no more processes to be gone


def start(container: Container, wanted: Process, options: ExecOptions | None = None, *,
          reap: Callable[[int], None] | None = None) -> int:
    """Start the process `wanted`, checked as config.json's is, in the container; its pid, a child of the caller.

    The caller runs from a sealed copy and has one thread: Container.exec is for any other.  With `reap`
    the process becomes a child of the caller's parent, who has to reap the pids that are told.
    Returns when it has been executed.  Raises ContainerError when the container is stopped, or paused
    and that isn't to be ignored; PyruncError with the pointer of what failed, and nothing is left then.
    """
    return Execution(container, wanted, options or ExecOptions(), reap).run()


class Execution:
    """One exec on its way."""

    __slots__ = ("agent", "channel", "container", "exposed", "fds", "joins", "options", "pid", "process", "reap",
                 "wrote_pid_file")

    def __init__(self, container: Container, wanted: Process, options: ExecOptions,
                 reap: Callable[[int], None] | None) -> None:
        self.container = container
        self.options = options
        self.reap = reap
        self.pid = 0
        self.fds: list[int] = []
        self.joins: list[Join] = []
        self.exposed = True
        self.agent: Agent | None = None
        self.channel: Channel | None = None
        self.wrote_pid_file = False
        status = container.settled_status()
        if status in ("stopped", "creating"):
            if container.directory.removed():
                raise ContainerNotFound(container.id)
            # runc's words; clients match them.
            raise ContainerError(f"cannot exec in a {status} container")
        if status == "paused" and not options.ignore_paused:
            raise ContainerError("cannot exec in a paused container (use --ignore-paused to override)")
        wanted = complete(container.config, wanted)
        self.process = process.ProcessPlan(container.config, wanted)
        self._warn()
        given = bool(options.console_socket) or options.console_fd >= 0
        if self.process.terminal and not given:
            raise UsageError("cannot allocate tty if runc will detach without setting console socket",
                             hint="give --console-socket, or leave out --tty")
        if given and not self.process.terminal:
            raise UsageError("cannot use console socket if runc will not detach or allocate tty",
                             hint="give --tty as well")

    def _warn(self) -> None:
        """What can't be had, but for what `create` has told already.

        Without --log this goes to stderr, which is the program's: a probe that reads it would get it every time.
        """
        own = self.container.config.get("process")
        told = process.ProcessPlan(self.container.config, own).warnings if own and self.process.warnings else ()
        for warning in self.process.warnings:
            if warning not in told:
                self.container.report("warning", warning)

    def run(self) -> int:
        """All the steps; the pid."""
        was_enabled = gc.isenabled()
        gc.disable()  # neither a __del__ nor a collection's copied pages in the child
        try:
            self._run()
        except OSError as error:
            self._kill()
            raise unexplained(error) from None
        except BaseException:
            self._kill()
            raise
        finally:
            if was_enabled:
                gc.enable()
            for fd in self.fds:
                os.close(fd)
            self.fds.clear()
            if self.channel is not None:
                self.channel.close()
            if self.agent is not None:
                self.agent.close()
        return self.pid

    def _keep(self, fd: int) -> int:
        if fd >= 0:
            self.fds.append(fd)
        return fd

    def _run(self) -> None:
        options = self.options
        keep_fds = handover.preserved(options.preserve_fds)
        proc = self._keep(open_proc())
        pidfd_socket = self._keep(handover.connect_pidfd_socket(options.pidfd_socket))
        console_fd = options.console_fd
        if options.console_socket:
            console_fd = self._keep(console.connect(options.console_socket))
        agent = self._connect_agent()
        joins = self._namespaces(proc)
        root = self._root(proc)
        self.exposed = self._is_exposed()
        self.channel, theirs = pair()
        self.channel.ask_for_senders()
        self.channel.watched = options.watched
        doors = Doors(self.container.cgroup if self._may_join_early() else None)
        plan = entering.EntryPlan(self.container, self.process, joins, theirs, proc, root, console_fd,
                                  keep_fds, doors.tasks, exposed=self.exposed)
        try:
            joined = self._fork(plan, doors)
            joined += self.channel.receive_from(self.pid)["paths"]
        except EOFError:
            raise self._death() from None
        except PyruncError as error:
            raise self._gone() or error from None
        finally:
            theirs.close()
            doors.close()
        channel = self.channel
        try:
            affinity = self.process.config.get("execCPUAffinity") or {}
            self.process.apply_from_parent(self.pid, proc, free_cpus=not any(affinity.values()))
            if any(join.flag == k.CLONE_NEWUSER for join in self.joins):
                from . import streams

                streams.give(self.pid, proc, self.process.uid)
            self._join_cgroup(joined)
            channel.send("go")
            self._await_process()
            self._join_rdt()
            self.container.report("debug", f"the process is {self.pid}")
            if self.process.scheduling.scheduler_is_lost:
                self.process.scheduling.apply_scheduler(self.pid)
            handover.write_pid_file(options.pid_file, self.pid)
            self.wrote_pid_file = bool(options.pid_file)
            handover.send_pidfd(pidfd_socket, self.pid, "setns")
            channel.send("commit")
        except (EOFError, BrokenPipeError):
            raise self._death() from None
        try:
            if agent is not None:
                agent.serve(channel, self.pid, self.container.hook_state("running", self.container.pid))
            channel.expect("error")
        except Unheard:
            raise self._death() from None
        except EOFError:
            pass  # execve closed it

    def _may_join_early(self) -> bool:
        """Whether the process may be in the container's cgroup before it has joined the namespaces."""
        affinity = self.process.config.get("execCPUAffinity") or {}
        return not (self.options.sub_cgroups or affinity.get("initial") or has_small_memory(self.container.config))

    def _fork(self, plan: EntryPlan, doors: Doors) -> list[str]:
        """Fork the one that gets ready; the cgroup's directories that it was born in."""
        # Nobody is born where a limit of processes is reached, or controllers are passed on; moving in goes still.
        for fd in (doors.fd, -1) if doors.fd >= 0 else (-1,):
            try:
                self.pid = namespaces.fork_sibling(cgroup_fd=fd) if self.reap is not None else clone3(0, cgroup_fd=fd)
            except OSError as error:
                if fd < 0:
                    raise kernel_error("fork", error) from None
                continue
            if self.pid == 0:
                entering.main(plan)
            if fd < 0 or not killed_at_birth(self.pid, plan.proc):
                break
            self._wait()
        plan.channel.close()
        return [doors.path] if fd >= 0 else []

    def _await_process(self) -> None:
        """Until there is the process that is to be executed, forked by the one that has got ready for it."""
        assert self.channel is not None
        try:
            message = self.channel.receive_from(self.pid)
            aside = message["kind"] == "crowded"
            if aside:
                self._step_aside()
                self.channel.send("go")
                message = self.channel.receive_from(self.pid)
        except PyruncError as error:
            # fork(2): ENOMEM is the answer of a pid namespace whose init has begun to die.
            raise self._gone(_DYING if error.errno == errno.ENOMEM else 0) or error from None
        forked = int(message["pid"])
        self._wait()
        self.pid = forked
        if aside:
            self._join_cgroup()
        self.channel.expect("found")

    def _step_aside(self) -> None:
        """Have the one that is to fork out of a cgroup whose limit of processes is reached.

        The limit is on forks: the process itself is moved in, as ever.  Until then it isn't held by
        whatever else is set there, so where it could be traced (`exposed`) it has to be content.
        """
        cgroup = self.container.cgroup
        if cgroup is None or not joining.leave(cgroup, self.pid, whole=not self.exposed):
            raise ContainerError("fork", syscall="clone3", errno=errno.EAGAIN,
                                 hint="the limit of processes in the container's cgroup is reached")

    def _connect_agent(self) -> Agent | None:
        filter_ = self.process.prepare_filter(self.container.report)
        if filter_ is None or not filter_.listens:
            return None
        from .seccomp_agent import Agent

        self.agent = Agent(filter_)
        return self.agent

    def _is_exposed(self) -> bool:
        """Whether the container's processes may trace one of ours that they see (ptrace(2)); noted for later ones."""
        if any(join.flag == k.CLONE_NEWUSER for join in self.joins):
            return False
        own: Any = self.container.config.get("process") or {}
        sets = own.get("capabilities") or {}
        if any("CAP_SYS_PTRACE" in (names or ()) for names in sets.values()):
            return True
        directory = self.container.directory
        if self.process.capabilities.bounding & capabilities.SYS_PTRACE:
            directory.mark(TRACER)
            return True
        return directory.has(TRACER)

    def _namespaces(self, proc: int) -> list[Join]:
        """Those of the init that aren't ours, open.  Raises ContainerError when the init is gone."""
        container = self.container
        joins = self.joins
        try:
            init = self._keep(os.open(str(container.pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc))
            for kind, (_, name) in namespaces.TYPES.items():
                path = f"ns/{name}"
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=init)
                except FileNotFoundError:
                    if process_start(container.pid):
                        continue  # a kernel without namespaces of this kind
                    raise
                self._keep(fd)
                if os.stat(fd).st_ino != os.stat(f"self/{path}", dir_fd=proc).st_ino:
                    join = namespaces.Join(kind, f"/proc/{container.pid}/{path}", "")
                    join.fd = fd
                    joins.append(join)
        except (FileNotFoundError, ProcessLookupError):
            raise ContainerError("cannot exec in a stopped container") from None
        except OSError as error:
            raise kernel_error("open the namespaces of the container", error,
                               hint="only who may trace its init can enter a container (ptrace(2))") from None
        # The number was still the init's when the last of them was opened, so all of them are its.
        if not container.alive():
            raise ContainerError("cannot exec in a stopped container")
        return joins

    def _root(self, proc: int) -> int:
        """The root of a container whose mount namespace isn't its own; -1 where that namespace's root is it."""
        entries = (self.container.config.get("linux") or {}).get("namespaces") or ()
        if any(entry["type"] == "mount" and not entry.get("path") for entry in entries):
            return -1
        try:
            root = self._keep(os.open(f"{self.container.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC,
                                      dir_fd=proc))
        except OSError as error:
            raise self._gone() or kernel_error("open the root of the container", error) from None
        if gone := self._gone():  # then it is the root of whoever has the number now, the host's perhaps
            raise gone
        return root

    def _join_cgroup(self, but: list[str] | None = None) -> None:
        cgroup = self.container.cgroup
        below = self.options.sub_cgroups
        if cgroup is None:
            if below:
                raise UsageError("--cgroup: the container has no cgroup")
            return
        try:
            joining.join(cgroup, self.pid, self.container.pid, below, but or ())
        except PyruncError as error:
            raise self._gone() or error from None
        for warning in cgroup.warnings:
            self.container.report("debug", warning)

    def _join_rdt(self) -> None:
        data = (self.container.data or {}).get("rdt")
        if data and os.path.isdir(data["group"]):  # who has it removed is content with less
            from .rdt import Rdt

            Rdt.from_data(data).add([self.pid])

    def _gone(self, patience: float = 0.0) -> ContainerError | None:
        """That the container has ended, or does within `patience`, if so: the cause of whatever else went wrong."""
        deadline = time.monotonic() + patience
        while self.container.alive():
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.005)
        return ContainerError("cannot exec in a stopped container")

    def _death(self) -> PyruncError:
        """Why the process is gone before it was executed."""
        said = self.channel.last_words() if self.channel is not None else None
        status = self._wait()
        if said is not None:
            return self._gone() or said
        # Who dies with its pid namespace may be dead before the init is.
        cgroup = self.container.cgroup
        starved = cgroup is not None and cgroup.oom_kills() > 0
        if gone := self._gone(_DYING if status == -9 and not starved else 0):
            return gone
        if status < 0:
            hint = "out of memory?" if starved else ""
            if status == -_signal.SIGSYS:
                hint = "SIGSYS: the container's seccomp profile forbids what it has to do"
            return ContainerError(f"the process was killed by signal {-status} before it was executed", hint=hint)
        return ContainerError(f"the process exited with status {status} before it was executed")

    def _wait(self) -> int:
        """Until the process is gone; its exit code, 0 where it isn't ours to know."""
        pid, self.pid = self.pid, 0
        if self.reap is not None:
            self.reap(pid)
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _kill(self) -> None:
        """Leave nothing: not the process, nor the file with its pid."""
        try:
            if self.pid:
                os.kill(self.pid, 9)  # not waited for yet: the pid is its own
                if self.container.status() != "paused":  # on v1 it dies only when it is resumed
                    self._wait()
        except OSError:
            pass  # it was quicker
        if self.wrote_pid_file:
            handover.remove(self.options.pid_file)


def complete(config: Config, wanted: Process) -> Process:
    """`wanted` with what it leaves out and a process has from the container's own, as with runc."""
    own: Any = config.get("process") or {}
    result: Any = dict(wanted)
    for member in _INHERITED:
        if result.get(member) in (None, "") and own.get(member) is not None:
            result[member] = own[member]
    umask = (own.get("user") or {}).get("umask")
    if umask is not None and "umask" not in (result.get("user") or {}):
        result["user"] = {**(result.get("user") or {}), "umask": umask}
    completed: Process = result
    return completed


def merge(config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """config.json's process with what an exec without a process of its own changes of it.

    `changes`: args, cwd, env (added), user, additionalGids (added), capabilities (names, added), and
    members that take the place of what is there.  No terminal unless asked for, as with runc.
    """
    merged: dict[str, Any] = {**(config.get("process") or {"cwd": "/"}), "terminal": False}
    changes = dict(changes)
    merged["env"] = [*(merged.get("env") or ()), *changes.pop("env", ())]
    user = dict(merged.get("user") or {})
    user.update(changes.pop("user", {}))
    if extra := changes.pop("additionalGids", None):
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *extra]
    merged["user"] = user
    if names := changes.pop("capabilities", None):
        sets = dict(merged.get("capabilities") or {})
        for kind in ("bounding", "effective", "permitted"):
            sets[kind] = [*(sets.get(kind) or ()), *names]
        if sets.get("inheritable"):  # ambient capabilities have to be inheritable
            sets["ambient"] = [*(sets.get("ambient") or ()), *names]
        merged["capabilities"] = sets
    merged.update(changes)
    return merged
