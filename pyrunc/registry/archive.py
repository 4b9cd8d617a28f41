# SPDX-License-Identifier: Apache-2.0
"""Images in tar archives: `docker save`'s (docker-archive) and OCI layouts (oci-archive), written and read.

An archive is read as a stream; nothing in it becomes a path of the host.  Its blobs are verified as
those of a registry are.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

from pyrunc.errors import ImageError
from pyrunc.spec.load import parse as parse_json

from . import media, uses
from .compression import Head, inflate_layer, limit_for, sniff
from .digest import Verifier, is_digest
from .manifest import Descriptor, ImageConfig, Index, Manifest, canonical, check_layers, load_document
from .reference import parse
from .store import REF_NAME, Image, write_all
from .tarstream import LINK, REGULAR, SYMLINK, TarReader
from .tarwriter import TarWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .compression import Source
    from .store import Store

_MAX_DOCUMENT = 4 << 20
_MAX_MEMBERS = 100_000
_CONTAINERD_NAME = "io.containerd.image.name"


# save

def save_oci(store: Store, images: list[tuple[str, Descriptor]], sink: Callable[[bytes], object]) -> None:
    """The images as the archive of an OCI layout."""
    writer = TarWriter(sink)
    writer.content(b"oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    entries = [descriptor.replace(annotations={**descriptor.annotations, REF_NAME: name})
               for name, descriptor in images]
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry.dump() for entry in entries]}
    writer.content(b"index.json", json.dumps(index, separators=(",", ":")).encode())
    digests, _ = store.reachable([descriptor for _, descriptor in images])
    for digest in sorted(digests):
        path = store.blob_path(digest)
        if not os.path.exists(path):
            continue  # of another platform
        size = os.stat(path).st_size
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            writer.header(f"blobs/{digest.replace(':', '/')}".encode(), REGULAR, size=size)
            writer.data(fd, size, digest)
        finally:
            os.close(fd)
    writer.finish()


def save_docker(store: Store, images: list[Image], sink: Callable[[bytes], object]) -> None:
    """The images as `docker save` writes them: layers unpacked, a manifest.json that names them."""
    writer = TarWriter(sink)
    listed: dict[str, dict[str, Any]] = {}
    written: set[str] = set()
    for image in images:
        names = [f"{diff_id.partition(':')[2]}.tar" for diff_id in image.config.diff_ids]
        for layer, diff_id, name in zip(image.manifest.layers, image.config.diff_ids, names, strict=True):
            if name not in written:
                _save_layer(store, layer, diff_id, name, writer, sink)
                written.add(name)
        config = f"{image.id.partition(':')[2]}.json"
        if image.id not in listed:
            writer.content(config.encode(), store.read(image.manifest.config))
            listed[image.id] = {"Config": config, "RepoTags": [], "Layers": names}
        reference = parse(image.name)
        if reference.tag:
            listed[image.id]["RepoTags"].append(reference.with_tag(reference.tag).familiar)
    writer.content(b"manifest.json", json.dumps(list(listed.values())).encode())
    writer.finish()


def _save_layer(store: Store, layer: Descriptor, diff_id: str, name: str, writer: TarWriter,
                sink: Callable[[bytes], object]) -> None:
    """Inflated twice: a tar header has to say the size first."""
    what = f"the layer {layer.digest}"

    def pieces() -> Iterator[bytes]:
        with open(store.open(layer), "rb") as file:
            yield from inflate_layer(file, media.LAYERS[layer.media_type], what, limit_for(layer.size))

    verifier = Verifier.of(diff_id)
    for piece in pieces():
        verifier.update(piece)
    verifier.check(diff_id, -1, f"{what}, inflated")
    writer.header(name.encode(), REGULAR, size=verifier.count)
    for piece in pieces():
        sink(piece)
    sink(b"\0" * (-verifier.count % 512))


# load

@final
class Loader:
    """One archive on its way into the store."""

    def __init__(self, store: Store, what: str) -> None:
        self.store = store
        self.what = what
        self._documents: dict[str, bytes] = {}  # small members, by name
        self._blobs: dict[str, Descriptor] = {}  # member -> what it has become in the store
        self._links: dict[str, str] = {}
        self._added: list[str] = []  # blobs that weren't in the store

    def run(self, source: Source) -> list[Image | tuple[str, Descriptor]]:
        """All images of the archive, and (name, descriptor) of whole indexes.

        One without a name gets its id's.  What else was in the archive, or all of one that is none, is not kept.
        """
        try:
            return self._run(source)
        finally:
            with suppress(ImageError, OSError):  # somebody else is using the store: left to `prune`
                uses.remove_unreachable(self.store, self._added)

    def _run(self, source: Source) -> list[Image | tuple[str, Descriptor]]:
        with self.store.adding():
            self.store.sweep()
            self._members(TarReader(Head(source).inflated(self.what), self.what))
            if "index.json" in self._documents and "oci-layout" in self._documents:
                loaded = self._oci()
                if loaded or "manifest.json" not in self._documents:
                    return loaded
            if "manifest.json" in self._documents:
                return self._docker()
        raise ImageError(f"{self.what}: neither an oci-archive nor a docker-archive",
                         hint="`pyrunc image import` makes an image of a root file system")

    def _members(self, reader: TarReader) -> None:
        for count, entry in enumerate(reader):
            if count > _MAX_MEMBERS:
                raise ImageError(f"{self.what}: more than {_MAX_MEMBERS} members")
            name = _plain(entry.name)
            if entry.type in (LINK, SYMLINK):
                base = name.rpartition("/")[0] if entry.type == SYMLINK else ""
                self._links[name] = _resolve(base, entry.link)
            elif entry.type == REGULAR and entry.sparse is None:
                self._take(name, reader, entry.size)

    def _take(self, name: str, reader: TarReader, size: int) -> None:
        """A member into the store, by its own digest: its name is only what others in the archive call it."""
        path, fd = self.store.temporary()
        try:
            verifier = Verifier("sha512" if name.startswith("blobs/sha512/") else "sha256")
            kept = bytearray()
            for piece in reader.data():
                verifier.update(piece)
                if size <= _MAX_DOCUMENT:
                    kept += piece
                write_all(fd, piece)
            digest = verifier.digest
            if name.startswith("blobs/"):
                named = ":".join(name.split("/")[1:])
                if not is_digest(named):
                    return
                if named != digest:
                    raise ImageError(f"{self.what}: {name}: its digest is {digest}")
            if name in ("index.json", "oci-layout", "manifest.json"):
                self._documents[name] = bytes(kept)
                return
            if os.path.exists(self.store.blob_path(digest)):
                os.unlink(path)
            else:
                self.store.adopt(path, fd, digest)
                self._added.append(digest)
            self._blobs[name] = Descriptor("application/octet-stream", digest, size)
        finally:
            os.close(fd)
            if os.path.exists(path):
                os.unlink(path)

    def _oci(self) -> list[Image | tuple[str, Descriptor]]:
        index = load_document(self._documents["index.json"], f"{self.what}: index.json")
        if not isinstance(index, Index):
            raise ImageError(f"{self.what}: index.json is not an index")
        found: list[Image | tuple[str, Descriptor]] = []
        names = [entry.annotations.get(_CONTAINERD_NAME) or entry.annotations.get(REF_NAME) or ""
                 for entry in index.manifests]
        for entry, name in zip(index.manifests, names, strict=True):
            if not name and (any(names) or entry.media_type not in (*media.MANIFESTS, *media.INDEXES)):
                continue
            plain = entry.replace(annotations={})
            if name and parse(name).digest not in ("", plain.digest):
                name = ""  # a digest that it no longer has
            document = load_document(self.store.read(plain), f"{self.what}: {name or plain.digest}", plain.media_type)
            name = str(parse(name or _id_name(document.config.digest if isinstance(document, Manifest)
                                              else plain.digest)))
            if isinstance(document, Manifest):
                image = self.store.load(name, plain)
                self._check(image)
                found.append(image)
                plain = plain.replace(platform=image.config.platform)
            else:
                found.append((name, plain))
            self.store.name(name, plain)
        return found

    def _docker(self) -> list[Image | tuple[str, Descriptor]]:
        listed = parse_json(self._documents["manifest.json"], f"{self.what}: manifest.json", drop_null=True)
        if not isinstance(listed, list):
            raise ImageError(f"{self.what}: manifest.json is not a list")
        found: list[Image | tuple[str, Descriptor]] = []
        for item in listed:
            try:
                config_member, layer_members = str(item["Config"]), [str(name) for name in item.get("Layers", [])]
                names = [str(name) for name in item.get("RepoTags", [])]
            except (KeyError, TypeError, AttributeError):
                raise ImageError(f"{self.what}: manifest.json: an image without Config and Layers") from None
            config_blob = self._member(config_member).replace(media_type=media.OCI_CONFIG)
            config = ImageConfig.load(self.store.read(config_blob), f"{self.what}: {config_member}")
            layers = [self._layer(name) for name in layer_members]
            manifest = Manifest(media.OCI_MANIFEST, config_blob, layers)
            check_layers(manifest, config, self.what)
            descriptor = self.store.add(canonical(manifest.dump()), media.OCI_MANIFEST)
            image = Image(str(parse(names[0])) if names else "", descriptor, manifest, config)
            self._check(image)
            for name in names or [_id_name(config_blob.digest)]:
                reference = str(parse(name))
                self.store.name(reference, descriptor.replace(platform=config.platform))
                found.append(Image(reference, descriptor, manifest, config))
        return found

    def _member(self, name: str) -> Descriptor:
        for _ in range(8):
            name = _plain(os.fsencode(name))
            if name in self._blobs:
                return self._blobs[name]
            if name not in self._links:
                break
            name = self._links[name]
        raise ImageError(f"{self.what}: manifest.json names {name[:200]!a}, which isn't there")

    def _layer(self, name: str) -> Descriptor:
        blob = self._member(name)
        with open(self.store.open(blob), "rb") as file:
            compression = sniff(file.read(6))
        if compression not in ("", "gzip", "zstd"):
            raise ImageError(f"{self.what}: {name}: compressed with {compression}, which layers are not")
        return blob.replace(media_type=media.layer_type(compression))

    def _check(self, image: Image) -> None:
        """The layers are what the configuration says that they hold (it is the only one who does)."""
        for layer, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
            what = f"{self.what}: layer {layer.digest}"
            verifier = Verifier.of(diff_id)
            with open(self.store.open(layer), "rb") as file:
                for piece in inflate_layer(file, media.LAYERS[layer.media_type], what, limit_for(layer.size)):
                    verifier.update(piece)
            verifier.check(diff_id, -1, f"{what}, inflated")


def _id_name(digest: str) -> str:
    """What an image is called that has no name."""
    return digest.replace(":", "-")


def _plain(name: bytes) -> str:
    """A member's name: it is a key, never a path."""
    parts = [part for part in os.fsdecode(name).split("/") if part and part != "."]
    return "/".join(parts)


def _resolve(base: str, target: bytes) -> str:
    """Where a link within the archive leads, as text."""
    parts = base.split("/") if base else []
    for part in os.fsdecode(target).split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part and part != ".":
            parts.append(part)
    return "/".join(parts)
