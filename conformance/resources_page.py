# SPDX-License-Identifier: Apache-2.0
"""docs/resources.md from tables that conformance.resources has measured (--json) on v1 and on v2.

    python -m conformance.resources_page TABLE.json... >docs/resources.md

A row that comes twice for one version is taken from where the field could be applied.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = """\
# Limits

What pyrunc writes for each field of `linux.resources` in config.json. Every row was measured: a container with that
field alone was created, and the file of its cgroup read back, on cgroup v1 and on v2, with runc 1.1.5 in the same run
(`python -m conformance.resources`; `python -m conformance.resources_page` makes this page of its tables). Where runc
has something else the last column says what, and why. The configurations are of ociVersion 1.0.2, where a `/pids/limit`
of 0 was no limit; from 1.3.0 on it is one, and `pids.max` is 1 then.

"""
HEADINGS = ("field", "given", "cgroup v1", "cgroup v2", "runc")
DEVICE = re.compile(r"\b(7|25[0-9]):[0-9]+\b")
NUMBERS = re.compile(r'"major": (7|25\d), "minor": \d+')
RDMA = re.compile(r"\b(mlx5_0|rxe0)\b")


def general(text: str) -> str:
    """Without what is this host's alone: the numbers of its disk, its device of RDMA, its usage of memory."""
    text = NUMBERS.sub('"major": MAJOR, "minor": MINOR', DEVICE.sub("MAJOR:MINOR", RDMA.sub("DEVICE", text)))
    text = re.sub(r"\(current usage: .*\)", "(current usage: …)", text)
    return re.sub(r" in /sys/fs/cgroup/\S+|/sys/fs/cgroup/\S*/", "", text).replace("|", "\\|")


def cell(row: Mapping[str, Any] | None, number: int) -> str:
    """What one runtime made of a row."""
    if row is None:
        return ""
    value = general(row["values"][number])
    if value.startswith("refused: "):
        return "refused: " + value.removeprefix("refused: ").removeprefix(row["field"]).removeprefix(": ")
    if value in ("-", "created, and its init killed"):
        return "ignored, with a warning" if value == "-" else value
    return f"`{row['file']}`: `{value}`"


def key(row: Mapping[str, Any]) -> tuple[str, str]:
    """What makes it the same row on another host."""
    return row["field"], general(row["given"])


def merge(tables: Sequence[Sequence[Mapping[str, Any]]]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    """Each row by version, field and value; what is given more than once for other files (huge pages) by that, too."""
    found: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for table in tables:
        seen: dict[tuple[str, str], int] = {}
        for row in table:
            seen[key(row)] = seen.get(key(row), -1) + 1
            place = (row["version"], row["field"], f"{general(row['given'])}#{seen[key(row)]}")
            if place not in found or found[place]["values"][0].startswith("refused"):
                found[place] = row
    return found


def page(tables: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The page."""
    rows = merge(tables)
    lines = [HEADINGS, tuple("-" for _ in HEADINGS)]
    for _, field, given in [place for place in rows if place[0] == "v1"]:
        both = [rows.get((version, field, given)) for version in ("v1", "v2")]
        differences = [f"{version}: {cell(row, 1)} ({row['explanation']})"
                       for version, row in zip(("v1", "v2"), both, strict=True) if row and row["explanation"]]
        lines.append((f"`{field.removeprefix('/linux/resources')}`", f"`{given.rpartition('#')[0]}`", cell(both[0], 0),
                      cell(both[1], 0), "; ".join(differences) or "the same"))
    return HEAD + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main(paths: Sequence[str]) -> int:
    sys.stdout.write(page([json.loads(Path(path).read_text()) for path in paths]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
