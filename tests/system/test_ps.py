# SPDX-License-Identifier: Apache-2.0
"""ps: the container's processes and nobody else's, as ps(1) shows them and as JSON, as runc has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from container_cgroup import ContainerCgroup
from support import Bundle, Host, Runtime, wait_for


def running(runtime: Runtime, bundle: Bundle, script: str = "sleep 71 & sleep 72 & wait") -> str:
    container = runtime.create(bundle.args(script))
    assert runtime("start", container).code == 0
    wait_for(lambda: len(json.loads(runtime("ps", "--format", "json", container).out)) == 3, "its children")
    return container


def test_as_runc_prints_it(runtime: Runtime, bundle: Bundle, host: Host, make_runtime: Callable[[str], Runtime],
                           make_bundle: Callable[[str], Bundle]) -> None:
    """Headings and number of lines; the commands by name."""
    runc = make_runtime("runc")
    ours = running(runtime, bundle)
    theirs = running(runc, make_bundle("other"))
    for words in ((), ("-o", "pid,args"), ("-aux",), ("aux",)):
        one, two = runtime("ps", ours, *words), runc("ps", theirs, *words)
        assert (one.code, two.code) == (0, 0), (one, two)
        assert one.lines[0].split() == two.lines[0].split()
        assert len(one.lines) == len(two.lines) == 4
        for word in ("sleep 71", "sleep 72"):
            for result in (one, two):
                assert sum(line.endswith(word) for line in result.lines) == 1
    for each, container in ((runtime, ours), (runc, theirs)):
        result = each("ps", "--format", "json", container)
        assert len(json.loads(result.out)) == 3 and result.out.count("\n") == 1
    runc.clean_up()


def test_json_is_the_pids(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = running(runtime, bundle)
    pids = json.loads(runtime("ps", "-f", "json", container).out)
    assert runtime.state(container)["pid"] in pids
    assert sorted(Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids) == ["sh", "sleep", "sleep"]


def test_those_of_sub_cgroups_and_without_a_pid_namespace(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = running(runtime, bundle.without("pid"))
    pids = json.loads(runtime("ps", "-f", "json", container).out)
    below = ContainerCgroup(pids[0]).file("freezer/below", "below")
    below.mkdir()
    (below / "cgroup.procs").write_text(str(pids[-1]))
    assert json.loads(runtime("ps", "-f", "json", container).out) == pids
    assert len(runtime("ps", container).lines) == 4


def test_options_are_passed_on(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    container = running(runtime, bundle)
    for words in ((container,), (container, "--"), ("--", container)):
        result = runtime("ps", *words, "-o", "pid,comm", "-e")
        assert result.code == 0 and result.lines[0].split() == ["PID", "COMMAND"], result
        assert sorted(line.split()[1] for line in result.lines[1:]) == ["sh", "sleep", "sleep"]


@pytest.mark.parametrize(("words", "expected"), [
    (("-o", "comm"), "couldn't find PID field in ps output"),
    (("--no-such-option",), "ps: exit status 1: "),
    (("-o", "comm,pid"), ""),
], ids=["no pid", "unknown option", "pid last"])
def test_what_ps_says(runtime: Runtime, bundle: Bundle, host: Host, words: tuple[str, ...], expected: str) -> None:
    container = running(runtime, bundle)
    result = runtime("ps", container, *words)
    assert result.code == (1 if expected else 0), result
    assert expected in result.err and len(result.errors) == (1 if expected else 0)


def test_a_stopped_container_has_none(runtime: Runtime, bundle: Bundle, host: Host,
                                      make_runtime: Callable[[str], Runtime]) -> None:
    """As runc: a heading and nothing below, null in JSON."""
    for each in (runtime, make_runtime("runc")):
        container = each.create(bundle.args("true"))
        assert each("start", container).code == 0
        each.wait(container)
        assert each("ps", "--format", "json", container).out == "null\n"
        assert len(each("ps", container).lines) == 1
        each.clean_up()


def test_mistakes_of_ps(runtime: Runtime, tmp_path: Path) -> None:
    assert "invalid format option" in runtime("ps", "--format", "xml", "web").err
    assert runtime("ps", "web").errors == ["pyrunc: ps web: container does not exist"]
    assert "the argument <container-id> is missing" in runtime("ps").err
