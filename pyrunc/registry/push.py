# SPDX-License-Identifier: Apache-2.0
"""Push: an image of the store to a registry, blobs first, what it refers to before what refers to it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, final

from pyrunc.errors import ImageError, RegistryError

from . import media
from .digest import Verifier
from .manifest import Index, load_document
from .progress import Progress, human
from .reference import parse

if TYPE_CHECKING:
    from .manifest import Descriptor
    from .remote import Remote
    from .store import Store

PARALLEL = 3


@final
class Push:
    """One push on its way."""

    def __init__(self, store: Store, remote: Remote, *, progress: Progress | None = None,
                 parallel: int = PARALLEL) -> None:
        self.store = store
        self.remote = remote
        self.progress = progress or Progress()
        self.parallel = parallel
        self._elsewhere = self._known()

    def _known(self) -> dict[str, str]:
        """Blob -> another repository of the same registry that has it, as far as the store knows."""
        found: dict[str, str] = {}
        own = self.remote.reference
        for name, descriptor in self.store.names().items():
            other = parse(name)
            if other.registry != own.registry or other.repository == own.repository:
                continue
            try:
                document = load_document(self.store.read(descriptor), name, descriptor.media_type)
            except ImageError:
                continue
            if not isinstance(document, Index):
                found |= {blob.digest: other.repository for blob in (document.config, *document.layers)}
        return found

    def run(self, descriptor: Descriptor) -> str:
        """Push the image (or the index with all its images); the digest it now has there."""
        with self.store.adding():
            self._document(descriptor, self.remote.reference.tag or descriptor.digest, 0)
        return descriptor.digest

    def _document(self, descriptor: Descriptor, target: str, depth: int) -> None:
        if depth > 4:
            raise ImageError(f"{descriptor.digest}: indexes within indexes")
        data = self.store.read(descriptor)
        document = load_document(data, descriptor.digest, descriptor.media_type)
        if isinstance(document, Index):
            for item in document.manifests:
                if item.media_type not in (*media.MANIFESTS, *media.INDEXES):
                    continue
                if not self.store.has(item):
                    raise ImageError(f"{descriptor.digest}: its image {item.digest} is not in the store",
                                     hint="pull it with --all-platforms")
                self._document(item, item.digest, depth + 1)
        else:
            # A foreign layer is somebody else's to distribute (layer.md, Non-Distributable Layers).
            blobs = {blob.digest: blob for blob in (*document.layers, document.config)
                     if not media.is_foreign(blob.media_type)}
            with ThreadPoolExecutor(self.parallel, thread_name_prefix="push") as executor:
                for future in [executor.submit(self._blob, blob) for blob in blobs.values()]:
                    future.result()
        self.remote.put_manifest(target, data, descriptor.media_type)

    def _blob(self, blob: Descriptor) -> None:
        self.progress.start(blob.digest, blob.size)
        if self.remote.has_blob(blob):
            self.progress.done(blob.digest, "already there")
            return
        location = ""
        source = self._elsewhere.get(blob.digest, "")
        if source:
            try:
                location = self.remote.mount_blob(blob, source)
                if not location:
                    self.progress.done(blob.digest, f"mounted from {source}")
                    return
            except RegistryError:
                location = ""  # not allowed to look there: uploaded as any other
        self._verify(blob)
        self.remote.upload_blob(blob, lambda offset: self._open(blob, offset), location,
                                lambda count: self.progress.advance(blob.digest, count))
        self.progress.done(blob.digest, f"pushed, {human(blob.size)}")

    def _open(self, blob: Descriptor, offset: int) -> BinaryIO:
        file = open(self.store.open(blob), "rb", buffering=0)
        os.lseek(file.fileno(), offset, os.SEEK_SET)
        return file

    def _verify(self, blob: Descriptor) -> None:
        """What is damaged here must not be pushed; the registry would refuse it only at the end."""
        verifier = Verifier.of(blob.digest)
        with self._open(blob, 0) as file:
            while data := file.read(1 << 20):
                verifier.update(data)
        verifier.check(blob.digest, blob.size, f"the blob {blob.digest} in the store")
