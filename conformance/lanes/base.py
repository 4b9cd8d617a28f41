# SPDX-License-Identifier: Apache-2.0
"""What lanes have in common: commands in the lane's environment, terminals, daemons."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from conformance.checks import wait_for
from conformance.errors import Failed, Unavailable
from conformance.sandbox import PATH, USER, USER_ID, Room


class Done:
    """How a command ended; what it printed, without the blank at its end."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out.strip()
        self.err = err.strip()


class Lane:
    """A client with a runtime below it; `needs` are the programs it takes."""

    needs: tuple[str, ...] = ()

    def __init__(self, room: Room, runtime: str) -> None:
        self.room = room
        self.runtime = runtime
        self.scratch = room.scratch
        self.environment = dict(room.environment)
        self.daemons: list[subprocess.Popen[bytes]] = []
        self._names = 0
        missing = [name for name in self.needs if not shutil.which(name, path=self.environment["PATH"])]
        if missing:
            raise Unavailable(f"not installed: {', '.join(missing)}")

    def start(self) -> None:
        """Get ready for the checks."""

    def clean(self) -> None:
        """Take away what a check that failed may have left."""

    def stop(self) -> None:
        """End what `start` started; the sandbox ends the rest."""
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def name(self, what: str = "c") -> str:
        """A name not used before."""
        self._names += 1
        return f"{what}{self._names}"

    def file(self, text: str, mode: int = 0o644) -> Path:
        """A file with that text."""
        path = self.scratch / self.name("file")
        path.write_text(text)
        path.chmod(mode)
        return path

    def directory(self, mode: int = 0o755) -> Path:
        path = self.scratch / self.name("directory")
        path.mkdir()
        path.chmod(mode)
        return path

    def command(self, *words: str | Path, input: str = "", cwd: Path | None = None,
                environment: Mapping[str, str] | None = None) -> Done:
        """Run it to its end.  Its output goes to files: what it leaves running must not hold a pipe."""
        out, err = self.scratch / self.name("out"), self.scratch / self.name("err")
        with open(out, "wb") as out_file, open(err, "wb") as err_file:
            process = subprocess.Popen([str(word) for word in words], stdin=subprocess.PIPE, stdout=out_file,
                                       stderr=err_file, cwd=cwd or self.scratch,
                                       env=self.environment if environment is None else environment)
            try:
                process.communicate(input.encode())
            except BaseException:
                process.kill()
                process.wait()
                raise
        done = Done(process.returncode, out.read_text(errors="replace"), err.read_text(errors="replace"))
        out.unlink()
        err.unlink()
        return done

    def must(self, *words: str | Path, input: str = "", cwd: Path | None = None) -> str:
        """What it prints.  Raises Failed when it doesn't exit with 0."""
        return output(self.command(*words, input=input, cwd=cwd), words)

    def terminal(self, words: Sequence[str | Path], talk: Sequence[tuple[str, str]],
                 size: tuple[int, int] = (24, 80)) -> tuple[int, str]:
        """Run it on a terminal; (exit code, all it showed).

        For each pair of `talk` the first text is waited for and the second typed.
        """
        pid, master = pty.fork()
        if pid == 0:
            try:
                os.chdir(self.scratch)
                os.execvpe(str(words[0]), [str(word) for word in words], self.environment)
            finally:
                os._exit(127)
        shown = ""
        try:
            import fcntl
            import struct
            import termios

            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
            for wanted, typed in talk:
                while wanted not in shown:
                    shown += self._read(master, shown)
                os.write(master, typed.encode())
            while True:
                try:
                    shown += self._read(master, shown)
                except Failed:
                    break
            _, status = os.waitpid(pid, 0)
            pid = 0
            return os.waitstatus_to_exitcode(status), shown.replace("\r\n", "\n")
        finally:
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.close(master)

    @staticmethod
    def _read(master: int, shown: str) -> str:
        try:
            piece = os.read(master, 65536)
        except OSError:  # EIO: nobody has the other end any more
            piece = b""
        if not piece:
            raise Failed(f"the terminal closed after {shown!r}")
        return piece.decode(errors="replace")

    def daemon(self, words: Sequence[str | Path], log: Path, ready: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a daemon, to be ended by `stop`; with `ready` wait until that file exists."""
        with open(log, "ab") as file:
            process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=file,
                                       stderr=file,
                                       env=self.environment, cwd=self.scratch)
        self.daemons.append(process)
        if ready is not None:
            def there() -> bool:
                if process.poll() is not None:
                    raise Unavailable(f"{words[0]} ended: {log.read_text(errors='replace')[-2000:]}")
                return ready.exists()

            wait_for(there, f"{words[0]}, which says: {log.read_text(errors='replace')[-500:]}")
        return process

    def as_user(self, *words: str | Path) -> list[str]:
        """The command as an ordinary user, with a home of its own."""
        home = self.scratch / "user"
        if not home.exists():
            for path in (home, home / "run", home / "tmp"):
                path.mkdir(mode=0o700)
                os.chown(path, USER_ID, USER_ID)
            self.scratch.chmod(0o755)
        return ["setpriv", "--reuid", str(USER_ID), "--regid", str(USER_ID), "--init-groups", "env", "-i",
                f"PATH={PATH}",
                f"HOME={home}", f"USER={USER}", f"XDG_RUNTIME_DIR={home}/run", f"TMPDIR={home}/tmp", *map(str, words)]


def output(done: Done, words: Sequence[str | Path]) -> str:
    """What a command printed.  Raises Failed."""
    if done.code != 0:
        said = done.err.splitlines() or done.out.splitlines() or ["nothing"]
        raise Failed(f"exit {done.code}: {' / '.join(said[-3:])} ({' '.join(map(str, words))[:200]})")
    return done.out


def cgroup_file(v1: str, v2: str) -> str:
    """A shell script that prints a file of the container's own cgroup, of whichever version is there."""
    return f"cat /sys/fs/cgroup/{v1} /sys/fs/cgroup/{v2} 2>/dev/null || :"


MEMORY = cgroup_file("memory/memory.limit_in_bytes", "memory.max")
QUOTA = "(" + cgroup_file("cpu/cpu.cfs_quota_us", "cpu.max") + ") | cut -d ' ' -f 1"
