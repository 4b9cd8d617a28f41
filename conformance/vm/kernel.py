# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel: the package that linux-image-amd64 depends on, unpacked in the cache and nowhere else."""

from __future__ import annotations

import lzma
from pathlib import Path

from conformance.vm import cache
from conformance.vm.errors import Unavailable


class Kernel:
    """An unpacked kernel package: its image, and its modules as a tree that depmod has been over."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.image = next((root / "boot").glob("vmlinuz-*"))
        self.version = self.image.name.removeprefix("vmlinuz-")
        self.modules = root / "lib/modules" / self.version

    def module_files(self, *names: str) -> list[Path]:
        """The modules' files, each after those it needs; none for what is built in."""
        found: dict[Path, None] = {}
        for name in names:
            listed = cache.command("modprobe", "--dirname", self.root, "--set-version", self.version,
                                   "--show-depends", name)
            for line in listed.splitlines():
                kind, _, path = line.strip().partition(" ")
                if kind == "insmod":
                    found[Path(path.split()[0])] = None
        return list(found)


def read_module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def fetch() -> Kernel:
    """The kernel in the cache, or else the one that the archive has now."""
    return Kernel(cache.keep(f"kernel-{cache.codename()}", _unpack))


def _unpack(root: Path) -> None:
    try:
        _download(root)
    except Unavailable:
        cache.command("apt-get", "-q", "update")  # the lists are old, or there are none yet
        _download(root)
    package = next(root.glob("*.deb"))
    cache.command("dpkg-deb", "--extract", package, root)
    package.unlink()
    if (root / "usr/lib/modules").is_dir():
        (root / "lib").symlink_to("usr/lib")
    version = Kernel(root).version
    cache.command("depmod", "--basedir", root, version)


def _download(root: Path) -> None:
    depends = cache.command("apt-cache", "depends", "--important", "linux-image-amd64")
    names = [line.split()[1] for line in depends.splitlines() if line.strip().startswith("Depends: linux-image-")]
    if not names:
        raise Unavailable("apt knows no linux-image-amd64")
    cache.command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", names[0], cwd=root)
