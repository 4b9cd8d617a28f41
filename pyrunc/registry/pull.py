# SPDX-License-Identifier: Apache-2.0
"""Pull: an image from a registry into the store, and its layers unpacked on the way if that is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from pyrunc.errors import ImageError

from . import media, platforms
from .manifest import MAX_CONFIG, ImageConfig, Index, Manifest, check_layers, load_document
from .store import INDEX_DIGEST, Image
from .transfer import PARALLEL, Transfer

if TYPE_CHECKING:
    from collections.abc import Callable

    from .idmap import Ownership
    from .manifest import Descriptor, Platform
    from .progress import Progress
    from .reference import Reference
    from .remote import Remote
    from .store import Store

_MAX_NESTING = 4


@final
class Pull:
    """One pull on its way."""

    def __init__(self, store: Store, remote: Remote, *, platform: Platform | None = None,
                 ownership: Ownership | None = None, progress: Progress | None = None, parallel: int = PARALLEL,
                 warn: Callable[[str], None] = lambda text: None) -> None:
        self.store = store
        self.remote = remote
        self.platform = platform or platforms.host()
        self.warn = warn
        self._transfer = Transfer(store, remote, ownership=ownership, progress=progress, parallel=parallel, warn=warn)

    @property
    def reference(self) -> Reference:
        return self.remote.reference

    def run(self, *, unpack: bool = False) -> Image:
        """Pull the image for the platform and give it its name; with `unpack` its layers are ready for overlayfs."""
        with self.store.adding():
            self.store.sweep()
            top, descriptor, manifest = self._manifest()
            config = self._config(manifest)
            name = str(self.reference)
            image = Image(name, descriptor, manifest, config)
            self._check_platform(image)
            self._transfer.layers(image, unpack)
            annotations = {INDEX_DIGEST: top.digest} if top.digest != descriptor.digest else {}
            image.descriptor = descriptor.replace(annotations=annotations, platform=config.platform)
            self.store.name(name, image.descriptor)
        return image

    def run_all(self) -> Descriptor:
        """Pull the index with the images of all its platforms; the index's descriptor."""
        with self.store.adding():
            self.store.sweep()
            top, data = self.remote.manifest(self.reference.target)
            document = load_document(data, self.remote.name, top.media_type)
            self._all(document, self.remote.name, 0)
            self.store.add(data, top.media_type)
            self.store.name(str(self.reference), top)
        return top

    def _all(self, document: Index | Manifest, what: str, depth: int) -> None:
        if depth > _MAX_NESTING:
            raise ImageError(f"{what}: indexes within indexes")
        if isinstance(document, Index):
            for item in document.manifests:
                if item.media_type in (*media.MANIFESTS, *media.INDEXES):
                    _, data = self.remote.manifest(item.digest, item)
                    self._all(load_document(data, f"{what}@{item.digest}", item.media_type), what, depth + 1)
                    self.store.add(data, item.media_type)
            return
        self._transfer.blobs([document.config, *document.layers])

    # The parts

    def _manifest(self) -> tuple[Descriptor, Descriptor, Manifest]:
        """What the name means on the registry, and of an index the image for the platform; both in the store."""
        what = str(self.reference)
        top, data = self.remote.manifest(self.reference.target)
        descriptor = top
        for _ in range(_MAX_NESTING):
            document = load_document(data, what, descriptor.media_type)
            self.store.add(data, descriptor.media_type)
            if isinstance(document, Manifest):
                document.check_image(what)
                return top, descriptor, document
            chosen = platforms.choose(document, self.platform, what, self._look)
            descriptor, data = self.remote.manifest(chosen.digest, chosen)
        raise ImageError(f"{what}: indexes within indexes")

    def _look(self, item: Descriptor) -> bytes:
        """A document that may turn out not to be wanted."""
        if item.media_type in (*media.MANIFESTS, *media.INDEXES):
            return self.remote.manifest(item.digest, item)[1]
        return self.remote.small_blob(item, MAX_CONFIG)

    def _config(self, manifest: Manifest) -> ImageConfig:
        what = f"{self.reference}: configuration {manifest.config.digest}"
        if self.store.has(manifest.config):
            config = ImageConfig.load(self.store.read(manifest.config), what)
        else:
            data = self.remote.small_blob(manifest.config, MAX_CONFIG)
            config = ImageConfig.load(data, what)
            self.store.add(data, manifest.config.media_type)
        check_layers(manifest, config, str(self.reference))
        return config

    def _check_platform(self, image: Image) -> None:
        found = image.config.platform
        if found.os not in ("", "linux"):
            raise ImageError(f"{self.reference}: an image for {found}", hint="only Linux images can be unpacked")
        if found.architecture and found.architecture != self.platform.architecture:
            self.warn(f"{self.reference}: an image for {found}, not {self.platform}")
