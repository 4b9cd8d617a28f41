# SPDX-License-Identifier: Apache-2.0
"""What machines are made of is fetched once and kept: below PYRUNC_VM_CACHE, or the user's cache directory."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from conformance.vm.errors import Unavailable


def directory() -> Path:
    place = os.environ.get("PYRUNC_VM_CACHE")
    path = Path(place) if place else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyrunc-vm"
    path.mkdir(parents=True, exist_ok=True)
    return path


def keep(name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` of the cache, filled by `make` the first time, and whole or not there."""
    path = directory() / name
    with open(directory() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            work = path.with_name(f"{name}.part")
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            make(work)
            work.rename(path)
    return path


def command(*words: str | Path, cwd: Path | None = None, timeout: float = 900) -> str:
    """Run a tool of the host that fetches or builds; when it can't, there is no machine."""
    try:
        done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True, timeout=timeout)
    except FileNotFoundError:
        raise Unavailable(f"{words[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{words[0]} took more than {timeout:g} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unavailable(f"{words[0]} {words[1]}: {said[-1] if said else f'exit status {done.returncode}'}")
    return done.stdout


def codename() -> str:
    """Debian's name of the release that this is: the machines are of the same, for the interpreter's sake."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    if release.get("ID") != "debian":
        raise Unavailable("the machines are made on Debian")
    return release["VERSION_CODENAME"]
