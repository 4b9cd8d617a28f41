# SPDX-License-Identifier: Apache-2.0
"""firewalld, really running on a lab's router, with a message bus of its own.

It isn't installed, since that would start it on whoever's machine this is: its packages are unpacked, once, below
PYRUNC_TEST_CACHE or the user's cache directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netlab import Node
from support import Result, wait_for

_PACKAGES = ("firewalld", "python3-firewall", "python3-nftables")
_PYTHON = "/usr/bin/python3"  # the distribution's: it has dbus and gi
_BUS = """<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>
"""


def _unpacked() -> Path:
    cache = Path(os.environ.get("PYRUNC_TEST_CACHE")
                 or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyrunc-tests")
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / "firewalld"
    with open(cache / "firewalld.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            work = cache / "firewalld.part"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            done = subprocess.run(["apt-get", "download", *_PACKAGES], cwd=work, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            for package in work.glob("*.deb"):
                subprocess.run(["dpkg", "-x", package, work], check=True)
                package.unlink()
            work.rename(root)
    return root


class Firewalld:
    """`firewall-cmd` of one that runs."""

    def __init__(self, node: Node, root: Path, place: Path) -> None:
        self.node = node
        self.root = root
        self.place = place
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                            "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={place}/bus",
                            "PYTHONPATH": f"{root}/usr/lib/python3/dist-packages", "PYTHONDONTWRITEBYTECODE": "1"}

    def command(self, program: str, *words: str | Path) -> list[str]:
        return self.node.command(_PYTHON, self.root / program, *words)

    def do(self, *words: str) -> Result:
        done = subprocess.run(self.command("usr/bin/firewall-cmd", *words), env=self.environment, capture_output=True,
                              text=True, timeout=60)
        return Result(done.returncode, done.stdout, done.stderr)

    def __call__(self, *words: str) -> str:
        done = self.do(*words)
        assert done.code == 0, (words, done)
        return done.out.strip()


@contextmanager
def firewalld(node: Node, place: Path) -> Iterator[Firewalld]:
    """firewalld on that node, with the configuration that it comes with."""
    root = _unpacked()
    place.mkdir()
    made = Firewalld(node, root, place)
    (place / "bus.conf").write_text(_BUS.format(place / "bus"))
    shutil.copytree(root / "etc/firewalld", place / "etc")
    running = []
    with open(place / "log", "wb") as log:
        try:
            for words in (["dbus-daemon", f"--config-file={place / 'bus.conf'}", "--nofork"],
                          made.command("usr/sbin/firewalld", "--nofork", "--nopid", "--log-target=console",
                                       "--system-config", place / "etc", "--default-config",
                                       root / "usr/lib/firewalld")):
                running.append(subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *words], env=made.environment,
                                                stdin=subprocess.DEVNULL, stdout=log, stderr=log))
                wait_for((place / "bus").exists, "the message bus")
            wait_for(lambda: made.do("--state").code == 0, f"firewalld to run: {(place / 'log').read_text()}")
            yield made
        finally:
            for process in reversed(running):
                process.terminate()
                process.wait(20)
