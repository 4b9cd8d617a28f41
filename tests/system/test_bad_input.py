# SPDX-License-Identifier: Apache-2.0
"""A wrong command line, a broken bundle, an environment that fails: one line says what, nothing is left behind.

test_bad_config.py has what is wrong in a config.json that can be read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Bundle, Host, Result, Runtime, wait_for

CREATE = ("create", "--bundle", "{bundle}")

#: A command line ({bundle}, {tmp} and {id} stand for what they say) and what the answer holds.
COMMAND_LINES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown command": (("crate",), ('unknown command "crate"', "did you mean create?")),
    "unknown command without a like": (("xyzzy",), ('unknown command "xyzzy"', "pyrunc --help")),
    "unknown global option": (("--rot", "/x", "list"), ("unknown option --rot", "did you mean --root?")),
    "unknown option": (("create", "--bundel", "x", "{id}"), ("create: unknown option --bundel", "mean --bundle?")),
    "unknown short option": (("delete", "-x", "{id}"), ("delete: unknown option -x",)),
    "option without its value": (("create", "{id}", "--bundle"), ("--bundle needs a value",)),
    "flag with a value": (("delete", "--force=maybe", "{id}"), ("--force is true or false, not 'maybe'",)),
    "missing argument": (("start",), ("start: the argument <container-id> is missing", "pyrunc start --help")),
    "extra argument": (("state", "{id}", "more"), ("state: unexpected argument 'more'", "pyrunc state --help")),
    "extra argument of list": (("list", "more"), ("list: unexpected argument 'more'",)),
    "list format": (("list", "--format", "yaml"), ('invalid format option "yaml"', "table or json")),
    "log format": (("--log-format", "xml", "list"), ('unknown log format "xml"', "text or json")),
    "log in no directory": (("--log", "{tmp}/no/log", "list"), ("open the log {tmp}/no/log", "(ENOENT)")),
    "log a directory": (("--log", "{tmp}", "list"), ("open the log {tmp}", "(EISDIR)")),
    "rootless": (("--rootless=maybe", "list"), ('--rootless is true, false or auto, not "maybe"',)),
    "root a file, list": (("--root", "{tmp}/file", "list"), ("--root {tmp}/file is not a directory",)),
    "root a file, create": (("--root", "{tmp}/file", *CREATE, "{id}"), ("--root {tmp}/file is not a directory",)),
    "root below a file": (("--root", "{tmp}/file/x", *CREATE, "{id}"), ("{tmp}/file/x", "(ENOTDIR)")),
    "root a file, state": (("--root", "{tmp}/file", "state", "{id}"), ("state {id}: container does not exist",)),
    "root on a read-only file system": (("--root", "/proc/pyrunc", *CREATE, "{id}"), ("/proc/pyrunc",)),
    "systemd": (("--systemd-cgroup", *CREATE, "{id}"),
                ("systemd isn't running here (no /run/systemd/system) (leave out --systemd-cgroup)",)),

    "id empty": ((*CREATE, ""), ("invalid container ID format: ''", "letters, digits")),
    "id with a slash": ((*CREATE, "a/b"), ("invalid container ID format: 'a/b'",)),
    "id absolute": ((*CREATE, "/etc"), ("invalid container ID format: '/etc'",)),
    "id .": ((*CREATE, "."), ("invalid container ID format: '.'",)),
    "id ..": ((*CREATE, ".."), ("invalid container ID format: '..'",)),
    "id with a newline": ((*CREATE, "a\nb"), ("invalid container ID format: 'a\\nb'",)),
    "id with a space": ((*CREATE, "a b"), ("invalid container ID format: 'a b'",)),
    "id not ASCII": ((*CREATE, "caf\u00e9"), ("invalid container ID format: ",)),
    "id with a terminal's escape": ((*CREATE, "a\x1b[31m"), ("invalid container ID format: 'a\\x1b[31m'",)),
    "id not UTF-8": ((*CREATE, "a\udcff"), ("invalid container ID format: 'a\\udcff'",)),
    "id too long": ((*CREATE, "i" * 1025), ("invalid container ID format: 'iii",)),
    "id longer than a file name": ((*CREATE, "i" * 300), ("(ENAMETOOLONG)",)),
    "state of ..": (("state", ".."), ("invalid container ID format: '..'",)),
    "delete of ../x": (("delete", "--force", "../x"), ("invalid container ID format: '../x'",)),
    "no such container, state": (("state", "{id}"), ("state {id}: container does not exist",)),
    "no such container, start": (("start", "{id}"), ("start {id}: container does not exist",)),
    "no such container, kill": (("kill", "{id}"), ("kill {id}: container does not exist",)),
    "no such container, delete": (("delete", "{id}"), ("delete {id}: container does not exist",)),
    "unknown signal": (("kill", "{id}", "SIGKIL"), ('unknown signal "SIGKIL"', "did you mean SIGKILL?")),
    "signal out of range": (("kill", "{id}", "65"), ('unknown signal "65"', "numbers go from 1 to 64")),
    "signal negative": (("kill", "{id}", "--", "-9"), ('unknown signal "-9"',)),

    "bundle missing": (("create", "--bundle", "{tmp}/no", "{id}"), ("bundle {tmp}/no: stat: ", "(ENOENT)")),
    "bundle a file": (("create", "--bundle", "{tmp}/file", "{id}"), ("bundle {tmp}/file is not a directory",)),
    "bundle below a file": (("create", "--bundle", "{tmp}/file/x", "{id}"), ("bundle {tmp}/file/x", "(ENOTDIR)")),
    "bundle without config": (("create", "--bundle", "{tmp}", "{id}"), ("config.json: ", "(ENOENT)", "pyrunc spec")),
    "explain without config": (("explain", "--bundle", "{tmp}"), ("config.json: ", "(ENOENT)", "pyrunc spec")),
    "spec over a config": (("spec", "--bundle", "{bundle}"), ("config.json", "exists")),

    "pid file in no directory": ((*CREATE, "--pid-file", "{tmp}/no/pid", "{id}"),
                                 ("write the pid file {tmp}/no/pid", "(ENOENT)")),
    "pid file a directory": ((*CREATE, "--pid-file", "{tmp}", "{id}"), ("write the pid file {tmp}", "(EISDIR)")),
    "descriptor not open": ((*CREATE, "--preserve-fds", "2", "{id}"), ("--preserve-fds 2: descriptor 3 is not open",)),
    "a thousand million descriptors": ((*CREATE, "--preserve-fds", "999999999", "{id}"),
                                       ("--preserve-fds 999999999: descriptor 3 is not open",)),
    "descriptors no number": ((*CREATE, "--preserve-fds", "two", "{id}"),
                              ('--preserve-fds takes a number, not "two"',)),
    "descriptors negative": ((*CREATE, "--preserve-fds=-1", "{id}"), ('--preserve-fds takes a number, not "-1"',)),
    "console socket without a terminal": ((*CREATE, "--console-socket", "{tmp}/s", "{id}"),
                                          ("cannot use console socket if runc will not detach or allocate tty",)),
}


def check(done: Result, host: Host, *expected: str) -> str:
    """`done` was refused in one line that holds `expected`, and changed nothing; the line."""
    assert done.code == 1 and done.out == "", done
    assert len(done.errors) == 1 and done.err.endswith("\n"), done
    assert done.err.startswith("pyrunc: "), done
    assert "Traceback" not in done.err and "internal error" not in done.err, done
    assert all(char.isprintable() for char in done.errors[0]), done
    for text in expected:
        assert text in done.err, done
    host.assert_unchanged()
    return done.errors[0]


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_command_line(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path, name: str) -> None:
    words, expected = COMMAND_LINES[name]
    (tmp_path / "file").write_text("")
    names = {"{bundle}": str(bundle.path), "{tmp}": str(tmp_path), "{id}": "some"}

    def fill(text: str) -> str:
        for key, value in names.items():
            text = text.replace(key, value)
        return text

    line = check(runtime(*map(fill, words)), host, *map(fill, expected))
    if "log" in words[0] or "unknown global" in name:
        return
    log = tmp_path / "log"
    logged = runtime("--log", log, "--log-format=json", *map(fill, words))
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["level"] == "error"
    if last["msg"].isprintable():  # stderr is a terminal perhaps: what could move its cursor is escaped there
        assert f"pyrunc: {last['msg']}" == line
    check(logged, host, line)


NESTED = "[" * 100_000
CONFIGS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("the file is empty",)),
    "blank": (b" \n\t", ("the file is empty",)),
    "cut": (b'{"ociVersion": "1.3.0", "root":', ("invalid JSON at line 1 column 32 (byte 31)", "the text ends")),
    "no comma": (b'{"a": 1\n "b": 2}', ("invalid JSON at line 2 column 2 (byte 9): expected ','",)),
    "words": (b"hello", ("invalid JSON at line 1 column 1 (byte 0): expected a value, found 'h'",)),
    "comment": (b'{\n// why\n"a": 1}', ("invalid JSON at line 2",)),
    "trailing comma": (b'{"a": 1,}', ("invalid JSON at line 1",)),
    "two values": (b"{} {}", ("(byte 3): something follows the end",)),
    "duplicate key": (b'{"root": {"path": "a", "path": "b"}}', ("(byte 23)", 'duplicate key "path" in /root')),
    "NaN": (b'{"a": NaN}', ("(byte 6): NaN is not JSON",)),
    "infinite": (b'{"a": 1e999}', ("(byte 6): a number out of range",)),
    "many digits": (b'{"a": ' + b"1" * 5000 + b"}", ("(byte 6): a number of too many digits",)),
    "deep": (NESTED.encode(), ("nested deeper than 64 levels",)),
    "deep and closed": (b'{"a": ' + b"[" * 80 + b"]" * 80 + b"}", ("nested deeper than 64 levels",)),
    "control character": (b'{"a": "\x01"}', ("invalid JSON at line 1",)),
    "not UTF-8": (b'{"a": "\xff"}', ("(byte 7): the byte 0xff is not UTF-8",)),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), ("encoded as UTF-16", "save it as UTF-8")),
    "byte order mark": (b'\xef\xbb\xbf{}', ("starts with a byte order mark",)),
    "too large": (b"{" + b" " * 4 * 1024 * 1024 + b"}", ("config.json is larger than 4194304 bytes",)),
    "an array": (b"[]", ("/: expected an object, found an array",)),
    "null": (b"null", ("/: expected an object, found null",)),
    "an empty object": (b"{}", ("is missing but required", "other mistake")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_that_is_none(runtime: Runtime, bundle: Bundle, host: Host, name: str) -> None:
    data, expected = CONFIGS[name]
    (bundle.path / "config.json").write_bytes(data)
    check(runtime("create", "--bundle", bundle.path, "some"), host, "pyrunc: create some: ", *expected)


def _directory(path: Path) -> None:
    path.mkdir()


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _circle(path: Path) -> None:
    path.symlink_to("config.json")


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(("make", "expected"), [
    (_directory, "config.json is not a regular file"), (os.mkfifo, "config.json is not a regular file"),
    (_device, "config.json is not a regular file"), (_dangling, "(ENOENT)"), (_circle, "(ELOOP)"),
])
def test_config_that_is_no_file(runtime: Runtime, bundle: Bundle, host: Host, make: Callable[[Path], None],
                                expected: str) -> None:
    (bundle.path / "config.json").unlink()
    make(bundle.path / "config.json")
    check(runtime("create", "--bundle", bundle.path, "some", timeout=10), host, expected)


def test_config_that_may_not_be_read(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    config = bundle.path / "config.json"
    config.chmod(0o600)
    place = Path("/tmp") / f"pyrunc-unreadable-{os.getpid()}"  # tmp_path is root's alone
    place.mkdir(mode=0o755)
    try:
        shutil.copytree(bundle.path, place / "bundle", symlinks=True)
        (place / "root").mkdir()
        os.chown(place / "root", 1000, 1000)
        words = [runtime.path, "--root", str(place / "root"), "create", "--bundle", str(place / "bundle"), "some"]
        done = subprocess.run(["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", *words],
                              capture_output=True, text=True)
        check(Result(done.returncode, done.stdout, done.stderr), host, "config.json: ", "permission denied (EACCES)")
        assert os.listdir(place / "root") == []
    finally:
        shutil.rmtree(place)


@pytest.mark.parametrize("words", [
    ("run", "some"), ("create", "--bundle", "b", "some"), ("explain",), ("--root", "r", "list"),
])
def test_a_working_directory_that_is_gone(runtime: Runtime, host: Host, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Only what is relative to it can't be found."""
    gone = ["sh", "-ec", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "-"]
    done = subprocess.run([*gone, *runtime.command(*words)], cwd=tmp_path, capture_output=True, text=True)
    check(Result(done.returncode, done.stdout, done.stderr), host, "getcwd: no such file or directory (ENOENT)",
          "(the working directory has been removed)")
    listed = subprocess.run([*gone, *runtime.command("list", "--quiet")], cwd=tmp_path, capture_output=True, text=True)
    assert (listed.returncode, listed.stdout, listed.stderr) == (0, "", "")


def test_id_taken(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    taken = runtime.create(bundle)
    now = Host(runtime.root)
    check(runtime("create", "--bundle", bundle.path, taken), now,
          f"create {taken}: container with given ID already exists")
    assert runtime.state(taken)["status"] == "created"


def test_id_taken_by_a_file(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    (runtime.root / "some").write_text("mine")
    check(runtime("create", "--bundle", bundle.path, "some"), Host(runtime.root), "container with given ID already")
    assert (runtime.root / "some").read_text() == "mine"
    (runtime.root / "some").unlink()


def test_nul_cannot_be_in_an_id(runtime: Runtime) -> None:
    """execve(2) ends an argument there; the library has to see to it itself."""
    from pyrunc.errors import UsageError
    from pyrunc.state import check_id

    with pytest.raises(UsageError, match="invalid container ID format"):
        check_id("a\0b")


def test_cgroup_in_use(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """A cgroup somebody else's process is in would be limited, frozen and killed with the container."""
    name = f"pyrunc-busy-{os.getpid()}"
    roots = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
    place = next(root / name for root in roots if (root / "cgroup.procs").exists())
    place.mkdir()
    sleeper = subprocess.Popen(["sleep", "100"])
    try:
        (place / "cgroup.procs").write_text(str(sleeper.pid))
        bundle.linux["cgroupsPath"] = f"/{name}"
        check(runtime("create", "--bundle", bundle.save(), "some"), Host(runtime.root), "/linux/cgroupsPath: ",
              str(place), str(sleeper.pid))
        assert (place / "cgroup.procs").read_text().split() == [str(sleeper.pid)]
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()
        wait_for(lambda: _removed(place), "the cgroup to be empty")


def _removed(place: Path) -> bool:
    try:
        place.rmdir()
    except OSError as error:
        assert error.errno == errno.EBUSY
        return False
    return True


def test_terminal_without_a_console_socket(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.process["terminal"] = True
    check(runtime("create", "--bundle", bundle.save(), "some"), host,
          "cannot allocate tty if runc will detach without setting console socket")


@pytest.mark.parametrize(("socket", "expected"), [
    ("absent", "(ENOENT)"), ("file", "(ECONNREFUSED)"), ("s" * 120, "s" * 120),
])
def test_console_socket_that_is_none(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path, socket: str,
                                     expected: str) -> None:
    (tmp_path / "file").write_text("")
    bundle.process["terminal"] = True
    check(runtime("create", "--bundle", bundle.save(), "--console-socket", tmp_path / socket, "some"), host,
          str(tmp_path / socket)[:60], expected)


def test_a_new_pid_file_is_not_left_by_a_failed_create(runtime: Runtime, bundle: Bundle, host: Host,
                                                       tmp_path: Path) -> None:
    bundle.process["args"] = ["/no/such"]
    check(runtime("create", "--bundle", bundle.save(), "--pid-file", tmp_path / "pid", "some"), host, "(ENOENT)")
    assert sorted(os.listdir(tmp_path)) == ["bundle", "state-0"]


def test_the_error_is_one_line_whatever_the_input_holds(runtime: Runtime, bundle: Bundle, host: Host,
                                                        tmp_path: Path) -> None:
    """Neither a newline nor a terminal's escape sequence of an input gets to the log or the terminal."""
    bundle.process["args"] = ["/no\nerror: \x1b[31msuch"]
    log = tmp_path / "log"
    check(runtime("--log", log, "create", "--bundle", bundle.save(), "some"), host, "/process/args/0", "(ENOENT)")
    assert len(log.read_text().splitlines()) == 1
