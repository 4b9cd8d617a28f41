# SPDX-License-Identifier: Apache-2.0
"""exec beside everything else that is done to the container at that moment."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest
from support import Bundle, Host, Result, Runtime, wait_for

ALLOWED = ("cannot exec in a stopped container", "container does not exist", "cannot exec in a creating container")


def explained(result: Result) -> bool:
    """It has run, or was killed with the container, or the container's end is what is told."""
    if result.code in (0, 137):
        return not result.err
    return result.code == 255 and len(result.errors) == 1 and any(text in result.err for text in ALLOWED)


class Execs(threading.Thread):
    """One exec after the other until `ended` is set, and one more."""

    def __init__(self, runtime: Runtime, container: str, options: list[str]) -> None:
        super().__init__()
        self.runtime = runtime
        self.words = ["exec", *options, container, "true"]
        self.ended = threading.Event()
        self.results: list[Result] = []
        self.start()

    def run(self) -> None:
        last = False
        while not last:
            last = self.ended.is_set()
            self.results.append(self.runtime(*self.words))

    def finish(self) -> list[Result]:
        self.ended.set()
        self.join()
        return self.results


@pytest.mark.parametrize("detach", [False, True], ids=["foreground", "detached"])
@pytest.mark.parametrize("namespace", ["own pids", "host's pids"])
def test_kill_and_delete_meanwhile(runtime: Runtime, bundle: Bundle, host: Host, long: bool, namespace: str,
                                   detach: bool) -> None:
    """Whatever comes first, nothing is left of the process (`host` looks), and each exec tells the truth."""
    if namespace != "own pids":
        bundle.without("pid")
    codes = set()
    for turn in range(40 if long else 6):
        container = runtime.create(bundle.args("sleep", "1000"))
        assert runtime("start", container).code == 0
        threads = [Execs(runtime, container, ["--detach"] if detach else []) for _ in range(2)]
        time.sleep(0.02 * turn)
        if turn % 2:
            assert runtime("kill", container, "KILL").code == 0
        assert runtime("delete", "--force", container).code == 0
        results = [result for thread in threads for result in thread.finish()]
        assert [result for result in results if not explained(result)] == []
        codes |= {result.code for result in results}
    assert 255 in codes  # the control: the last of each turn came too late


def test_the_program_ends_by_itself_meanwhile(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """With its pid namespace, which takes no new process while it dies (fork(2): ENOMEM)."""
    bundle.args("trap 'exit 0' TERM; while :; do sleep 0.01; done")
    for _ in range(5):
        container = runtime.create(bundle)
        assert runtime("start", container).code == 0
        running = [subprocess.Popen(runtime.command("exec", container, "sleep", "100"), stdin=subprocess.DEVNULL,
                                    stderr=subprocess.PIPE, text=True) for _ in range(4)]
        assert runtime("kill", container, "TERM").code == 0
        for process in running:
            _, err = process.communicate(timeout=30)
            assert explained(Result(process.returncode, "", err)), (process.returncode, err)
        runtime.wait(container)
        assert runtime("delete", container).code == 0


def test_many_at_once(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Each gets its own exit code and output."""
    container = runtime.create(bundle.args("sleep", "1000"))
    assert runtime("start", container).code == 0
    running = [subprocess.Popen(runtime.command("exec", container, "sh", "-c", f"echo {number}; exit {number}"),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) for number in range(16)]
    for number, process in enumerate(running):
        assert (process.communicate(timeout=60)[0], process.returncode) == (f"{number}\n", number)
    assert runtime("ps", "--format", "json", container).out.count(",") == 0


def test_pause_meanwhile(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """An exec that the pause catches half-way goes on when the container does; one that comes later is refused."""
    container = runtime.create(bundle.args("sleep", "1000"))
    assert runtime("start", container).code == 0
    running = [subprocess.Popen(runtime.command("exec", container, "echo", "through"), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    assert runtime("pause", container).code == 0
    time.sleep(0.3)
    assert runtime("resume", container).code == 0
    for process in running:
        out, err = process.communicate(timeout=60)
        if process.returncode:
            assert process.returncode == 255 and "cannot exec in a paused container" in err, err
        else:
            assert out == "through\n"


def test_the_processes_die_with_a_container_that_shares_its_pids(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Without a pid namespace nobody but the cgroup knows them."""
    container = runtime.create(bundle.without("pid").args("sleep", "1000"))
    assert runtime("start", container).code == 0
    running = [subprocess.Popen(runtime.command("exec", container, "sleep", "900")) for _ in range(3)]
    # Not how many there are: who gets an exec ready is in the cgroup as well.
    wait_for(lambda: runtime("ps", container).out.count("sleep 900\n") == 3, "the programs")
    assert runtime("delete", "--force", container).code == 0
    assert [process.wait(20) for process in running] == [137] * 3
