# SPDX-License-Identifier: Apache-2.0
"""The library as a program uses it: in a process of its own, as installed by pip, with nothing of the tests'."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from support import Bundle, Host, Runtime

PRELUDE = """
import json, os, signal, sys, threading, time
import pyrunc

bundle, root, ids = sys.argv[1], sys.argv[2], sys.argv[3:]
mine = ids[0]

def until(container, status):
    deadline = time.monotonic() + 20
    while container.status() != status:
        assert time.monotonic() < deadline, (container.status(), status)
        time.sleep(0.005)

def children():
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if entry.isdigit() and fields[1] == str(os.getpid()):
            found.append((int(entry), fields[0]))
    return found

def picture():
    umask = os.umask(0)
    os.umask(umask)
    with open("/proc/self/status") as file:
        signals = [line for line in file if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
    fds = {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
           if os.path.lexists(f"/proc/self/fd/{name}")}
    return {"cwd": os.getcwd(), "umask": umask, "signals": signals, "fds": fds, "env": dict(os.environ),
            "session": os.getsid(0),
            "namespaces": [os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))]}
"""


def program(runtime: Runtime, bundle: Bundle, script: str, count: int = 1) -> Any:
    """What a program prints, as JSON; `mine` and `ids` are names for containers, removed in the end."""
    bundle.save()
    ids = [runtime.new_id() for _ in range(count)]
    # Files and no pipes: a container that lives on has them too.
    with open(bundle.path / "out", "w+") as out, open(bundle.path / "err", "w+") as err:
        words = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), bundle.path, runtime.root, *ids]
        code = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60, cwd="/").returncode
        out.seek(0)
        err.seek(0)
        assert code == 0, err.read()
        return json.loads(out.read().splitlines()[-1])


@pytest.fixture(autouse=True)
def clean(host: Host) -> None:
    """Every test here leaves the host as it was."""


def test_the_life_of_a_container(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("sleep", "100")
    seen = program(runtime, bundle, """
        seen = []
        container = pyrunc.Container.create(bundle, mine, root)
        seen.append(container.state()["status"])
        container.start()
        seen.append(container.state()["status"])
        again = pyrunc.Container.load(mine, root)
        assert again.pid == container.pid and again.id == mine
        assert [found.id for found in pyrunc.load_all(root)] == [mine]
        again.kill(signal.SIGKILL)
        until(container, "stopped")
        seen.append(container.state()["pid"])
        container.delete()
        assert not os.path.exists(f"{root}/{mine}")
        print(json.dumps(seen))
    """)
    assert seen == ["created", "running", 0]


def test_the_command_line_sees_the_same(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("sleep", "100")
    state = program(runtime, bundle, """
        container = pyrunc.Container.create(bundle, mine, root)
        print(json.dumps(container.state()))
    """)
    assert runtime.state(state["id"]) == state
    assert runtime("start", state["id"]).code == 0


def test_errors_are_exceptions_that_say_where(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("nothing-of-that-name", "x")
    seen = program(runtime, bundle, """
        seen = []
        def failing(call):
            try:
                call()
            except pyrunc.PyruncError as error:
                seen.append([type(error).__name__, getattr(error, "pointer", ""), str(error)])
            else:
                seen.append("no error")
        failing(lambda: pyrunc.Container.create(bundle, mine, root))
        failing(lambda: pyrunc.Container.create("/nowhere", mine, root))
        failing(lambda: pyrunc.Container.create(bundle, "a/b", root))
        failing(lambda: pyrunc.Container.load("nothing", root))
        path = os.path.join(bundle, "config.json")
        config = json.load(open(path))
        config["process"]["args"] = ["sleep", "100"]
        json.dump(config, open(path, "w"))
        container = pyrunc.Container.create(bundle, mine, root)
        failing(lambda: pyrunc.Container.create(bundle, mine, root))
        failing(container.delete)
        container.start()
        failing(container.start)
        container.kill(9)
        until(container, "stopped")
        failing(lambda: container.kill(15))
        container.delete()
        config["linux"]["namespaces"].append({"type": "pid"})
        json.dump(config, open(path, "w"))
        failing(lambda: pyrunc.Container.create(bundle, mine, root))
        assert os.listdir(root) == []
        print(json.dumps(seen))
    """)
    missing, nowhere, slash, unknown, taken, undeletable, twice, dead, double = seen
    assert missing[1] == "/process/args/0" and "not found in $PATH" in missing[2]
    assert nowhere[0] == "BundleError" and "/nowhere" in nowhere[2]
    assert slash[0] == "UsageError"
    assert unknown[0] == "ContainerNotFound" and "does not exist" in unknown[2]
    assert taken[0] == "ContainerExists"
    assert undeletable[0] == twice[0] == dead[0] == "ContainerError"
    assert "container not running" in dead[2]
    assert double[0] == "ConfigError" and double[1].startswith("/linux/namespaces/")


def test_the_caller_stays_as_it_was(runtime: Runtime, bundle: Bundle) -> None:
    """Directory, umask, signals, descriptors, environment, session, namespaces: after success and after failure."""
    bundle.args("sleep", "100")
    before, after, failed = program(runtime, bundle, """
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        os.umask(0o027)
        import pyrunc.creation, pyrunc.lifecycle
        before = picture()
        container = pyrunc.Container.create(bundle, mine, root)
        container.start()
        container.state()
        container.kill(9)
        until(container, "stopped")
        container.delete()
        del container
        after = picture()
        path = os.path.join(bundle, "config.json")
        config = json.load(open(path))
        config["hooks"] = {"createContainer": [{"path": "/bin/false"}]}
        json.dump(config, open(path, "w"))
        try:
            pyrunc.Container.create(bundle, mine, root)
        except pyrunc.HookError:
            pass
        else:
            raise AssertionError("no error")
        print(json.dumps([before, after, picture()]))
    """)
    assert after == before
    assert failed == before


def test_no_zombie_but_the_init(runtime: Runtime, bundle: Bundle) -> None:
    """The init is the caller's child, to be reaped by it or by whoever adopts it; hooks and helpers are reaped."""
    bundle.args("sleep", "100")
    bundle.config["hooks"] = {kind: [{"path": "/bin/true"}] for kind in ("createRuntime", "poststart", "poststop")}
    seen = program(runtime, bundle, """
        container = pyrunc.Container.create(bundle, mine, root)
        created = children()
        container.start()
        running = children()
        pid = container.pid
        container.delete(force=True)
        deleted = children()
        print(json.dumps([pid, created, running, deleted]))
    """)
    pid, created, running, deleted = seen
    assert [entry[0] for entry in created] == [pid] == [entry[0] for entry in running]
    assert deleted in ([], [[pid, "Z"]])


def test_many_cycles_hold_no_descriptors_and_no_children(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("true")
    counts = program(runtime, bundle, """
        counts = []
        for cycle in range(50):
            container = pyrunc.Container.create(bundle, mine, root)
            container.start()
            until(container, "stopped")
            os.waitpid(container.pid, 0)
            container.delete()
            counts.append([len(os.listdir("/proc/self/fd")), len(children()), threading.active_count()])
        print(json.dumps(counts))
    """)
    assert len(counts) == 50
    assert counts == [counts[0]] * 50


def test_a_threaded_program_is_served_by_another_process(runtime: Runtime, bundle: Bundle) -> None:
    """A fork copies only the calling thread: the container is made elsewhere, and behaves the same."""
    bundle.args("sleep", "100")
    seen = program(runtime, bundle, """
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, daemon=True)
        thread.start()
        before = picture()
        seen = []
        container = pyrunc.Container.create(bundle, mine, root)
        seen.append(container.status())
        container.start()
        seen.append(container.status())
        seen.append(children())
        container.kill(9)
        until(container, "stopped")
        container.delete()
        del container
        assert picture() == before
        stop.set()
        thread.join()
        print(json.dumps(seen))
    """)
    assert seen == ["created", "running", []]


def test_threads_at_once(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("sleep", "100")
    seen = program(runtime, bundle, """
        seen, errors = {}, []
        def live(name):
            try:
                container = pyrunc.Container.create(bundle, name, root)
                container.start()
                seen[name] = container.status()
                container.delete(force=True)
            except BaseException as error:
                errors.append(repr(error))
        threads = [threading.Thread(target=live, args=(name,)) for name in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors, errors
        assert os.listdir(root) == []
        print(json.dumps(sorted(seen.values())))
    """, count=6)
    assert seen == ["running"] * 6


def test_errors_of_a_threaded_create(runtime: Runtime, bundle: Bundle) -> None:
    """The same exceptions, and the same reports, as without threads."""
    bundle.args("nothing-of-that-name", "x")
    bundle.process["capabilities"]["bounding"].append("CAP_TIME_TRAVEL")
    alone, threaded = program(runtime, bundle, """
        def attempts():
            seen = []
            for path, name in ((bundle, mine), ("/nowhere", mine), (bundle, "a/b")):
                said = []
                try:
                    pyrunc.Container.create(path, name, root, report=lambda *report: said.append(report))
                except pyrunc.PyruncError as error:
                    said = [report for report in said if report[0] != "debug"]
                    seen.append([type(error).__name__, error.pointer, error.errno, str(error), said])
            return seen
        alone = attempts()
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, daemon=True)
        thread.start()
        threaded = attempts()
        stop.set()
        assert os.listdir(root) == []
        print(json.dumps([alone, threaded]))
    """)
    assert threaded == alone
    assert len(alone) == 3
    assert 'exec: "nothing-of-that-name": executable file not found in $PATH' in threaded[0][3]
    assert "CAP_TIME_TRAVEL" in threaded[0][4][0][1]


def test_the_cgroup_manager(runtime: Runtime, bundle: Bundle) -> None:
    """With threads and without; a mistake is told before anything is made."""
    alone, threaded, mistake = program(runtime, bundle, """
        def cgroup(name):
            container = pyrunc.Container.create(bundle, name, root,
                                                pyrunc.CreateOptions(cgroup_manager="disabled"))
            with open(f"/proc/{container.pid}/cgroup") as theirs, open("/proc/self/cgroup") as ours:
                same = theirs.read() == ours.read()
            container.delete(force=True)
            return same
        alone = cgroup(ids[0])
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait, daemon=True)
        thread.start()
        threaded = cgroup(ids[1])
        try:
            pyrunc.Container.create(bundle, mine, root, pyrunc.CreateOptions(cgroup_manager="openrc"))
        except pyrunc.PyruncError as error:
            mistake = [type(error).__name__, str(error)]
        stop.set()
        assert os.listdir(root) == []
        print(json.dumps([alone, threaded, mistake]))
    """, count=2)
    assert alone and threaded
    assert mistake == ["UsageError", "cgroup_manager is cgroupfs, systemd or disabled, not 'openrc'"]


def test_progress_is_reported(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("sleep", "100")
    bundle.process["capabilities"]["bounding"].append("CAP_TIME_TRAVEL")
    said = program(runtime, bundle, """
        said = []
        container = pyrunc.Container.create(bundle, mine, root, report=lambda level, text: said.append([level, text]))
        container.delete(force=True)
        print(json.dumps(said))
    """)
    assert any(level == "warning" and "CAP_TIME_TRAVEL" in text for level, text in said)
    assert {level for level, _ in said} <= {"debug", "info", "warning", "error"}


def test_importing_it_costs_nothing(tmp_path: Path) -> None:
    """`import pyrunc` loads no other module of ours, and nothing from the working directory."""
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working directory')")
    script = "import sys, pyrunc; print(sorted(name for name in sys.modules if name.startswith('pyrunc')))"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path,
                          check=True)
    assert done.stdout == "['pyrunc', 'pyrunc._version']\n"
    assert os.path.dirname(sys.executable)


def test_exec(runtime: Runtime, bundle: Bundle) -> None:
    """By arguments, or a whole process; a child of the caller's, which shows a sealed program to the container."""
    bundle.args("sleep", "100")
    seen = program(runtime, bundle, """
        container = pyrunc.Container.create(bundle, mine, root)
        container.start()
        before = picture()
        seen = []
        def code(pid):
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        seen.append(code(container.exec(["sh", "-c", "exit 7"])))
        process = {"cwd": "/", "args": ["sh", "-c", "test $(id -u) = 5 && test $A = b"], "user": {"uid": 5, "gid": 5},
                   "env": ["PATH=/bin", "A=b", *(f"LONG{n}=" + "x" * 100000 for n in range(4))]}
        seen.append(code(container.exec(process)))
        path = os.path.join(bundle, "pid")
        pid = container.exec(["sleep", "50"], pyrunc.ExecOptions(pid_file=path))
        seen.append(int(open(path).read()) == pid)
        seen.append(pid in container.pids())
        os.kill(pid, 9)
        seen.append(code(pid))
        assert [entry for entry in children() if entry[0] != container.pid] == []
        def failing(call):
            try:
                call()
            except pyrunc.PyruncError as error:
                seen.append([type(error).__name__, error.pointer, str(error)])
        failing(lambda: container.exec(["nothing-of-that-name"]))
        failing(lambda: container.exec({"cwd": "relative", "args": ["true"]}))
        failing(lambda: container.exec(["true"], pyrunc.ExecOptions(preserve_fds=1)))
        container.kill(9)
        os.waitpid(container.pid, 0)
        failing(lambda: container.exec(["true"]))
        assert picture() == before and children() == []
        container.delete()
        failing(lambda: container.exec(["true"]))
        print(json.dumps(seen))
    """)
    assert seen[:5] == [7, 0, True, True, -9]
    missing, relative, descriptors, stopped, deleted = seen[5:]
    assert missing[1] == "/process/args/0" and "executable file not found" in missing[2]
    assert relative[:2] == ["ConfigError", "/process/cwd"]
    assert descriptors[0] == "UsageError"
    assert stopped == ["ContainerError", "", "cannot exec in a stopped container"]
    assert deleted[0] == "ContainerNotFound"


def test_exec_of_a_threaded_program(runtime: Runtime, bundle: Bundle) -> None:
    """From several threads at once, each gets the exit codes of its own processes."""
    bundle.args("sleep", "100")
    seen = program(runtime, bundle, """
        container = pyrunc.Container.create(bundle, mine, root)
        container.start()
        codes, errors = {}, []
        def work(number):
            try:
                with pyrunc.Container.load(mine, root) as own:
                    pid = own.exec(["sh", "-c", f"exit {number}"])
                codes[number] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            except BaseException as error:
                errors.append(repr(error))
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        container.delete(force=True)
        print(json.dumps([errors, sorted(codes.items()), [entry for entry in children() if entry[0] != container.pid]]))
    """)
    assert seen == [[], [[number, number] for number in range(6)], []]


def test_what_enters_a_container_is_sealed(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2019-5736: what the container's processes can see of it is not the interpreter of the program."""
    bundle.args("sleep", "100")
    targets = program(runtime, bundle, """
        container = pyrunc.Container.create(bundle, mine, root)
        container.start()
        targets, stop = set(), threading.Event()
        def watch():
            while not stop.is_set():
                for pid in container.pids():
                    if pid != container.pid:
                        try:
                            targets.add(os.readlink(f"/proc/{pid}/exe"))
                        except OSError:
                            pass
        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(20):
            os.waitpid(container.exec(["true"]), 0)
        stop.set()
        watcher.join()
        container.delete(force=True)
        print(json.dumps(sorted(targets)))
    """)
    assert any("memfd:" in target for target in targets), targets
    assert [target for target in targets if "python" in target] == []
