# SPDX-License-Identifier: Apache-2.0
"""One layer from a registry (or the store) to where it is wanted, each stage in a thread of its own:

    network -> digest, file  ->  inflate, diff id  ->  entries, files

Hashing, inflating and writing let go of the interpreter's lock, so the stages run side by side; a few
pieces of a megabyte are between them, and nothing is in memory as a whole.
"""

from __future__ import annotations

import fcntl
import os
import threading
from typing import TYPE_CHECKING, final

from pyrunc.errors import ImageError, KernelError, RegistryError

from . import media
from .compression import inflate_layer, limit_for
from .digest import Verifier
from .pipe import Abandoned, Pipe
from .store import wait_for_lock
from .tarstream import TarReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .extract import Extractor
    from .manifest import Descriptor
    from .progress import Progress
    from .remote import Remote
    from .store import Store

_CHUNK = 1 << 20
_WAIT = 3600.0  # seconds for another process to have fetched the same blob


@final
class Cancelled(Exception):
    """Another layer failed, or the user wants to stop."""


class _Failure:
    """The first thing that went wrong in a stage."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __call__(self, error: BaseException) -> None:
        if self.error is None and not isinstance(error, Abandoned):
            self.error = error

    def check(self) -> None:
        if self.error is not None:
            raise self.error


@final
class Unpacking:
    """The last two stages: what is written to `pipe`, compressed, is verified and extracted."""

    def __init__(self, layer: Descriptor, diff_id: str, extractor: Extractor, what: str) -> None:
        self.pipe = Pipe()
        self._tar = Pipe()
        self._layer = layer
        self._diff_id = diff_id
        self._extractor = extractor
        self._what = what
        self._failed = _Failure()
        self._threads = [threading.Thread(target=stage, name=stage.__name__, daemon=True)
                         for stage in (self._inflate, self._extract)]
        for thread in self._threads:
            thread.start()

    def _inflate(self) -> None:
        verifier = Verifier.of(self._diff_id)
        try:
            compression = media.LAYERS[self._layer.media_type]
            for piece in inflate_layer(self.pipe, compression, self._what, limit_for(self._layer.size)):
                verifier.update(piece)
                self._tar.write(piece)
            verifier.check(self._diff_id, -1, f"{self._what}, inflated")
            self._tar.end()
        except BaseException as error:
            self._failed(error)
            self._tar.abandon()
            self.pipe.abandon()

    def _extract(self) -> None:
        try:
            self._extractor.extract(TarReader(_pieces(self._tar), self._what))
        except BaseException as error:
            self._failed(error)
            self._tar.abandon()
            self.pipe.abandon()

    def finish(self) -> None:
        """Wait for the stages.  Raises what went wrong in one."""
        self.pipe.end()
        self._join()
        self._failed.check()

    def abandon(self) -> None:
        self.pipe.abandon()
        self._tar.abandon()
        self._join()

    def failure(self) -> BaseException | None:
        """What went wrong in a stage, once `write` has said Abandoned."""
        self._join()
        return self._failed.error

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()


def _pieces(pipe: Pipe) -> Iterator[bytes]:
    while piece := pipe.read():
        yield piece


def unpack_blob(store: Store, layer: Descriptor, diff_id: str, extractor: Extractor, what: str, *,
                stopping: threading.Event | None = None, progress: Callable[[int], None] = lambda count: None) -> None:
    """Extract a layer that is in the store, both digests verified."""
    verifier = Verifier.of(layer.digest)
    unpacking = Unpacking(layer, diff_id, extractor, what)
    try:
        with open(store.open(layer), "rb", buffering=0) as file:
            while data := file.read(_CHUNK):
                if stopping is not None and stopping.is_set():
                    raise Cancelled
                verifier.update(data)
                unpacking.pipe.write(data)
                progress(len(data))
        verifier.check(layer.digest, layer.size, f"{what} in the store")
        unpacking.finish()
    except Abandoned:
        raise unpacking.failure() or ImageError(f"{what}: it could not be unpacked") from None
    finally:
        unpacking.abandon()


@final
class BlobFetch:
    """A blob on its way into the store; what comes is also handed to `sink`."""

    def __init__(self, store: Store, remote: Remote, blob: Descriptor, progress: Progress,
                 stopping: threading.Event) -> None:
        self._store = store
        self._remote = remote
        self._blob = blob
        self._progress = progress
        self._stopping = stopping
        self.path = f"{store.partial}/{blob.digest.replace(':', '-')}"

    def run(self, make_sink: Callable[[], Unpacking | None]) -> bool:
        """Fetch it; False when another process had done so meanwhile, and nothing went to the sink.

        What an earlier pull left is used; if that turns out to be damaged it all begins anew.
        """
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                wait_for_lock(fd, fcntl.LOCK_EX, _WAIT, "another pyrunc is fetching the same layer")
                if self._store.has(self._blob):
                    self._discard(fd)
                    return False
                try:
                    if os.stat(self.path).st_ino != os.fstat(fd).st_ino:
                        continue
                except FileNotFoundError:
                    continue
                resumed = os.fstat(fd).st_size > 0
                if self._attempt(fd, make_sink, resumed):
                    return True
            finally:
                os.close(fd)

    def _attempt(self, fd: int, make_sink: Callable[[], Unpacking | None], resumed: bool) -> bool:
        sink = make_sink()
        try:
            self._transfer(fd, sink)
            if sink is not None:
                sink.finish()
            return True
        except Abandoned:
            failure = (sink.failure() if sink is not None else None) or ImageError("a stage ended")
        except (RegistryError, KernelError, Cancelled):
            if not os.fstat(fd).st_size:
                self._discard(fd)
            raise  # what has come is kept
        except ImageError as error:
            failure = error
        finally:
            if sink is not None:
                sink.abandon()
        self._discard(fd)
        if resumed and isinstance(failure, ImageError):
            return False
        raise failure

    def _transfer(self, fd: int, sink: Unpacking | None) -> None:
        blob = self._blob
        what = f"{self._remote.name}: blob {blob.digest}"
        verifier = Verifier.of(blob.digest)
        if os.fstat(fd).st_size > blob.size:
            os.ftruncate(fd, 0)
        # What came before has to go through the same hands.
        while data := os.pread(fd, _CHUNK, verifier.count):
            self._take(data, verifier, sink)
        os.lseek(fd, verifier.count, os.SEEK_SET)
        for data in self._remote.blob(blob, verifier.count):
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(fd, view):]
                except OSError as error:
                    raise KernelError(f"{what}: write to the store", errno=error.errno or 0) from None
            self._take(data, verifier, sink)
        verifier.check(blob.digest, blob.size, what)
        try:
            self._store.adopt(self.path, fd, blob.digest)
        except OSError as error:
            raise KernelError(f"{what}: put it into the store", errno=error.errno or 0) from None

    def _take(self, data: bytes, verifier: Verifier, sink: Unpacking | None) -> None:
        if self._stopping.is_set():
            raise Cancelled
        verifier.update(data)
        if sink is not None:
            sink.pipe.write(data)
        self._progress.advance(self._blob.digest, len(data))

    def _discard(self, fd: int) -> None:
        """Remove the partial file, unless it has become the blob."""
        try:
            if os.stat(self.path).st_ino == os.fstat(fd).st_ino:
                os.unlink(self.path)
        except FileNotFoundError:
            pass
