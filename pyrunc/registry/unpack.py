# SPDX-License-Identifier: Apache-2.0
"""Bundles made of images: `rootfs`, `config.json`, and `image.json`, which says what they were made of.

Two backends.  `copy`: the layers are applied to a plain directory, which any runtime takes, and which
outlives the store.  `overlay`: rootfs is a mount of the store's unpacked layers, shared by all bundles
of the image, with what the container changes in `upper`; made at once, gone with `umount`.
"""

from __future__ import annotations

import json
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, Any, final

from pyrunc.errors import ImageError, KernelError
from pyrunc.linux.fs import O_PATH
from pyrunc.paths import make_directory, open_in_root
from pyrunc.spec.load import dump_pretty

from . import conversion, overlay, trees, uses
from .digest import chain_ids
from .extract import Extractor
from .fetch import unpack_blob
from .layers import Layers
from .progress import Progress
from .transfer import Transfer
from .uses import RECORD, Use

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conversion import Overrides
    from .idmap import Ownership
    from .store import Image, Store

SNAPSHOT = "tree.json"  # of a copy, in the bundle: what was unpacked, to tell later what has changed
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@final
class Unpacker:
    """Makes bundles of the images in a store."""

    def __init__(self, store: Store, ownership: Ownership, *, progress: Progress | None = None,
                 warn: Callable[[str], None] = lambda text: None) -> None:
        self.store = store
        self.ownership = ownership
        self.progress = progress or Progress()
        self.warn = warn

    def bundle(self, image: Image, directory: str, overrides: Overrides, *, backend: str = "copy",
               kind: str = "bundle", state_root: str = "") -> str:
        """Make the bundle `directory`, which must not be there or be empty; its absolute path.

        A failure leaves nothing behind.
        """
        path = os.path.abspath(directory)
        made = _claim(path, 0o711 if self.ownership.uids else 0o700)
        use = Use(path, kind, image.name, image.descriptor, backend)
        try:
            with self.store.adding():
                if backend == "overlay":  # a copy needs nothing of the store any more
                    uses.add(self.store, use)
                os.mkdir(f"{path}/rootfs", 0o755)
                if backend == "overlay":
                    self._overlay(image, path)
                else:
                    self._copy(image, path)
                self._configure(image, path, overrides, kind == "container")
                if backend == "copy":
                    snapshot(f"{path}/rootfs", f"{path}/{SNAPSHOT}")
                with open(f"{path}/{RECORD}", "w") as file:
                    json.dump({**use.dump(), "layers": chain_ids(image.config.diff_ids), "store": self.store.path,
                               "uid_map": self.ownership.uids, "gid_map": self.ownership.gids,
                               "squash": self.ownership.squash, "state_root": state_root}, file)
        except BaseException:
            overlay.unmount(f"{path}/rootfs")
            for name in os.listdir(path):
                _remove_entry(path, name)
            if made:
                os.rmdir(path)
            uses.forget(self.store, path)
            raise
        return path

    # Backends

    def _copy(self, image: Image, path: str) -> None:
        root = os.open(f"{path}/rootfs", _DIRECTORY)
        try:
            if not self.ownership.squash:
                os.fchown(root, *self.ownership.to_host(0, 0))
            for number, layer in enumerate(image.manifest.layers):
                what = f"{image.name}: layer {layer.digest}"
                self.progress.start(layer.digest, layer.size)
                extractor = Extractor(root, self.ownership, what, warn=self.warn)
                unpack_blob(self.store, layer, image.config.diff_ids[number], extractor, what,
                            progress=partial(self.progress.advance, layer.digest))
                self.progress.done(layer.digest, "unpacked")
        finally:
            os.close(root)

    def _overlay(self, image: Image, path: str) -> None:
        if self.ownership.uids or self.ownership.squash:
            raise ImageError("layers are shared by all bundles, so their owners can't be changed for one",
                             hint="--backend copy")
        Transfer(self.store, progress=self.progress, warn=self.warn).layers(image, True)
        os.mkdir(f"{path}/upper", 0o755)
        os.mkdir(f"{path}/work", 0o700)
        mount_bundle(self.store, path, chain_ids(image.config.diff_ids))

    # What else belongs to a bundle

    def _configure(self, image: Image, path: str, overrides: Overrides, command_needed: bool) -> None:
        root = os.open(f"{path}/rootfs", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            config = conversion.convert(image, root, overrides, self.ownership, warn=self.warn,
                                        command_needed=command_needed)
            taken = {mount["destination"].rstrip("/") for mount in overrides.mounts}
            for number, destination in enumerate(conversion.volumes(image)):
                if destination not in taken:
                    self._volume(root, path, number, destination, config)
            self._make_workdir(root, config["process"]["cwd"])
        finally:
            os.close(root)
        with open(f"{path}/config.json", "w") as file:
            file.write(dump_pretty(config) + "\n")

    def _make_workdir(self, root: int, unsafe_cwd: str) -> None:
        """The working directory is made where the image lacks it, as docker does."""
        owner = None if self.ownership.squash else self.ownership.to_host(0, 0)
        try:
            os.close(make_directory(root, unsafe_cwd, owner=owner))
        except OSError as error:
            raise ImageError(f"the working directory {unsafe_cwd}: {os.strerror(error.errno or 0).lower()}") from None

    def _volume(self, root: int, path: str, number: int, destination: str, config: Any) -> None:
        """A directory of the bundle for what the image declares as a volume, with what the image has there."""
        os.makedirs(f"{path}/volumes", 0o711, exist_ok=True)
        source = f"{path}/volumes/{number}"
        os.mkdir(source, 0o755)
        target = os.open(source, _DIRECTORY)
        try:
            try:
                there = open_in_root(root, destination, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                if not self.ownership.squash:
                    os.fchown(target, *self.ownership.to_host(0, 0))
            else:
                try:
                    trees.copy_tree(there, target)
                finally:
                    os.close(there)
        finally:
            os.close(target)
        config["mounts"].append({"destination": destination, "type": "bind", "source": f"volumes/{number}",
                                 "options": ["rbind", "rw"]})


def _claim(path: str, mode: int) -> bool:
    """An empty directory at `path`; whether it was made here.  Raises ImageError."""
    try:
        os.mkdir(path, mode)
        return True
    except FileExistsError:
        try:
            there = os.listdir(path)
        except OSError as error:
            raise KernelError(f"{path}", errno=error.errno or 0) from None
        if there:
            raise ImageError(f"{path} is there and not empty", hint="a bundle is made in a new directory") from None
        return False
    except OSError as error:
        raise KernelError(f"make the directory {path}", errno=error.errno or 0) from None


def _remove_entry(path: str, name: str) -> None:
    if stat.S_ISDIR(os.lstat(f"{path}/{name}").st_mode):
        trees.remove(f"{path}/{name}")
    else:
        os.unlink(f"{path}/{name}")


def mount_bundle(store: Store, path: str, chain: list[str]) -> None:
    """Mount an overlay bundle's rootfs."""
    layers = Layers(store)
    missing = [chain_id for chain_id in chain if not layers.ready(chain_id)]
    if missing:
        raise ImageError(f"{path}: its layers are no longer in the store {store.path}", hint="unpack the image again")
    lower = [layers.diff(chain_id) for chain_id in reversed(chain)] or [_empty(store)]
    if chain:
        # What nobody has changed looks as in the image, the root directory as well.
        source, target = os.open(lower[0], _DIRECTORY), os.open(f"{path}/upper", _DIRECTORY)
        try:
            if not os.listdir(target):
                trees.copy_attributes(source, target)
        finally:
            os.close(source)
            os.close(target)
    overlay.mount(f"{path}/rootfs", lower, f"{path}/upper", f"{path}/work")


def _empty(store: Store) -> str:
    """A directory with nothing in it: an image without layers."""
    path = f"{store.path}/empty"
    os.makedirs(path, 0o755, exist_ok=True)
    return path


def mount_image(store: Store, image: Image, directory: str, progress: Progress | None = None) -> str:
    """Mount the image's root read-only on `directory`; its absolute path."""
    path = os.path.realpath(directory)
    if not os.path.isdir(path):
        raise ImageError(f"{directory} is not a directory", hint="make it first")
    if os.path.ismount(path) and uses.find(store, path):
        raise ImageError(f"{path} has an image mounted on it already", hint="`pyrunc image umount` it first")
    with store.adding():
        Transfer(store, progress=progress).layers(image, True)
        layers = Layers(store)
        chain = chain_ids(image.config.diff_ids)
        lower = [layers.diff(chain_id) for chain_id in reversed(chain)] or [_empty(store)]
        overlay.mount(path, lower)
        uses.add(store, Use(path, "mount", image.name, image.descriptor, "overlay"))
    return path


def load_record(directory: str) -> dict[str, Any]:
    """image.json of a bundle.  Raises ImageError when it wasn't made of an image."""
    name = f"{directory}/{RECORD}"
    try:
        with open(name) as file:
            value = json.loads(file.read(1 << 20))
    except FileNotFoundError:
        raise ImageError(f"{directory} was not made by `pyrunc image unpack` or `run`",
                         hint="its image.json is missing") from None
    except ValueError:
        raise ImageError(f"{name} is not JSON") from None
    if not isinstance(value, dict):
        raise ImageError(f"{name} is not a record of an image")
    Use.load(value, name)
    return value


def remove_bundle(store: Store, directory: str) -> None:
    """The bundle with all that is in it, its mount first."""
    path = os.path.abspath(directory)
    overlay.unmount(f"{path}/rootfs")
    trees.remove(path)
    uses.forget(store, path)


def snapshot(root: str, target: str) -> None:
    """Write down what the tree at `root` looks like: a JSON list for each path, in order."""
    fd = os.open(root, _DIRECTORY)
    try:
        with open(target, "w") as file:
            device = os.fstat(fd).st_dev
            file.write(json.dumps({"version": 1, "device": device}) + "\n")
            for path, directory, name, info in trees.walk(fd):
                file.write(json.dumps(describe(os.fsdecode(path), directory, name, info)) + "\n")
    finally:
        os.close(fd)


def describe(path: str, directory: int, name: bytes, info: os.stat_result) -> list[Any]:
    """What tells whether a file has changed; the last two (inode and change time) where it has stayed in its place."""
    link = os.fsdecode(os.readlink(name, dir_fd=directory)) if stat.S_ISLNK(info.st_mode) else ""
    size = info.st_size if stat.S_ISREG(info.st_mode) else 0
    return [path, info.st_mode, info.st_uid, info.st_gid, size, info.st_mtime_ns, info.st_rdev, link,
            info.st_ino, info.st_ctime_ns]
