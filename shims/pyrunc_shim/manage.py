# SPDX-License-Identifier: Apache-2.0
"""What containerd runs the shim's program for beside `start`: delete, -info, -v.

Where nothing of a container is left, launcher/shim.c has answered `delete` already.
"""

from __future__ import annotations

import os
import sys

from pyrunc._version import __version__

from . import options
from .arguments import read_stdin
from .codec import DecodeError
from .messages import Any, DeleteResponse, RuntimeInfo, RuntimeVersion
from .publisher import now
from .starting import hold, remove_dead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .arguments import Arguments

_KILLED = 137


def _forget_socket(bundle: str) -> None:
    """That of the shim which `start` told of, if it is dead; in a pod another container's may be alive."""
    try:
        with open(f"{bundle}/address") as file:
            path = file.read(4096).removeprefix("unix://")
        held = hold(path)
        try:
            remove_dead(path)
        finally:
            os.close(held)
    except OSError:
        pass  # what `start` does in its stead, for the next shim at that path


def delete(arguments: Arguments) -> int:
    """After the shim has died: whatever is left of the container goes."""
    from . import operations

    bundle = arguments["bundle"] or os.getcwd()
    root = options.state_root(options.load(bundle), arguments["namespace"])
    try:
        with open(f"{bundle}/init.pid") as file:
            pid = int(file.read())
    except (OSError, ValueError):
        pid = 0
    operations.delete(arguments["id"], root, bundle, True)
    _forget_socket(bundle)
    os.write(1, DeleteResponse(pid=pid, exit_status=_KILLED, exited_at=now()).encode())
    return 0


def info() -> int:
    """-info: what the runtime can do, as a RuntimeInfo; kubelet learns from it."""
    from pyrunc.spec.features import features
    from pyrunc.spec.load import dump

    data = read_stdin()
    wanted: Any | None = None
    try:
        wanted = Any.decode(data) if data else None
    except DecodeError:
        pass
    os.write(1, RuntimeInfo(
        name="io.containerd.pyrunc.v1", version=RuntimeVersion(version=__version__), options=wanted,
        features=Any(type_url="types.containerd.io/opencontainers/runtime-spec/1/features/Features",
                     value=dump(features()).encode())).encode())
    return 0


def version() -> int:
    print(f"{os.path.basename(sys.argv[0] or 'containerd-shim-pyrunc-v1')}:\n  Version:  {__version__}")
    return 0
