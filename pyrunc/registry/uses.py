# SPDX-License-Identifier: Apache-2.0
"""Who uses what of the store (bundles, mounts), and the removal of what nobody needs any more."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

from pyrunc.errors import ImageError

from . import trees
from .digest import chain_ids, is_digest
from .manifest import Descriptor

if TYPE_CHECKING:
    from .store import Store

RECORD = "image.json"  # in a bundle: what it was made of
_VERSION = 1


@final
class Use:
    """A bundle or a mount made of an image."""

    __slots__ = ("backend", "descriptor", "kind", "name", "path")

    def __init__(self, path: str, kind: str, name: str, descriptor: Descriptor, backend: str) -> None:
        self.path = path
        self.kind = kind  # bundle, container or mount
        self.name = name
        self.descriptor = descriptor
        self.backend = backend  # overlay or copy

    def dump(self) -> dict[str, Any]:
        return {"version": _VERSION, "path": self.path, "kind": self.kind, "image": self.name,
                "descriptor": self.descriptor.dump(), "backend": self.backend}

    @classmethod
    def load(cls, value: Any, what: str) -> Use:
        try:
            if value["version"] != _VERSION:
                raise ImageError(f"{what}: written by another version of pyrunc")
            return cls(str(value["path"]), str(value["kind"]), str(value["image"]),
                       Descriptor.load(value["descriptor"], what), str(value["backend"]))
        except (KeyError, TypeError):
            raise ImageError(f"{what}: not a record of an image's use") from None

    @property
    def alive(self) -> bool:
        """Whether what it tells of is still there."""
        if self.kind == "mount":
            return os.path.ismount(self.path)
        return os.path.exists(f"{self.path}/{RECORD}")


def _record(store: Store, path: str) -> str:
    return f"{store.uses}/{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def add(store: Store, use: Use) -> None:
    """Note the use, so that the image stays while it lasts."""
    with open(_record(store, use.path), "w") as file:
        json.dump(use.dump(), file)


def forget(store: Store, path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(_record(store, path))


def find(store: Store, path: str) -> Use | None:
    """The use at `path`, by the store's record."""
    return _load(_record(store, path))


def _load(path: str) -> Use | None:
    try:
        with open(path) as file:
            return Use.load(json.loads(file.read(1 << 20)), path)
    except (FileNotFoundError, ValueError, ImageError):
        return None


def listed(store: Store) -> list[Use]:
    """All uses that still are."""
    found = (_load(f"{store.uses}/{entry}") for entry in sorted(os.listdir(store.uses)))
    return [use for use in found if use is not None and use.alive]


@final
class Removed:
    """What a collection has removed."""

    __slots__ = ("blobs", "bytes", "layers", "partial")

    def __init__(self) -> None:
        self.blobs: list[str] = []
        self.layers: list[str] = []
        self.partial: list[str] = []
        self.bytes = 0

    def dump(self) -> dict[str, Any]:
        return {"blobs": self.blobs, "layers": self.layers, "partial": self.partial, "bytes": self.bytes}


def collect(store: Store, *, partial: bool = False) -> Removed:
    """Remove blobs and unpacked layers that no name and no use leads to; with `partial` unfinished downloads too.

    The caller holds `store.removing()`.
    """
    removed = Removed()
    for entry in os.listdir(store.uses):
        use = _load(f"{store.uses}/{entry}")
        if use is None or not use.alive:
            os.unlink(f"{store.uses}/{entry}")
    roots = [*store.entries(), *(use.descriptor for use in listed(store))]
    blobs, images = store.reachable(roots)
    for algorithm in os.listdir(f"{store.layout}/blobs"):
        directory = f"{store.layout}/blobs/{algorithm}"
        for encoded in sorted(os.listdir(directory)):
            digest = f"{algorithm}:{encoded}"
            if digest not in blobs:
                path = f"{directory}/{encoded}"
                removed.bytes += os.lstat(path).st_size
                os.unlink(path)
                if is_digest(digest):
                    removed.blobs.append(digest)
    kept = {chain.partition(":")[2] for diff_ids in images for chain in chain_ids(diff_ids)}
    for entry in sorted(os.listdir(store.layers)):
        if entry in kept:
            continue
        removed.bytes += _size(f"{store.layers}/{entry}")
        # Under another name first: a removal that is cut short leaves no layer that looks whole.
        gone = f"{store.layers}/new-{entry.removeprefix('new-')}"
        if gone != f"{store.layers}/{entry}":
            trees.remove(gone)
            os.rename(f"{store.layers}/{entry}", gone)
        trees.remove(gone)
        if not entry.startswith("new-"):
            removed.layers.append(entry)
    store.sweep()
    if partial:
        for entry in sorted(os.listdir(store.partial)):
            path = f"{store.partial}/{entry}"
            removed.bytes += os.lstat(path).st_size
            os.unlink(path)
            removed.partial.append(entry)
    return removed


def remove_unreachable(store: Store, blobs: list[str]) -> None:
    """Remove those of the blobs that no name and no use leads to.  Raises ImageError when the store is in use."""
    if not blobs:
        return
    with store.removing(0):
        kept, _ = store.reachable([*store.entries(), *(use.descriptor for use in listed(store))])
        for digest in blobs:
            if digest not in kept:
                with suppress(FileNotFoundError):
                    os.unlink(store.blob_path(digest))


def _size(path: str) -> int:
    """Bytes of the files below."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return sum(info.st_blocks * 512 for _, _, _, info in trees.walk(fd))
    finally:
        os.close(fd)
