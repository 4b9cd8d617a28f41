# SPDX-License-Identifier: Apache-2.0
"""New images: of a bundle's changes, and of a tar archive."""

from __future__ import annotations

import copy
import os
import time
from typing import TYPE_CHECKING, Any, final

from pyrunc._version import __version__
from pyrunc.errors import ImageError

from . import media, platforms
from .compression import Deflater, Head
from .digest import Verifier
from .manifest import Descriptor, Manifest, canonical
from .store import Image, write_all
from .tarstream import TarReader
from .tarwriter import TarWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .changes import Changes
    from .compression import Source
    from .idmap import Ownership
    from .store import Store



def source_date_epoch() -> int | None:
    """SOURCE_DATE_EPOCH of the environment (reproducible-builds.org).  Raises ImageError when it is no number."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise ImageError(f"SOURCE_DATE_EPOCH is {text[:40]!a}", hint="seconds since 1970")
    return int(text)


def _created(epoch: int | None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() if epoch is None else epoch))


@final
class LayerFile:
    """A layer on its way into the store: what is written is hashed, compressed, and hashed again."""

    def __init__(self, store: Store, compression: str, docker: bool = False) -> None:
        self._store = store
        self._path, self._fd = store.temporary()
        self._inner = Verifier()
        self._outer = Verifier()
        self._media_type = media.layer_type(compression, docker)
        self._deflater = Deflater(compression, self._out)

    def write(self, data: bytes | memoryview) -> None:
        self._inner.update(data)
        self._deflater.write(data)

    def _out(self, data: bytes) -> None:
        self._outer.update(data)
        write_all(self._fd, data)

    def finish(self) -> tuple[Descriptor, str]:
        """Its descriptor and its diff id, once it is in the store."""
        self._deflater.finish()
        self._store.adopt(self._path, self._fd, self._outer.digest)
        return Descriptor(self._media_type, self._outer.digest, self._outer.count), self._inner.digest

    def close(self) -> None:
        os.close(self._fd)
        if os.path.exists(self._path):
            os.unlink(self._path)


@final
class Edits:
    """What is to be different in the new image's configuration."""

    __slots__ = ("author", "cmd", "entrypoint", "env", "labels", "message", "user", "workdir")

    def __init__(self, *, author: str = "", message: str = "", cmd: list[str] | None = None,
                 entrypoint: list[str] | None = None, env: list[str] | None = None, labels: list[str] | None = None,
                 user: str = "", workdir: str = "") -> None:
        self.author = author
        self.message = message
        self.cmd = cmd
        self.entrypoint = entrypoint
        self.env = env or []
        self.labels = labels or []
        self.user = user
        self.workdir = workdir

    def apply(self, data: dict[str, Any]) -> None:
        inner = data.setdefault("config", {})
        if self.author:
            data["author"] = self.author
        if self.entrypoint is not None:
            inner["Entrypoint"] = self.entrypoint
        if self.cmd is not None:
            inner["Cmd"] = self.cmd
        for entry in self.env:
            name, equals, _ = entry.partition("=")
            if not name or not equals:
                raise ImageError(f"--env {entry[:80]!a}: not NAME=VALUE")
            kept = [other for other in inner.get("Env") or [] if other.partition("=")[0] != name]
            inner["Env"] = [*kept, entry]
        for entry in self.labels:
            name, _, value = entry.partition("=")
            inner["Labels"] = {**(inner.get("Labels") or {}), name: value}
        if self.user:
            inner["User"] = self.user
        if self.workdir:
            inner["WorkingDir"] = self.workdir


def commit(store: Store, base: Image, changes: Changes, name: str, edits: Edits, ownership: Ownership, *,
           compression: str = "gzip", warn: Callable[[str], None] = lambda text: None) -> Image:
    """A new image `name`: `base` with the changes as another layer.  Of the same changes the same image."""
    epoch = source_date_epoch()
    docker = base.manifest.media_type == media.DOCKER_MANIFEST
    data = copy.deepcopy(base.config.data)
    edits.apply(data)
    with store.adding():
        _check_blobs(store, base)
        found = changes.find()
        layers = list(base.manifest.layers)
        if found:
            layer = LayerFile(store, compression, docker)
            try:
                writer = TarWriter(layer.write, epoch)
                changes.write(found, writer, ownership, warn)
                writer.finish()
                descriptor, diff_id = layer.finish()
            finally:
                layer.close()
            layers.append(descriptor)
            data["rootfs"]["diff_ids"] = [*base.config.diff_ids, diff_id]
        created = _created(epoch)
        data["created"] = created
        step: dict[str, Any] = {"created": created, "created_by": f"pyrunc {__version__} image commit"}
        if edits.author:
            step["author"] = edits.author
        if edits.message:
            step["comment"] = edits.message
        if not found:
            step["empty_layer"] = True
        data["history"] = [*base.config.history, step]
        return _finish(store, name, data, layers, docker)


def _check_blobs(store: Store, base: Image) -> None:
    for layer in base.manifest.layers:
        if not store.has(layer):
            raise ImageError(f"{base.name}: its layer {layer.digest} is no longer in the store",
                             hint=f"pyrunc image pull {base.name}")


def _finish(store: Store, name: str, data: dict[str, Any], layers: list[Descriptor], docker: bool) -> Image:
    """The configuration and the manifest, and the name on them."""
    config = store.add(canonical(data), media.DOCKER_CONFIG if docker else media.OCI_CONFIG)
    manifest = Manifest(media.DOCKER_MANIFEST if docker else media.OCI_MANIFEST, config, layers)
    descriptor = store.add(canonical(manifest.dump()), manifest.media_type)
    image = store.load(name, descriptor)
    store.name(name, descriptor.replace(platform=image.config.platform))
    return image


def import_tar(store: Store, source: Source, what: str, name: str, edits: Edits, *, compression: str = "gzip") -> Image:
    """A new image `name` of one layer, the tar archive (perhaps compressed) that `source` gives."""
    epoch = source_date_epoch()
    with store.adding():
        layer = LayerFile(store, compression)
        try:
            pieces = Head(source).inflated(what)
            count = 0
            for _ in TarReader(_copied(pieces, layer), what):
                count += 1
            if not count:
                raise ImageError(f"{what}: an archive with nothing in it")
            descriptor, diff_id = layer.finish()
        finally:
            layer.close()
        created = _created(epoch)
        platform = platforms.host()
        data: dict[str, Any] = {
            "created": created, "os": platform.os, "architecture": platform.architecture,
            **({"variant": platform.variant} if platform.variant else {}), "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": f"pyrunc {__version__} image import",
                         "comment": edits.message or f"Imported from {what}"}]}
        edits.apply(data)
        return _finish(store, name, data, [descriptor], False)


def _copied(pieces: Iterator[bytes], layer: LayerFile) -> Iterator[bytes]:
    for piece in pieces:
        layer.write(piece)
        yield piece
