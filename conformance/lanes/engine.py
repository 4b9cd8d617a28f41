# SPDX-License-Identifier: Apache-2.0
"""What Podman and Docker have in common, which is most of their command line."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conformance import image
from conformance.checks import Table, wait_for
from conformance.lanes.base import Done, Lane, output

IMAGE = image.NAME


def has_apparmor() -> bool:
    """Whether this kernel confines programs by AppArmor."""
    parameter = Path("/sys/module/apparmor/parameters/enabled")
    return parameter.exists() and parameter.read_text().startswith("Y")


class Engine(Lane):
    """A docker-like command line; `words` are its own and its global options."""

    words: list[str | Path]
    bridge: tuple[str, ...] = ()  # options for its bridge network
    #: Options that mount(2) takes besides CAP_SYS_ADMIN: the engines' AppArmor profiles deny it.
    allow_mount: tuple[str, ...] = ("--security-opt", "apparmor=unconfined") if has_apparmor() else ()
    tells_oom = True
    exec_missing = "127"  # exit code of an exec whose program isn't there

    def do(self, *words: str | Path, input: str = "") -> Done:
        return self.command(*self.words, *words, input=input)

    def __call__(self, *words: str | Path, input: str = "") -> str:
        """What the command prints.  Raises Failed unless it exits with 0."""
        return output(self.do(*words, input=input), words)

    def run(self, *words: str | Path, input: str = "") -> str:
        """`run --rm` with these options; the image stands for itself as `IMAGE` among them."""
        return self("run", "--rm", *words, input=input)

    def script(self, script: str, *options: str | Path) -> str:
        """What a shell script prints in a container with these options."""
        return self.run(*options, IMAGE, "sh", "-c", script)

    @contextmanager
    def container(self, *words: str | Path) -> Iterator[str]:
        """A container in the background, by default one that sleeps; removed at the end."""
        name = self.name()
        options, command = (words[:words.index(IMAGE)], words[words.index(IMAGE) + 1:]) if IMAGE in words else (words,
                                                                                                                ())
        self("run", "-d", "--name", name, *options, IMAGE, *(command or ("sleep", "1000")))
        yield name
        self.remove(name)  # after a failure `clean` does it: what went wrong stays to be told

    def remove(self, *names: str) -> None:
        """Kill and remove containers."""
        self("rm", "-f", *names)

    def sh(self, name: str, script: str) -> str:
        return self("exec", name, "sh", "-c", script)

    def inspect(self, name: str, template: str) -> str:
        return self("inspect", "--format", template, name)

    def wait_status(self, name: str, status: str) -> None:
        wait_for(lambda: self.inspect(name, "{{.State.Status}}") == status, f"{name} to be {status}")

    def wait_logs(self, name: str, text: str) -> None:
        wait_for(lambda: text in self("logs", name), f"{text!r} in the log of {name}")

    def clean(self) -> None:
        names = self("ps", "-aq").split()
        if names:
            self.remove(*names)

    def probe(self, name: str) -> None:
        """Have the health of a container looked at now, where nobody else does."""

    def talk(self, *words: str | Path, answer: tuple[tuple[str, str], ...]) -> tuple[int, str]:
        return self.terminal([*self.words, *words], answer, size=(31, 97))


def has_all(capabilities: str) -> bool:
    """Whether a set has all that the host gives, of those that the engines of Debian 12 know (up to AUDIT_READ)."""
    status = Path("/proc/self/status").read_text()
    bounding = next(line for line in status.splitlines() if line.startswith("CapBnd")).split()[1]
    return not int(bounding, 16) & ~int(capabilities, 16) & ((1 << 38) - 1)


TABLE: Table[Engine] = Table()
check = TABLE.check


# run

@check("run", "hello", short=True)
def _(engine: Engine) -> str:
    return engine.run(IMAGE, "echo", "hello")


@check("run: exit status", "7", short=True)
def _(engine: Engine) -> str:
    return str(engine.do("run", "--rm", IMAGE, "sh", "-c", "exit 7").code)


@check("run: killed by a signal", "137")
def _(engine: Engine) -> str:
    return str(engine.do("run", "--rm", "--init", IMAGE, "sh", "-c", "kill -9 $$; sleep 9").code)


@check("run -i: standard input and its end", "4", short=True)
def _(engine: Engine) -> str:
    return engine.run("-i", IMAGE, "wc", "-c", input="abc\n")


@check("run: standard output and error apart", "out|err")
def _(engine: Engine) -> str:
    done = engine.do("run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2")
    return f"{done.out}|{done.err}"


@check("run: a megabyte through a pipe", "1048576")
def _(engine: Engine) -> str:
    return str(len(engine.run(IMAGE, "sh", "-c", "yes | head -c 1048575; echo -n x")))


@check("run -it: a terminal, its size, its input", "31 97|got it|exit 5", short=True)
def _(engine: Engine) -> str:
    code, shown = engine.talk("run", "--rm", "-it", IMAGE, "sh", "-c",
                              "sleep 0.5; tty >/dev/null || exit 9; stty size; read word; echo got $word; exit 5",
                              answer=(("31 97", "it\n"),))
    lines = shown.splitlines()
    return f"{lines[0]}|{lines[-1]}|exit {code}"


@check("run: no such program", matches=r"127 .*no such file or directory.*", short=True)
def _(engine: Engine) -> str:
    done = engine.do("run", "--rm", IMAGE, "no-such-program")
    return f"{done.code} {done.err.lower().replace('executable file not found', 'no such file or directory')}"


@check("run: a program that may not be executed", matches=r"126 .*permission denied.*", short=True)
def _(engine: Engine) -> str:
    done = engine.do("run", "--rm", IMAGE, "/bin/not-executable")
    return f"{done.code} {done.err.lower()}"


@check("run: a directory as the program", matches=r"126 .*")
def _(engine: Engine) -> str:
    done = engine.do("run", "--rm", IMAGE, "/data")
    return f"{done.code} {done.err.lower()}"


@check("run: --workdir", "/home/alice")
def _(engine: Engine) -> str:
    return engine.run("-w", "/home/alice", IMAGE, "pwd")


@check("run: environment", "PATH=/bin:/sbin:/usr/bin FROM_IMAGE=yes A=b c")
def _(engine: Engine) -> str:
    return engine.script("echo PATH=$PATH FROM_IMAGE=$FROM_IMAGE A=$A", "-e", "A=b c")


@check("run: --entrypoint", "x y")
def _(engine: Engine) -> str:
    return engine.run("--entrypoint", "/bin/echo", IMAGE, "x", "y")


@check("run: --user by name, its groups", "1000 1000 50", short=True)
def _(engine: Engine) -> str:
    return engine.script("echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | grep -v 1000)", "--user", "alice")


@check("run: --user by number, --group-add", "1234 5678 5678 77")
def _(engine: Engine) -> str:
    return engine.script("echo $(id -u) $(id -g) $(id -G)", "--user", "1234:5678", "--group-add", "77")


@check("run: --hostname", "box box")
def _(engine: Engine) -> str:
    return engine.script("echo $(hostname) $(cat /etc/hostname)", "--hostname", "box")


@check("run: --init", "an init is 1, 0 zombies")
def _(engine: Engine) -> str:
    script = "(sleep 0.1 & ) ; sleep 0.5; tr '\\0' ' ' </proc/1/cmdline; echo; ps -o stat | grep -c Z || :"
    seen = engine.script(script, "--init")
    program, zombies = seen.rsplit("\n", 1)
    init = any(name in program for name in ("init", "catatonit", "tini"))
    return f"{'an init' if init else program} is 1, {zombies} zombies"


# A container that lives

@check("run -d, logs", "one\ntwo", short=True)
def _(engine: Engine) -> str:
    with engine.container(IMAGE, "sh", "-c", "echo one; echo two; sleep 1000") as name:
        engine.wait_logs(name, "two")
        return engine("logs", name)


@check("create, start -a", "started later")
def _(engine: Engine) -> str:
    name = engine.name()
    engine("create", "--name", name, IMAGE, "echo", "started", "later")
    seen = engine("start", "-a", name)
    engine("rm", name)
    return seen


@check("wait, and the status afterwards", "3 exited 3")
def _(engine: Engine) -> str:
    with engine.container(IMAGE, "sh", "-c", "sleep 0.3; exit 3") as name:
        return f"{engine('wait', name)} {engine.inspect(name, '{{.State.Status}} {{.State.ExitCode}}')}"


@check("restart: another process in the same container", "2 starts, another pid")
def _(engine: Engine) -> str:
    with engine.container(IMAGE, "sh", "-c", "echo up >>/starts; sleep 1000") as name:
        before = engine.inspect(name, "{{.State.Pid}}")
        engine("restart", "-t", "0", name)
        wait_for(lambda: engine.sh(name, "wc -l </starts") == "2", "the second start")
        same = engine.inspect(name, "{{.State.Pid}}") == before
        return f"2 starts, {'the same' if same else 'another'} pid"


@check("exec", "hello from 1", short=True)
def _(engine: Engine) -> str:
    with engine.container() as name:
        return engine.sh(name, "echo hello from $(cat /proc/1/comm | sed s/sleep/1/)")


@check("exec: exit status", "9", short=True)
def _(engine: Engine) -> str:
    with engine.container() as name:
        return str(engine.do("exec", name, "sh", "-c", "exit 9").code)


@check("exec: user, directory, environment", "1000 /tmp b", short=True)
def _(engine: Engine) -> str:
    with engine.container() as name:
        return engine("exec", "-u", "alice", "-w", "/tmp", "-e", "A=b", name, "sh", "-c", "echo $(id -u) $PWD $A")


@check("exec -i: standard input", "through")
def _(engine: Engine) -> str:
    with engine.container() as name:
        return engine("exec", "-i", name, "cat", input="through\n")


@check("exec -it: a terminal", "31 97|got it|exit 4", short=True)
def _(engine: Engine) -> str:
    with engine.container() as name:
        code, shown = engine.talk("exec", "-it", name, "sh", "-c",
                                  "sleep 0.5; tty >/dev/null || exit 9; stty size; read word; echo got $word; exit 4",
                                  answer=(("31 97", "it\n"),))
        lines = shown.splitlines()
        return f"{lines[0]}|{lines[-1]}|exit {code}"


@check("exec -d", "done in the background")
def _(engine: Engine) -> str:
    with engine.container() as name:
        engine("exec", "-d", name, "sh", "-c", "echo done in the background >/tmp/seen")
        wait_for(lambda: engine.do("exec", name, "test", "-s", "/tmp/seen").code == 0, "the file")
        return engine.sh(name, "cat /tmp/seen")


@check("exec: no such program", matches=r"as expected: .*no such file or directory.*", short=True)
def _(engine: Engine) -> str:
    with engine.container() as name:
        done = engine.do("exec", name, "no-such-program")
        text = (done.err + done.out).lower().replace("executable file not found", "no such file or directory")
        return f"{'as expected' if str(done.code) == engine.exec_missing else done.code}: {text}"


@check("exec: a program that may not be executed", matches=r"126 .*permission denied.*")
def _(engine: Engine) -> str:
    with engine.container() as name:
        done = engine.do("exec", name, "/bin/not-executable")
        return f"{done.code} {(done.err + done.out).lower()}"


@check("exec --privileged", "all of the host's")
def _(engine: Engine) -> str:
    with engine.container() as name:
        plain = engine.sh(name, "grep CapEff /proc/self/status").split()[1]
        seen = engine("exec", "--privileged", name, "grep", "CapEff", "/proc/self/status").split()[1]
        return "all of the host's" if has_all(seen) and not has_all(plain) else f"{seen}, without {plain}"


@check("kill: SIGKILL", "exited 137", short=True)
def _(engine: Engine) -> str:
    with engine.container() as name:
        engine("kill", name)
        engine.wait_status(name, "exited")
        return engine.inspect(name, "{{.State.Status}} {{.State.ExitCode}}")


@check("kill -s USR1: handled", "caught")
def _(engine: Engine) -> str:
    with engine.container(IMAGE, "sh", "-c",
                          "trap 'echo caught' USR1; echo ready; while :; do sleep 0.1; done") as name:
        engine.wait_logs(name, "ready")
        engine("kill", "-s", "USR1", name)
        engine.wait_logs(name, "caught")
        return engine("logs", name).splitlines()[-1]


@check("stop: SIGTERM is handled", "0 bye", short=True)
def _(engine: Engine) -> str:
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    with engine.container(IMAGE, "sh", "-c", script) as name:
        engine.wait_logs(name, "ready")
        engine("stop", name)
        return f"{engine.inspect(name, '{{.State.ExitCode}}')} {engine('logs', name).splitlines()[-1]}"


@check("stop -t 1: SIGTERM is ignored", "137")
def _(engine: Engine) -> str:
    with engine.container(IMAGE, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done") as name:
        engine.wait_logs(name, "ready")
        engine("stop", "-t", "1", name)
        return engine.inspect(name, "{{.State.ExitCode}}")


@check("stop: --stop-signal", "0 interrupted")
def _(engine: Engine) -> str:
    script = "trap 'echo interrupted; exit 0' USR2; echo ready; while :; do sleep 0.1; done"
    with engine.container("--stop-signal", "USR2", IMAGE, "sh", "-c", script) as name:
        engine.wait_logs(name, "ready")
        engine("stop", name)
        return f"{engine.inspect(name, '{{.State.ExitCode}}')} {engine('logs', name).splitlines()[-1]}"


@check("pause: nothing runs; unpause: it goes on", "paused, stands still, running, goes on", short=True)
def _(engine: Engine) -> str:
    counting = "i=0; while :; do i=$((i+1)); echo $i >/counter; sleep 0.02; done"
    where = engine.directory(0o777)
    with engine.container("-v", f"{where}:/shared", IMAGE, "sh", "-c", counting.replace("/counter",
                                                                                        "/shared/counter")) as name:
        counter = where / "counter"
        wait_for(counter.exists, "the counter")
        engine("pause", name)
        status = engine.inspect(name, "{{.State.Status}}")
        before = counter.read_text()
        engine.command("sleep", "0.3")
        still = "stands still" if counter.read_text() == before else "runs"
        engine("unpause", name)
        after = engine.inspect(name, "{{.State.Status}}")
        wait_for(lambda: counter.read_text() not in (before, ""), "the counter to go on")
        return f"{status}, {still}, {after}, goes on"


@check("pause: rm -f of a paused container", "gone")
def _(engine: Engine) -> str:
    with engine.container() as name:
        engine("pause", name)
        engine.remove(name)
        seen = "gone" if name not in engine("ps", "-a", "--format", "{{.Names}}").split() else "still there"
        engine("run", "-d", "--name", name, IMAGE, "sleep", "1000")
        return seen


@check("top", "sleep 1000", short=True)
def _(engine: Engine) -> str:
    with engine.container() as name:
        return next(line[line.index("sleep"):] for line in engine("top", name).splitlines() if "sleep" in line)


@check("stats", matches=r"\S+ / 64(MiB|MB|\.00MiB) [1-9]\d*", short=True)
def _(engine: Engine) -> str:
    with engine.container("--memory", "64m") as name:
        seen = engine("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", name)
        return seen.replace("67.11MB", "64MB")


@check("cp: out of a container and into it", "from the image|from outside", short=True)
def _(engine: Engine) -> str:
    with engine.container() as name:
        engine("cp", f"{name}:/data/file", engine.scratch / f"{name}-out")
        engine("cp", engine.file("from outside\n"), f"{name}:/data/in")
        out = (engine.scratch / f"{name}-out").read_text().strip()
        return f"{out}|{engine.sh(name, 'cat /data/in')}"


@check("commit, and run of what it made", "committed")
def _(engine: Engine) -> str:
    tag = f"localhost/{engine.name('committed')}"
    with engine.container() as name:
        engine.sh(name, "echo committed >/note")
        engine("commit", name, tag)
    seen = engine.run(tag, "cat", "/note")
    engine("rmi", tag)
    return seen


@check("diff", "A /new\nC /data\nD /data/file")
def _(engine: Engine) -> str:
    with engine.container() as name:
        engine.sh(name, "touch /new; rm /data/file")
        return "\n".join(sorted(line for line in engine("diff",
                                                        name).splitlines() if "/data" in line or "/new" in line))


@check("healthcheck", "healthy, unhealthy", timeout=90)
def _(engine: Engine) -> str:
    def health(name: str) -> str:
        return str(json.loads(engine("inspect", name))[0]["State"].get("Health", {}).get("Status", ""))

    seen = []
    for command, status in (("test -e /data/file", "healthy"), ("test -e /nowhere", "unhealthy")):
        with engine.container("--health-cmd", command, "--health-interval", "1s", "--health-retries", "1") as name:
            engine.probe(name)
            wait_for(functools.partial(lambda name, status: health(name) == status, name, status), status)
            seen.append(health(name))
    return ", ".join(seen)
