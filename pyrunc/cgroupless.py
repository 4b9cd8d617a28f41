# SPDX-License-Identifier: Apache-2.0
"""A container without a cgroup: because it was asked for (--cgroup-manager disabled), or its user may make none."""

from __future__ import annotations

from . import cgroup as cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .cgroup import Cgroup


def plan(container_id: str) -> Cgroup:
    """No cgroup at all: the container's processes stay in the runtime's, without limits or device rules of theirs."""
    cgroup = cgroups.plan(None, container_id)
    cgroup.skipped = cgroup.directories()
    return cgroup


def hint() -> str:
    """Why there may be none, for an error's end."""
    if cgroups.may_be_denied():
        return "an ordinary user needs a cgroup delegated to it"
    return "it was made with --cgroup-manager disabled"


def warn_of_devices(warn: Callable[[str], None]) -> None:
    """Tell that no rule is enforced.  An ordinary user could make no device node, and open none that is not its own."""
    if not cgroups.may_be_denied():
        warn("/linux/resources/devices: not enforced: the container has no cgroup for that")
