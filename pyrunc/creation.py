# SPDX-License-Identifier: Apache-2.0
"""The create operation, step by step (runtime.md, Lifecycle, 1 to 5); init.py is the other half.

What each step made is undone in reverse when a later one fails.
"""

from __future__ import annotations

import gc
import os
import time

from . import bundle as bundles
from . import cgroup as cgroups
from . import devices, handover, init, mounts, namespaces, process
from ._version import OCI_VERSION
from .channel import Channel, pair
from .doors import Doors
from .errors import ContainerError, HookError, KernelError, PyruncError, UsageError, kernel_error, unexplained
from .hooks import hooks_of, run_hooks
from .lifecycle import Container, count_mounts
from .limits import has_small_memory
from .linux import process as k
from .options import CreateOptions
from .rootfs import open_proc
from .state import CONFIG, START, StateDir, process_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from .bundle import Bundle
    from .cgroup import Cgroup
    from .lifecycle import Report
    from .netdevices import NetDevices
    from .placeholder import Placeholder
    from .rdt import Rdt
    from .seccomp_agent import Agent
else:
    import _signal  # what `signal` wraps; that one costs importing enum


def create(bundle_path: str, container_id: str, root: str, options: CreateOptions | None,
           report: Report) -> Container:
    """Container.create."""
    options = options or CreateOptions()
    if len(os.listdir("/proc/self/task")) > 1:
        from .delegate import create_elsewhere

        return create_elsewhere(bundle_path, container_id, root, options, report)
    keep_fds = handover.preserved(options.preserve_fds, options.listen_fds)
    directory = StateDir.claim(root, container_id)
    try:
        bundle = bundles.load(bundle_path)
        creation = Creation(directory, bundle, options, keep_fds, report)
    except BaseException:
        directory.remove()
        raise
    return creation.run()


class Creation:
    """One create on its way: what has been made so far, to be undone if the rest fails."""

    __slots__ = ("agent", "alone", "born_in", "bundle", "cgroup", "channel", "console_fd", "container", "fds",
                 "filter", "hooks_ran", "init_joins", "keep_fds", "late_join", "mounts", "namespaces", "net_devices",
                 "options", "pid", "pidfd_socket", "placeholder", "process", "rdt", "report", "wrote_pid_file")

    def __init__(self, directory: StateDir, bundle: Bundle, options: CreateOptions, keep_fds: list[int],
                 report: Report) -> None:
        config = bundle.config
        self.bundle = bundle
        self.options = options
        self.keep_fds = keep_fds
        self.report = report
        self.pid = 0
        self.hooks_ran = self.wrote_pid_file = self.alone = False
        self.born_in: list[str] = []  # directories of the cgroup that the init needn't join
        self.init_joins = False
        self.fds: list[int] = []
        self.console_fd = self.pidfd_socket = -1
        self.channel: Channel | None = None
        self.net_devices: NetDevices | None = None
        self.placeholder: Placeholder | None = None
        self.rdt: Rdt | None = None
        self._serve(directory)
        self.namespaces = namespaces.plan(config)
        self.mounts = mounts.plan(config, bundle.path)
        for warning in filter(None, (step.warning() for step in self.mounts)):
            report("warning", warning)
        self.process = process.plan(config)
        if self.process is not None:
            self.process.listens = options.listen_fds > 0
        for warning in self.process.warnings if self.process else ():
            report("warning", warning)
        self._check_terminal()
        self.filter = self.process.prepare_filter(report) if self.process else None
        self.agent: Agent | None = None
        if getattr(report, "debugging", False):
            from . import explain

            for pointer, text in explain.steps(bundle, directory.id):
                report("debug", explain.line(pointer, text))
        self.cgroup = self._plan_cgroup(directory.id)
        self.late_join = self._joins_late()
        now = time.time_ns()
        self.container = Container(directory, {
            START: "",  # first: the launcher doesn't look further
            "ociVersion": OCI_VERSION,
            "id": directory.id,
            "bundle": bundle.path,
            "rootfs": bundle.rootfs,
            "annotations": config.get("annotations") or {},
            "created": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09d}Z",
            "owner": str(os.geteuid()),
            "pid": 0,
            "start_time": 0,
            "creator": {"pid": os.getpid(), "start_time": process_start(os.getpid())},
            "cgroup": self.cgroup.to_data(),
            "pid_namespace": self.namespaces.has(k.CLONE_NEWPID) and not self.namespaces.joins_a(k.CLONE_NEWPID),
            "stdio": handover.standard_streams(),
            **({} if self.namespaces.has(k.CLONE_NEWNS) else
               {"host_mounts": True, "mounted_before": count_mounts(bundle.rootfs)}),
            "keyring": options.keyring,
        }, report)

    def _serve(self, directory: StateDir) -> None:
        """What a service manager gives its services, for the container: a notify socket, sockets to listen on."""
        options, process = self.options, self.bundle.config.get("process")
        if options.notify_socket:
            from .notify import prepare

            prepare(directory, self.bundle.config)
        if options.listen_fds and process is not None:
            names = [f"LISTEN_FDNAMES={options.listen_names}"] if options.listen_names else []
            # The pid is put right by the process itself, who knows which it is in its namespace.
            process["env"] = [*(process.get("env") or ()), f"LISTEN_FDS={options.listen_fds}", "LISTEN_PID=1", *names]

    def _plan_cgroup(self, container_id: str) -> Cgroup:
        config, options = self.bundle.config, self.options
        path = (config.get("linux") or {}).get("cgroupsPath")
        if options.cgroup_manager == "cgroupfs":
            return cgroups.plan(path, container_id, options.rootless)
        if options.cgroup_manager == "systemd":
            from . import cgroup_systemd

            return cgroup_systemd.plan(path, container_id, config, options.rootless)
        if options.cgroup_manager == "disabled":
            from . import cgroupless

            return cgroupless.plan(container_id)
        raise UsageError(f"cgroup_manager is cgroupfs, systemd or disabled, not {options.cgroup_manager!r}")

    def _joins_late(self) -> bool:
        # An ordinary user can't reach the user namespace of an init that a process in between has made.
        both = k.CLONE_NEWUSER | k.CLONE_NEWCGROUP
        hidden = self.namespaces.staged and self.namespaces.create & both == both and os.geteuid() != 0
        return has_small_memory(self.bundle.config) and not hidden

    def _check_terminal(self) -> None:
        wanted = self.process is not None and self.process.terminal
        given = bool(self.options.console_socket) or self.options.console_fd >= 0
        if wanted and not given:
            # runc's words; clients match them.
            raise UsageError("cannot allocate tty if runc will detach without setting console socket",
                             hint="give --console-socket, or set process.terminal to false")
        if given and not wanted:
            raise UsageError("cannot use console socket if runc will not detach or allocate tty",
                             hint="process.terminal is false in config.json")

    def run(self) -> Container:
        """All the steps.  Raises PyruncError after undoing them."""
        was_enabled = gc.isenabled()
        gc.disable()  # neither a __del__ nor a collection's copied pages in the child
        try:
            self._run()
        except OSError as error:
            failure = unexplained(error)
            self._undo(failure)
            raise failure from None
        except BaseException as error:
            self._undo(error)
            raise
        finally:
            if was_enabled:
                gc.enable()
            self._close()
        self.container.directory.unlock()
        return self.container

    def _close(self) -> None:
        """All descriptors but the directory's."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        self.namespaces.close()
        if self.channel is not None:
            self.channel.close()
        if self.agent is not None:
            self.agent.close()

    def _run(self) -> None:
        directory = self.container.directory
        directory.write(CONFIG, self.bundle.data)
        directory.write_state(self.container.data or {})
        self.namespaces.open()
        self._make_cgroup()
        self._make_rdt()
        plan = self._spawn()
        channel, data, config = self.channel, self.container.data, self.bundle.config
        assert channel is not None and data is not None
        try:
            namespaces.take_joined_ids(self.namespaces, self.pid, self.fds[0])
            self._move_net_devices(self.fds[0])
            if not self.cgroup.made_by_joining:
                self._delegate()
            if self.rdt is not None:
                self.rdt.add([self.pid])
            if self.process is not None:
                self.process.apply_from_parent(self.pid, self.fds[0])
                if self.namespaces.has(k.CLONE_NEWUSER):
                    from . import streams

                    streams.give(self.pid, self.fds[0], self.process.uid)
            # Moving a process between cgroups waits for an RCU grace period, some 10 ms: where the init hasn't
            # done that itself, let it mount meanwhile.  Only a cgroup namespace has to be made in the right place, and
            # a cgroup that is to be mounted has to be there.
            if self.late_join:
                self._hold_cgroup(channel)
                channel.send("go")
            elif not self.namespaces.create & k.CLONE_NEWCGROUP and not self._mounts_what_joining_makes():
                channel.send("go")
                self._join_cgroup()
            else:
                self._join_cgroup()
                channel.send("go")
            if plan.has_create_hooks():
                channel.expect("mounted")
                self._limit()
                self._create_hooks()
                channel.send("go")
            if self.agent is not None:
                self.agent.serve(channel, self.pid, self.container.hook_state("creating", self.pid))
            channel.expect("ready")
            if not plan.has_create_hooks():
                self._limit()
            if self.late_join:
                channel.send("limited")
                channel.expect("settled")
            data.update(pid=self.pid, start_time=process_start(self.pid), cgroup=self.cgroup.to_data())
            if self.process and not hooks_of(config, "poststart") and not has_small_memory(config):
                data[START] = f"{self.pid} {data['start_time']} {self.cgroup.freezer()}"
            directory.write_state(data, durable=True)
            handover.write_pid_file(self.options.pid_file, self.pid)
            self.wrote_pid_file = bool(self.options.pid_file)
            handover.send_pidfd(self.pidfd_socket, self.pid, "standard")
            channel.send("commit")
        except (EOFError, BrokenPipeError):
            raise self._death() from None
        if self.net_devices is not None:
            self.net_devices.keep()

    def _make_cgroup(self) -> None:
        """Make the cgroup, and only then say that whoever is found in it is ours to kill."""
        data = self.container.data
        assert data is not None
        try:
            self.cgroup.create()
        except BaseException:
            data["cgroup"] = None  # what stands there is somebody else's
            raise
        if not self.cgroup.made_by_joining:
            self._own_cgroup()

    def _make_rdt(self) -> None:
        """Its resctrl groups; as with the cgroup, who finds them after a crash knows whose they are."""
        wanted = (self.bundle.config.get("linux") or {}).get("intelRdt")
        if wanted is None:
            return
        from . import rdt

        data = self.container.data
        assert data is not None
        self.rdt = rdt.plan(wanted, self.container.id)
        data["rdt"] = self.rdt.to_data()
        self.container.directory.write_state(data)
        try:
            self.rdt.create(wanted)
        finally:
            data["rdt"] = self.rdt.to_data()
        self.container.directory.write_state(data)

    def _own_cgroup(self) -> None:
        data = self.container.data
        assert data is not None
        data["cgroup"] = self.cgroup.to_data()
        self.container.directory.write_state(data)
        for warning in self.cgroup.warnings:
            self.report("debug", warning)

    def _delegate(self) -> None:
        if os.geteuid() == 0:
            self.cgroup.delegate(self.bundle.config)

    def _keep(self, fd: int) -> int:
        self.fds.append(fd)
        return fd

    def _spawn(self) -> init.InitPlan:
        config, options = self.bundle.config, self.options
        proc = self._keep(open_proc())
        fifo = self._keep(self.container.directory.make_fifo())
        console_fd = options.console_fd
        if options.pidfd_socket:
            self.pidfd_socket = self._keep(handover.connect_pidfd_socket(options.pidfd_socket))
        if options.console_socket:
            from .console import connect

            console_fd = self._keep(connect(options.console_socket))
        if self.filter is not None and self.filter.listens:
            from .seccomp_agent import Agent

            self.agent = Agent(self.filter)
        ours, theirs = pair()
        self.channel = ours
        plan = init.InitPlan(
            config=config, rootfs_path=self.bundle.rootfs,
            container_id=self.container.id, channel=theirs, namespaces=self.namespaces, mounts=self.mounts,
            device_nodes=devices.plan(config), process=self.process, cgroup=self.cgroup,
            sources=self._open_sources(proc), proc=proc, fifo_fd=fifo, console_fd=console_fd,
            keep_fds=self.keep_fds, pivot=options.pivot, keyring=options.keyring,
            state=self.container.hook_state("creating", 0), joins_late=self.late_join,
        )
        doors = Doors(None if self.namespaces.staged or self.late_join else self.cgroup)
        plan.tasks = doors.tasks
        self.init_joins = bool(doors.tasks)
        try:
            self.pid = namespaces.spawn(
                self.namespaces, proc,
                lambda pid: namespaces.write_id_maps(pid, proc, config.get("linux") or {}, "/linux"),
                lambda: init.main(plan), doors)
            self.born_in = [doors.path] if doors.path else []
        except KernelError as error:
            raise (self.cgroup.not_born(error.errno) if doors.path else None) or error from None
        finally:
            theirs.close()
            doors.close()
        self.report("debug", f"init is process {self.pid}")
        return plan

    def _hold_cgroup(self, channel: Channel) -> None:
        """Have a process in the cgroup until the init joins it, where one is needed."""
        namespace = self.namespaces.create & k.CLONE_NEWCGROUP
        if not namespace and not self.cgroup.made_by_joining:
            return
        from .placeholder import Placeholder

        proc = self.fds[0]
        user_namespace = self.namespaces.user_namespace(self.pid, proc)
        try:
            self.placeholder = Placeholder(user_namespace, channel, proc)
        finally:
            if user_namespace >= 0:
                os.close(user_namespace)
        self.cgroup.add(self.placeholder.pid)
        if self.cgroup.made_by_joining:
            self._own_cgroup()
            self._delegate()
        if namespace:
            self.placeholder.give_cgroup_namespace()

    def _mounts_what_joining_makes(self) -> bool:
        return self.cgroup.made_by_joining and any(isinstance(step, mounts.CgroupMount) for step in self.mounts)

    def _join_cgroup(self) -> None:
        was_ours = self.cgroup.claimed
        joined = self.channel.expect("joined")["paths"] if self.init_joins and self.channel is not None else []
        self.cgroup.add(self.pid, [*self.born_in, *joined])
        if not was_ours:
            self._own_cgroup()
            self._delegate()
        if self.placeholder is not None:
            self.placeholder.leave()
        self._check_alone()

    def _check_alone(self) -> None:
        """That nobody else is in the cgroup: it was found empty, and so may another create have found it since."""
        if strangers := [pid for pid in self.cgroup.pids() if pid != self.pid]:
            raise self.cgroup.not_empty(self.cgroup.freezer(), strangers)
        self.alone = True

    def _limit(self) -> None:
        """The limits, once the set-up that they would hinder is done."""
        config = self.bundle.config
        resources = (config.get("linux") or {}).get("resources") or {}
        if self.late_join:
            self._join_cgroup()
        try:
            self.cgroup.apply(resources, config, lambda warning: self.report("warning", warning))
        except PyruncError:
            # systemd removes the cgroup once a limit has killed who is in it, maybe before all of them are set.
            if not self.cgroup.made_by_joining or not self._has_died():
                raise
            raise self._death() from None

    def _has_died(self) -> bool:
        """Whether the init is dead, or dies within a moment because its cgroup is gone."""
        for _ in range(1 if any(map(os.path.exists, self.cgroup.directories())) else 100):
            try:
                if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                    return True
            except ChildProcessError:
                return True
            time.sleep(0.01)
        return False

    def _open_sources(self, proc: int) -> dict[int, int]:
        """The bind sources that the init can't open itself, by the number of their mount."""
        unreachable = self.namespaces.has(k.CLONE_NEWUSER) and os.geteuid() == 0
        if not unreachable and not any(step.idmap for step in self.mounts):
            return {}
        from .sources import open_sources

        return open_sources(self.bundle.config, self.mounts, self.namespaces, proc, self._keep,
                            unreachable=unreachable)

    def _move_net_devices(self, proc: int) -> None:
        if not (self.bundle.config.get("linux") or {}).get("netDevices"):
            return
        from . import netdevices

        try:
            namespace = os.open(f"{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        except OSError as error:
            raise kernel_error("open the container's network namespace", error, pointer="/linux/netDevices") from None
        self.net_devices = netdevices.NetDevices(self._keep(namespace), self._keep(os.pidfd_open(self.pid)))
        self.net_devices.move(netdevices.plan(self.bundle.config), self.container.directory.fd)

    def _create_hooks(self) -> None:
        self.hooks_ran = True
        # runtime.md, State: `creating` is step 2, `created` what comes after it, as both kinds of hooks do, and
        # when create has finished, as it hasn't.  prestart hooks date from when `start` ran them.
        for kind, status in (("prestart", "created"), ("createRuntime", "creating")):
            run_hooks(kind, hooks_of(self.bundle.config, kind), self.container.hook_state(status, self.pid),
                      pointer=f"/hooks/{kind}", cwd=self.bundle.path,
                      report=lambda message: self.report("debug", message))

    def _death(self) -> PyruncError:
        """Why the init is gone, as far as it has said so or its exit status tells."""
        if self.channel is not None and (said := self.channel.last_words()):
            return said
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return ContainerError("the container's init died")
        self.pid = 0
        if status == -9 and self.cgroup.oom_kills():
            from .resources import out_of_memory

            return out_of_memory(self.bundle.config)
        if status < 0:
            hint = "SIGSYS: its seccomp profile forbids what it has to do" if status == -_signal.SIGSYS else ""
            return ContainerError(f"the container's init was killed by signal {-status}", hint=hint)
        return ContainerError(f"the container's init exited with status {status} before it was ready")

    def _undo(self, cause: BaseException) -> None:
        """Leave the host as it was; a failure in that is told, the cause is what is raised."""
        if self.channel is not None:
            self.channel.close()
        if self.placeholder is not None:
            self.placeholder.leave()
        if self.wrote_pid_file:
            handover.remove(self.options.pid_file)
        try:
            if self.net_devices is not None:
                self.net_devices.put_back()
            if self.rdt is not None:
                self.rdt.remove(everything=True)
        except PyruncError as error:
            self.report("warning", f"cleaning up after a failed create: {error}")
        try:
            if self.pid:
                os.kill(self.pid, 9)  # our child, not waited for yet: the pid is its own
                os.waitpid(self.pid, 0)
        except OSError:
            pass  # it was quicker
        self._close()  # there may be too few for what follows
        try:
            if not (self.alone or self.cgroup.made_by_joining) and self.cgroup.claimed:
                self.cgroup.claimed = False  # whoever is in it now isn't ours to kill
                self._own_cgroup()
            poststop = self.hooks_ran or isinstance(cause, HookError)
            self.container.destroy(poststop=poststop)
        except PyruncError as error:
            self.report("warning", f"cleaning up after a failed create: {error}")
            self.container.directory.close()
