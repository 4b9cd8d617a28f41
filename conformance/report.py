# SPDX-License-Identifier: Apache-2.0
"""What lanes saw, as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def line(row: Mapping[str, Any]) -> str:
    """One check as it comes in."""
    text = f"  {'ok  ' if row['passed'] else 'FAIL'} {row['check']} ({row['seconds']:.1f} s)"
    return text if row["passed"] else f"{text}\n       expected {row['expected']!r}\n       seen     {row['seen']!r}"


def table(found: Sequence[Mapping[str, Any]], width: int = 60) -> str:
    """A Markdown table: a row a check, a column a runtime, the totals last."""
    heads = ["check", "expected", *(each["runtime"] for each in found)]
    rows = [{row["check"]: row for row in each["rows"]} for each in found]
    names = list(dict.fromkeys(name for each in rows for name in each))
    lines = []
    for name in names:
        expected = next(each[name]["expected"] for each in rows if name in each)
        lines.append([name, _cell(expected, width), *(_result(each.get(name), width) for each in rows)])
    lines.append(["passed", "", *(f"{sum(row['passed'] for row in each.values())} of {len(each)}" for each in rows)])
    widths = [max(len(cells[n]) for cells in [heads, *lines]) for n in range(len(heads))]
    rule = ["-" * size for size in widths]
    return "\n".join("| " + " | ".join(cell.ljust(size) for cell, size in zip(cells, widths, strict=True)) + " |"
                     for cells in [heads, rule, *lines])


def _result(row: Mapping[str, Any] | None, width: int) -> str:
    if row is None:
        return "-"
    return "ok" if row["passed"] else "FAIL: " + _cell(row["seen"], width)


def _cell(text: str, width: int) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("|", "\\|")
    return text if len(text) <= width else text[: width - 1] + "…"


def behind(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The checks in which the first has more failures than another."""
    first, *others = [{row["check"]: row["failures"] for row in each["rows"]} for each in found]
    return [name for name in dict.fromkeys(name for each in (first, *others) for name in each)
            if any(first.get(name, 1) > each[name] for each in others if name in each)]
