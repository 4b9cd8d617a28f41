# SPDX-License-Identifier: Apache-2.0
"""The entry of the `pyrunc` command, called by the launcher or run as a script by its fallback."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.starting import Released

ISOLATED = ("-I", "-S", "-P", "-B", "-X", "utf8")
# An isolated interpreter still believes these about where its standard library is (getpath.py).
MISLEADING = ("PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__")


_SCRIPT = "import sys; sys.path.append(sys.argv[1]); from pyrunc.cli import main; sys.exit(main(sys.argv[2:]))"


def command_line(*words: str) -> list[str]:
    """How a hook runs this command: an isolated interpreter, with no word from PATH."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [sys.executable, *ISOLATED, "-c", _SCRIPT, package, *words]


def entry(launched: int = 0, released: Released | None = None) -> None:
    """Run the command line and leave the process.

    `launched` says that the C launcher, which seals itself, started this interpreter; `released` is what it has
    begun of a `start` (launcher/start.c).
    """
    status = 1
    gc.disable()  # collections cost a tenth of the start, and a command is over soon
    try:
        if not launched:
            _as_the_launcher_would()
        from pyrunc.cli import main

        status = main(sys.argv[1:], released)
    except KeyboardInterrupt:
        status = 130
    except BaseException:  # a defect, or the flushing below would hide it
        sys.excepthook(*sys.exc_info())
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:  # a closed pipe, a full disk: the caller did not get the output
            status = status or 1
            if not isinstance(error, BrokenPipeError):
                os.write(2, f"pyrunc: {stream.name}: {error.strerror}\n".encode())
    # Nothing is left to be finalised: what must outlive us is on disk, and tearing the interpreter
    # down takes longer than many commands.
    os._exit(status)


def _as_the_launcher_would() -> None:
    """Become an isolated interpreter on a sealed copy, as launcher/pyrunc.c does."""
    script = os.path.abspath(__file__)
    for name in MISLEADING:
        os.environ.pop(name, None)
    if not (sys.flags.isolated and sys.flags.no_site):  # `python -m pyrunc`, `python pyrunc`
        os.execv(sys.executable, [sys.executable, *ISOLATED, script, *sys.argv[1:]])
    # At the end: nothing beside the package can shadow the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(script)))
    from pyrunc._seal import ensure_sealed
    from pyrunc.errors import PyruncError

    try:
        ensure_sealed(sys.argv[1:])
    except PyruncError as error:
        os.write(2, f"pyrunc: {error}\n".encode("utf-8", "surrogateescape"))
        os._exit(error.exit_code)


if __name__ == "__main__":
    entry()
