# SPDX-License-Identifier: Apache-2.0
"""The command line is read as runc's (Go's flag package and urfave/cli read it), and mistakes are named."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support import PYRUNC

from pyrunc._version import OCI_VERSION, __version__
from pyrunc.cli import COMMANDS
from pyrunc.cli.options import Argument, Option, parse, usage
from pyrunc.errors import UsageError

OPTIONS = (
    Option("bundle", "b", kind="text", metavar="DIR"),
    Option("format", kind="text", default="table"),
    Option("no-pivot", help="a flag"),
    Option("preserve-fds", kind="number"),
)
ARGUMENTS = (Argument("container-id"), Argument("signal", required=False, default="SIGTERM"))


def values(*words: str) -> dict[str, str]:
    args, rest = parse(list(words), OPTIONS, ARGUMENTS, "create")
    assert rest == []
    return args.values


def mistake(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(list(words), OPTIONS, ARGUMENTS, "create")
    return str(caught.value)


def pyrunc(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PYRUNC, *words], capture_output=True, text=True, timeout=60, cwd=cwd)


@pytest.mark.parametrize("words", [
    ("--bundle=/b", "web"), ("--bundle", "/b", "web"), ("-bundle", "/b", "web"), ("-bundle=/b", "web"),
    ("-b", "/b", "web"), ("-b=/b", "web"), ("--b", "/b", "web"), ("web", "--bundle", "/b"), ("web", "-b=/b"),
    ("--bundle", "/a", "--bundle", "/b", "web"), ("--bundle", "/b", "--", "web"),
], ids=" ".join)
def test_an_option_is_said_in_each_of_gos_ways(words: tuple[str, ...]) -> None:
    assert values(*words) == {"bundle": "/b", "format": "table", "container-id": "web", "signal": "SIGTERM"}


@pytest.mark.parametrize(("word", "expected"), [
    ("--no-pivot", True), ("-no-pivot", True), ("--no-pivot=true", True), ("-no-pivot=false", False),
    ("--no-pivot=1", True), ("--no-pivot=T", True), ("--no-pivot=FALSE", False), ("--no-pivot=0", False),
])
def test_a_flag(word: str, expected: bool) -> None:
    args, _ = parse([word, "web"], OPTIONS, ARGUMENTS, "create")
    assert args.flag("no-pivot") is expected
    assert args["container-id"] == "web"  # a flag takes no word after it


def test_short_flags_in_one_word_are_dockers() -> None:
    options = (Option("tty", "t"), Option("interactive", "i"), Option("env", "e", kind="list", metavar="X"))
    args, _ = parse(["-it", "busybox"], options, (Argument("name"),), "image run")
    assert args.flag("tty") and args.flag("interactive") and args["name"] == "busybox"
    args, _ = parse(["-ite", "A=1", "busybox"], options, (Argument("name"),), "image run")
    assert args.lists["env"] == ["A=1"] and args.flag("tty")
    with pytest.raises(UsageError, match="unknown option -it"):
        parse(["-it", "busybox"], options, (Argument("name"),), "exec")
    with pytest.raises(UsageError, match="unknown option -ix"):
        parse(["-ix", "busybox"], options, (Argument("name"),), "image run")


def test_two_dashes_end_the_options() -> None:
    assert values("--", "--bundle", "-9") == {"format": "table", "container-id": "--bundle", "signal": "-9"}
    assert values("web", "--", "-9")["signal"] == "-9"
    assert "unknown option -9" in mistake("web", "-9")  # the control


def test_a_value_may_look_like_anything() -> None:
    assert values("--bundle=", "web")["bundle"] == ""
    assert values("--bundle=a=b", "web")["bundle"] == "a=b"
    assert values("--bundle", "--no-pivot", "web")["bundle"] == "--no-pivot"
    assert values("--bundle", "-", "-")["container-id"] == "-"


def test_global_options_end_at_the_command() -> None:
    args, rest = parse(["--bundle", "/b", "create", "--bundle", "/c", "web"], OPTIONS, None, "pyrunc")
    assert (args["bundle"], rest) == ("/b", ["create", "--bundle", "/c", "web"])


@pytest.mark.parametrize(("words", "expected"), [
    (("--bundel", "/b", "web"), "create: unknown option --bundel (did you mean --bundle?)"),
    (("-no-pivt", "web"), "create: unknown option -no-pivt (did you mean --no-pivot?)"),
    (("--zzz=1", "web"), "create: unknown option --zzz"),
    (("---bundle", "web"), "create: unknown option ---bundle"),
    (("-xy", "web"), "create: unknown option -xy"),
    (("web", "--bundle"), "create: --bundle needs a value"),
    (("web", "-b"), "create: -b needs a value"),
    (("--no-pivot=yes", "web"), "create: --no-pivot is true or false, not 'yes'"),
    ((), "create: the argument <container-id> is missing (pyrunc create --help)"),
    (("web", "TERM", "more"), "create: unexpected argument 'more'"),
])
def test_a_mistake_is_named(words: tuple[str, ...], expected: str) -> None:
    assert mistake(*words).startswith(expected)


@pytest.mark.parametrize("text", ["-1", "1.5", "1_0", " 1", "x", "\u0661", "99999999999", "0x1"])
def test_a_number_is_decimal_digits(text: str) -> None:
    args, _ = parse([f"--preserve-fds={text}", "web"], OPTIONS, ARGUMENTS, "create")
    with pytest.raises(UsageError, match="--preserve-fds takes a number"):
        args.number("preserve-fds")


def test_a_number() -> None:
    args, _ = parse(["--preserve-fds", "12", "web"], OPTIONS, ARGUMENTS, "create")
    assert args.number("preserve-fds") == 12
    assert parse(["web"], OPTIONS, ARGUMENTS, "create")[0].number("preserve-fds") == 0


def test_usage_shows_each_option_but_the_hidden() -> None:
    options = (Option("all", "a", hidden=True), Option("x", "y", kind="text", default="d"))
    text = usage("kill", "send", options, ARGUMENTS)
    assert text.startswith("usage: pyrunc kill [options] <container-id> [signal]\n")
    assert "--all" not in text and "--x VALUE, -y" in text and "(default: d)" in text and "--help, -h" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    """`--help` needs no argument, and `help COMMAND` is the same."""
    done = pyrunc(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: pyrunc {command} ") and COMMANDS[command] in done.stdout
    for other in ((command, "-h"), ("help", command), (command, "--unlikely=1", "-h")):
        again = pyrunc(*other)
        if "--unlikely=1" in other:
            assert again.returncode == 1 and "unknown option --unlikely" in again.stderr
        else:
            assert again.stdout == done.stdout


def test_help_lists_the_commands() -> None:
    shown = pyrunc("--help")
    assert shown.returncode == 0 and shown.stdout.startswith("usage: pyrunc [global options] COMMAND")
    for command, summary in COMMANDS.items():
        assert f"  {command:<12}{summary}\n" in shown.stdout and len(command) < 12
    for option in ("--root DIR", "--log FILE", "--log-format text|json", "--debug", "--systemd-cgroup", "--rootless"):
        assert option in shown.stdout
    assert pyrunc("help").stdout == pyrunc("-h").stdout == shown.stdout


def test_without_a_command_it_shows_the_usage_and_fails() -> None:
    done = pyrunc()
    assert done.returncode == 1 and done.stdout == pyrunc("--help").stdout
    assert pyrunc("--debug").returncode == 1


@pytest.mark.parametrize("word", ["--version", "-v", "-version"])
def test_version(word: str) -> None:
    """containerd's client looks for `runc version`, and for the lines' names."""
    done = pyrunc(word)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"runc version {__version__}", f"pyrunc: {__version__}", f"spec: {OCI_VERSION}"]


@pytest.mark.parametrize(("words", "expected"), [
    (("crate", "x"), 'unknown command "crate" (did you mean create?)'),
    (("help", "crate"), 'unknown command "crate" (did you mean create?)'),
    (("zzz",), 'unknown command "zzz" (pyrunc --help)'),
    (("--rot", "/r", "list"), "pyrunc: unknown option --rot (did you mean --root?)"),
    (("--root",), "pyrunc: --root needs a value"),
    (("--log-format", "xml", "list"), 'unknown log format "xml" (text or json)'),
    (("--rootless=maybe", "list"), '--rootless is true, false or auto, not "maybe"'),
    (("--debug=perhaps", "list"), "pyrunc: --debug is true or false, not 'perhaps'"),
    (("list", "--format", "yaml"), 'list: invalid format option "yaml" (table or json)'),
    (("create", "--preserve-fds=x", "web"), "create web: --preserve-fds takes a number, not \"x\""),
    (("state",), "state: the argument <container-id> is missing (pyrunc state --help)"),
])
def test_a_mistake_is_one_line_and_exit_1(words: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    root = () if "--root" in words else ("--root", str(tmp_path))
    done = pyrunc(*root, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pyrunc: {expected}\n"


def test_global_flags_take_values_as_well(tmp_path: Path) -> None:
    for words in (["--debug=true"], ["-debug=false"], ["--rootless", "true"], ["--rootless=false"],
                  ["--systemd-cgroup=false"], ["--debug=1"], ["--rootless=0"]):
        done = pyrunc(*words, f"--root={tmp_path}", "list", "-q")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), words


def test_standard_streams_may_be_closed(tmp_path: Path) -> None:
    """What is opened next must not become stdout or stderr."""
    script = f'exec "{PYRUNC}" --root {tmp_path}/root --log {tmp_path}/log list --format json >&-'
    done = subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log").read_text() == ""


def test_a_lost_output_is_a_failure() -> None:
    done = subprocess.run(["sh", "-c", f'exec "{PYRUNC}" features >/dev/full'], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
