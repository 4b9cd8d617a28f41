# SPDX-License-Identifier: Apache-2.0
"""Digests: `sha256:` and 64 hex digits (or sha512 and 128), and nothing else (descriptor.md, Digests).

A digest becomes part of file names and URLs, so one that is anything else is refused wherever it
comes from (CVE-2024-3727).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, final

from pyrunc.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable

_LENGTHS = {"sha256": 64, "sha512": 128}
_HEX = frozenset("0123456789abcdef")


def is_digest(text: object) -> bool:
    """Whether `text` is a digest of a registered algorithm, in lower case."""
    if not isinstance(text, str):
        return False
    algorithm, _, encoded = text.partition(":")
    return len(encoded) == _LENGTHS.get(algorithm, -1) and _HEX.issuperset(encoded)


def check_digest(text: object, where: str) -> str:
    """`text`, which is a digest; ImageError names `where` it stands."""
    if not is_digest(text):
        raise ImageError(f"{where}: {str(text)[:160]!a} is not a digest",
                         hint="sha256: and 64 lower-case hexadecimal digits, or sha512: and 128")
    assert isinstance(text, str)
    return text


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """The digest of `data`."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The chain id of each layer on top of those before it (config.md, Layer ChainID)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


@final
class Verifier:
    """Bytes that are counted and hashed on their way, against a digest and perhaps a size."""

    __slots__ = ("_hash", "algorithm", "count")

    def __init__(self, algorithm: str = "sha256") -> None:
        self.algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self.count = 0

    @classmethod
    def of(cls, digest: str) -> Verifier:
        return cls(digest.partition(":")[0])

    def update(self, data: bytes | bytearray | memoryview) -> None:
        self._hash.update(data)
        self.count += len(data)

    @property
    def digest(self) -> str:
        return f"{self.algorithm}:{self._hash.hexdigest()}"

    def check(self, digest: str, size: int, what: str) -> None:
        """Raises ImageError unless what has passed was `size` bytes (-1: any number) with that digest."""
        if size >= 0 and self.count != size:
            raise ImageError(f"{what}: {self.count} bytes came, the descriptor says {size}")
        if self.digest != digest:
            raise ImageError(f"{what}: the content's digest is {self.digest}, not {digest}",
                             hint="it was changed on its way, or the store or registry is damaged")
