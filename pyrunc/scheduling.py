# SPDX-License-Identifier: Apache-2.0
"""How a process is scheduled: scheduler, I/O priority, memory policy, personality, and the processors of an exec.

config.md, Linux Process; config-linux.md, Memory Policy and Personality.
"""

from __future__ import annotations

import errno
import os

from .errors import ConfigError, attempt
from .linux import process as k

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .spec.types import Linux, Process

_POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4,
             "SCHED_IDLE": 5, "SCHED_DEADLINE": 6}
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IOPRIO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_PERSONALITIES = {"LINUX": 0, "LINUX32": 8}
_MPOL_MODES = {"MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
               "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6}
_MPOL_FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}
_MAX_NODE = 1024


class Scheduling:
    """What config.json asks for; without a word of it nothing is changed.  Each method raises KernelError."""

    __slots__ = ("linux", "process")

    def __init__(self, process: Process, linux: Linux) -> None:
        self.process = process
        self.linux = linux

    @property
    def scheduler_is_lost(self) -> bool:
        """Whether a fork gives up the scheduler, or is refused with it (sched(7))."""
        scheduler = self.process.get("scheduler")
        if not scheduler:
            return False
        return scheduler["policy"] == "SCHED_DEADLINE" or "SCHED_FLAG_RESET_ON_FORK" in (scheduler.get("flags") or ())

    def apply_scheduler(self, pid: int = 0) -> None:
        """The scheduler, of process `pid` or of this one."""
        scheduler = self.process.get("scheduler")
        if scheduler:
            flags = 0
            for name in scheduler.get("flags") or ():
                flags |= _SCHED_FLAGS[name]
            hints = {}
            if scheduler["policy"] in ("SCHED_FIFO", "SCHED_RR"):
                hints[errno.EPERM] = "needs CAP_SYS_NICE, and on cgroup v1 a cgroup with cpu.rt_runtime_us"
            attempt("/process/scheduler", f"scheduler {scheduler['policy']}", lambda: k.sched_setattr(
                pid, _POLICIES[scheduler["policy"]], flags, scheduler.get("nice") or 0, scheduler.get("priority") or 0,
                scheduler.get("runtime") or 0, scheduler.get("deadline") or 0, scheduler.get("period") or 0), hints)

    def apply(self) -> None:
        """I/O priority, memory policy, personality: while the privileges are there."""
        priority = self.process.get("ioPriority")
        if priority:
            attempt("/process/ioPriority", f"I/O priority {priority['class']}", lambda: k.ioprio_set(
                _IOPRIO_CLASSES[priority["class"]], priority.get("priority") or 0))
        policy = self.linux.get("memoryPolicy")
        if policy and policy.get("mode"):
            mode = _MPOL_MODES[policy["mode"]]
            for name in policy.get("flags") or ():
                mode |= _MPOL_FLAGS[name]
            nodes = parse_nodes(policy.get("nodes") or "")
            attempt("/linux/memoryPolicy", f"memory policy {policy['mode']}", lambda: k.set_mempolicy(
                mode, nodes, _MAX_NODE if nodes else 0))
        persona = self.linux.get("personality")
        if persona and persona.get("domain"):
            attempt("/linux/personality", f"personality {persona['domain']}", lambda: k.personality(
                _PERSONALITIES[persona["domain"]]))

    def bind_to_cpus(self, when: str) -> None:
        """process.execCPUAffinity: `initial` before the cgroup is joined, `final` after it."""
        text = (self.process.get("execCPUAffinity") or {}).get(when)
        if text:
            attempt(f"/process/execCPUAffinity/{when}", f"run on CPUs {text}",
                    lambda: os.sched_setaffinity(0, _numbers(str(text))))


def parse_nodes(text: str) -> int:
    """A mask from a list of NUMA nodes such as `0-3,7`.  Raises ConfigError."""
    mask = 0
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
            raise ConfigError("/linux/memoryPolicy/nodes", f'"{text}" is not a list of nodes such as 0-3,7')
        low, high = int(first), int(last)
        if low > high or high >= _MAX_NODE:
            raise ConfigError("/linux/memoryPolicy/nodes", f'"{part}" is not a range of nodes below {_MAX_NODE}')
        mask |= ((1 << (high - low + 1)) - 1) << low
    return mask


def _numbers(text: str) -> list[int]:
    """0-3,7, which was checked, as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
