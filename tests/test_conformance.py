# SPDX-License-Identifier: Apache-2.0
"""The machinery of conformance/: checks, tables, what it speaks and what it reads."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TREE))

from conformance import checks, image, report  # noqa: E402
from conformance.errors import Failed  # noqa: E402
from conformance.lanes import cri, runtime_tools  # noqa: E402


def test_a_check_that_fails_does_not_stop_the_others() -> None:
    table: checks.Table[None] = checks.Table()

    def bad(lane: None) -> str:
        raise Failed("exit 1: no")

    for name, look in (("right", lambda lane: "a"), ("wrong", lambda lane: "b"), ("broken", bad),
                       ("hangs", lambda lane: time.sleep(60) or "a"), ("last", lambda lane: "a")):
        table.check(name, "a", timeout=0.2)(look)
    cleaned: list[int] = []
    rows = list(checks.run(None, table.chosen(short=False), lambda: cleaned.append(1)))
    assert [(row["check"], row["passed"], row["seen"]) for row in rows] == [
        ("right", True, "a"), ("wrong", False, "b"), ("broken", False, "exit 1: no"),
        ("hangs", False, "not done after 0.2 s"), ("last", True, "a")]
    assert len(cleaned) == 3


def test_the_short_form_and_only() -> None:
    table: checks.Table[None] = checks.Table()
    table.check("one", "a", short=True)(lambda lane: "a")
    table.check("two", matches="a+")(lambda lane: "aaa")
    assert [check.name for check in table.chosen(short=True)] == ["one"]
    assert [check.name for check in table.chosen(short=False, only="^t")] == ["two"]
    assert table.checks[1].accepts("aaa") and not table.checks[1].accepts("aaab")
    assert table.checks[0].accepts("a") and not table.checks[0].accepts("aa")


def measured(runtime: str, **failures: int) -> dict[str, object]:
    return {"runtime": runtime, "rows": [{"check": name, "expected": "e|f", "seen": "s\nt", "passed": not number,
                                          "failures": number} for name, number in failures.items()]}


def test_who_is_behind() -> None:
    """The first is behind where it fails more of a check than another does."""
    found = [measured("pyrunc", a=0, b=1, c=2, d=1), measured("runc", a=1, b=0, c=3, d=1), measured("crun", a=0, b=2,
                                                                                                    c=1)]
    assert report.behind(found) == ["b", "c"]


def test_the_table() -> None:
    text = report.table([measured("pyrunc", a=0, b=0), measured("runc", a=0, b=1)])
    assert [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines()[2:]] == [
        ["a", "e\\|f", "ok", "ok"], ["b", "e\\|f", "ok", "FAIL: s\\nt"], ["passed", "", "2 of 2", "1 of 2"]]


@pytest.mark.parametrize(("text", "expected"), [
    ("TAP version 13\nok 1 - a\nnot ok 2 - b\n  ---\n  {\"error\": \"x\"}\n  ...\nok 3 # SKIP c\n1..3\n", (2, ["b"])),
    ("TAP version 13\n  ---\n    error: \"hooks were not called\"\n  ...\n1..0\n", (0, ["hooks were not called"])),
    ("TAP version 13\n1..0\n", (0, [])),
    ("ok 1 - a\n1..3\n", (1, ["2 of 3 tests did not run"])),
])
def test_tap(text: str, expected: tuple[int, list[str]]) -> None:
    """testanything.org; programs that plan nothing tell of a failure in diagnostics alone."""
    assert runtime_tools.outcome(text) == expected


def test_protocol_buffers() -> None:
    """developers.google.com/protocol-buffers/docs/encoding: its own example, and back."""
    assert cri.encode({1: 150}) == b"\x08\x96\x01"
    assert cri.encode({2: "testing"}) == b"\x12\x07testing"
    data = cri.encode({1: {1: "a", 3: -1}, 5: ["x", "y"], 6: b"\0"})
    message = cri.decode(data)
    assert (message[5], message[6]) == ([b"x", b"y"], [b"\0"])
    assert cri.decode(message[1][0]) == {1: [b"a"], 3: [(1 << 64) - 1]}


def test_the_image(tmp_path: Path) -> None:
    image.write(tmp_path / "image.tar", User="alice")
    with tarfile.open(tmp_path / "image.tar") as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(archive.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        layer = tarfile.open(fileobj=archive.extractfile(manifest["Layers"][0]))
        assert manifest["RepoTags"] == [image.NAME] and config["config"]["User"] == "alice"
        assert layer.getmember("bin/busybox").mode == 0o755 and layer.getmember("bin/sh").linkname == "busybox"


def test_a_shim_that_is_not_installed_is_told(tmp_path: Path) -> None:
    """The lane of pyrunc's own shim says what is missing, and doesn't pass."""
    done = subprocess.run([sys.executable, "-m", "conformance", "run", "containerd-native", "--runtime", "/bin/true"],
                          cwd=TREE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "the shim io.containerd.pyrunc.v1 is not installed" in done.stderr


def test_a_suite_that_is_not_built_is_told(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "conformance", "run", "runtime-tools", "--runtime", "/bin/true",
                           "--suite",
                           str(tmp_path)], cwd=TREE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"no validation programs in {tmp_path}" in done.stderr


def test_a_cluster_whose_programs_are_not_there_is_told() -> None:
    """The lane kubernetes takes programs that no distribution has: it names those that are missing."""
    done = subprocess.run([sys.executable, "-m", "conformance", "run", "kubernetes", "--runtime", "/bin/true"],
                          cwd=TREE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "not installed: " in done.stderr and "kube-apiserver" in done.stderr and "kubelet" in done.stderr
