# SPDX-License-Identifier: Apache-2.0
"""Which of a container's networks has its default route: the first that has a way out, and after that one the next."""

from __future__ import annotations

from pyrunc.errors import NetworkError, PyruncError

from . import links
from .model import family_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .model import Attachment, Network
    from .store import Store


def choose(store: Store, network: Network, wanted: Attachment) -> tuple[str, ...]:
    """The network's gateways that the container's default routes go by; none where another network has them."""
    if any(other.gateways and other.netns_id == wanted.netns_id
           for other in store.attachments(container=wanted.container)):
        return ()
    return _of(network, wanted)


def _of(network: Network, attachment: Attachment) -> tuple[str, ...]:
    if network.internal:
        return ()
    families = [family_of(address) for address in attachment.ips]
    return tuple(gateway for gateway in network.gateways if gateway and family_of(gateway) in families)


def hand_on(store: Store, gone: Attachment, warn: Callable[[str], None]) -> None:
    """The default route went with `gone`: the container has it by the network that it has been in for the longest time.

    Not being able to leaves the container without; that is told.
    """
    if not gone.gateways:
        return
    others = sorted((other for other in store.attachments(container=gone.container)
                     if other.netns_id == gone.netns_id and other.netns), key=lambda other: other.created)
    for other in others:
        if not links.is_namespace(other.netns, other.netns_id):
            continue  # it is going: all of its networks are taken away
        try:
            other.gateways = _of(store.network(other.network), other)
            if not other.gateways:
                continue
            namespace = links.Namespace(other.netns)
            try:
                links.add_default_routes(other, namespace)
            finally:
                namespace.close()
            store.update(other)
            return
        except (NetworkError, PyruncError) as error:
            warn(f"{other.container} has no default route by {other.network}: {error}")
