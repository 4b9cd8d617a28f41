# SPDX-License-Identifier: Apache-2.0
"""Manifests, indexes and configurations mean one thing or are refused (CVE-2021-41190, CVE-2023-25153)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyrunc.errors import ImageError
from pyrunc.registry import media, platforms
from pyrunc.registry.manifest import Descriptor, Index, Manifest, Platform, load_document
from pyrunc.registry.manifest import ImageConfig as Config

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64


def descriptor(media_type: str = media.OCI_LAYER, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 10, **more}


def manifest(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST,
                             "config": descriptor(media.OCI_CONFIG), "layers": [descriptor()]}
    return {name: item for name, item in {**value, **changes}.items() if item is not ...}


def load(value: Any, *kinds: str) -> Index | Manifest:
    return load_document(value if isinstance(value, bytes) else json.dumps(value).encode(), "x", *kinds)


def test_a_manifest() -> None:
    found = load(manifest(), media.OCI_MANIFEST)
    assert isinstance(found, Manifest)
    assert [layer.digest for layer in found.layers] == [DIGEST]
    found.check_image("x")


def test_an_index() -> None:
    found = load({"schemaVersion": 2, "manifests": [descriptor(media.OCI_MANIFEST)]}, media.OCI_INDEX)
    assert isinstance(found, Index)


def test_dockers_types_are_the_same_things() -> None:
    value = manifest(mediaType=media.DOCKER_MANIFEST, config=descriptor(media.DOCKER_CONFIG),
                     layers=[descriptor(media.DOCKER_LAYER + ".gzip")])
    found = load(value, media.DOCKER_MANIFEST)
    assert isinstance(found, Manifest)
    found.check_image("x")


@pytest.mark.parametrize(("value", "kinds", "why"), [
    (manifest(manifests=[]), (), "both an index and a manifest"),
    ({"schemaVersion": 2, "manifests": [], "layers": []}, (), "both an index and a manifest"),
    ({"schemaVersion": 2}, (), "neither"),
    (manifest(), (media.OCI_INDEX,), "at once"),
    (manifest(), (media.DOCKER_MANIFEST,), "at once"),
    (manifest(mediaType=media.OCI_INDEX), (), "is not what its members make it"),
    (manifest(mediaType=...), (media.OCI_INDEX,), "is not what its members make it"),
    (manifest(mediaType="text/html"), (), "is not what its members make it"),
    (manifest(schemaVersion=1), (), "schema 1"),
    (manifest(schemaVersion="2"), (), "schemaVersion"),
    (manifest(schemaVersion=True), (), "schemaVersion"),
    (manifest(layers={}), (), "not a list"),
    (manifest(layers=0), (), "not a list"),
    (manifest(layers=[descriptor()] * 100_000), (), "larger than|not a list of at most"),
    (manifest(config=...), (), "not a descriptor"),
    (manifest(layers=[descriptor(digest="sha256:../../../etc/passwd")]), (), "is not a digest"),
    (manifest(layers=[descriptor(size=-1)]), (), "not a possible one"),
    (manifest(layers=[descriptor(size=1 << 60)]), (), "not a possible one"),
    (manifest(layers=[descriptor(size="10")]), (), "not a possible one"),
    (manifest(layers=[descriptor(size=10.0)]), (), "not a possible one"),
    (manifest(layers=[descriptor("no type")]), (), "mediaType"),
    (manifest(annotations={"a": 1}), (), "not an object of strings"),
    (b"[]", (), "not a JSON object"),
    (b"{", (), "invalid JSON"),
    (b'{"schemaVersion":2,"schemaVersion":2}', (), "duplicate key"),
    (b" " * (5 << 20), (), "larger than"),
    (b"[" * 100_000, (), "nested|not a JSON"),
    (b"\xff", (), "UTF-8"),
])
def test_what_is_refused(value: Any, kinds: tuple[str, ...], why: str) -> None:
    with pytest.raises(ImageError, match=why):
        load(value, *kinds)


def test_an_artifact_is_named() -> None:
    found = load(manifest(config=descriptor("application/vnd.cncf.helm.config.v1+json")))
    assert isinstance(found, Manifest)
    with pytest.raises(ImageError, match=r"an artifact of type application/vnd\.cncf\.helm\.config"):
        found.check_image("x")
    found = load(manifest(config=descriptor("application/vnd.oci.empty.v1+json"), artifactType="application/spdx+json"))
    assert isinstance(found, Manifest)
    with pytest.raises(ImageError, match=r"an artifact of type application/spdx\+json"):
        found.check_image("x")


@pytest.mark.parametrize("layers", [None, ...], ids=["null", "missing"])
def test_no_layers(layers: Any) -> None:
    """What Go makes of a list with nothing in it, which docker and containerd take."""
    found = load(manifest(layers=layers))
    assert isinstance(found, Manifest) and found.layers == []


def config(**changes: Any) -> bytes:
    value = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, **changes}
    return json.dumps(value).encode()


def test_a_configuration() -> None:
    found = Config.load(config(config={"Env": None, "Cmd": ["sh"]}), "x")
    assert found.diff_ids == [DIGEST]
    assert found.inner == {"Cmd": ["sh"]}
    assert Config.load(config(rootfs={"diff_ids": [DIGEST]}), "x").diff_ids == [DIGEST]  # docker looks at nothing else


@pytest.mark.parametrize("changes", [
    {"rootfs": None}, {"rootfs": {"type": "other", "diff_ids": []}}, {"rootfs": {"type": "layers", "diff_ids": "x"}},
    {"rootfs": {"type": "layers", "diff_ids": ["sha256:.."]}}, {"config": []}, {"config": {"Env": ["a", 1]}},
    {"config": {"Cmd": "sh"}}, {"config": {"User": 0}}, {"config": {"Labels": {"a": 1}}}, {"history": {}}, {"os": 1},
], ids=str)
def test_a_broken_configuration(changes: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        Config.load(config(**changes), "x")


def nothing(item: Descriptor) -> bytes:
    raise ImageError("not to be read")


def index(*names: str) -> Index:
    manifests = []
    for number, name in enumerate(names):
        os, architecture, *variant = name.split("/")
        manifests.append({"mediaType": media.OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 1,
                          "platform": {"os": os, "architecture": architecture,
                                       **({"variant": variant[0]} if variant else {})}})
    found = load({"schemaVersion": 2, "manifests": manifests})
    assert isinstance(found, Index)
    return found


@pytest.mark.parametrize(("there", "wanted", "chosen"), [
    (("linux/amd64", "linux/arm64"), "linux/arm64", 1),
    (("linux/arm64/v8",), "linux/arm64", 0),
    (("linux/arm64",), "linux/arm64/v8", 0),
    (("linux/arm/v6", "linux/arm/v7"), "linux/arm/v7", 1),
    (("linux/arm/v5", "linux/arm/v6"), "linux/arm/v7", 1),
    (("linux/amd64/v3", "linux/amd64"), "linux/amd64", 1),
    (("linux/amd64", "linux/amd64"), "amd64", 0),
    (("windows/amd64", "linux/amd64"), "x86_64", 1),
])
def test_the_platform_is_chosen(there: tuple[str, ...], wanted: str, chosen: int) -> None:
    """image-index.md, platform: the first that matches."""
    assert platforms.choose(index(*there), platforms.parse(wanted), "x", nothing).digest == f"sha256:{chosen:064x}"


@pytest.mark.parametrize(("there", "wanted"), [
    (("linux/amd64",), "linux/arm64"), (("linux/arm/v7",), "linux/arm/v6"), (("windows/amd64",), "linux/amd64"),
    ((), "amd64"),
])
def test_no_platform_of_the_kind(there: tuple[str, ...], wanted: str) -> None:
    with pytest.raises(ImageError, match=f"no image for {platforms.parse(wanted)}"):
        platforms.choose(index(*there), platforms.parse(wanted), "x", nothing)


def test_images_of_no_platform() -> None:
    """An index may leave it out (image-index.md): one alone is it, several are looked into."""
    wanted = Platform("linux", "arm64")
    found = index("unknown/unknown", "linux/s390x", "linux/x86_64")
    assert platforms.choose(found, Platform("linux", "amd64"), "x", nothing) is found.manifests[2]
    first, second, third = found.manifests
    second.platform = None
    assert platforms.choose(found, wanted, "x", nothing) is second
    third.platform = None
    inside: dict[str, str] = {second.digest: json.dumps(manifest(config=descriptor(media.OCI_CONFIG, digest=OTHER))),
                              third.digest: json.dumps(manifest())}

    def read(item: Descriptor) -> bytes:
        return inside[item.digest].encode()

    for architectures, chosen in (("386", "arm64"), third), (("arm64", "386"), second):
        for digest, architecture in zip((OTHER, DIGEST), architectures, strict=True):
            inside[digest] = config(architecture=architecture).decode()
        assert platforms.choose(found, wanted, "x", read) is chosen
    with pytest.raises(ImageError, match="no image for linux/riscv64"):
        platforms.choose(found, Platform("linux", "riscv64"), "x", read)
    assert first.platform is not None


def test_this_machine() -> None:
    assert isinstance(platforms.host(), Platform) and platforms.host().os == "linux"
    with pytest.raises(ImageError):
        platforms.parse("linux/amd64/v1/x")
