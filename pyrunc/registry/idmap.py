# SPDX-License-Identifier: Apache-2.0
"""Whose files an image's are on the host: as they stand, shifted by a mapping, or all the caller's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, final

from pyrunc.errors import ImageError

from . import subids

if TYPE_CHECKING:
    from collections.abc import Mapping

Range = tuple[int, int, int]  # first id inside, first id on the host, how many


@final
class Ownership:
    """Maps ids of the image to the host's.

    `squash`: an ordinary user without a mapping owns everything itself, devices are left out and what
    only root may set is not set.  With one, see subids.py.
    """

    __slots__ = ("gids", "squash", "uids")

    def __init__(self, uids: tuple[Range, ...] = (), gids: tuple[Range, ...] = (), squash: bool = False) -> None:
        self.uids = uids
        self.gids = gids
        self.squash = squash

    def to_host(self, uid: int, gid: int) -> tuple[int, int]:
        """Raises ImageError for an id that is not mapped."""
        return _map(uid, self.uids, 0, 1, "uid"), _map(gid, self.gids, 0, 1, "gid")

    def to_image(self, uid: int, gid: int) -> tuple[int, int]:
        """The other way: what a file's owner is called in the image."""
        if self.squash:
            own = (os.geteuid(), os.getegid())
            return (0 if uid == own[0] else uid, 0 if gid == own[1] else gid)
        return _map(uid, self.uids, 1, 0, "uid"), _map(gid, self.gids, 1, 0, "gid")


def _map(number: int, ranges: tuple[Range, ...], source: int, target: int, what: str) -> int:
    if not ranges:
        return number
    for entry in ranges:
        if entry[source] <= number < entry[source] + entry[2]:
            return number - entry[source] + entry[target]
    raise ImageError(f"{what} {number} is in no mapping", hint="--uid-map and --gid-map take INSIDE:HOST:SIZE")


def default() -> Ownership:
    """For whoever calls: root leaves ids alone, an ordinary user uses those it is granted, or owns everything."""
    if os.geteuid() == 0:
        return Ownership()
    uids, gids = subids.mapping()
    return Ownership(uids, gids, squash=not uids)


def of_record(record: Mapping[str, Any]) -> Ownership:
    """That of a bundle, by its image.json."""
    return Ownership(tuple(map(tuple, record["uid_map"])), tuple(map(tuple, record["gid_map"])),
                     bool(record["squash"]))


def parse(texts: list[str], option: str) -> tuple[Range, ...]:
    """`INSIDE:HOST:SIZE`.  Raises ImageError."""
    found = []
    for text in texts:
        parts = text.split(":")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 11 for part in parts):
            raise ImageError(f"--{option} {text!a}: not INSIDE:HOST:SIZE")
        inside, host, size = map(int, parts)
        if not 0 < size <= 1 << 32 or inside + size > 1 << 32 or host + size > 1 << 32:
            raise ImageError(f"--{option} {text!a}: ids are 0 to 4294967295")
        found.append((inside, host, size))
    return tuple(found)
