# SPDX-License-Identifier: Apache-2.0
"""Descriptors, manifests, indexes and image configurations, read strictly (image-spec 1.1).

The same bytes must not mean two things (CVE-2021-41190): what has the members of an index and of a
manifest, or says another type than its descriptor or the registry said, is refused.  Sizes, counts
and depth are limited before anything is believed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, final

from pyrunc.errors import ImageError, PyruncError
from pyrunc.spec.load import parse as parse_json

from . import media
from .digest import check_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_MANIFEST = 4 << 20  # distribution-spec, Pushing Manifests: what registries accept
MAX_CONFIG = 4 << 20
MAX_LAYERS = 4096
MAX_SIZE = 1 << 44
_MAX_MANIFESTS = 4096
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}", re.A)


def _load(data: bytes, what: str, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise ImageError(f"{what}: larger than {limit} bytes")
    try:
        value = parse_json(data, what, drop_null=True)
    except PyruncError as error:
        raise ImageError(error.message) from None
    if not isinstance(value, dict):
        raise ImageError(f"{what}: not a JSON object")
    return value


def _text(value: Any, what: str, default: str = "") -> str:
    if value is None:
        return default
    if not isinstance(value, str):
        raise ImageError(f"{what}: not a string")
    return value


def _strings(value: Any, what: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ImageError(f"{what}: not a list of strings")
    return value


def _string_map(value: Any, what: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ImageError(f"{what}: not an object of strings")
    return value


@final
class Platform:
    """os/architecture[/variant] (image-index.md, platform)."""

    __slots__ = ("architecture", "os", "variant")

    def __init__(self, os: str, architecture: str, variant: str = "") -> None:
        self.os = os
        self.architecture = architecture
        self.variant = variant

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Platform) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


@final
class Descriptor:
    """What points to a blob: its media type, digest and size (descriptor.md)."""

    __slots__ = ("annotations", "artifact_type", "digest", "media_type", "platform", "size", "urls")

    def __init__(self, media_type: str, digest: str, size: int, *, annotations: dict[str, str] | None = None,
                 platform: Platform | None = None, urls: list[str] | None = None, artifact_type: str = "") -> None:
        self.media_type = media_type
        self.digest = digest
        self.size = size
        self.annotations = annotations or {}
        self.platform = platform
        self.urls = urls or []
        self.artifact_type = artifact_type

    @classmethod
    def load(cls, value: Any, what: str) -> Descriptor:
        if not isinstance(value, dict):
            raise ImageError(f"{what}: not a descriptor")
        media_type = _text(value.get("mediaType"), f"{what}: mediaType")
        if not _MEDIA_TYPE.fullmatch(media_type):
            raise ImageError(f"{what}: mediaType {media_type[:200]!a} is not one")
        size = value.get("size")
        if type(size) is not int or not 0 <= size <= MAX_SIZE:
            raise ImageError(f"{what}: size {str(size)[:40]!a} is not a possible one")
        platform = None
        if isinstance(value.get("platform"), dict):
            raw = value["platform"]
            platform = Platform(_text(raw.get("os"), f"{what}: platform"),
                                _text(raw.get("architecture"), f"{what}: platform"),
                                _text(raw.get("variant"), f"{what}: platform"))
        return cls(media_type, check_digest(value.get("digest"), what), size,
                   annotations=_string_map(value.get("annotations"), f"{what}: annotations"), platform=platform,
                   urls=_strings(value.get("urls"), f"{what}: urls"),
                   artifact_type=_text(value.get("artifactType"), f"{what}: artifactType"))

    def dump(self) -> dict[str, Any]:
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        if self.urls:
            value["urls"] = self.urls
        if self.annotations:
            value["annotations"] = self.annotations
        if self.platform:
            value["platform"] = {"architecture": self.platform.architecture, "os": self.platform.os,
                                 **({"variant": self.platform.variant} if self.platform.variant else {})}
        return value

    def replace(self, **changes: Any) -> Descriptor:
        """A copy with other annotations, platform, ..."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return Descriptor(**{**values, **changes})


@final
class Index:
    """An image index, or Docker's manifest list."""

    __slots__ = ("annotations", "manifests", "media_type")

    def __init__(self, media_type: str, manifests: list[Descriptor], annotations: dict[str, str]) -> None:
        self.media_type = media_type
        self.manifests = manifests
        self.annotations = annotations


@final
class Manifest:
    """An image manifest: the configuration and the layers, from the base up."""

    __slots__ = ("annotations", "artifact_type", "config", "layers", "media_type", "subject")

    def __init__(self, media_type: str, config: Descriptor, layers: list[Descriptor],
                 annotations: dict[str, str] | None = None, subject: Descriptor | None = None,
                 artifact_type: str = "") -> None:
        self.media_type = media_type
        self.config = config
        self.layers = layers
        self.annotations = annotations or {}
        self.subject = subject
        self.artifact_type = artifact_type

    def check_image(self, what: str) -> None:
        """Raises ImageError unless it is an image, and not something else that registries keep, as charts."""
        kind = self.artifact_type or self.config.media_type
        if self.config.media_type not in media.CONFIGS:
            raise ImageError(f"{what}: an artifact of type {kind}, not an image",
                             hint="it has no root to unpack; use the tool that made it, such as oras or helm")
        for number, layer in enumerate(self.layers):
            if layer.media_type not in media.LAYERS:
                raise ImageError(f"{what}: layer {number} is of type {layer.media_type}, which is not a layer's")

    def dump(self) -> dict[str, Any]:
        return {"schemaVersion": 2, "mediaType": self.media_type, "config": self.config.dump(),
                "layers": [layer.dump() for layer in self.layers],
                **({"annotations": self.annotations} if self.annotations else {})}


def load_document(data: bytes, what: str, *media_types: str) -> Index | Manifest:
    """The index or manifest in `data`; `media_types` are what its descriptor and the registry call it ("": nothing)."""
    value = _load(data, what, MAX_MANIFEST)
    version = value.get("schemaVersion")
    if (type(version) is int and version == 1) or any(kind in media.DOCKER_SCHEMA1 for kind in media_types):
        raise ImageError(f"{what}: a Docker schema 1 manifest, which is no longer in use",
                         hint="push the image again with a current tool")
    if type(version) is not int or version != 2:
        raise ImageError(f"{what}: schemaVersion is not 2")
    own = _text(value.get("mediaType"), f"{what}: mediaType")
    has_manifests = "manifests" in value
    has_layers = "config" in value or "layers" in value
    if has_manifests and has_layers:
        raise ImageError(f"{what}: both an index and a manifest by its members (CVE-2021-41190)")
    if not has_manifests and not has_layers:
        raise ImageError(f"{what}: neither an image manifest nor an index")
    names = {name for name in (own, *media_types) if name}
    if len(names) > 1:
        raise ImageError(f"{what}: called {' and '.join(sorted(names))} at once (CVE-2021-41190)")
    kind = names.pop() if names else (media.OCI_INDEX if has_manifests else media.OCI_MANIFEST)
    if kind not in (media.INDEXES if has_manifests else media.MANIFESTS):
        raise ImageError(f"{what}: {kind} is not what its members make it")
    annotations = _string_map(value.get("annotations"), f"{what}: annotations")
    if has_manifests:
        listed = value["manifests"]
        if not isinstance(listed, list) or len(listed) > _MAX_MANIFESTS:
            raise ImageError(f"{what}: manifests is not a list of at most {_MAX_MANIFESTS}")
        return Index(kind, [Descriptor.load(item, f"{what}: manifests/{number}") for number, item in enumerate(listed)],
                     annotations)
    layers = value.get("layers", [])
    if not isinstance(layers, list) or len(layers) > MAX_LAYERS:
        raise ImageError(f"{what}: layers is not a list of at most {MAX_LAYERS}")
    subject = Descriptor.load(value["subject"], f"{what}: subject") if "subject" in value else None
    return Manifest(kind, Descriptor.load(value.get("config"), f"{what}: config"),
                    [Descriptor.load(item, f"{what}: layers/{number}") for number, item in enumerate(layers)],
                    annotations, subject, _text(value.get("artifactType"), f"{what}: artifactType"))


@final
class ImageConfig:
    """An image's configuration (config.md): `data` as it stands, the parts that are used checked."""

    __slots__ = ("data", "diff_ids")

    def __init__(self, data: dict[str, Any], diff_ids: list[str]) -> None:
        self.data = data
        self.diff_ids = diff_ids

    @classmethod
    def load(cls, raw: bytes, what: str) -> ImageConfig:
        data = _load(raw, what, MAX_CONFIG)
        rootfs = data.get("rootfs")
        # Docker, podman and containerd look at the diff ids alone.
        if not isinstance(rootfs, dict) or rootfs.get("type", "layers") != "layers":
            raise ImageError(f"{what}: rootfs is not one of layers")
        listed = rootfs.get("diff_ids", [])
        if not isinstance(listed, list) or len(listed) > MAX_LAYERS:
            raise ImageError(f"{what}: rootfs.diff_ids is not a list of at most {MAX_LAYERS}")
        diff_ids = [check_digest(item, f"{what}: rootfs.diff_ids/{number}") for number, item in enumerate(listed)]
        config = cls(data, diff_ids)
        for name in ("os", "architecture", "variant", "author", "created", "os.version"):
            _text(data.get(name), f"{what}: {name}")
        inner = data.get("config", {})
        if not isinstance(inner, dict):
            raise ImageError(f"{what}: config is not an object")
        for name in ("Env", "Entrypoint", "Cmd"):
            _strings(inner.get(name), f"{what}: config.{name}")
        for name in ("User", "WorkingDir", "StopSignal"):
            _text(inner.get(name), f"{what}: config.{name}")
        for name in ("Volumes", "ExposedPorts"):
            if not isinstance(inner.get(name, {}), dict):
                raise ImageError(f"{what}: config.{name} is not an object")
        _string_map(inner.get("Labels"), f"{what}: config.Labels")
        history = data.get("history", [])
        if not isinstance(history, list) or not all(isinstance(item, dict) for item in history):
            raise ImageError(f"{what}: history is not a list of objects")
        return config

    @property
    def inner(self) -> dict[str, Any]:
        """`config`: how a container of the image is run."""
        value = self.data.get("config", {})
        assert isinstance(value, dict)
        return value

    @property
    def history(self) -> list[dict[str, Any]]:
        value = self.data.get("history", [])
        assert isinstance(value, list)
        return value

    @property
    def platform(self) -> Platform:
        return Platform(str(self.data.get("os", "")), str(self.data.get("architecture", "")),
                        str(self.data.get("variant", "")))


def check_layers(manifest: Manifest, config: ImageConfig, what: str) -> None:
    """Raises ImageError unless there is one diff id a layer."""
    if len(manifest.layers) != len(config.diff_ids):
        raise ImageError(f"{what}: {len(manifest.layers)} layers, but {len(config.diff_ids)} diff ids")


def canonical(value: Mapping[str, Any]) -> bytes:
    """A document as bytes that only depend on what it says: no blanks, members in order."""
    from pyrunc.spec.load import dump

    return dump(_sorted(value)).encode()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
