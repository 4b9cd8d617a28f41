# SPDX-License-Identifier: Apache-2.0
"""Real clients above any runtime, check by check.

    python -m conformance run LANE --runtime PATH [--json FILE] [--short] [--only REGEX] [--clients DIR]
    python -m conformance compare LANE --runtime A --runtime B... [--json FILE]

`run` exits with 0 when every check passed, 1 when one failed, 2 when the lane can't run here.  `compare` puts
runtimes side by side; it exits with 1 when the first fails something that another passes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from conformance import report, sandbox
from conformance.errors import Unavailable
from conformance.lanes import LANES


def measure(lane: str, runtime: str, args: argparse.Namespace, show: Callable[[dict[str, Any]], object]) -> dict[str,
                                                                                                                 Any]:
    """The rows of one lane with one runtime.  Raises Unavailable."""
    path = shutil.which(runtime)
    if not path:
        raise Unavailable(f"no runtime at {runtime}")
    rows: list[dict[str, Any]] = []
    reasons: list[str] = []
    names: list[str] = []

    def take(row: dict[str, Any]) -> None:
        if "unavailable" in row:
            reasons.append(row["unavailable"])
        elif "sandbox" in row:
            names.append(row["sandbox"])
        else:
            rows.append(row)
            show(row)

    words = [lane, os.path.abspath(path), *(["--short"] if args.short else []), "--only", args.only, "--suite",
             os.path.abspath(args.suite) if args.suite else "", "--clients",
             os.path.abspath(args.clients) if args.clients else ""]
    how = args.cgroups or sandbox.layout()
    status = sandbox.run(words, take, how)
    if reasons or status not in (0, 1):
        raise Unavailable(reasons[0] if reasons else f"the lane {lane} ended with {status}")
    return {"lane": lane, "runtime": os.path.basename(path), "version": version(path), "cgroups": how,
            "sandbox": names[0],
            "short": args.short,
            "kernel": platform.release(), "rows": rows}


def version(path: str) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60)
    return (done.stdout.splitlines() or ["unknown"])[0]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("run", "one runtime"), ("compare", "runtimes side by side")):
        command = commands.add_parser(name, help=text)
        command.add_argument("lane", choices=list(LANES), help="; ".join(f"{key}: {what}" for key,
                                                                         what in LANES.items()))
        command.add_argument("--runtime", action="append", required=True, metavar="PATH",
                             help="a path or a name" + ("; again for more" if name == "compare" else ""))
        command.add_argument("--json", type=Path, metavar="FILE", help="write what was seen to FILE")
        command.add_argument("--short", action="store_true", help="only the checks of the short form")
        command.add_argument("--only", default="", metavar="REGEX", help="only the checks whose name it is found in")
        command.add_argument("--cgroups", choices=sandbox.LAYOUTS,
                             help="what the lane sees (default: the host's version, "
                             "v1 alone where that is hybrid)")
        command.add_argument("--clients", default="", metavar="DIR",
                             help="where the client's programs are looked for first, as a containerd built from source")
        command.add_argument("--suite", default="", metavar="DIR", help="for runtime-tools: the built checkout")
    args = parser.parse_args(arguments)
    if args.command == "run" and len(args.runtime) != 1:
        parser.error("run takes one --runtime")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        found = []
        for runtime in args.runtime:
            print(f"{args.lane} with {runtime}", file=sys.stderr)
            found.append(measure(args.lane, runtime, args, lambda row: print(report.line(row), file=sys.stderr)))
    except Unavailable as error:
        print(f"conformance: the lane {args.lane} can't run here: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(found[0] if args.command == "run" else found, indent=1) + "\n")
    if args.command == "run":
        print(report.table(found))
        return 0 if found[0]["rows"] and all(row["passed"] for row in found[0]["rows"]) else 1
    print(report.table(found))
    behind = report.behind(found)
    for name in behind:
        print(f"{found[0]['runtime']} fails what another passes: {name}", file=sys.stderr)
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
