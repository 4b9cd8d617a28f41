# SPDX-License-Identifier: Apache-2.0
"""The bind sources that the runtime opens for the init: what it may not reach, or may not map the ids of."""

from __future__ import annotations

from .linux import mount as k
from .mounts import BindMount
from .rootfs import propagation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .mounts import MountStep
    from .namespaces import NamespacePlan
    from .spec.types import Config


def open_sources(config: Config, mounts: list[MountStep], namespaces: NamespacePlan, proc: int,
                 keep: Callable[[int], int], *, unreachable: bool) -> dict[int, int]:
    """Detached copies of the sources' mounts, by the number of the mount.

    `unreachable`: all of them, for an init in a user namespace, who is nobody on the host; else those
    with mapped ids.  `keep` has each descriptor closed in the end.  Raises PyruncError.
    """
    user_namespaces = None
    sources = {}
    kind = _propagation(config, unreachable)
    try:
        for step in mounts:
            if not isinstance(step, BindMount) or (step.idmap is None and not unreachable):
                continue
            tree = sources[step.index] = keep(step.open_tree())
            if step.idmap is not None:
                from . import idmap

                if user_namespaces is None:
                    user_namespaces = idmap.UserNamespaces(namespaces, proc)
                idmap.apply(tree, step.idmap, user_namespaces.get(step.idmap), step.describe(), step.source,
                            step.pointer)
            if kind:
                k.mount_setattr(tree, propagation=kind, recursive=True)
    finally:
        if user_namespaces is not None:
            user_namespaces.close()
    return sources


def _propagation(config: Config, unreachable: bool) -> int:
    """What a copy of the host's mount becomes where the init's own would have become it; 0 is as it was.

    A mount namespace of another user namespace turns what it inherits into slaves
    (mount_namespaces(7), Restrictions); what is handed in from outside has to be made so, or mounts
    made in the container would reach the host.  In one of the same, linux.rootfsPropagation decides.
    """
    wanted = propagation(config)
    if unreachable or wanted is None:
        return k.MS_SLAVE
    if wanted[0] == k.MS_SHARED:
        return 0
    return k.MS_PRIVATE if wanted[0] == k.MS_UNBINDABLE else wanted[0]
