# SPDX-License-Identifier: Apache-2.0
"""The command line: python -m conformance.vm run [OPTION...] -- COMMAND..., and fetch to have all at hand.

It exits as COMMAND did; 77 when there can be no machine here (1 when CI is set: there it must not go
unnoticed), 70 when the machine broke.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from conformance.vm import image, kernel, machine
from conformance.vm.errors import Broken, Unavailable

UNAVAILABLE = 77
BROKEN = 70


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m conformance.vm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="the kernel and the disk, into the cache")
    run = commands.add_parser("run", help="run a command in a machine")
    run.add_argument("--machine", choices=machine.MACHINES, default="controllers")
    run.add_argument("--timeout", type=float, default=600, metavar="S", help="for everything but fetching (600)")
    run.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the command")
    run.add_argument("--share", action="append", default=[], type=Path, metavar="DIR",
                     help="for systemd, beside the current directory and Python's environment")
    run.add_argument("words", nargs="+", metavar="COMMAND")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.command == "fetch":
            machine.check_host()
            kernel.fetch()
            image.fetch()
            return 0
        return machine.run(options.machine, options.words, timeout=options.timeout, shares=options.share,
                           environment=dict(pair.split("=", 1) for pair in options.env))
    except Unavailable as error:
        print(f"conformance.vm: there can be no machine here: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") else UNAVAILABLE
    except Broken as error:
        print(f"conformance.vm: {error}", file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
