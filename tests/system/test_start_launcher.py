# SPDX-License-Identifier: Apache-2.0
"""`start` by launcher/start.c, which needs no interpreter, and what it leaves to one."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from support import Bundle, Host, Result, Runtime, wait_for

ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "XDG_RUNTIME_DIR")}


class Start:
    """A `start` that strace(1) looks at."""

    def __init__(self, runtime: Runtime, container: str, *options: str | Path, close: str = "",
                 **environment: str) -> None:
        trace = runtime.root.parent / "trace"
        err = runtime.root.parent / "start-err"
        command = ["strace", "-qq", "-e", "trace=openat", "-o", str(trace), runtime.path, "--root", str(runtime.root),
                   *map(str, options), "start", container]
        if close:
            command = ["sh", "-c", f'exec "$@" {close}', "sh", *command]
        with open(err, "w+b") as file:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=60,
                                  env=ENVIRONMENT | environment).returncode
        self.result = Result(code, "", err.read_text())
        self.interpreted = "libpython" in trace.read_text()


@pytest.mark.parametrize("options", [
    (), ("--log", "log", "--log-format", "json"), ("--log-format", "text", "--systemd-cgroup"),
], ids=" ".join)
def test_without_an_interpreter(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                options: tuple[str, ...]) -> None:
    """As engines call it; the log is there then, as it would be, and empty."""
    output = tmp_path / "out"
    container = runtime.create(bundle.args("echo begun; exec sleep 100"), output=output)
    options = tuple(str(tmp_path / "log") if word == "log" else word for word in options)
    start = Start(runtime, container, *options)
    assert (start.result.code, start.result.err, start.interpreted) == (0, "", False)
    assert runtime.state(container)["status"] == "running"
    wait_for(lambda: output.read_text() == "begun\n", "the program")
    assert not (runtime.root / container / "exec.fifo").exists()
    if "--log" in options:
        assert (tmp_path / "log").read_text() == "" and (tmp_path / "log").stat().st_mode & 0o777 == 0o644


def test_the_default_root(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Where the state is of who gives no --root, as `create` says; in a mount namespace of its own."""
    bundle.args("sleep", "100").save()
    for environment in ({}, {"XDG_RUNTIME_DIR": "/run/user/0", "USER": "root"}, {"XDG_RUNTIME_DIR": "run"}):
        container = runtime.new_id()
        script = (f"set -e; mount -t tmpfs tmpfs /run; {runtime.path} create --bundle {bundle.path} {container}"
                  f" < /dev/null > /dev/null 2>&1; strace -qq -e trace=openat -o {runtime.root}-trace {runtime.path}"
                  f" start {container}; {runtime.path} state {container}; {runtime.path} delete --force {container}")
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], env=ENVIRONMENT | environment,
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        assert json.loads(done.stdout)["status"] == "running"
        trace = Path(f"{runtime.root}-trace").read_text()
        assert f"/run/pyrunc/{container}" in trace and "libpython" not in trace


@pytest.mark.parametrize("why", ["--debug", "NOTIFY_SOCKET", "poststart", "memory", "update", "stdin"])
def test_what_needs_one(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path, why: str) -> None:
    if why == "poststart":
        bundle.config["hooks"] = {"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo > {tmp_path}/hook"]}]}
    if why == "memory":
        bundle.linux["resources"] = {"memory": {"limit": 30 << 20}}
    container = runtime.create(bundle.args("sleep", "100"))
    if why == "update":
        assert runtime("update", "--pids-limit", "20", container).code == 0
    start = Start(runtime, container, *([why] if why == "--debug" else []), close="<&-" if why == "stdin" else "",
                  **({why: str(tmp_path / "socket")} if why == "NOTIFY_SOCKET" else {}))
    assert (start.result.code, start.interpreted) == (0, True), start.result
    assert runtime.state(container)["status"] == "running"
    assert (tmp_path / "hook").exists() == (why == "poststart")


def test_who_is_frozen_is_not_let_go(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("pause", container).code == 0
    start = Start(runtime, container)
    assert start.result.errors == [f"pyrunc: start {container}: cannot start a container in the paused state"]
    assert runtime("resume", container).code == 0
    assert runtime.state(container)["status"] == "created"
    start = Start(runtime, container)
    assert (start.result.code, start.interpreted) == (0, False)


def test_it_waits_for_another_command(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle.args("sleep", "100"))
    held = os.open(runtime.root / container, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    trace = runtime.root.parent / "trace"

    def let_go() -> None:
        try:
            wait_for(lambda: trace.exists() and "libpython" in trace.read_text(), "the interpreter, which waits")
        finally:
            os.close(held)

    other = threading.Thread(target=let_go)
    other.start()
    start = Start(runtime, container)
    other.join()
    assert (start.result.code, start.interpreted) == (0, True), start.result
    assert runtime.state(container)["status"] == "running"


@pytest.mark.parametrize("value", [
    "", "1", "1 2", "x y z", "\\u0031 2 /", "99999999999999999999 99999999999999999999 /x", "-1 1 ", "PID 1 ",
    "PID TIME /none", "PID TIME " + "/x" * 4000,
], ids=lambda value: value[:20])
def test_a_beginning_that_says_nothing(runtime: Runtime, bundle: Bundle, host: Host, value: str) -> None:
    """Of another version, or of none: the interpreter has the last word."""
    container = runtime.create(bundle.args("sleep", "100"))
    file = runtime.root / container / "state.json"
    text = file.read_text()
    data = json.loads(text)
    start, rest = text.split(',"ociVersion"')
    assert start == '{"start":"' + data["start"] + '"'
    value = value.replace("PID", str(data["pid"])).replace("TIME", str(data["start_time"]))
    file.write_text('{"start":"' + value + '","ociVersion"' + rest)
    begun = Start(runtime, container)
    assert (begun.result.code, begun.interpreted) == (0, True), begun.result
    assert runtime.state(container)["status"] == "running"


def test_a_state_of_an_older_version(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle.args("sleep", "100"))
    file = runtime.root / container / "state.json"
    file.write_text("{" + file.read_text().partition(",")[2])
    begun = Start(runtime, container)
    assert (begun.result.code, begun.interpreted) == (0, True), begun.result


def test_a_program_that_cannot_be_executed(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """What the init says is told, although the launcher has let it go; and the container is deleted."""
    program = bundle.rootfs / "program"
    program.write_bytes(b"\x7fELF neither\n")
    program.chmod(0o755)
    bundle.process["args"] = ["/program"]
    container = runtime.create(bundle)
    start = Start(runtime, container)
    assert (start.result.code, start.interpreted) == (1, True)
    assert "exec format error" in start.result.err.lower() and "/process/args" in start.result.err, start.result
    assert not (runtime.root / container).exists()


def test_a_hook_that_fails(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """startContainer's run in the init, after it was let go."""
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/false"}]}
    container = runtime.create(bundle.args("sleep", "100"))
    start = Start(runtime, container)
    assert (start.result.code, start.interpreted) == (1, True)
    assert "/hooks/startContainer/0" in start.result.err, start.result
    assert not (runtime.root / container).exists()


def test_a_program_that_is_over_at_once(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Started is started, whether it is still there when the launcher looks or not."""
    for _ in range(20):
        container = runtime.create(bundle.args("true", ""))
        assert runtime("start", container).code == 0
        runtime.wait(container)
        assert runtime("delete", container).code == 0
