# SPDX-License-Identifier: Apache-2.0
"""The store: an OCI image layout, and beside it what is on its way and what has been unpacked.

    STORE/oci/         an OCI image layout (image-layout.md), which other tools may read: oci-layout, index.json, blobs/
    STORE/partial/     blobs on their way, by digest; a later pull goes on where one was cut off; files being written
    STORE/layers/      unpacked layers (layers.py)
    STORE/uses/        which bundles and mounts use which image
    STORE/lock         held shared by whoever adds to the store, alone by who removes from it
    STORE/index.lock   held while index.json is replaced

Whatever appears under its final name is complete: it is written aside, synced to disk and renamed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, final

from pyrunc.errors import ImageError, KernelError
from pyrunc.paths import make_private

from . import media
from .digest import Verifier, check_digest, digest_of, is_digest
from .manifest import Descriptor, ImageConfig, Index, Manifest, check_layers, load_document
from .reference import Reference
from .reference import parse as parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

REF_NAME = "org.opencontainers.image.ref.name"
#: The digest the registry knew the image by, where that was an index of several.
INDEX_DIGEST = "org.pyrunc.index.digest"
LOCK_TIMEOUT = 60.0
_MAX_INDEX = 64 << 20
_CHUNK = 1 << 20


def default_path() -> str:
    """Where images are kept: one place for root, one for each ordinary user."""
    if os.geteuid() == 0:
        return "/var/lib/pyrunc/images"
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.environ.get("HOME") or "/", ".local/share")
    return os.path.join(home, "pyrunc/images")


@final
class Image:
    """An image in the store: what its name points to, read and checked."""

    __slots__ = ("config", "descriptor", "manifest", "name")

    def __init__(self, name: str, descriptor: Descriptor, manifest: Manifest, config: ImageConfig) -> None:
        self.name = name
        self.descriptor = descriptor
        self.manifest = manifest
        self.config = config

    @property
    def id(self) -> str:
        """The digest of its configuration: the same whatever the compression of its layers, as docker has it."""
        return self.manifest.config.digest

    @property
    def size(self) -> int:
        """Bytes in the store."""
        return sum(layer.size for layer in self.manifest.layers) + self.manifest.config.size + self.descriptor.size


@final
class Store:
    """The store at `path`, made if it isn't there."""

    def __init__(self, path: str = "") -> None:
        self.path = os.path.abspath(path or default_path())
        self.layout = os.path.join(self.path, "oci")
        try:
            for directory in (self.path, self.layout, f"{self.layout}/blobs", f"{self.layout}/blobs/sha256",
                              self.partial, self.layers, self.uses):
                # Setuid programs of all images are below: nobody else looks in (CVE-2024-25621).
                make_private(directory)
            with self._index_locked():
                if not os.path.exists(f"{self.layout}/oci-layout"):
                    self._write(f"{self.layout}/oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
                if not os.path.exists(f"{self.layout}/index.json"):
                    self._write_index([])
        except OSError as error:
            raise KernelError(f"the image store {self.path}", errno=error.errno or 0,
                              hint="--store names another place") from None

    @property
    def partial(self) -> str:
        return os.path.join(self.path, "partial")

    @property
    def layers(self) -> str:
        return os.path.join(self.path, "layers")

    @property
    def uses(self) -> str:
        return os.path.join(self.path, "uses")

    # Locks

    @contextmanager
    def adding(self) -> Iterator[None]:
        """While the block runs nothing is removed from the store; what it adds may be named in the end."""
        with _locked(f"{self.path}/lock", fcntl.LOCK_SH, LOCK_TIMEOUT, "something is being removed from the store"):
            yield

    @contextmanager
    def removing(self, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
        """Nobody adds to the store while the block runs."""
        with _locked(f"{self.path}/lock", fcntl.LOCK_EX, timeout, "the store is in use by another pyrunc"):
            yield

    @contextmanager
    def _index_locked(self) -> Iterator[None]:
        with _locked(f"{self.path}/index.lock", fcntl.LOCK_EX, LOCK_TIMEOUT, "index.json is being changed"):
            yield

    # Names

    def entries(self) -> list[Descriptor]:
        """index.json: each descriptor with its name as an annotation."""
        name = f"{self.layout}/index.json"
        with open(name, "rb") as file:
            data = file.read(_MAX_INDEX + 1)
        if len(data) > _MAX_INDEX:
            raise ImageError(f"{name}: larger than {_MAX_INDEX} bytes")
        try:
            listed = json.loads(data)["manifests"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ImageError(f"{name} is not an index") from None
        if not isinstance(listed, list):
            raise ImageError(f"{name} is not an index")
        return [Descriptor.load(item, f"{name}: manifests/{number}") for number, item in enumerate(listed)]

    def names(self) -> dict[str, Descriptor]:
        """Name -> descriptor, for those that have one."""
        return {entry.annotations[REF_NAME]: entry for entry in self.entries() if REF_NAME in entry.annotations}

    def name(self, name: str, descriptor: Descriptor) -> None:
        """Have `name` mean `descriptor`, whose blobs are all there; it takes the name from another.

        Raises ImageError for a name with the digest of something else.
        """
        digest = parse_reference(name).digest
        if digest not in ("", descriptor.digest, descriptor.annotations.get(INDEX_DIGEST)):
            raise ImageError(f"{name}: the image's digest is {descriptor.digest}", hint="leave it out of the name")
        named = descriptor.replace(annotations={**descriptor.annotations, REF_NAME: name})
        with self._index_locked():
            kept = [entry for entry in self.entries() if entry.annotations.get(REF_NAME) != name]
            self._write_index([*kept, named])

    def unname(self, name: str) -> bool:
        """Take the name away; whether it was there."""
        with self._index_locked():
            entries = self.entries()
            kept = [entry for entry in entries if entry.annotations.get(REF_NAME) != name]
            if len(kept) == len(entries):
                return False
            self._write_index(kept)
            return True

    def resolve(self, text: str) -> tuple[str, Descriptor]:
        """The name and descriptor `text` means: a name, a digest, or the beginning of one (at least 4 digits).

        Raises ImageError, with the nearest names.
        """
        names = self.names()
        encoded = text.partition(":")[2] if is_digest(text) else text
        if len(encoded) >= 4 and set(encoded) <= set("0123456789abcdef"):
            found = {entry.digest: (name, entry) for name, entry in sorted(names.items(), reverse=True)
                     if entry.digest.partition(":")[2].startswith(encoded) or
                     self._config_digest(entry).partition(":")[2].startswith(encoded)}
            if len(found) > 1:
                raise ImageError(f"{text!a} is the beginning of several images' digests", hint="give more of it")
            if found:
                return next(iter(found.values()))
            if is_digest(text):
                raise ImageError(f"no image {text} in the store")
        reference = parse_reference(text)
        if str(reference) in names:
            return str(reference), names[str(reference)]
        if reference.digest:  # whatever the tag, if the repository is right
            for name, entry in names.items():
                if reference.digest in (entry.digest, entry.annotations.get(INDEX_DIGEST)) and \
                        parse_reference(name).name == reference.name:
                    return name, entry
        raise self._unknown(reference, list(names))

    def _config_digest(self, entry: Descriptor) -> str:
        try:
            document = load_document(self.read(entry), entry.digest, entry.media_type)
        except (ImageError, OSError):
            return ""
        return document.config.digest if isinstance(document, Manifest) else ""

    def _unknown(self, reference: Reference, names: list[str]) -> ImageError:
        from difflib import get_close_matches

        near = get_close_matches(str(reference), names, 3, 0.7)
        hint = f"there is {', '.join(parse_reference(name).familiar for name in near)}; " if near else ""
        return ImageError(f"no image {reference.familiar} in the store",
                          hint=f"{hint}`pyrunc image pull {reference.familiar}` fetches it")

    # Images

    def image(self, text: str, platform: Any = None) -> Image:
        """The image `text` names, verified; of an index the one for `platform` (None: this machine's)."""
        name, descriptor = self.resolve(text)
        return self.load(name, descriptor, platform)

    def load(self, name: str, descriptor: Descriptor, platform: Any = None) -> Image:
        from . import platforms

        document = load_document(self.read(descriptor), descriptor.digest, descriptor.media_type)
        for _ in range(4):
            if isinstance(document, Manifest):
                break
            descriptor = platforms.choose(document, platform or platforms.host(), name or descriptor.digest,
                                          self.read)
            document = load_document(self.read(descriptor), descriptor.digest, descriptor.media_type)
        else:
            raise ImageError(f"{name}: indexes within indexes")
        document.check_image(name or descriptor.digest)
        config = ImageConfig.load(self.read(document.config), document.config.digest)
        check_layers(document, config, name or descriptor.digest)
        return Image(name, descriptor, document, config)

    def images(self) -> list[Image]:
        """All images that have a name; of an index the one for this machine."""
        found = []
        for name, descriptor in sorted(self.names().items()):
            with suppress(ImageError):
                found.append(self.load(name, descriptor))
        return found

    # Blobs

    def blob_path(self, digest: str) -> str:
        algorithm, _, encoded = check_digest(digest, "a blob").partition(":")
        return f"{self.layout}/blobs/{algorithm}/{encoded}"

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there, with the size it should have."""
        try:
            return os.stat(self.blob_path(descriptor.digest)).st_size == descriptor.size
        except FileNotFoundError:
            return False

    def open(self, descriptor: Descriptor) -> int:
        """A descriptor of the blob's file; what is read from it has yet to be verified."""
        try:
            fd = os.open(self.blob_path(descriptor.digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise KernelError(f"the blob {descriptor.digest}", errno=error.errno or 0) from None
            raise ImageError(f"the blob {descriptor.digest} is not in the store", hint="pull the image again") from None
        if os.fstat(fd).st_size != descriptor.size:
            os.close(fd)
            raise ImageError(f"the blob {descriptor.digest} is damaged: its size is not {descriptor.size}",
                             hint="`pyrunc image rm` and pull it again")
        return fd

    def read(self, descriptor: Descriptor) -> bytes:
        """A document of at most 4 MiB, verified."""
        if descriptor.size > 4 << 20:
            raise ImageError(f"{descriptor.digest}: {descriptor.size} bytes is too much for a document")
        with open(self.open(descriptor), "rb") as file:
            data = file.read(descriptor.size + 1)
        verifier = Verifier.of(descriptor.digest)
        verifier.update(data)
        verifier.check(descriptor.digest, descriptor.size, f"the blob {descriptor.digest} in the store")
        return data

    def add(self, data: bytes, media_type: str) -> Descriptor:
        """Put `data` into the store."""
        digest = digest_of(data)
        path = self.blob_path(digest)
        if not os.path.exists(path):
            self._write(path, data)
        return Descriptor(media_type, digest, len(data))

    def adopt(self, temporary: str, fd: int, digest: str) -> None:
        """The file `temporary` (open as `fd`), whose digest has been verified, becomes the blob."""
        path = self.blob_path(digest)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        os.fsync(fd)
        os.fchmod(fd, 0o644)
        os.rename(temporary, path)
        sync_directory(os.path.dirname(path))

    def _write_index(self, entries: list[Descriptor]) -> None:
        value = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry.dump() for entry in entries]}
        self._write(f"{self.layout}/index.json", json.dumps(value, separators=(",", ":")).encode())

    def _write(self, path: str, data: bytes) -> None:
        """Write `path` so that after a crash either the old content is there or the new one."""
        temporary, fd = self.temporary()
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            os.fsync(fd)
            os.fchmod(fd, 0o644)
            os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        sync_directory(os.path.dirname(path))

    def temporary(self) -> tuple[str, int]:
        """A new file on the store's file system, its path and descriptor; locked, so that `sweep` leaves it alone."""
        while True:
            path = f"{self.partial}/new-{os.getpid()}-{time.monotonic_ns()}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return path, fd
            os.close(fd)  # another process swept it away before it was locked

    def sweep(self) -> None:
        """Remove the files of `temporary` that a process left behind when it was killed."""
        for entry in os.listdir(self.partial):
            if not entry.startswith("new-"):
                continue
            path = f"{self.partial}/{entry}"
            with suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path)
                finally:
                    os.close(fd)

    # What is reachable

    def reachable(self, roots: list[Descriptor]) -> tuple[set[str], list[list[str]]]:
        """The digests of all blobs that `roots` lead to, and the diff ids of each image among them."""
        seen: set[str] = set()
        images: list[list[str]] = []
        todo = list(roots)
        while todo:
            descriptor = todo.pop()
            if descriptor.digest in seen:
                continue
            seen.add(descriptor.digest)
            if descriptor.media_type not in (*media.MANIFESTS, *media.INDEXES):
                continue
            try:
                document = load_document(self.read(descriptor), descriptor.digest, descriptor.media_type)
                if isinstance(document, Index):
                    todo += document.manifests
                    continue
                seen.update(item.digest for item in (document.config, *document.layers))
                if document.config.media_type in media.CONFIGS:
                    images.append(ImageConfig.load(self.read(document.config), document.config.digest).diff_ids)
            except ImageError:
                continue  # another platform's, which was not fetched
        return seen, images


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """All of it to a file of the store.  Raises KernelError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view):]
        except OSError as error:
            raise KernelError("write to the store", errno=error.errno or 0) from None


@contextmanager
def _locked(path: str, kind: int, timeout: float, why: str) -> Iterator[None]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        # One to read from, as in a system's image; it may be writable by another path.
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield
            return
    try:
        wait_for_lock(fd, kind, timeout, why)
        yield
    finally:
        os.close(fd)


def wait_for_lock(fd: int, kind: int, timeout: float, why: str) -> None:
    """flock(2) with a time limit.  Raises ImageError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise ImageError(f"{why}: waited {timeout:g} s", hint="try again when that is done") from None
            time.sleep(0.02)
