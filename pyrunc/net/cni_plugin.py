# SPDX-License-Identifier: Apache-2.0
"""The program pyrunc-cni: a plugin of CNI 1.1.0 that gives containers places in pyrunc's networks.

The launcher calls `entry`.  The request comes in the environment and on stdin, the answer goes to stdout (Section 2).
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ABOUT = "pyrunc-cni: containers' places in the networks of `pyrunc net`, for CNI {}\n"
_NEWEST = "1.1.0"


def entry(_launched: int = 0) -> None:
    """Answer the request, and leave the process."""
    gc.disable()
    status = 1
    try:
        status = main()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(status)


def main() -> int:
    """One call; the exit code."""
    from pyrunc.errors import PyruncError
    from pyrunc.net import cni

    version = _NEWEST
    try:
        command = os.environ.get("CNI_COMMAND", "")
        if not command:  # somebody wants to know what this is
            _write(2, ABOUT.format(", ".join(cni.VERSIONS)))
            return 0
        config = _config(command)
        if command == "VERSION":
            given = config.get("cniVersion", version)
            _answer({"cniVersion": given if isinstance(given, str) else version,
                     "supportedVersions": list(cni.VERSIONS)})
            return 0
        version = cni.check_version(config.get("cniVersion"), "the network's configuration")
        from pyrunc.net.cni_commands import run

        result = run(command, config, version)
        if result is not None:
            _answer(result)
        return 0
    except PyruncError as error:
        _answer(_failure(error).to_result(version))
    except OSError as error:
        what = getattr(error, "syscall", "") or error.filename or ""
        _answer(cni.CniError(cni.IO_FAILURE, str(error.strerror), str(what)).to_result(version))
    except Exception as error:  # a defect; the runtime shows what it is told
        _answer(cni.CniError(cni.OWN_FAILURE, f"internal error: {type(error).__name__}: {error}").to_result(version))
        sys.excepthook(*sys.exc_info())
    return 1


def _failure(error: Exception) -> Any:
    from errno import ENOENT

    from pyrunc.errors import KernelError, PyruncError, UsageError
    from pyrunc.net import cni

    if isinstance(error, cni.CniError):
        return cni.CniError(error.code, error.message, error.details or error.hint)
    assert isinstance(error, PyruncError)
    if isinstance(error, UsageError):
        return cni.CniError(cni.BAD_CONFIG, error.message, error.hint)
    if isinstance(error, KernelError):
        gone = error.errno == ENOENT and "network namespace" in error.message
        return cni.CniError(cni.UNKNOWN_CONTAINER if gone else cni.IO_FAILURE, str(error))
    return cni.CniError(cni.OWN_FAILURE, error.message, error.hint)


def _config(command: str) -> dict[str, Any]:
    """What is on stdin.  Raises CniError."""
    from pyrunc.errors import BundleError
    from pyrunc.net import cni
    from pyrunc.spec.load import MAX_BYTES, parse

    data = b""
    while len(data) <= MAX_BYTES and (piece := os.read(0, 1 << 16)):
        data += piece
    if command == "VERSION" and not data.strip():
        return {}
    try:
        config = parse(data, "the network's configuration")
    except BundleError as error:
        raise cni.CniError(cni.UNDECODABLE, str(error)) from None
    if not isinstance(config, dict):
        raise cni.CniError(cni.UNDECODABLE, "the network's configuration is no object")
    return config


def _answer(value: Any) -> None:
    from pyrunc.spec.load import dump_pretty

    _write(1, dump_pretty(value) + "\n")


def _write(fd: int, text: str) -> None:
    rest = memoryview(text.encode())
    while rest:
        rest = rest[os.write(fd, rest):]


if __name__ == "__main__":  # the launcher's shell twin runs the file
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    entry()
