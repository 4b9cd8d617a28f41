# SPDX-License-Identifier: Apache-2.0
"""Names of images and digests: docker's reading of them, and nothing else (CVE-2024-3727)."""

from __future__ import annotations

import hashlib

import pytest

from pyrunc.errors import ImageError
from pyrunc.registry.digest import Verifier, chain_ids, check_digest, is_digest
from pyrunc.registry.reference import parse

HEX = "a" * 64
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(("text", "expected", "familiar"), [
    ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
    ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
    ("alice/web", "docker.io/alice/web:latest", "alice/web:latest"),
    ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
    ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
    ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
    ("localhost:5000/x/y:t", "localhost:5000/x/y:t", "localhost:5000/x/y:t"),
    ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
    ("registry.example.com/a/b/c", "registry.example.com/a/b/c:latest", "registry.example.com/a/b/c:latest"),
    (f"quay.io/x/y@{DIGEST}", f"quay.io/x/y@{DIGEST}", f"quay.io/x/y@{DIGEST}"),
    (f"x:t@{DIGEST}", f"docker.io/library/x:t@{DIGEST}", f"x:t@{DIGEST}"),
    ("UPPER.example/x", "UPPER.example/x:latest", "UPPER.example/x:latest"),
])
def test_names(text: str, expected: str, familiar: str) -> None:
    reference = parse(text)
    assert str(reference) == expected
    assert reference.familiar == familiar
    assert str(parse(familiar)) == expected


@pytest.mark.parametrize("text", [
    "", "/", ":", "@", ":tag", "x:", "X", "x/", "/x", "a//b", "-x", "x-", "x..y", "a/.b", "../etc/passwd", "x/../y",
    "x y", "x\n",
    "x:t/y", "x:" + "t" * 129, "x:t@", "x@sha256:abc", f"x@SHA256:{HEX}", f"x@sha256:{HEX.upper()}", f"x@sha256:{HEX}0",
    f"x@md5:{'a' * 32}", f"x@sha256:../../{HEX[6:]}", DIGEST, HEX, "a" * 256, "example.com:99999/x", "example.com:/x",
    "exa_mple.com/x", "http://example.com/x", "user@example.com/x", "x:t:u", "ümlaut", "x\0",
])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ImageError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [
    "sha256:", "sha256:" + "g" * 64, "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha512:" + "a" * 64, "a" * 64,
    "sha256:" + "a" * 63 + "\n", "sha256:../" + "a" * 61, "sha256:" + "\u0661" * 64, None, 7,
    "sha256:" + "a" * 64 + " ",
])
def test_what_is_no_digest(text: object) -> None:
    assert not is_digest(text)
    with pytest.raises(ImageError, match="is not a digest"):
        check_digest(text, "here")


def test_digests() -> None:
    assert is_digest(DIGEST) and is_digest("sha512:" + "0" * 128)


def test_chain_ids() -> None:
    """config.md, Layer ChainID: of the first layer its diff id, then the digest of `CHAIN DIFF`."""
    first, second = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    expected = "sha256:" + hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_ids([first, second]) == [first, expected]
    assert chain_ids([]) == []


def test_a_verifier_tells_size_and_digest() -> None:
    verifier = Verifier()
    verifier.update(b"ab")
    verifier.update(b"c")
    right = "sha256:" + hashlib.sha256(b"abc").hexdigest()
    verifier.check(right, 3, "x")
    verifier.check(right, -1, "x")
    with pytest.raises(ImageError, match="3 bytes came, the descriptor says 4"):
        verifier.check(right, 4, "x")
    with pytest.raises(ImageError, match="the content's digest is"):
        verifier.check(DIGEST, 3, "x")
