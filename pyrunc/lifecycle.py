# SPDX-License-Identifier: Apache-2.0
"""create, start, state, kill, delete: the host side, in the order of runtime.md.

    container = Container.create("/path/to/bundle", "web")
    container.start()
    container.state()["status"]
    container.kill(signal.SIGTERM)
    container.delete()

Nothing here exits, changes directory or sets a signal's disposition.  Status is derived from the
process and the fifo each time it is asked for, never stored.
"""

from __future__ import annotations

import os
import time

from . import cgroup as cgroups
from . import cgroupfs
from . import state as states
from ._version import OCI_VERSION
from .errors import ContainerError, ContainerNotFound, PyruncError, kernel_error
from .spec.load import load_own_config
from .state import OOM, StateDir, process_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence
    from typing import Any

    from .cgroup import Cgroup
    from .options import CreateOptions, ExecOptions
    from .spec.types import Config, IntelRdt, Process, Resources
    from .starting import Released

    Report = Callable[[str, str], None]
else:
    import _signal  # what `signal` wraps; that one costs importing enum

DELETE_TIMEOUT = 10.0  # seconds for a killed init to be gone, as runc
_POLL = 0.005
_PATIENCE = 1.0  # seconds for another command to have done


def silent(_level: str, _message: str) -> None:
    """The default `report(level, message)`: levels are debug, info, warning, error."""


class Container:
    """A container: its directory below the state root and what state.json says of it."""

    __slots__ = ("_config", "data", "directory", "report")

    def __init__(self, directory: StateDir, data: dict[str, Any] | None, report: Report = silent) -> None:
        self.directory = directory
        self.data = data
        self.report = report
        self._config: Config | None = None

    # Finding one

    @classmethod
    def load(cls, container_id: str, root: str = "", report: Report = silent) -> Container:
        """The container `container_id` below the state root `root`.  Raises ContainerNotFound."""
        directory = StateDir.find(root or states.default_root(), container_id)
        data = directory.read_state()
        if data is None and directory.is_no_container():
            directory.close()
            raise ContainerNotFound(container_id)
        return cls(directory, data, report)

    @classmethod
    def create(cls, bundle: str, container_id: str, root: str = "", options: CreateOptions | None = None,
               report: Report = silent) -> Container:
        """Create a container from the bundle; its init waits for `start` (runtime.md, Create).

        Raises PyruncError, and leaves nothing behind then.  A threaded program is served by a
        process of its own: forking is safe only with one thread.
        """
        from .creation import create

        return create(bundle, container_id, root or states.default_root(), options, report)

    def close(self) -> None:
        """Let go of the state directory; the container itself is not touched.  Also by `with`."""
        self.directory.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> str:
        return self.directory.id

    @property
    def pid(self) -> int:
        """The init's pid, 0 before there is one."""
        return int(self.data["pid"]) if self.data else 0

    @property
    def config(self) -> Config:
        """config.json as it was at create."""
        if self._config is None:
            try:
                data = self.directory.read(states.CONFIG)
            except FileNotFoundError:  # deleted since it was loaded
                raise ContainerNotFound(self.id) from None
            self._config = load_own_config(data)
        return self._config

    @property
    def cgroup(self) -> Cgroup | None:
        if self.data and self.data.get("cgroup"):
            return cgroups.Cgroup.from_data(self.data["cgroup"])
        return None

    def refresh(self) -> None:
        """Read state.json again."""
        self.data = self.directory.read_state()

    # What state it is in

    def alive(self) -> bool:
        """Whether the init is the process that create made, and has not exited."""
        return bool(self.pid) and process_start(self.pid) == (self.data or {}).get("start_time")

    def status(self) -> str:
        """creating, created, running, paused or stopped."""
        if self.data is None or not self.pid:
            return "creating" if self._being_created() else "stopped"
        if not self.alive():
            return "stopped"
        cgroup = self.cgroup
        if cgroup is not None and cgroup.frozen():
            return "paused"
        return "created" if self.directory.has_fifo() else "running"

    def _being_created(self) -> bool:
        if self.data is None:  # before the first state.json its maker holds the lock
            return self.directory.locked()
        creator = self.data["creator"]
        return bool(process_start(creator["pid"]) == creator["start_time"])

    def state(self) -> dict[str, Any]:
        """The state of runtime.md, State, with runc's additions rootfs, created and owner."""
        status = self.status()
        data = self.data or {}
        return {
            "ociVersion": data.get("ociVersion", OCI_VERSION),
            "id": self.id,
            "pid": 0 if status in ("stopped", "creating") else self.pid,
            "status": status,
            "bundle": data.get("bundle", ""),
            "rootfs": data.get("rootfs", ""),
            "created": data.get("created", ""),
            **({"annotations": data["annotations"]} if data.get("annotations") else {}),
            "owner": data.get("owner", ""),
        }

    def hook_state(self, status: str, pid: int) -> dict[str, Any]:
        """What a hook reads on stdin."""
        data = self.data or {}
        return {
            "ociVersion": data.get("ociVersion", OCI_VERSION),
            "id": self.id,
            "status": status,
            **({"pid": pid} if pid else {}),
            "bundle": data.get("bundle", ""),
            "annotations": data.get("annotations") or {},
        }

    # start

    def start(self, *, released: Released | None = None) -> None:
        """Run the program (runtime.md, Start).  Returns when it has been executed.

        A startContainer or poststart hook that fails, or a program that can't be executed, is an
        error; the container is then stopped and deleted, as the lifecycle says.  `released` is the command's alone.
        """
        from .starting import start

        self.directory.lock()
        try:
            self.refresh()
            start(self, released)
        finally:
            self.directory.unlock()

    def progress(self, message: str) -> None:
        """Tell what is being done."""
        self.report("debug", message)

    # kill

    def kill(self, number: int, everyone: bool = False) -> None:
        """Send signal `number` to the init, or with `everyone` to all processes (runtime.md, Kill).

        Raises ContainerError "container not running" when it is neither created nor running.
        """
        status = self.status()
        if everyone:
            self._signal_everyone(number)
            return
        if status in ("stopped", "creating"):
            raise ContainerError("container not running")
        if number == _signal.SIGKILL and not self._has_pid_namespace():
            # Nobody dies with the init when there is no pid namespace: all of them are the container.
            self._send(number)
            cgroup = self.cgroup
            if cgroup is not None:
                cgroup.signal_all(number)
            return
        self._send(number)
        if number == _signal.SIGKILL and status == "paused":
            cgroup = self.cgroup
            if cgroup is not None:
                cgroup.signal_all(number)  # cgroup v1: a frozen process dies only when its whole tree is thawed

    def _signal_everyone(self, number: int) -> None:
        cgroup = self.cgroup
        if cgroup is None:
            return
        if number == _signal.SIGKILL:
            cgroup.signal_all(number)
            return
        # They are frozen for that, and thawed again: not while somebody pauses them.
        try:
            self.directory.lock(_PATIENCE)
        except ContainerNotFound:
            return
        except ContainerError:
            cgroup.signal_all(number, freeze=False)  # a command that takes long, a hook of `start` perhaps
            return
        try:
            cgroup.signal_all(number)
        finally:
            self.directory.unlock()

    def settled_status(self) -> str:
        """The status, but not that of the moment for which `kill` with `everyone` freezes the processes."""
        status = self.status()
        deadline = time.monotonic() + _PATIENCE
        while status == "paused" and self.directory.locked() and time.monotonic() < deadline:
            time.sleep(_POLL)
            status = self.status()
        return status

    def _has_pid_namespace(self) -> bool:
        return bool((self.data or {}).get("pid_namespace", True))

    def _send(self, number: int) -> None:
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            raise ContainerError("container not running") from None
        except OSError as error:
            raise kernel_error("get hold of the container's init", error, syscall="pidfd_open") from None
        try:
            # The pid may have been used again; what the descriptor names can't change any more.
            if not self.alive():
                raise ContainerError("container not running")
            _signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            raise ContainerError("container not running") from None
        except OSError as error:
            raise kernel_error(f"send signal {number} to the container", error, syscall="pidfd_send_signal") from None
        finally:
            os.close(pidfd)

    def kill_init(self) -> None:
        """SIGKILL everything and wait until the init is gone.  Raises ContainerError after DELETE_TIMEOUT."""
        if self.alive():
            try:
                self.kill(_signal.SIGKILL)
            except ContainerError:
                pass
            deadline = time.monotonic() + DELETE_TIMEOUT
            while self.alive():
                if time.monotonic() >= deadline:
                    raise ContainerError("container init still running")
                time.sleep(_POLL)

    # While it runs

    def exec(self, process: Process | Sequence[str], options: ExecOptions | None = None) -> int:
        """Start another process in the container; its pid, a child of the caller, who has to wait for it.

        `process` is as config.json's, or only the arguments: then the rest is as the container's own.
        Returns when it has been executed.  Raises ContainerError when the container is stopped or paused.
        """
        from .delegate import exec_in

        return exec_in(self, process, options)

    def pause(self) -> None:
        """Freeze all its processes.  Raises ContainerError "container not running"."""
        from .control import pause

        pause(self)

    def resume(self) -> None:
        """Let a paused container run again.  Raises ContainerError "container not paused"."""
        from .control import resume

        resume(self)

    def pids(self) -> list[int]:
        """Its processes, as our pid namespace numbers them."""
        from .control import pids

        return pids(self)

    def update(self, resources: Resources, rdt: IntelRdt | None = None) -> None:
        """Change what `resources` (config-linux.md, Control groups) and `rdt` (IntelRdt) give: all of it or none."""
        from .control import update

        update(self, resources, rdt)

    def stats(self) -> dict[str, Any]:
        """What it uses: the `data` of a stats event of `events`."""
        from .stats import stats

        return stats(self.cgroup, (self.data or {}).get("rdt"))

    # delete

    def delete(self, force: bool = False) -> None:
        """Undo what create made (runtime.md, Delete); `force` kills first.

        Only a stopped container can be deleted without `force`: one that is merely created is
        refused too, as the specification demands (runc deletes it).
        """
        if force and self.status() in ("created", "running", "paused"):
            # Not only with the lock: a start whose hook, the image's program, never ends gives it up no sooner.
            try:
                self.kill(_signal.SIGKILL)
            except ContainerError:
                pass
        self.directory.lock()
        try:
            self.refresh()
            status = self.status()
            if status != "stopped":
                if not force:
                    raise ContainerError(f"cannot delete container {self.id} that is not stopped: {status}",
                                         hint="kill it first, or use --force")
                self.kill_init()
            self.destroy()
        finally:
            self.directory.unlock()

    def destroy(self, poststop: bool = True) -> None:
        """Remove processes, cgroup, mounts, the directory; then the poststop hooks."""
        config = self._config_or_none()
        data = self.data or {}
        cgroup = self.cgroup
        if cgroup is not None and not cgroup.claimed:
            # A create that died before it had the cgroup: the processes there may be anybody's.
            try:
                cgroup.destroy(timeout=1.0)
            except PyruncError as error:
                self.report("debug", f"cgroup left alone: {error}")
        elif cgroup is not None:
            if not data.get("pid_namespace", True) or not data.get("pid"):
                cgroup.signal_all(_signal.SIGKILL)
            self.directory.tell(OOM, lambda: str(cgroup.oom_kills()))
            self._destroy_cgroup(cgroup)
        if data.get("rdt"):
            from .rdt import Rdt

            Rdt.from_data(data["rdt"]).remove()
        if data.get("host_mounts") and data.get("rootfs"):
            _unmount(data["rootfs"], data.get("mounted_before", 0))
        self.directory.remove()
        if poststop and config is not None and (config.get("hooks") or {}).get("poststop"):
            from .hooks import hooks_of, run_hooks_warn

            for warning in run_hooks_warn("poststop", hooks_of(config, "poststop"), self.hook_state("stopped", 0),
                                          pointer="/hooks/poststop", cwd=data.get("bundle", "/"),
                                          report=self.progress):
                self.report("warning", warning)

    def _destroy_cgroup(self, cgroup: Cgroup) -> None:
        try:
            cgroup.destroy(timeout=1.0)
        except PyruncError:
            # Somebody the container left behind, in a pid namespace it joined or made: they go too.
            cgroup.signal_all(_signal.SIGKILL)
            cgroup.destroy()

    def _config_or_none(self) -> Config | None:
        """The configuration if there is one yet: a create that was killed may have left none."""
        try:
            return self.config
        except (OSError, PyruncError):
            return None


def _unmount(rootfs: str, before: int) -> None:
    """Take away the mounts a container without a mount namespace made on the host: all are on top of the root's own.

    `before`: how many were there, an engine's overlay for one.  A create that failed early has added none.
    """
    from .linux import mount as k

    if count_mounts(rootfs) <= before:
        return
    try:
        k.umount(rootfs, k.MNT_DETACH)
    except OSError as error:
        raise kernel_error(f"unmount {rootfs}", error) from None


def count_mounts(path: str) -> int:
    """How many mounts are on `path` itself (proc_pid_mountinfo(5)).  Raises KernelError."""
    from .paths import unescape

    try:
        lines = cgroupfs.read("/proc/self/mountinfo").splitlines()
    except OSError as error:
        raise kernel_error(f"look for what is mounted on {path}", error) from None
    return sum(unescape(line.split(" ", 5)[4]) == path for line in lines)


def load_all(root: str = "", report: Report = silent) -> list[Container]:
    """Every container below the state root; one that vanishes meanwhile is left out."""
    found = []
    base = root or states.default_root()
    for container_id in states.list_ids(base):
        try:
            found.append(Container.load(container_id, base, report))
        except ContainerNotFound:
            continue
        except PyruncError as error:
            report("warning", f"{container_id}: {error}")
    return found


def force_delete(container_id: str, root: str = "", report: Report = silent) -> None:
    """delete --force: no error if there is no such container."""
    try:
        Container.load(container_id, root, report).delete(force=True)
    except ContainerNotFound:
        return  # or somebody else has deleted it while we waited for its lock
