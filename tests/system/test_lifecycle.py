# SPDX-License-Identifier: Apache-2.0
"""create, start, state, kill, delete, run, list as runtime.md and runc's command line have them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from support import Bundle, Host, Runtime, wait_for


def test_each_status_in_turn(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    output = tmp_path / "output"
    bundle.args("echo started; exec sleep 100")
    container = runtime.create(bundle, output=output)
    created = runtime.state(container)
    assert (created["status"], created["id"], created["bundle"]) == ("created", container, str(bundle.path))
    assert Path(f"/proc/{created['pid']}").exists()
    assert output.read_text() == ""  # the program has not run
    assert runtime("start", container).code == 0
    assert runtime.state(container)["status"] == "running"
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    assert runtime.state(container)["pid"] == 0
    assert output.read_text() == "started\n"
    assert runtime("delete", container).code == 0
    gone = runtime("state", container)
    assert gone.code == 1 and "container does not exist" in gone.err


def test_delete_of_a_created_container_needs_force(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """runtime.md, Delete: what isn't stopped can't be deleted."""
    container = runtime.create(bundle)
    refused = runtime("delete", container)
    assert refused.code == 1
    assert f"cannot delete container {container} that is not stopped: created" in refused.err
    assert runtime.state(container)["status"] == "created"
    assert runtime("delete", "--force", container).code == 0


def test_delete_force_of_nothing_is_no_error(runtime: Runtime, host: Host) -> None:
    assert runtime("delete", "--force", "nothing").code == 0
    assert runtime("delete", "nothing").code == 1


def test_start_only_once(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", container).code == 0
    again = runtime("start", container)
    assert again.code == 1 and "cannot start an already running container" in again.err
    runtime("kill", container, "9")
    runtime.wait(container)
    stopped = runtime("start", container)
    assert stopped.code == 1 and "cannot start a container that has stopped" in stopped.err


def test_kill_before_start_stops_it(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """A created container is a process like another: TERM ends it although it is pid 1."""
    container = runtime.create(bundle)
    assert runtime("kill", container, "TERM").code == 0
    runtime.wait(container)
    assert runtime("delete", container).code == 0


def test_kill_of_a_stopped_container(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.create(bundle)
    runtime("start", container)
    runtime.wait(container)
    refused = runtime("kill", container)
    assert refused.code == 1 and "container not running" in refused.err
    assert runtime("kill", "--all", container, "KILL").code == 0


def test_an_empty_signal_is_the_default(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """What a script's unset variable leaves: runc takes it for none."""
    container = runtime.create(bundle.args("trap 'echo TERM; exit' TERM; echo ready; while :; do sleep 0.02; done"),
                               output=tmp_path / "out")
    assert runtime("start", container).code == 0
    wait_for(lambda: "ready" in (tmp_path / "out").read_text(), "the trap")
    assert runtime("kill", container, "").code == 0
    runtime.wait(container)
    assert (tmp_path / "out").read_text() == "ready\nTERM\n"


def test_the_programs_exit_code_is_runs(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    assert runtime.run(bundle, "exit 0").code == 0
    assert runtime.run(bundle, "exit 77").code == 77
    killed = runtime.run(bundle, "sh -c 'kill -TERM $$'; exit $?")
    assert killed.code == 128 + signal.SIGTERM


def test_run_forwards_signals(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    import subprocess
    import time

    bundle.args("trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.05; done").save()
    out = tmp_path / "out"
    with open(out, "wb") as file:
        process = subprocess.Popen(runtime.command("run", "--bundle", bundle.path, runtime.new_id()), stdout=file)
    while "ready" not in out.read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 5
    assert out.read_text() == "ready\ngot\n"


def test_run_detached_lives_on(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.new_id()
    bundle.args("sleep", "100").save()
    assert runtime("run", "--detach", "--bundle", bundle.path, container).code == 0
    assert runtime.state(container)["status"] == "running"


def test_run_keep(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = runtime.new_id()
    bundle.args("exit 3").save()
    assert runtime("run", "--keep", "--bundle", bundle.path, container).code == 3
    assert runtime.state(container)["status"] == "stopped"


def test_pid_file(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    container = runtime.create(bundle, "--pid-file", str(tmp_path / "pid"))
    assert (tmp_path / "pid").read_text() == str(runtime.state(container)["pid"])


def test_list(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    assert runtime("list", "--format", "json").out == "null\n"
    first, second = sorted((runtime.create(bundle), runtime.create(bundle)))
    listed = json.loads(runtime("list", "--format=json").out)
    assert [(entry["id"], entry["status"], entry["owner"]) for entry in listed] == [
        (first, "created", "root"), (second, "created", "root")]
    assert runtime("list", "-q").lines == [first, second]
    table = runtime("list").lines
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert table[1].split()[:3] == [first, str(runtime.state(first)["pid"]), "created"]


def test_list_shows_no_control_characters(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """A bundle's directory may have any name: it must not start a line, nor speak to the terminal."""
    place = bundle.path.parent / "a\x1b[2Jb\nc"
    bundle.args("true").save()
    bundle.path.rename(place)
    container = runtime.new_id()
    assert runtime("create", "--bundle", place, container, stdin="").code == 0
    listed = runtime("list")
    assert len(listed.lines) == 2 and "\\x1b[2Jb\\nc" in listed.out and "\x1b" not in listed.out, listed
    assert runtime("delete", "--force", container).code == 0



def test_config_is_what_it_was_at_create(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """runtime.md, Lifecycle, 2: later updates to config.json must not affect the container."""
    marks = tmp_path / "marks"
    bundle.config["hooks"] = {"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", f"echo before >> {marks}"]}]}
    container = runtime.create(bundle)
    bundle.config["hooks"]["poststart"][0]["args"][2] = f"echo after >> {marks}"
    bundle.save()
    assert runtime("start", container).code == 0
    assert marks.read_text() == "before\n"


def test_annotations_and_version_in_the_state(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    bundle.config["annotations"] = {"com.example.key": "value"}
    state = runtime.state(runtime.create(bundle))
    assert state["annotations"] == {"com.example.key": "value"}
    assert state["ociVersion"] == "1.3.0"


def test_version_is_recognised_by_containerd(runtime: Runtime) -> None:
    assert runtime("--version").out.startswith("runc version ")
