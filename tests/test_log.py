# SPDX-License-Identifier: Apache-2.0
"""Log lines are runc's: containerd and podman parse the last one of --log."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from support import PYRUNC

from pyrunc.errors import UsageError
from pyrunc.log import Log

NOW = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
AWKWARD = 'a "quoted" \\ word\nnext\tline \x1b[31m \x7f \x85 é'


def fails(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command that ends with `container does not exist`."""
    done = subprocess.run([PYRUNC, *map(str, words), "state", "nothing"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    return done


def test_text_lines(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"))
    log("warning", "plain")
    assert re.fullmatch(f'time="{NOW}" level=warning msg="plain"\n', (tmp_path / "log").read_text())


def test_json_lines(tmp_path: Path) -> None:
    """Compact, the members in the order of runc's."""
    log = Log(str(tmp_path / "log"), "json")
    log("warning", "plain")
    text = (tmp_path / "log").read_text()
    assert re.fullmatch(f'{{"level":"warning","msg":"plain","time":"{NOW}"}}\n', text)


def test_the_time_is_now_in_utc() -> None:
    before = int(time.time())
    line = json.loads(Log(format_="json").line("error", ""))
    said = time.strptime(line["time"], "%Y-%m-%dT%H:%M:%SZ")
    assert before <= __import__("calendar").timegm(said) <= time.time()


def test_a_message_stays_on_one_line() -> None:
    text = Log().line("error", AWKWARD)
    assert text.endswith('msg="a \\"quoted\\" \\\\ word\\nnext\\tline \\x1b[31m \\x7f \\u0085 é"\n')
    assert text.count("\n") == 1
    assert json.loads(Log(format_="json").line("error", AWKWARD))["msg"] == AWKWARD
    assert Log(format_="json").line("error", AWKWARD).count("\n") == 1


def test_stderr_gets_no_control_characters(capfd: pytest.CaptureFixture[str]) -> None:
    """A name from an image could move the cursor of the terminal the error is read on."""
    Log()("error", AWKWARD)
    said = capfd.readouterr().err
    assert said == 'pyrunc: a "quoted" \\ word\\nnext\\tline \\x1b[31m \\x7f \\u0085 é\n'


def test_bytes_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    for format_ in ("text", "json"):
        log = Log(str(tmp_path / format_), format_)
        log("error", "name \udcff")  # as os.fsdecode gives it
        assert "udcff" in (tmp_path / format_).read_text()
    assert json.loads((tmp_path / "json").read_text())["level"] == "error"


def test_an_error_is_repeated_on_stderr_when_there_is_a_log(tmp_path: Path) -> None:
    done = fails("--root", tmp_path, "--log", tmp_path / "log")
    assert done.stderr == "pyrunc: state nothing: container does not exist\n"
    assert (tmp_path / "log").read_text().endswith(' level=error msg="state nothing: container does not exist"\n')


def test_a_log_is_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    for _ in range(2):
        fails("--root", tmp_path, "--log", log, "--log-format=json")
    lines = log.read_text().splitlines()
    assert lines[0] == "before" and len(lines) == 3
    for line in lines[1:]:
        assert json.loads(line)["msg"] == "state nothing: container does not exist"


def test_json_without_a_log_goes_to_stderr(tmp_path: Path) -> None:
    done = fails("--root", tmp_path, "--log-format", "json")
    assert set(json.loads(done.stderr)) == {"level", "msg", "time"}


def test_a_runc_client_reads_both_alike(tmp_path: Path) -> None:
    """The same failing command with runc: the same members, the same last words."""
    for runtime in ("runc", PYRUNC):
        log = tmp_path / "log"
        subprocess.run([runtime, "--root", tmp_path, "--log", log, "--log-format", "json", "state", "nothing"],
                       capture_output=True, timeout=60)
    ours, theirs = (json.loads(line) for line in reversed((tmp_path / "log").read_text().splitlines()))
    assert list(ours) == list(theirs) == ["level", "msg", "time"]
    assert ours["level"] == theirs["level"] == "error"
    assert ours["msg"].endswith(theirs["msg"])


def test_debug_lines_only_with_debug(capfd: pytest.CaptureFixture[str]) -> None:
    Log()("debug", "step")
    assert capfd.readouterr().err == ""
    Log(debug=True)("debug", "step")
    assert capfd.readouterr().err == "pyrunc: debug: step\n"
    Log()("warning", "mind")
    assert capfd.readouterr().err == "pyrunc: warning: mind\n"


def test_debug_shows_a_traceback(tmp_path: Path) -> None:
    assert "Traceback" in fails("--debug", "--root", tmp_path).stderr
    assert "Traceback" not in fails("--root", tmp_path).stderr


def test_a_log_that_cannot_be_opened(tmp_path: Path) -> None:
    done = fails("--log", tmp_path / "none" / "log")
    assert done.stderr == f"pyrunc: open the log {tmp_path}/none/log: no such file or directory (ENOENT)\n"
    with pytest.raises(UsageError, match="EISDIR"):
        Log(str(tmp_path))


def test_a_full_disk_does_not_hide_the_exit_code() -> None:
    done = fails("--log", "/dev/full")
    assert done.stderr == "pyrunc: state nothing: container does not exist\n"
