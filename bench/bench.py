# SPDX-License-Identifier: Apache-2.0
"""pyrunc beside other runtimes, in one alternating run.

    python bench/bench.py --runtime pyrunc --runtime runc --runtime crun [--rounds N] [--cgroups v1] [--json FILE]

In each round every runtime, in an order that rotates, walks one container through run, and through
create, state, start, exec, kill and delete; each command is timed alone.  Alternating makes a slow moment
of the machine hit all alike.  The runtimes' state is on a tmpfs, as /run is.  Wall is what the caller
waits; CPU is what the command, and those of its children that it waited for, used (wait4(2)).  A runtime that can't
run here is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

COMMANDS = ("run", "create", "state", "start", "exec", "kill", "delete")
TMPFS = "/dev/shm"
UNIFIED = "/sys/fs/cgroup/unified"
WARM_UP = 2


class Sample(NamedTuple):
    """Milliseconds of one command."""

    wall: float
    cpu: float


class CommandFailed(Exception):
    """A command of a runtime under test did not exit with 0."""


def measure(argv: list[str], cwd: Path, output: Path, *, stdin: str = "/dev/null",
            environment: dict[str, str] | None = None) -> Sample:
    """Run one command to its end; what it says is then in `output`."""
    files = [(os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0)]
    # A file and not a pipe: the container keeps it open longer than the command lives.
    files += [(os.POSIX_SPAWN_OPEN, fd, str(output), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for fd in (1, 2)]
    output.unlink(missing_ok=True)
    os.chdir(cwd)
    started = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, os.environ if environment is None else environment, file_actions=files)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    if status:
        text = output.read_text(errors="replace").strip() if output.exists() else ""
        raise CommandFailed(f"{' '.join(argv)}: exit {os.waitstatus_to_exitcode(status)}: {text}")
    return Sample(wall * 1000, (usage.ru_utime + usage.ru_stime) * 1000)


def make_bundle(path: Path, runtime: str, args: list[str]) -> None:
    """A bundle with busybox, and the default config that `runtime` itself writes (run alike by all)."""
    binaries = path / "rootfs" / "bin"
    binaries.mkdir(parents=True)
    for name in ("proc", "sys", "dev"):
        (path / "rootfs" / name).mkdir()
    shutil.copy("/bin/busybox", binaries)
    for applet in ("true", "sleep"):
        (binaries / applet).symlink_to("busybox")
    subprocess.run([runtime, "spec"], cwd=path, check=True)
    config = json.loads((path / "config.json").read_text())
    config["ociVersion"] = "1.0.2"  # all that older releases accept
    config["process"]["terminal"] = False
    config["process"]["args"] = args
    (path / "config.json").write_text(json.dumps(config))


def round_of(runtime: str, scratch: Path, state: Path, number: int) -> dict[str, Sample]:
    """One container through `run`, another through the rest."""
    program = [runtime, "--root", str(state / runtime.replace("/", "-"))]
    name = f"bench-{os.getpid()}-{number}"
    output = scratch / "output"
    samples = {"run": measure([*program, "run", f"{name}-r"], scratch / "true", output)}
    try:
        for command, arguments in (("create", []), ("state", []), ("start", []), ("exec", ["true"]),
                                   ("kill", ["KILL"])):
            samples[command] = measure([*program, command, name, *arguments], scratch / "sleep", output)
        wait_until_stopped(program, name)
        samples["delete"] = measure([*program, "delete", name], scratch, output)
    except CommandFailed:
        subprocess.run([*program, "delete", "--force", name], capture_output=True)
        raise
    return samples


def wait_until_stopped(program: list[str], name: str) -> None:
    """Until the killed init is gone: `delete` refuses before that."""
    for _ in range(500):
        result = subprocess.run([*program, "state", name], capture_output=True)
        if json.loads(result.stdout)["status"] == "stopped":
            return
        time.sleep(0.01)
    raise CommandFailed(f"{name} does not stop")


def run_all(runtimes: list[str], rounds: int, scratch: Path, state: Path) -> dict[str, dict[str, list[Sample]]]:
    """All rounds of all runtimes; one that fails its first is dropped, with a word on why."""
    results: dict[str, dict[str, list[Sample]]] = {name: {c: [] for c in COMMANDS} for name in runtimes}
    for number in range(-WARM_UP, rounds):
        alive = list(results)
        turn = number % len(alive)
        for runtime in alive[turn:] + alive[:turn]:
            try:
                samples = round_of(runtime, scratch, state, number + WARM_UP)
            except CommandFailed as error:
                print(f"left out: {error}", file=sys.stderr)
                del results[runtime]
                continue
            if number >= 0:
                for command, sample in samples.items():
                    results[runtime][command].append(sample)
        if not results:
            sys.exit("no runtime works here")
    return results


def table(results: dict[str, dict[str, list[Sample]]]) -> str:
    """Medians and minima, and how many times the first runtime's median each other one takes."""
    lines = [f"{'':8} {'runtime':10} {'wall ms':>9} {'min':>8} {'cpu ms':>9} {'min':>8} {'wall x':>7} {'cpu x':>7}"]
    first = next(iter(results))
    for command in COMMANDS:
        for runtime, samples in results.items():
            wall, cpu = ([s[i] for s in samples[command]] for i in (0, 1))
            base_wall, base_cpu = (statistics.median(s[i] for s in results[first][command]) for i in (0, 1))
            lines.append(
                f"{command:8} {Path(runtime).name:10} {statistics.median(wall):9.2f} {min(wall):8.2f}"
                f" {statistics.median(cpu):9.2f} {min(cpu):8.2f}"
                f" {statistics.median(wall) / base_wall:7.2f} {statistics.median(cpu) / base_cpu:7.2f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runtime", action="append", required=True, help="a name or path; the first is compared to")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write all samples (wall, cpu in ms) to this file")
    parser.add_argument("--cgroups", choices=("host", "v1"), default="host",
                        help="v1: without the v2 hierarchy of a hybrid host, which crun 1.8.1 refuses")
    options = parser.parse_args()
    if options.cgroups == "v1" and os.path.ismount(UNIFIED):
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'umount "$0" && exec "$@"',
                              UNIFIED, sys.executable, *sys.argv])
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    runtimes = [shutil.which(name) for name in options.runtime]
    if None in runtimes:
        parser.error(f"no such runtime: {options.runtime[runtimes.index(None)]}")
    out = options.json and options.json.absolute()
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="pyrunc-bench-") as directory, \
            tempfile.TemporaryDirectory(prefix="pyrunc-bench-", dir=TMPFS) as state:
        scratch = Path(directory)
        found = [os.path.abspath(path) for path in runtimes if path]
        make_bundle(scratch / "true", found[0], ["true"])
        make_bundle(scratch / "sleep", found[0], ["sleep", "1000"])
        results = run_all(found, options.rounds, scratch, Path(state))
        os.chdir(here)
    print(f"{options.rounds} rounds; x: times {Path(next(iter(results))).name}'s median")
    print(table(results))
    if out:
        out.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
