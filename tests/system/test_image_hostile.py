# SPDX-License-Identifier: Apache-2.0
"""Registries that cut, lie, stall, or want what isn't theirs: a clear error in bounded time, no credential lost."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import lzma
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hostile
import pytest
import tarmaker
import zstandard
from hostile import Answer, HostileRegistry, Request, digest, layer
from registries import Images
from terminals import Tty

BASIC = "Basic " + base64.b64encode(b"alice:secret").decode()


@pytest.fixture
def registry() -> Iterator[HostileRegistry]:
    served = HostileRegistry()
    yield served
    served.stop()


@pytest.fixture
def elsewhere() -> Iterator[HostileRegistry]:
    """Another host, by its address."""
    served = HostileRegistry("127.0.0.2")
    yield served
    served.stop()


def pulled(images: Images, registry: HostileRegistry) -> None:
    """The image is whole in the store."""
    images.ok("pull", f"{registry.host}/x/y:1")
    for blob in images.blobs():
        path = images.layout / "blobs" / blob.replace(":", "/")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert images.leftovers() == [] and images.unreachable() == set()


def refused(images: Images, registry: HostileRegistry, *why: str, timeout: str = "2", words: tuple[str, ...] = (),
            seconds: float = 90) -> str:
    """One clear line, within that time, and nothing in the store that has a name."""
    started = time.monotonic()
    result = images("pull", "--timeout", timeout, *words, f"{registry.host}/x/y:1", timeout=seconds)
    assert result.code == 1, result
    errors = [line for line in result.errors if line.startswith("pyrunc: image pull:")]
    assert len(errors) == 1 and time.monotonic() - started < seconds
    for text in why:
        assert text in errors[0], errors[0]
    assert json.loads(images.ok("ls", "--format", "json")) == []
    return errors[0]


def test_the_control(images: Images, registry: HostileRegistry) -> None:
    registry.image(layer(), layer(name="g"))
    pulled(images, registry)


def test_connections_that_are_cut(images: Images, registry: HostileRegistry) -> None:
    """It goes on where it was cut, by Range; the whole isn't fetched again."""
    document = registry.image(layer(5_000_000))
    target = document["layers"][0]
    served: list[int] = []

    def cut(request: Request) -> Answer | None:
        if target["digest"] not in request.path:
            return None
        answer = registry.answer(request)
        answer.cut = 2_000_000
        served.append(min(2_000_000, len(answer.body)))
        return answer

    registry.hook = cut
    pulled(images, registry)
    ranges = [request.headers.get("range", "") for request in registry.asked(target["digest"])]
    assert ranges[0] == "" and all(item.startswith("bytes=") for item in ranges[1:]) and len(ranges) >= 3
    assert sum(served) < target["size"] + 3_000_000


def test_a_registry_that_can_only_begin_at_the_beginning(images: Images, registry: HostileRegistry) -> None:
    document = registry.image(layer(3_000_000))
    target = document["layers"][0]["digest"]

    def cut_once(request: Request) -> Answer | None:
        if target not in request.path:
            return None
        first = len(registry.asked(target)) == 1
        return Answer(body=registry.blobs[target], cut=1_500_000 if first else None)

    registry.hook = cut_once
    pulled(images, registry)


def test_a_connection_that_is_always_cut(images: Images, registry: HostileRegistry) -> None:
    target = registry.image(layer(100_000))["layers"][0]["digest"]
    registry.hook = lambda request: Answer(body=registry.blobs[target], cut=1000) if target in request.path else None
    refused(images, registry, f"{registry.host}/x/y", target)


@pytest.mark.parametrize("what", ["short", "long", "header"])
def test_lies_about_the_length(images: Images, registry: HostileRegistry, what: str) -> None:
    target = registry.image(layer())["layers"][0]["digest"]
    body = registry.blobs[target]
    answers = {"short": Answer(body=body[:-10]), "long": Answer(body=body + b"x" * 10),
               "header": Answer(body=body, length=len(body) + 10_000)}
    registry.hook = lambda request: answers[what] if target in request.path else None
    refused(images, registry, target, "bytes offered, the descriptor says")


def test_lies_about_the_digest(images: Images, registry: HostileRegistry) -> None:
    target = registry.image(layer())["layers"][0]["digest"]
    registry.blobs[target] = registry.blobs[target][:-1] + b"!"
    refused(images, registry, target, "digest")
    assert images.leftovers() == []  # what is wrong is not kept to go on from


def test_a_manifest_that_is_not_the_one_asked_for(images: Images, registry: HostileRegistry) -> None:
    """By digest, its content has to have it; by tag, the one that the registry says."""
    good = json.dumps(registry.image(layer())).encode()
    other = json.dumps({**json.loads(good), "annotations": {"a": "b"}}).encode()
    registry.manifests[digest(good)] = (hostile.MANIFEST, other)
    result = images("pull", f"{registry.host}/x/y@{digest(good)}")
    assert result.code == 1 and "the content's digest is" in result.err
    headers = {"Content-Type": hostile.MANIFEST, "Docker-Content-Digest": digest(other)}
    registry.hook = lambda request: Answer(body=good, headers=headers) if "manifests/1" in request.path else None
    refused(images, registry, "the registry says", digest(other))


@pytest.mark.parametrize(("document", "kind", "why"), [
    ({"manifests": []}, hostile.MANIFEST, "both an index and a manifest"),
    ({}, hostile.INDEX, "at once"),
    ({"mediaType": None}, hostile.INDEX, "is not what its members make it"),
    ({}, "application/vnd.docker.distribution.manifest.v2+json", "at once"),
    ({}, "text/html", "at once"),
    ({"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
    ({"layers": [{"mediaType": hostile.LAYER, "digest": "sha256:../../../../etc/passwd", "size": 1}]}, hostile.MANIFEST,
     "is not a digest"),
    ({"artifactType": "application/vnd.example.sbom", "config": {
        "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2}}, hostile.MANIFEST,
     "an artifact of type application/vnd.example.sbom"),
], ids=range(8))
def test_lies_about_types(images: Images, registry: HostileRegistry, document: dict[str, Any], kind: str,
                          why: str) -> None:
    """CVE-2021-41190, CVE-2024-3727."""
    value = {name: item for name, item in {**registry.image(layer()), **document}.items() if item is not None}
    registry.put(value, "1", kind)
    refused(images, registry, why)
    assert not registry.asked("passwd")


def test_enormous_documents(images: Images, registry: HostileRegistry) -> None:
    """CVE-2023-25153: what is read of a document is limited, whatever is offered."""
    registry.put(b" " * (6 << 20), "1")
    refused(images, registry, "larger than")
    document = registry.image(layer())
    document["config"] = registry.blob(b" " * (6 << 20), hostile.CONFIG)
    registry.put(document, "1")
    refused(images, registry, "is more than")
    document = registry.image(layer())
    registry.put({**document, "layers": document["layers"] * 20_000}, "1")
    refused(images, registry, "at most")


def test_indexes_within_indexes(images: Images, registry: HostileRegistry) -> None:
    platform = {"os": "linux", "architecture": hostile.ARCHITECTURE}
    inner: Any = {"schemaVersion": 2, "mediaType": hostile.INDEX, "manifests": []}
    for _ in range(20):
        body = json.dumps(inner).encode()
        registry.put(body, "inner", hostile.INDEX)
        inner = {"schemaVersion": 2, "mediaType": hostile.INDEX, "manifests": [
            {"mediaType": hostile.INDEX, "digest": digest(body), "size": len(body), "platform": platform}]}
    registry.put(inner, "1", hostile.INDEX)
    refused(images, registry, "indexes within indexes")
    assert len(registry.requests) < 15


def test_a_registry_that_stalls(images: Images, registry: HostileRegistry) -> None:
    """Before the answer, and in the middle of a blob: an error after the time that was given, a few times over."""
    registry.image(layer())
    registry.hook = lambda request: Answer(body=b"x" * 100, stall=0) if "manifests" in request.path else None
    refused(images, registry, "manifest 1", "no answer in time", timeout="1")
    registry.hook = lambda request: Answer(body=b"x" * 1000, stall=500, headers={}) if "blobs" in request.path else None
    refused(images, registry, registry.host, timeout="1")


def test_a_registry_that_is_not_there(images: Images) -> None:
    done = images("pull", "localhost:1/x/y")
    assert (done.code, done.out, done.err) == (
        1, "", "pyrunc: image pull: localhost:1/x/y: manifest latest: connection refused (ECONNREFUSED)\n")


def test_trouble_that_passes(images: Images, registry: HostileRegistry) -> None:
    """500, 503 and 429 with Retry-After are tried again."""
    registry.image(layer())
    statuses = iter([500, 503, 429])

    def trouble(request: Request) -> Answer | None:
        status = next(statuses, 0)
        return Answer(status, b"{}", {"Retry-After": "1"} if status == 429 else {}) if status else None

    registry.hook = trouble
    pulled(images, registry)


@pytest.mark.parametrize("when", ["2", "date"])
def test_a_registry_that_asks_for_patience(images: Images, registry: HostileRegistry, when: str) -> None:
    """429 with Retry-After, in seconds or as a date: for a blob as well, which is waited for as long as it says."""
    registry.image(layer())
    refusals: list[float] = []

    def hook(request: Request) -> Answer | None:
        if "/blobs/" in request.path and not refusals:
            refusals.append(time.monotonic())
            after = formatdate(time.time() + 3, usegmt=True) if when == "date" else when
            return Answer(429, b"{}", {"Retry-After": after})
        if "/blobs/" in request.path:
            refusals.append(time.monotonic())
        return None

    registry.hook = hook
    pulled(images, registry)
    assert refusals[1] - refusals[0] > 1.5


class Uploads:
    """A registry that takes what is pushed, in its own way."""

    def __init__(self, registry: HostileRegistry, way: str) -> None:
        self.registry = registry
        self.way = way
        self.uploads: dict[str, bytes] = {}
        self.told_to_wait = False
        self.numbers = itertools.count()
        registry.hook = self.hook

    def hook(self, request: Request) -> Answer | None:
        path, _, query = request.path.partition("?")
        if request.method == "PUT" and "/manifests/" in path:
            self.registry.put(request.body, path.rpartition("/")[2])
            return Answer(201)
        if "/uploads/" not in path:
            return None
        upload = path.rpartition("/")[2] or str(next(self.numbers))
        before = self.uploads.setdefault(upload, b"")
        headers = {"Location": f"/v2/x/y/blobs/uploads/{upload}"}
        if self.way == "large chunks":
            headers["OCI-Chunk-Min-Length"] = str(20 << 20)
        if request.method == "POST":
            return Answer(202, headers=headers)
        if request.method == "GET":
            return Answer(204, headers={**headers, "Range": f"0-{max(len(before) - 1, 0)}"})
        if request.method == "PATCH":
            if self.way == "no chunks" or (self.way == "one chunk" and before):
                return Answer(405)
            if self.way == "patience" and not self.told_to_wait:
                self.told_to_wait = True
                return Answer(429, headers={"Retry-After": "1"})
            if self.way == "large chunks" and before and len(before) < 20 << 20:
                return Answer(416)
        self.uploads[upload] += request.body
        if request.method == "PUT":
            assert f"digest={quote(digest(self.uploads[upload]))}" in query.split("&")
            self.registry.blobs[digest(self.uploads[upload])] = self.uploads[upload]
        return Answer(201 if request.method == "PUT" or self.way == "created" else 202, headers=headers)


@pytest.mark.parametrize("way", ["no chunks", "one chunk", "large chunks", "patience", "created"])
def test_registries_that_take_blobs_in_their_own_way(images: Images, registry: HostileRegistry, tmp_path: Path,
                                                     way: str, long: bool) -> None:
    """Those that docker, podman or containerd can push to: no or single chunks, chunks of a least length, a 429."""
    if not long and way in ("no chunks", "created"):
        pytest.skip("--long: as the others but for one answer, and 21 MiB are pushed each time")
    (tmp_path / "large").write_bytes(os.urandom(21 << 20))
    subprocess.run(["tar", "-C", tmp_path, "-cf", tmp_path / "root.tar", "large"], check=True)
    images.ok("import", "--compression", "none", tmp_path / "root.tar", f"{registry.host}/x/y:1")
    Uploads(registry, way)
    printed = images.ok("push", f"{registry.host}/x/y:1")
    other = Images(tmp_path / "other")
    pulled(other, registry)
    assert json.loads(other.ok("inspect", f"{registry.host}/x/y:1"))["digest"] == printed.strip()


def test_trouble_that_stays(images: Images, registry: HostileRegistry) -> None:
    registry.hook = lambda request: Answer(503, b"<html>sorry</html>")
    refused(images, registry, "HTTP 503")


def login(images: Images, host: str) -> None:
    path = images.home / ".docker/config.json"
    path.parent.mkdir(exist_ok=True)
    data = json.loads(path.read_text()) if path.exists() else {"auths": {}}
    data["auths"][host] = {"auth": base64.b64encode(b"alice:secret").decode()}
    path.write_text(json.dumps(data))


def want_basic(registry: HostileRegistry) -> Any:
    def ask(request: Request) -> Answer | None:
        if request.authorization != BASIC:
            return Answer(401, b"{}", {"WWW-Authenticate": 'Basic realm="x"'})
        return None
    return ask


def test_a_redirect_takes_no_credentials_along(images: Images, registry: HostileRegistry,
                                               elsewhere: HostileRegistry) -> None:
    """CVE-2020-15157: the blob comes from another host, which gets neither the password nor a token."""
    target = registry.image(layer())["layers"][0]["digest"]
    elsewhere.blobs = registry.blobs
    basic = want_basic(registry)

    def redirect(request: Request) -> Answer | None:
        if target in request.path and request.authorization:
            return Answer(307, headers={"Location": f"http://{elsewhere.host}{request.path}"})
        answer: Answer | None = basic(request)
        return answer

    registry.hook = redirect
    login(images, registry.host)
    login(images, elsewhere.host)  # even what it could have
    pulled(images, registry)
    assert [request.authorization for request in registry.asked(target)][-1] == BASIC
    assert elsewhere.asked(target) and [request.authorization for request in elsewhere.requests] == [""]


def test_a_redirect_that_wants_credentials_gets_none(images: Images, registry: HostileRegistry,
                                                     elsewhere: HostileRegistry) -> None:
    target = registry.image(layer())["layers"][0]["digest"]
    registry.hook = lambda request: Answer(307, headers={"Location": f"http://{elsewhere.host}{request.path}"}) \
        if target in request.path else None
    elsewhere.hook = lambda request: Answer(401, b"{}", {
        "WWW-Authenticate": f'Basic realm="x", Bearer realm="http://{elsewhere.host}/token"'})
    login(images, registry.host)
    refused(images, registry, "HTTP 401")
    assert [request.authorization for request in elsewhere.requests if request.authorization] == []


def test_a_token_service_elsewhere_gets_no_credentials(images: Images, registry: HostileRegistry,
                                                       elsewhere: HostileRegistry) -> None:
    """CVE-2019-10214: a realm on another host is asked without them; only a login for that host gives it some."""
    registry.image(layer())

    def bearer(request: Request) -> Answer | None:
        if request.authorization == "Bearer good":
            return None
        return Answer(401, b"{}", {"WWW-Authenticate": f'Bearer realm="http://{elsewhere.host}/token",service="s"'})

    registry.hook = bearer
    elsewhere.hook = lambda request: Answer(200, b'{"token": "good"}') if request.authorization else \
        Answer(401, b"{}")
    login(images, registry.host)
    refused(images, registry, f"{elsewhere.host} refused a token: HTTP 401")
    assert elsewhere.requests and all(request.authorization == "" for request in elsewhere.requests)
    login(images, elsewhere.host)
    pulled(images, registry)
    assert elsewhere.requests[-1].authorization == BASIC
    assert all(request.authorization in ("", "Bearer good") for request in registry.requests)


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "ftp://x/", "//x", "http://user@127.0.0.1/", "x", "http://[/"])
def test_realms_that_are_none(images: Images, registry: HostileRegistry, realm: str) -> None:
    registry.hook = lambda request: Answer(401, b"{}", {"WWW-Authenticate": f'Bearer realm="{realm}"'})
    login(images, registry.host)
    refused(images, registry, registry.host)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/", "http://[/"])
def test_redirects_to_what_is_no_web_address(images: Images, registry: HostileRegistry, location: str) -> None:
    registry.hook = lambda request: Answer(302, headers={"Location": location}) if "manifests" in request.path else None
    refused(images, registry, "redirected from")


def test_a_ring_of_redirects(images: Images, registry: HostileRegistry) -> None:
    registry.hook = lambda request: Answer(302, headers={"Location": request.path}) if "manifests" in request.path \
        else None
    refused(images, registry, "redirects")
    assert len(registry.requests) < 30


def test_foreign_layers_are_not_fetched_from_anywhere_they_say(images: Images, registry: HostileRegistry,
                                                               elsewhere: HostileRegistry) -> None:
    """`urls` of an ordinary layer are ignored; a foreign layer's only over HTTPS, and without credentials."""
    document = registry.image(layer())
    target = document["layers"][0]
    elsewhere.blobs[target["digest"]] = registry.blobs.pop(target["digest"])
    url = f"http://{elsewhere.host}/v2/x/blobs/{target['digest']}"
    for kind in (hostile.LAYER, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"):
        registry.put({**document, "layers": [{**target, "mediaType": kind, "urls": [url]}]}, "1")
        refused(images, registry, "HTTP 404", "lost a part of the image")
    assert elsewhere.requests == []


def bomb(size: int, compression: str) -> tuple[bytes, str]:
    """A layer of zeros, made without having them in memory; and its diff id."""
    head = tarmaker.header("zeros", size=tarmaker.base256(size, 12))
    verifier = hashlib.sha256(head)
    stream: Any = zlib.compressobj(9, zlib.DEFLATED, 31)
    if compression == "zstd":
        stream = zstandard.ZstdCompressor().compressobj()
    pieces = [stream.compress(head)]
    block = bytes(1 << 20)
    for _ in range(size >> 20):
        verifier.update(block)
        pieces.append(stream.compress(block))
    verifier.update(bytes(1024))
    pieces += [stream.compress(bytes(1024)), stream.flush()]
    return b"".join(pieces), "sha256:" + verifier.hexdigest()


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_decompression_bomb(images: Images, registry: HostileRegistry, long: bool, compression: str) -> None:
    """What a layer inflates to is limited by its own size; the memory it takes is not its size at all."""
    size = (4096 if long else 512) << 20
    data, diff_id = bomb(size, compression)
    assert len(data) < size // 500
    registry.image(compress=lambda _: b"")
    rootfs = {"rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    document = registry.image(b"", compress=lambda _: data, config=rootfs)
    document["layers"][0]["mediaType"] = hostile.LAYER.replace("gzip", compression)
    registry.put(document, "1")
    refused(images, registry, "a decompression bomb?", seconds=600)
    assert images.leftovers() == [] and list((images.store / "layers").iterdir()) == []


@pytest.mark.parametrize("command", ["load", "import"])
def test_an_archive_that_is_a_decompression_bomb(images: Images, tmp_path: Path, long: bool, command: str) -> None:
    """Its length isn't known before its end: it may inflate to what it allows so far."""
    if not long:
        pytest.skip("half a gigabyte is written; tests/test_image_tar.py has the limit")
    data, _ = bomb(512 << 20, "gzip")
    (tmp_path / "bomb").write_bytes(data)
    words = ["load", "--input", tmp_path / "bomb"] if command == "load" else ["import", tmp_path / "bomb", "x"]
    result = images(*words)
    assert result.code == 1 and "a decompression bomb?" in result.err and len(result.errors) == 1, result
    assert images.leftovers() == []


def test_an_archive_that_takes_memory(images: Images, tmp_path: Path) -> None:
    """xz: the header says how much its reader has to keep, here 1.5 GiB."""
    data = bytearray(lzma.compress(bytes(10240)))
    end = 12 + (data[12] + 1) * 4  # of the first block's header, which ends with its checksum
    place = data.index(b"\x21\x01", 12) + 2
    data[place] = 37
    data[end - 4:end] = zlib.crc32(data[12:end - 4]).to_bytes(4, "little")
    (tmp_path / "bomb").write_bytes(data)
    result = images("load", "--input", tmp_path / "bomb")
    assert result.code == 1 and "Memory usage limit exceeded" in result.err and len(result.errors) == 1, result


NO_TAR = b"not a tar " * 100


@pytest.mark.parametrize(("data", "why"), [
    (gzip.compress(tarmaker.archive(tarmaker.file("f")))[:-6], "cut off"),
    (gzip.compress(tarmaker.archive(tarmaker.file("f"))) + b"garbage", "something follows"),
    (b"plain tar?" * 100, "should be gzip"),
    (gzip.compress(NO_TAR), "not a tar archive"),
    (b"\x1f\x8b" + b"\xff" * 100, "not gzip data"),
], ids=range(5))
def test_layers_that_are_none(images: Images, registry: HostileRegistry, data: bytes, why: str) -> None:
    registry.image(NO_TAR, compress=lambda _: data)  # whose digest is right: one thing is wrong at a time
    refused(images, registry, why)
    assert images.leftovers() == []


@pytest.mark.parametrize("called", ["", "+gzip", "+zstd"])
@pytest.mark.parametrize("actual", ["", "gzip", "zstd"])
def test_layers_whose_type_is_not_what_they_are(images: Images, registry: HostileRegistry, called: str, actual: str,
                                                tmp_path: Path) -> None:
    """Builders get it wrong, and docker, podman and containerd don't mind: the diff id says what a layer holds."""
    compress = {"": bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}[actual]
    document = registry.image(layer(), compress=compress)
    document["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar" + called
    registry.put(document, "1")
    images.ok("unpack", "--backend", "copy", f"{registry.host}/x/y:1", tmp_path / "bundle")
    assert any((tmp_path / "bundle/rootfs").iterdir())


def test_an_image_does_not_get_the_callers_environment(images: Images, registry: HostileRegistry,
                                                       tmp_path: Path) -> None:
    """A name alone takes the caller's value on the command line, not in an image; what means nothing is told."""
    registry.image(layer(), config={"config": {"Env": ["SECRET", "=x", "A=1"], "StopSignal": "SIGNONE"}})
    result = images("unpack", "-e", "MINE", f"{registry.host}/x/y:1", tmp_path / "bundle", SECRET="s3cret", MINE="yes")
    assert result.code == 0, result
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    assert [entry for entry in config["process"]["env"] if not entry.startswith("PATH=")] == ["A=1", "MINE=yes"]
    assert "org.opencontainers.image.stopSignal" not in config["annotations"]
    for said in ("'SECRET' of the image left out", "'=x' of the image left out", "SIGNONE"):
        assert said in result.err


def test_a_layer_with_another_content_than_the_configuration_says(images: Images, registry: HostileRegistry) -> None:
    """The diff id is verified, too: the digest of the compressed layer says nothing of it."""
    registry.image(layer(), config={"rootfs": {"type": "layers", "diff_ids": [digest(b"something else")]}})
    refused(images, registry, "inflated", digest(b"something else"))


def test_nothing_is_pulled_over_plain_http_from_elsewhere(images: Images) -> None:
    """CVE-2014-5277: only a registry of this machine is asked in plain HTTP without being told so."""
    from pyrunc.registry.hosts import Hosts, is_local
    from pyrunc.registry.reference import parse

    for name, local in (("localhost", True), ("localhost:5000", True), ("127.0.0.1:5000", True), ("127.1.2.3", True),
                        ("[::1]:5000", True), ("example.com", False), ("10.0.0.1:5000", False),
                        ("localhost.com", False), ("127.0.0.1.example.com", False)):
        assert is_local(name) is local, name
        (endpoint,) = Hosts("/nonexistent").endpoints(parse(f"{name}/x"))
        assert endpoint.schemes == (("https", "http") if local else ("https",))


def test_where_credentials_may_go() -> None:
    """To the registry's host, or one of its domain, as auth.docker.io for Docker Hub; not to a mere suffix."""
    from pyrunc.registry.tokens import may_have_credentials

    for realm, registry, may in (
            ("https://auth.docker.io/token", "registry-1.docker.io", True), ("https://ghcr.io/token", "ghcr.io", True),
            ("https://gitlab.com/jwt/auth", "registry.gitlab.com", True),
            ("https://r.example.com:8443/t", "r.example.com", True),
            ("https://evil.io/token", "registry-1.docker.io", False),
            ("https://docker.io.evil.com/", "registry-1.docker.io", False),
            ("https://evil.co.uk/", "registry.co.uk", False), ("https://evil.com/", "example.com", False),
            ("https://127.0.0.2/", "127.0.0.1:5000", False), ("https://localhost/", "127.0.0.1", False),
            ("https://evildocker.io/", "registry-1.docker.io", False), ("http://127.0.0.1:1/t", "127.0.0.1:2", True)):
        assert may_have_credentials(realm, registry) is may, (realm, registry)


def test_hosts_toml(tmp_path: Path) -> None:
    """containerd's hosts.toml: mirrors in their order with what they may do, the server last."""
    from pyrunc.registry.hosts import Hosts
    from pyrunc.registry.reference import parse

    directory = tmp_path / "etc/containerd/certs.d/example.com"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text("""
server = "https://real.example.com"
[host."https://mirror.example.com"]
capabilities = ["pull"]
ca = "ca.crt"
[host."http://127.0.0.1:5000/prefix/v2"]
override_path = true
[host."http://127.0.0.1:5000/prefix/v2".header]
x-test = "1"
""")
    found = Hosts(str(tmp_path)).endpoints(parse("example.com/a/b:1"))
    assert [(item.host, item.schemes, item.base, item.resolve, item.mirror) for item in found] == [
        ("mirror.example.com", ("https",), "/v2", False, True), ("127.0.0.1:5000", ("http",), "/prefix/v2", True, True),
        ("real.example.com", ("https",), "/v2", True, False)]
    assert found[0].ca == (f"{directory}/ca.crt",) and found[1].headers == {"x-test": "1"}


def test_referrers(images: Images, registry: HostileRegistry) -> None:
    """Listing Referrers, or the tag that stands for it where a registry has none; what is no index is refused."""
    document = registry.image(layer())
    registry.put(document, "1")
    subject = digest(registry.manifests["1"][1])
    signature = {"mediaType": hostile.MANIFEST, "digest": "sha256:" + "0" * 64, "size": 7,
                 "artifactType": "application/x-signature", "annotations": {"who": "alice"}}
    index = json.dumps({"schemaVersion": 2, "mediaType": hostile.INDEX, "manifests": [signature]}).encode()
    has: dict[str, Answer] = {}
    registry.hook = lambda request: next((answer for path, answer in has.items() if path in request.path), None)
    name = f"{registry.host}/x/y:1"
    assert json.loads(images.ok("inspect", "--referrers", name)) == []  # 404 on both
    typed = {"Content-Type": hostile.INDEX}
    for path in (f"/x/y/referrers/{subject}", f"/x/y/manifests/{subject.replace(':', '-')}"):
        has.clear()
        has[path] = Answer(body=index, headers=typed)
        assert json.loads(images.ok("inspect", "--referrers", name)) == [signature]
        has[path] = Answer(body=registry.manifests["1"][1], headers=typed)
        result = images("inspect", "--referrers", name)
        assert result.code == 1 and "not an index" in result.err and len(result.errors) == 1


def test_interrupted_on_a_terminal(images: Images, registry: HostileRegistry) -> None:
    """There bars show each layer; ^C ends a pull at once, and what has come is there for the next one."""
    document = registry.image(layer(3_000_000), layer(1000, "g"))
    registry.put(document, "1")
    target = document["layers"][0]["digest"]
    stalled = Answer(body=registry.blobs[target], stall=2_000_000)
    registry.hook = lambda request: stalled if target in request.path else None
    terminal = Tty(["env", "-i", *[f"{key}={value}" for key, value in images.environment.items()], "TERM=xterm",
                    *images.command("pull", f"{registry.host}/x/y:1")], columns=160)
    terminal.expect(target[7:19])
    terminal.expect("1.0/2.9 MiB")  # it comes by the MiB
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert b"Traceback" not in terminal.seen and images.blobs() & {target} == set()
    assert json.loads(images.ok("ls", "--format", "json")) == []
    registry.hook = lambda request: None
    registry.requests.clear()
    pulled(images, registry)
    assert registry.asked(target)[0].headers["range"].startswith("bytes="), "from the beginning again"


#: In a network namespace, where the registry has an address that is not the loopback device's.
SENT_INWARD = """
import json, subprocess, sys
sys.path[:0] = json.loads(sys.argv[2])
from hostile import Answer, HostileRegistry, layer
how, registry, inner = sys.argv[1], HostileRegistry(sys.argv[3]), HostileRegistry("127.0.0.2")
target = registry.image(layer(1000))["layers"][0]["digest"]
inner.blobs = registry.blobs
port = inner.host.rpartition(":")[2]
where = {"name": f"inner.example:{port}", "mapped": f"[::ffff:127.0.0.2]:{port}"}.get(how, inner.host)
def hook(request):
    if how == "realm":
        return Answer(401, headers={"WWW-Authenticate": f'Bearer realm="http://{where}/token",service="x"'})
    if target in request.path:
        return Answer(307, headers={"Location": f"http://{where}{request.path}"})
registry.hook = hook
done = subprocess.run([*sys.argv[4:], "--tls-verify=false", f"{registry.host}/x/y:1"], capture_output=True, text=True)
print(json.dumps([done.returncode, done.stderr, len(inner.requests)]))
"""


@pytest.mark.parametrize(("how", "there"), [("redirect", "10.99.0.1"), ("name", "10.99.0.1"), ("mapped", "10.99.0.1"),
                                            ("realm", "10.99.0.1"), ("redirect", "127.0.0.3")])
def test_nobody_elsewhere_sends_us_inward(images: Images, tmp_path: Path, how: str, there: str) -> None:
    """CVE-2026-48978: services of the host's that listen on 127.0.0.1, or clouds' at 169.254.169.254."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.2 inner.example\n127.0.0.3 here\n10.99.0.1 elsewhere\n")  # or http.server asks for names
    script = f"mount --bind {hosts} /etc/hosts; ip link set lo up; ip address add 10.99.0.1/32 dev lo; exec \"$@\""
    done = subprocess.run(
        ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-ec", script, "-", sys.executable, "-c",
         SENT_INWARD, how, json.dumps(sys.path), there, *images.command("pull")],
        capture_output=True, text=True, env=images.environment, timeout=120)
    assert done.returncode == 0, done
    code, said, requests = json.loads(done.stdout)
    if there != "10.99.0.1":  # the control: it may well be at home there
        assert requests >= 1 and code == 0, said
    else:
        assert code == 1 and "an address of this machine or its link" in said, said
        assert requests == 0
