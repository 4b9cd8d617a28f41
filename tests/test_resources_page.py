# SPDX-License-Identifier: Apache-2.0
"""docs/resources.md: a row a field and value, as measured, and nothing of the host that measured it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # conformance is no part of what is installed

from conformance import resources, resources_page

ROOT = Path(__file__).resolve().parents[1]


def row(version: str, field: str, given: str, file: str, *values: str, explanation: str = "") -> dict[str, Any]:
    return {"field": f"/linux/resources{field}", "given": given, "version": version, "file": file,
            "values": list(values), "explained": True, "explanation": explanation}


def rows_of(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").replace("\\|", "/").split("|")]
            for line in page.splitlines() if line.startswith("| `")]


def test_what_the_page_says() -> None:
    """Both versions in a row; what a second table could apply instead of what the first refused; why runc differs."""
    v1 = [row("v1", "/cpu/idle", "1", "cpu.idle", "1", "0", explanation="since runc 1.2"),
          row("v1", "/network/classID", "7", "net_cls.classid", "refused: no net_cls", "refused: no"),
          row("v1", "/blockIO/x/0/rate", '[{"major": 254, "minor": 16, "rate": 5}]', "blkio.x", "254:16 5", "254:16 5")]
    more = [row("v1", "/network/classID", "7", "net_cls.classid", "7", "7")]
    v2 = [row("v2", "/cpu/idle", "1", "cpu.idle", "1", "1"),
          row("v2", "/network/classID", "7", "-", "-", "-"),
          row("v2", "/blockIO/x/0/rate", '[{"major": 7, "minor": 0, "rate": 5}]', "io.max", "7:0 rbps=5", "7:0 rbps=5")]
    assert rows_of(resources_page.page([v1, more, v2])) == [
        ["`/cpu/idle`", "`1`", "`cpu.idle`: `1`", "`cpu.idle`: `1`", "v1: `cpu.idle`: `0` (since runc 1.2)"],
        ["`/network/classID`", "`7`", "`net_cls.classid`: `7`", "ignored, with a warning", "the same"],
        ["`/blockIO/x/0/rate`", '`[{"major": MAJOR, "minor": MINOR, "rate": 5}]`', "`blkio.x`: `MAJOR:MINOR 5`",
         "`io.max`: `MAJOR:MINOR rbps=5`", "the same"]]


def test_the_page_has_every_row() -> None:
    """Of what is measured today; a field that is added there is missing here until the page is made anew."""
    page = rows_of((ROOT / "docs/resources.md").read_text())
    measured = [[f"`{each.pointer}`", f"`{resources_page.general(each.given())}`"] for each in resources.rows("7:0")]
    assert sorted(cells[:2] for cells in page) == sorted(measured)
    assert all(len(cells) == len(resources_page.HEADINGS) and all(cells) for cells in page)


def test_the_page_names_no_host() -> None:
    text = (ROOT / "docs/resources.md").read_text()
    assert not [word for word in ("/work", "/root", "/tmp", "conformance-", "UNEXPLAINED") if word in text]
