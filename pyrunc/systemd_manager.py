# SPDX-License-Identifier: Apache-2.0
"""What systemd is asked to do with a unit (org.freedesktop.systemd1(5)): start, tell, change, stop.

Apart from cgroup_systemd.py, because most commands need only to know where the unit's cgroup is.
"""

from __future__ import annotations

import re
import time

from . import systemd_bus, systemd_properties
from .errors import ContainerError, PyruncError
from .limits import POINTER as RESOURCES
from .systemd_bus import NAME, Bus, BusError, Disconnected, TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Literal, TypeVar

    from .cgroup_systemd import Unit
    from .device_rules import Rules
    from .limits import Write
    from .systemd_properties import Property

    Mode = Literal["unified", "hybrid", "legacy"]
    T = TypeVar("T")

POINTER = "/linux/cgroupsPath"
SECONDS = 30.0  # for one thing that systemd is asked to do; runc's

_LISTS = ("DeviceAllow", "IODeviceWeight")
_EXISTS = f"{NAME}.UnitExists"
_GONE = (f"{NAME}.NoSuchUnit", "org.freedesktop.DBus.Error.UnknownObject")


class Manager:
    """The systemd of the system, or the user's own; connected when it is first needed.

    A lost connection (systemd re-executes itself, a bus restarts) is made anew once for each call.
    All methods raise ContainerError, or PyruncError where there is no systemd.
    """

    __slots__ = ("_bus", "_version", "user")

    def __init__(self, user: bool) -> None:
        self.user = user
        self._bus: Bus | None = None
        self._version = -1

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    def __enter__(self) -> Manager:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connected(self, seconds: float) -> Bus:
        if self._bus is None:
            self._bus = systemd_bus.connect(self.user, min(seconds, 15.0))
        return self._bus

    def _call(self, method: str, signature: str = "", *arguments: Any, seconds: float) -> tuple[Any, ...]:
        return self._again(lambda bus: bus.call(method, signature, *arguments, seconds=seconds), seconds)

    def _again(self, ask: Callable[[Bus], T], seconds: float) -> T:
        try:
            return ask(self._connected(seconds))
        except Disconnected:
            self.close()
            return ask(self._connected(seconds))

    # What it is

    @property
    def version(self) -> int:
        """systemd's: 252."""
        if self._version < 0:
            try:
                _, text = self._again(lambda bus: bus.property("Version", SECONDS), SECONDS)
            except (BusError, Disconnected, TimedOut) as error:
                raise systemd_bus.failed("systemd doesn't tell its version", error) from None
            found = re.search("[0-9]{1,6}", str(text))
            self._version = int(found[0]) if found else 0
        return self._version

    def locate(self, unit: Unit) -> str:
        """`unit.cgroup_path()`, after asking the user's manager where its own cgroup is."""
        if unit.user and not unit.base:
            try:
                _, base = self._again(lambda bus: bus.property("ControlGroup", SECONDS), SECONDS)
            except (BusError, Disconnected, TimedOut) as error:
                raise systemd_bus.failed("the user's systemd doesn't tell its cgroup", error) from None
            unit.base = str(base).rstrip("/")
        return unit.cgroup_path()

    # Start

    def start(self, unit: Unit, pids: Sequence[int], *, mode: Mode, unified: Mapping[str, str] | None = None,
              properties: Iterable[Property] = (), seconds: float = SECONDS) -> None:
        """Make the unit with the processes `pids` in it; returns when systemd is done with that.

        `unified` is linux.resources.unified (memory.oom.group can be told only now), `properties` more that
        it begins with.  A slice takes no processes: they are put into its cgroup afterwards, as into any.
        """
        given = [*self._basic(unit, pids, mode), *properties]
        if unified and "memory.oom.group" in unified:
            given += systemd_properties.oom_policy(unified, self.version)
        what = f"systemd can't make {unit.name}"
        deadline = time.monotonic() + seconds
        try:
            job = self._start(unit, pids, given, seconds)
            result = "done" if job is None else self._wait(unit, job, deadline)
        except BusError as error:
            if error.name == _EXISTS:
                raise ContainerError(f"{what}: there is one already", pointer=POINTER,
                                     hint=f"each container needs a unit of its own; see: systemctl status {unit.name}"
                                     ) from None
            raise systemd_bus.failed(what, error) from None
        except Disconnected as error:
            raise systemd_bus.failed(what, error) from None
        except TimedOut:
            self._abandon(unit)
            raise ContainerError(f"{what}: it didn't answer within {seconds:g} s",
                                 hint="see: systemctl list-jobs") from None
        if result != "done":
            self._abandon(unit)
            raise ContainerError(f"{what}: its job's result is {result!a}",
                                 hint=f"see: journalctl -u {unit.name}")

    def _basic(self, unit: Unit, pids: Sequence[int], mode: Mode) -> list[Property]:
        """What each unit begins with.  Accounting brings the controllers, before a limit needs one."""
        io = "IOAccounting" if mode == "unified" else "BlockIOAccounting"
        basic: list[Property] = [("Description", ("s", unit.description))] if unit.description else []
        if unit.is_slice:
            basic.append(("Wants", ("as", [unit.slice])))
        else:
            basic += [("Slice", ("s", unit.slice)), ("Delegate", ("b", True)), ("PIDs", ("au", list(pids)))]
        basic += [(name, ("b", True)) for name in ("MemoryAccounting", "CPUAccounting", io, "TasksAccounting")]
        # No dependency on what is stopped at shutdown: that is the engine's to arrange.
        return [*basic, ("DefaultDependencies", ("b", False))]

    def _start(self, unit: Unit, pids: Sequence[int], properties: list[Property], seconds: float) -> str | None:
        """The job's path; None where it turns out that the unit has the processes already."""
        arguments: tuple[Any, ...] = "ssa(sv)a(sa(sv))", unit.name, "replace", properties, []
        for last in (False, True):
            try:
                (job,) = self._connected(seconds).call("StartTransientUnit", *arguments, seconds=seconds)
                return str(job)
            except BusError as error:
                if error.name != _EXISTS or last:
                    raise
                self.reset_failed(unit)  # what a failed one has left is in nobody's way
            except Disconnected:
                self.close()
                if last:
                    raise
                if pids and self._unit_of(pids[0], seconds) == unit.object_path():
                    return None  # it was done before the connection was lost
        raise AssertionError("not reached")

    def _unit_of(self, pid: int, seconds: float) -> str:
        try:
            return str(self._call("GetUnitByPID", "u", pid, seconds=seconds)[0])
        except BusError:
            return ""

    def _wait(self, unit: Unit, job: str, deadline: float) -> str:
        """The job's result.  Where the connection is lost nobody tells it any more, so the unit is asked."""
        try:
            return self._connected(SECONDS).wait_for_job(job, max(0.0, deadline - time.monotonic()))
        except Disconnected:
            self.close()
        while True:
            state = self.active_state(unit)
            if state == "active":
                return "done"
            if state not in ("activating", "reloading"):
                return state
            if time.monotonic() > deadline:
                raise TimedOut("no answer in time")
            time.sleep(0.05)

    def _abandon(self, unit: Unit) -> None:
        """Take back a start that went wrong, if systemd listens."""
        try:
            self._call("StopUnit", "ss", unit.name, "replace", seconds=1.0)
            self.reset_failed(unit, 1.0)
        except PyruncError:
            pass

    # Once it is there

    def active_state(self, unit: Unit, seconds: float = SECONDS) -> str:
        """active, inactive, failed, activating or deactivating; one that isn't there is inactive."""
        return str(self.get(unit, "ActiveState", f"{NAME}.Unit", seconds)[1])

    def get(self, unit: Unit, name: str, interface: str = "", seconds: float = SECONDS) -> tuple[str, Any]:
        """A property, as (signature, value)."""
        interface = interface or f"{NAME}.{'Slice' if unit.is_slice else 'Scope'}"
        try:
            return self._again(lambda bus: bus.property(name, seconds, interface, unit.object_path()), seconds)
        except (BusError, Disconnected, TimedOut) as error:
            raise systemd_bus.failed(f"systemd doesn't tell {name} of {unit.name}", error) from None

    def limits(self, writes: Iterable[Write], directories: Mapping[str, str]) -> list[Property]:
        """systemd_properties.limits, for this systemd."""
        return systemd_properties.limits(writes, directories, self.version)

    def devices(self, rules: Rules, mode: Mode) -> list[Property]:
        """systemd_properties.devices, for this systemd."""
        return systemd_properties.devices(rules, unified=mode == "unified", version=self.version)

    def set(self, unit: Unit, properties: Sequence[Property], *, undo: bool = False,
            seconds: float = SECONDS) -> Callable[[], None]:
        """Tell systemd the properties, all of them or (it refuses one) none; until the unit ends.

        With `undo` what the result, called, puts back.
        """
        before = self._before(unit, properties) if undo else []
        self._set(unit, properties, seconds)
        return lambda: self._set(unit, before, seconds)

    def _set(self, unit: Unit, properties: Sequence[Property], seconds: float) -> None:
        if not properties:
            return
        # Each becomes a drop-in; unless they come in the order in which systemd reads such files (by name), it says
        # that the unit has changed on disk and asks for a daemon-reload.
        ordered = sorted(properties, key=lambda each: each[0])
        try:
            self._call("SetUnitProperties", "sba(sv)", unit.name, True, ordered, seconds=seconds)
        except BusError as error:
            raise ContainerError(f"systemd refuses the limits of {unit.name}: {error.message}",
                                 pointer=RESOURCES) from None
        except (Disconnected, TimedOut) as error:
            raise systemd_bus.failed(f"systemd can't be told the limits of {unit.name}", error) from None

    def _before(self, unit: Unit, properties: Sequence[Property]) -> list[Property]:
        found: list[Property] = []
        for name in dict.fromkeys(name for name, _ in properties):
            value = self.get(unit, name)
            if name in _LISTS:  # a list is added to the one that is there, unless it is empty
                found.append((name, (value[0], [])))
            if name not in _LISTS or value[1]:
                found.append((name, value))
        return found

    def attach(self, unit: Unit, pid: int, below: str = "", seconds: float = SECONDS) -> None:
        """Put a process into the unit, or the cgroup `below` it: where a user may not write cgroup.procs itself."""
        try:
            self._call("AttachProcessesToUnit", "ssau", unit.name, below and "/" + below.strip("/"), [pid],
                       seconds=seconds)
        except (BusError, Disconnected, TimedOut) as error:
            raise systemd_bus.failed(f"systemd can't put process {pid} into {unit.name}", error) from None

    # Stop

    def stop(self, unit: Unit, seconds: float = SECONDS) -> None:
        """Stop the unit, with what is still in it, and have systemd forget it; nothing if it isn't there."""
        deadline = time.monotonic() + seconds
        try:
            (job,) = self._call("StopUnit", "ss", unit.name, "replace", seconds=seconds)
            bus = self._connected(seconds)
            bus.wait_for_job(job, max(0.0, deadline - time.monotonic()))
        except BusError as error:
            if error.name not in _GONE:
                raise systemd_bus.failed(f"systemd can't stop {unit.name}", error) from None
        except Disconnected:
            self.close()  # who is still in there is seen by whoever removes the cgroup
        except TimedOut:
            raise ContainerError(f"systemd hasn't stopped {unit.name} within {seconds:g} s",
                                 hint="see: systemctl list-jobs") from None
        self.reset_failed(unit)

    def reset_failed(self, unit: Unit, seconds: float = SECONDS) -> None:
        """Have systemd forget that the unit has failed, which would keep its name."""
        try:
            self._call("ResetFailedUnit", "s", unit.name, seconds=seconds)
        except (BusError, Disconnected, TimedOut):
            pass  # there is none, or the next step will tell
