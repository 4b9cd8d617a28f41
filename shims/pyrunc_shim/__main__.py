# SPDX-License-Identifier: Apache-2.0
"""The entry of containerd-shim-pyrunc-v1, called by the launcher."""

from __future__ import annotations

import gc
import os
import sys


def entry(_launched: int = 0) -> None:
    """Run the command line and leave the process."""
    from pyrunc.errors import PyruncError

    status = 1
    gc.disable()
    try:
        status = main(sys.argv[1:])
    except PyruncError as error:
        os.write(2, f"containerd-shim-pyrunc-v1: {error}\n".encode("utf-8", "surrogateescape"))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    try:
        sys.stdout.flush()
    except OSError:
        status = status or 1
    os._exit(status)


def main(words: list[str]) -> int:
    from pyrunc.errors import UsageError
    from pyrunc_shim.arguments import Arguments

    arguments = Arguments(words)
    if arguments.action == "start" and not arguments.switches - {"debug"}:
        from pyrunc_shim import starting

        arguments.require()
        return starting.start(arguments)
    from pyrunc_shim import manage

    if arguments.switches & {"v", "version"}:
        return manage.version()
    if "info" in arguments.switches:
        return manage.info()
    arguments.require()
    if arguments.action == "delete":
        return manage.delete(arguments)
    raise UsageError(f"unknown action {arguments.action!r}", hint="start or delete")


if __name__ == "__main__":  # the launcher's shell twin runs the file
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from pyrunc._seal import ensure_sealed

    ensure_sealed(["shim"])
    entry()
