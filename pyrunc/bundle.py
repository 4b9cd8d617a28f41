# SPDX-License-Identifier: Apache-2.0
"""A bundle on disk: its config.json, read once and strictly, and its rootfs (bundle.md)."""

from __future__ import annotations

import os
import stat

from .errors import BundleError
from .spec.check import check_bundle
from .spec.load import MAX_BYTES, load_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .spec.types import Config


class Bundle:
    """`path` is absolute, without links; `data` are the bytes of config.json, `config` what they say."""

    __slots__ = ("config", "data", "path", "rootfs")

    def __init__(self, path: str, data: bytes, config: Config) -> None:
        self.path = path
        self.data = data
        self.config = config
        root = config["root"]["path"]
        self.rootfs = os.path.realpath(root if root.startswith("/") else os.path.join(path, root))


def load(path: str) -> Bundle:
    """Read and check the bundle at `path`.  Raises BundleError, ConfigError."""
    absolute = os.path.realpath(path)
    try:
        if not stat.S_ISDIR(os.stat(absolute).st_mode):
            raise BundleError(f"bundle {path} is not a directory")
    except OSError as error:
        raise BundleError(f"bundle {path}", syscall="stat", errno=error.errno or 0) from None
    name = f"{absolute}/config.json"
    data = read_file(name)
    config = load_config(data)
    check_bundle(config, absolute)
    return Bundle(absolute, data, config)


def read_file(name: str) -> bytes:
    """The bytes of a regular file of at most MAX_BYTES.  Raises BundleError."""
    try:
        # O_NONBLOCK: a fifo by that name must not hang us.
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BundleError(f"open {name}", errno=error.errno or 0,
                          hint="`pyrunc spec` writes a default one") from None
    except OSError as error:
        raise BundleError(f"open {name}", errno=error.errno or 0) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BundleError(f"{name} is not a regular file")
        data = b""
        while len(data) <= MAX_BYTES:
            chunk = os.read(fd, MAX_BYTES + 1 - len(data))
            if not chunk:
                return data
            data += chunk
    except OSError as error:
        raise BundleError(f"read {name}", errno=error.errno or 0) from None
    finally:
        os.close(fd)
    raise BundleError(f"{name} is larger than {MAX_BYTES} bytes")
