# SPDX-License-Identifier: Apache-2.0
"""exec: what it joins, what its exit code tells, when it refuses; its options (runc-exec(8))."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Bundle, Host, Result, Runtime, wait_for
from terminals import Listener

TYPES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


@pytest.fixture
def started(runtime: Runtime, host: Host) -> Callable[..., str]:
    """A function that creates and starts a container of the bundle that just sleeps."""

    def start(bundle: Bundle, *options: str) -> str:
        container = runtime.create(bundle.args("sleep", "1000"), *options)
        assert runtime("start", container).code == 0
        return container

    return start


def init_of(runtime: Runtime, container: str) -> int:
    return int(runtime.state(container)["pid"])


def namespaces(pid: int | str) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in TYPES}


def sleeper(runtime: Runtime, container: str, *options: str, **kwargs: Any) -> int:
    """The pid of a detached exec that sleeps."""
    place = runtime.root.parent / "sleeper"
    result = runtime("exec", "--detach", "--pid-file", place, *options, container, "sleep", "999", **kwargs)
    assert result.code == 0, result
    return int(place.read_text())


def everything(bundle: Bundle) -> Bundle:
    for kind in ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"):
        bundle.namespace(kind)
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 5000}]
    bundle.linux["timeOffsets"] = {"boottime": {"secs": 864000}}
    return bundle


def test_who_came_by_exec_may_trace_too(runtime: Runtime, bundle: Bundle, started: Callable[..., str]) -> None:
    """A container that has not CAP_SYS_PTRACE gets a program that has: from then on nobody enters with more than it.

    It shows in when the filter is loaded, which is before the process is forked where that could be traced.
    """
    bundle.process["noNewPrivileges"] = False
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["clone3", "clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}
    container = started(bundle)
    assert runtime("exec", container, "echo", "in").out == "in\n"
    sleeper(runtime, container, "--no-new-privs", "--cap", "CAP_CHOWN")
    assert runtime("exec", container, "echo", "in").out == "in\n"
    sleeper(runtime, container, "--no-new-privs", "--cap", "CAP_SYS_PTRACE")
    result = runtime("exec", container, "echo", "in")
    assert result.code == 255 and result.out == "" and "noNewPrivileges spares that" in result.err, result
    assert runtime("exec", "--no-new-privs", container, "echo", "in").out == "in\n"


# What it joins

def test_every_namespace_of_the_container(runtime: Runtime, bundle: Bundle, started: Callable[..., str]) -> None:
    """All eight, and the init's cgroup in every hierarchy."""
    container = started(everything(bundle))
    init, pid = init_of(runtime, container), sleeper(runtime, container)
    assert namespaces(pid) == namespaces(init)
    assert not set(namespaces(init).values()) & set(namespaces("self").values())  # the control
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{init}/cgroup").read_text()
    seen = runtime("exec", container, "sh", "-c", "cut -d. -f1 /proc/uptime; id -u; hostname")
    uptime, uid, name = seen.lines
    assert int(uptime) > 864000 and uid == "0" and name == bundle.config["hostname"]


@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts"])
def test_a_namespace_shared_with_the_host(runtime: Runtime, bundle: Bundle, started: Callable[..., str],
                                          kind: str) -> None:
    """What the container hasn't got of its own isn't joined, and the rest is."""
    bundle.without(kind)
    if kind == "uts":
        del bundle.config["hostname"]
    container = started(bundle)
    pid = sleeper(runtime, container)
    assert namespaces(pid) == namespaces(init_of(runtime, container))
    shared = {name for name in TYPES if namespaces(pid)[name] == namespaces("self")[name]}
    assert {"network": "net"}.get(kind, kind) in shared and "mnt" not in shared
    runtime("kill", container, "KILL")


def test_namespaces_joined_by_path(runtime: Runtime, make_bundle: Callable[[str], Bundle],
                                   started: Callable[..., str]) -> None:
    """A container in another's namespaces, as in a pod."""
    first, second = make_bundle("first"), make_bundle("second")
    theirs = init_of(runtime, started(first))
    for kind, name in (("network", "net"), ("ipc", "ipc"), ("pid", "pid")):
        second.namespace(kind, f"/proc/{theirs}/ns/{name}")
    other = started(second)
    pid = sleeper(runtime, other)
    assert namespaces(pid) == namespaces(init_of(runtime, other))
    assert {name for name in TYPES if namespaces(pid)[name] == namespaces(theirs)[name]} >= {"net", "ipc", "pid"}
    runtime("kill", other, "KILL")


@pytest.mark.parametrize("joined", [False, True], ids=["the host's mounts", "mounts joined by path"])
def test_a_container_without_mounts_of_its_own(runtime: Runtime, bundle: Bundle, make_bundle: Callable[[str], Bundle],
                                               started: Callable[..., str], joined: bool) -> None:
    """Its root is a directory: exec's process has the same one, not the mount namespace's."""
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.config["mounts"] = []
    if joined:
        bundle.namespace("mount", f"/proc/{init_of(runtime, started(make_bundle('other')))}/ns/mnt")
        bundle.config["root"]["path"] = "/mnt"
        for name in ("bin", "proc"):
            (bundle.path.parent / "other" / "rootfs" / "mnt" / name).mkdir()
        subprocess.run(["cp", "-a", *bundle.rootfs.glob("bin/*"), bundle.path.parent / "other/rootfs/mnt/bin"],
                       check=True)
    else:
        bundle.without("mount")
    (bundle.rootfs / "here").touch()
    container = started(bundle)
    pid, init = sleeper(runtime, container), init_of(runtime, container)
    assert os.readlink(f"/proc/{pid}/root") == os.readlink(f"/proc/{init}/root") != "/"
    seen = runtime("exec", container, "ls", "/")
    assert seen.code == 0 and sorted(seen.lines) == sorted(os.listdir(f"/proc/{init}/root"))


# Exit codes

def test_the_exit_code_is_the_programs(runtime: Runtime, bundle: Bundle, started: Callable[..., str]) -> None:
    """runc-exec(8), EXIT STATUS; 128 and the signal's number if one ended it."""
    container = started(bundle)
    for script, code in (("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143),
                         ("kill -34 $$", 162)):
        result = runtime("exec", container, "sh", "-c", script)
        assert (result.code, result.out, result.err) == (code, "", ""), script


FAILURES = (
    (["{id}", "no-such-program"], 'exec: "no-such-program": executable file not found in $PATH'),
    (["{id}", "/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
    (["--cwd", "/nowhere", "{id}", "true"], "/process/cwd: enter the working directory /nowhere"),
    (["--cwd", "relative", "{id}", "true"], '/process/cwd: "relative" is not an absolute path'),
    (["--user", "alice", "{id}", "true"], "'alice' is not a numeric id"),
    (["--user", "0:00", "{id}", "true"], "'00' is not a numeric id"),
    (["--user", "-1", "{id}", "true"], "'-1' is not a numeric id"),
    (["-g", "4294967295", "{id}", "true"], "'4294967295' is not a numeric id"),
    (["--env", "NOVALUE", "{id}", "true"], "is not of the form NAME=value"),
    (["--tty", "--detach", "{id}", "true"], "cannot allocate tty if runc will detach without setting console socket"),
    (["--console-socket", "/x", "{id}", "true"], "cannot use console socket if runc will not detach or allocate tty"),
    (["-d", "--console-socket", "/x", "{id}", "true"], "cannot use console socket if runc will not"),
    (["-d", "-t", "--console-socket", "/no/sock", "{id}", "true"], "console socket /no/sock: connect: no such file"),
    (["--pidfd-socket", "/no/sock", "{id}", "true"], "pidfd socket /no/sock: connect: no such file"),
    (["--pid-file", "/no/dir/pid", "{id}", "true"], "write the pid file /no/dir/pid"),
    (["--preserve-fds", "7", "{id}", "true"], "--preserve-fds 7: descriptor 3 is not open"),
    (["--process", "/no/such.json", "{id}"], "--process /no/such.json: open: no such file"),
    (["--process", "/dev/null", "{id}"], "/dev/null: invalid JSON"),
    (["--cgroup", "a:", "--cgroup", "b", "{id}", "true"], "invalid --cgroup argument: b (missing <controller>:"),
    (["{id}"], "exec args cannot be empty"),
    (["nobody", "true"], "container does not exist"),
    (["../x", "true"], "invalid container ID format"),
)


def test_255_is_execs_own_failure(runtime: Runtime, bundle: Bundle, started: Callable[..., str]) -> None:
    """One line that says why; nothing has run, and the container is as it was."""
    container = started(bundle)
    for words, text in FAILURES:
        result = runtime("exec", *(container if word == "{id}" else word for word in words))
        assert result.code == 255 and text in result.err and len(result.errors) == 1, (words, result)
    assert len(runtime("ps", "--format", "json", container).out.split(",")) == 1
    assert runtime.state(container)["status"] == "running"


def test_a_failing_exec_leaves_no_pid_file(runtime: Runtime, bundle: Bundle, started: Callable[..., str],
                                           tmp_path: Path) -> None:
    """execve itself fails after everything else has been done: not a program of this machine."""
    (bundle.rootfs / "bin" / "text").write_text("no program\n")
    (bundle.rootfs / "bin" / "text").chmod(0o755)
    container = started(bundle)
    result = runtime("exec", "--detach", "--pid-file", tmp_path / "pid", container, "text")
    assert result.code == 255 and "exec format error" in result.err
    assert [path.name for path in tmp_path.iterdir() if "pid" in path.name] == []


# Options

def ask(runtime: Runtime, container: str, *words: str, **kwargs: Any) -> Result:
    result = runtime("exec", *words[:-1], container, "sh", "-c", words[-1], **kwargs)
    assert result.code == 0, result
    return result


def test_options_end_at_the_containers_id(runtime: Runtime, bundle: Bundle, started: Callable[..., str]) -> None:
    """What follows is the program's, whatever it looks like; a `--` before it is not."""
    container = started(bundle)
    for words in (["echo", "-e", "-t", "--help"], ["--", "echo", "-e", "-t", "--help"]):
        assert runtime("exec", container, *words).lines == ["-t --help"]
    assert runtime("exec", "--cwd=/tmp", "--", container, "pwd").lines == ["/tmp"]
    assert runtime("exec", "-cwd", "/tmp", container, "pwd").lines == ["/tmp"]
    help_ = runtime("exec", "--help")
    assert help_.code == 0 and "--ignore-paused" in help_.out


def test_user_groups_environment_directory(runtime: Runtime, bundle: Bundle, started: Callable[..., str]) -> None:
    bundle.process["user"] = {"uid": 5, "gid": 6, "additionalGids": [7]}
    container = started(bundle)
    probe = "id; pwd; echo $HOME $A-$B-$TERM"
    assert ask(runtime, container, probe).lines == ["uid=5 gid=6 groups=7", "/", "/ --xterm"]
    seen = ask(runtime, container, "-u", "1000", "-g", "8", "--cwd", "/tmp", "-e", "A=x=y", "--env", "B=", probe)
    # A uid alone keeps the group; the home is that of the new user.
    assert seen.lines == ["uid=1000(alice) gid=6 groups=7,8", "/tmp", "/home/alice x=y--xterm"]
    assert ask(runtime, container, "-u", "1000:1000", probe).lines[0] == "uid=1000(alice) gid=1000(alice) groups=7"
    assert ask(runtime, container, "-u", "1000", "-e", "HOME=/set", "echo $HOME").lines == ["/set"]


def test_capabilities_and_no_new_privileges(runtime: Runtime, bundle: Bundle, started: Callable[..., str]) -> None:
    bundle.process["capabilities"] = {name: ["CAP_KILL"] for name in ("bounding", "permitted", "effective")}
    bundle.process["noNewPrivileges"] = False
    container = started(bundle)

    def status(*options: str) -> dict[str, str]:
        lines = ask(runtime, container, *options, "cat /proc/self/status").lines
        return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}

    before, after = status(), status("--cap", "CAP_CHOWN", "--no-new-privs")
    assert (before["CapEff"], before["CapBnd"], before["NoNewPrivs"]) == ("0000000000000020",) * 2 + ("0",)
    assert (after["CapEff"], after["CapBnd"], after["NoNewPrivs"]) == ("0000000000000021",) * 2 + ("1",)
    assert (after["CapInh"], after["CapAmb"]) == ("0000000000000000",) * 2


def test_a_whole_process(runtime: Runtime, bundle: Bundle, started: Callable[..., str], tmp_path: Path) -> None:
    """--process: config.json's process as a file, or through a descriptor; other options don't change it."""
    container = started(bundle)
    process = {"cwd": "/tmp", "args": ["sh", "-c", "pwd; id -u; echo $A; ulimit -n; umask"],
               "env": ["PATH=/bin", "A=b"], "user": {"uid": 3, "gid": 4, "umask": 0o27},
               "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}]}
    (tmp_path / "p.json").write_text(json.dumps(process))
    expected = ["/tmp", "3", "b", "77", "0027"]
    assert runtime("exec", "-p", tmp_path / "p.json", "--cwd", "/etc", container, "false").lines == expected
    assert runtime("exec", "--process", "/dev/stdin", container, stdin=json.dumps(process)).lines == expected
    process["args"] = []
    (tmp_path / "p.json").write_text(json.dumps(process))
    result = runtime("exec", "-p", tmp_path / "p.json", container)
    assert result.code == 255 and "/process/args: is empty" in result.err


def test_the_confinement_that_a_process_leaves_out_is_the_containers(
        runtime: Runtime, bundle: Bundle, started: Callable[..., str], tmp_path: Path) -> None:
    """As with runc: capabilities, scheduling, OOM score; a list that is empty is one that was given."""
    bundle.process["oomScoreAdj"] = 321
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 3}
    container = started(bundle)
    script = "cat /proc/self/oom_score_adj; grep CapEff /proc/self/status; cut -d' ' -f19,41 /proc/self/stat"
    process: dict[str, Any] = {"cwd": "/", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}

    def seen() -> list[str]:
        (tmp_path / "p.json").write_text(json.dumps(process))
        return runtime("exec", "-p", tmp_path / "p.json", container).lines

    capabilities = ask(runtime, container, "grep CapEff /proc/self/status").lines[0]
    assert seen() == ["321", capabilities, "3 3"]
    process["capabilities"] = {"effective": [], "permitted": [], "bounding": []}
    process["oomScoreAdj"] = 400
    assert seen() == ["400", "CapEff:\t0000000000000000", "3 3"]


def test_exec_cpu_affinity(runtime: Runtime, bundle: Bundle, started: Callable[..., str], tmp_path: Path) -> None:
    """config.md, execCPUAffinity: `initial` holds where no `final` follows; without either, not the caller's."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.fail("needs two processors to tell")
    container = started(bundle)

    def cpus(affinity: dict[str, str]) -> str:
        process = {"cwd": "/", "args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "env": ["PATH=/bin"],
                   "execCPUAffinity": affinity}
        (tmp_path / "p.json").write_text(json.dumps(process))
        words = ["taskset", "-c", "1", *runtime.command("exec", "-p", tmp_path / "p.json", container)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.split()[-1]

    every = ask(runtime, container, "grep Cpus_allowed_list /proc/self/status").lines[0].split()[-1]
    assert every != "1"
    for _ in range(5):  # it was a race once
        assert cpus({"initial": "0"}) == "0"
    assert cpus({"initial": "0", "final": "1"}) == "1"
    assert cpus({"final": "0"}) == "0"
    assert cpus({}) == every


def test_detached(runtime: Runtime, bundle: Bundle, started: Callable[..., str], tmp_path: Path) -> None:
    """exec returns at once with 0; the process lives on when pyrunc is gone, and dies with the container."""
    container = started(bundle)
    pid = sleeper(runtime, container)
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert stat[1] == "1" or Path(f"/proc/{stat[1]}/comm").read_text() != "pyrunc\n"  # whoever adopts
    assert stat[2] == stat[3] == str(pid)  # a session and a group of its own
    assert str(pid) in runtime("ps", "--format", "json", container).out
    assert runtime("delete", "--force", container).code == 0
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2],
             "the process to die")


def test_descriptors(runtime: Runtime, bundle: Bundle, started: Callable[..., str], tmp_path: Path) -> None:
    """Only 0, 1, 2 and those of --preserve-fds reach the program."""
    container = started(bundle)
    script = "for fd in 0 1 2 3 4 5 6 7; do test -e /proc/$$/fd/$fd && echo $fd; done; echo through >&3"

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        words = runtime.command("exec", *options, container, "sh", "-c", script)
        with open(os.devnull) as null:
            return subprocess.run(["bash", "-c", f'exec 3>{tmp_path}/three 5<&0; exec "$@"', "-", *words], timeout=60,
                                  stdin=null, capture_output=True, text=True)

    kept, closed = run("--preserve-fds", "1"), run()
    assert (kept.returncode, kept.stdout.split()) == (0, ["0", "1", "2", "3"]), kept
    assert closed.stdout.split() == ["0", "1", "2"] and closed.returncode != 0
    assert (tmp_path / "three").read_text() == ""  # by the second run
    run("--preserve-fds=1")
    assert (tmp_path / "three").read_text() == "through\n"


@pytest.mark.parametrize("command", ["create", "run", "exec"])
def test_pidfd_socket(runtime: Runtime, bundle: Bundle, started: Callable[..., str], listener_at: Listener,
                      command: str) -> None:
    """A pidfd comes over the socket: it is readable when the process has died, and no sooner."""
    path = listener_at.path
    if command == "exec":
        container = started(bundle)
        assert runtime("exec", "--detach", "--pidfd-socket", path, container, "sleep", "500").code == 0
    else:
        bundle.args("sleep", "1000").save()
        container = runtime.new_id()
        extra = ["--detach"] if command == "run" else []
        assert runtime(command, *extra, "--pidfd-socket", path, "--bundle", bundle.path, container).code == 0
    data, (pidfd,) = listener_at.receive()
    assert data == (b"setns" if command == "exec" else b"standard")
    target = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    pid = int(next(line.split()[1] for line in target.splitlines() if line.startswith("Pid:")))
    assert (pid == init_of(runtime, container)) == (command != "exec")
    signal.pidfd_send_signal(pidfd, 0)
    assert runtime("delete", "--force", container).code == 0
    wait_for(lambda: _gone(pidfd), "the process behind the pidfd to die")
    os.close(pidfd)


def _gone(pidfd: int) -> bool:
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


@pytest.fixture
def listener_at(tmp_path: Path) -> Any:
    listener = Listener(tmp_path / "socket")
    yield listener
    assert isinstance(listener.socket, socket.socket)
    listener.socket.close()


# States

def test_a_created_container(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Before start, as with runc; it stays created."""
    container = runtime.create(bundle.args("sleep", "1000"))
    assert ask(runtime, container, "hostname").lines == [bundle.config["hostname"]]
    assert runtime.state(container)["status"] == "created"


def test_a_stopped_container_is_refused(runtime: Runtime, bundle: Bundle, started: Callable[..., str]) -> None:
    container = started(bundle)
    runtime("kill", container, "KILL")
    runtime.wait(container)
    result = runtime("exec", container, "true")
    assert result.code == 255 and "cannot exec in a stopped container" in result.err, result


def test_a_paused_container(runtime: Runtime, bundle: Bundle, started: Callable[..., str]) -> None:
    """Refused; with --ignore-paused the process waits in it until it is resumed."""
    container = started(bundle)
    assert runtime("pause", container).code == 0
    result = runtime("exec", container, "true")
    assert result.code == 255
    assert "cannot exec in a paused container (use --ignore-paused to override)" in result.err
    waiting = subprocess.Popen(runtime.command("exec", "--ignore-paused", container, "echo", "woken"),
                               stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.7)
    assert runtime("resume", container).code == 0
    assert waiting.communicate(timeout=20)[0] == b"woken\n" and waiting.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_in_a_paused_container_can_be_given_up(runtime: Runtime, bundle: Bundle,
                                                       started: Callable[..., str], number: int) -> None:
    """By the signals that end a program; it isn't run when the container is resumed, and nothing is left.

    runc, too, takes such a signal for one to forward, and goes on waiting.
    """
    if runtime.name != "pyrunc":
        pytest.skip("runc goes on waiting")
    container = started(bundle)
    assert runtime("pause", container).code == 0
    waiting = subprocess.Popen(runtime.command("exec", "--ignore-paused", container, "touch", "/ran"))
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.5)
    waiting.send_signal(number)
    assert waiting.wait(20) == 128 + number
    assert runtime("resume", container).code == 0
    assert runtime("exec", container, "ls", "/ran").code == 1
    wait_for(lambda: len(json.loads(runtime("ps", "--format", "json", container).out)) == 1, "it to be gone")
