# SPDX-License-Identifier: Apache-2.0
"""Which image of an index is for this machine (image-index.md, platform)."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pyrunc.errors import ImageError

from . import media
from .manifest import ImageConfig, Manifest, Platform, load_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from .manifest import Descriptor, Index

# uname -m -> GOARCH and GOARM, the names the image-spec takes from Go.
_MACHINES = {
    "x86_64": ("amd64", ""), "aarch64": ("arm64", "v8"), "armv7l": ("arm", "v7"), "armv6l": ("arm", "v6"),
    "i686": ("386", ""), "i386": ("386", ""), "riscv64": ("riscv64", ""), "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""), "loongarch64": ("loong64", ""),
}
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


def host() -> Platform:
    """This machine's platform."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def parse(text: str) -> Platform:
    """`linux/arm64/v8`, `linux/amd64`, or an architecture alone.  Raises ImageError."""
    parts = text.split("/")
    if not all(part and part.isascii() and part.replace("_", "").replace(".", "").isalnum() for part in parts) \
            or len(parts) > 3:
        raise ImageError(f"{text[:100]!a} is not a platform", hint="os/architecture or os/architecture/variant")
    if len(parts) == 1:
        parts = ["linux", parts[0]]
    architecture, variant = _MACHINES.get(parts[1], (parts[1], ""))
    return Platform(parts[0], architecture, parts[2] if len(parts) > 2 else variant)


def choose(index: Index, wanted: Platform, what: str,
           read: Callable[[Descriptor], bytes]) -> Descriptor:
    """The manifest in `index` for `wanted`: the exact variant, then a lower one, then one without.

    If none says that it is, one that says nothing (which an index may leave out): the configurations of those are
    read, as containerd does.  Raises ImageError, naming the platforms there are.
    """
    usable = [item for item in index.manifests if item.media_type in (*media.MANIFESTS, *media.INDEXES)]
    ranked = [(rank, -number, item) for number, item in enumerate(usable)
              if item.platform and (rank := _rank(item.platform, wanted)) >= 0]
    if ranked:
        return max(ranked, key=lambda entry: entry[:2])[2]
    bare = [item for item in usable if item.platform is None]
    if len(bare) == 1:
        return bare[0]
    for item in bare:
        with suppress(ImageError):
            document = load_document(read(item), item.digest, item.media_type)
            if isinstance(document, Manifest) and \
                    _rank(ImageConfig.load(read(document.config), document.config.digest).platform, wanted) >= 0:
                return item
    there = sorted({str(item.platform) for item in index.manifests
                    if item.platform and item.platform.os not in ("", "unknown")})
    raise ImageError(f"{what}: no image for {wanted}",
                     hint=f"there are {', '.join(there[:20])}; --platform chooses" if there else "it names no platform")


def _rank(found: Platform, wanted: Platform) -> int:
    """How good `found` is for `wanted`; -1: not at all."""
    architecture, variant = _MACHINES.get(found.architecture, (found.architecture, ""))
    if (found.os, architecture) != (wanted.os, wanted.architecture):
        return -1
    default = _DEFAULT_VARIANTS.get(wanted.architecture, "")
    asked, offered = _version(wanted.variant or default), _version(found.variant or variant or default)
    if asked == offered:
        return 1000
    # A newer machine runs an older one's programs, not the other way round.
    return offered if 0 <= offered < asked else -1


def _version(variant: str) -> int:
    digits = variant.removeprefix("v")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 4 else (0 if not variant else -1)
