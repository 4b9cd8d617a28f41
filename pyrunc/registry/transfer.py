# SPDX-License-Identifier: Apache-2.0
"""The layers of an image, several at a time, into the store and, if that is wanted, unpacked for overlayfs."""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING, final

from pyrunc.errors import ImageError, RegistryError

from . import idmap
from .digest import chain_ids
from .extract import Extractor
from .fetch import BlobFetch, Cancelled, Unpacking, unpack_blob
from .layers import Layers
from .progress import Progress, human

if TYPE_CHECKING:
    from collections.abc import Callable

    from .idmap import Ownership
    from .layers import NewLayer
    from .manifest import Descriptor
    from .remote import Remote
    from .store import Image, Store

PARALLEL = 3
_PATIENCE = 1.0  # seconds that an interrupted transfer has to come to an end


@final
class Transfer:
    """Fetches blobs from `remote` (None: all has to be in the store)."""

    def __init__(self, store: Store, remote: Remote | None = None, *, ownership: Ownership | None = None,
                 progress: Progress | None = None, parallel: int = PARALLEL,
                 warn: Callable[[str], None] = lambda text: None) -> None:
        self.store = store
        self.remote = remote
        self.ownership = ownership or idmap.default()
        self.progress = progress or Progress()
        self.parallel = parallel
        self.warn = warn
        self._stopping = threading.Event()

    def layers(self, image: Image, unpack: bool) -> None:
        """All layers, some at a time; unpacked, those go to their places from the base up."""
        layers = Layers(self.store)
        chain = chain_ids(image.config.diff_ids)
        new: dict[int, NewLayer] = {}
        first: dict[str, int] = {}
        again: list[int] = []
        tasks: list[Callable[[], None]] = []
        try:
            if unpack:
                # From the base up, before any work: two pulls that each hold a layer the other waits for never end.
                for number, chain_id in enumerate(chain):
                    place = layers.begin(chain_id)
                    if place is not None:
                        new[number] = place
            for number, layer in enumerate(image.manifest.layers):
                if layer.digest not in first:
                    first[layer.digest] = number
                    self.progress.start(layer.digest, layer.size)
                    tasks.append(partial(self._layer, image, number, layer, new.get(number)))
                elif number in new:
                    again.append(number)
            self._run(tasks)
            # The same layer twice in an image: the second is another one, on top of others.
            for number in again:
                self._layer(image, number, image.manifest.layers[number], new[number])
            for number in sorted(new):
                new[number].finish(chain[:number])
        finally:
            for layer_in_progress in new.values():
                layer_in_progress.abandon()

    def _layer(self, image: Image, number: int, layer: Descriptor, place: NewLayer | None) -> None:
        if place is None:
            self._fetch(layer)
            return
        what = f"{image.name}: layer {layer.digest}"
        diff_id = image.config.diff_ids[number]

        def extractor() -> Extractor:
            place.restart()
            place.extractor = Extractor(place.root, self.ownership, what, overlay=True, warn=self.warn)
            return place.extractor

        if self.remote is not None and not self.store.has(layer):
            fetch = BlobFetch(self.store, self.remote, layer, self.progress, self._stopping)
            if fetch.run(lambda: Unpacking(layer, diff_id, extractor(), what)):
                self.progress.done(layer.digest, f"pulled, {human(layer.size)}")
                return
        unpack_blob(self.store, layer, diff_id, extractor(), what, stopping=self._stopping,
                    progress=lambda count: self.progress.advance(layer.digest, count))
        self.progress.done(layer.digest, "unpacked")

    def blobs(self, wanted: list[Descriptor]) -> None:
        """All those blobs."""
        self._run([partial(self._fetch, blob) for blob in {blob.digest: blob for blob in wanted}.values()])

    def _fetch(self, blob: Descriptor) -> None:
        if self.store.has(blob):
            self.progress.done(blob.digest, "already there")
            return
        if self.remote is None:
            raise ImageError(f"the blob {blob.digest} is not in the store", hint="pull the image again")
        BlobFetch(self.store, self.remote, blob, self.progress, self._stopping).run(lambda: None)
        self.progress.done(blob.digest, f"pulled, {human(blob.size)}")

    def _stop(self, futures: list[Future[None]]) -> None:
        self._stopping.set()
        for future in futures:
            future.cancel()

    def _run(self, tasks: list[Callable[[], None]]) -> None:
        """All tasks, some at a time.  The first failure stops the rest, and is raised."""
        executor = ThreadPoolExecutor(self.parallel, thread_name_prefix="layer")
        futures: list[Future[None]] = [executor.submit(task) for task in tasks]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except KeyboardInterrupt:
            self._stop(futures)
            # Who waits for a registry that has gone silent notices nothing; it ends with the process.
            wait(futures, timeout=_PATIENCE)
            executor.shutdown(wait=False)
            raise
        self._stop(futures)
        executor.shutdown(wait=True)
        self._stopping.clear()
        errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
        for error in sorted(errors, key=lambda error: (isinstance(error, Cancelled), isinstance(error, RegistryError))):
            raise error
