# SPDX-License-Identifier: Apache-2.0
"""SCMP_ACT_NOTIFY: the listener handed to a real agent, which denies, lets through and makes up answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from seccomp_agents import Agent
from seccomp_probe import allowing, install, rule, seen
from support import Bundle, Host, Runtime, wait_for

UNAME, SYSINFO, GETPGRP, PIPE = "63:1", "99:1", "111", "22:1"
DENIED, MADE_UP = (0, 13, False), (4711, 0, False)

#: Calls that the runtime itself makes when the filter is there, and those that a program starts with.
ITS_OWN = ("read close openat fcntl fstat newfstatat poll ppoll nanosleep clock_nanosleep rt_sigaction rt_sigprocmask "
           "close_range prlimit64 execve exit_group sendmsg recvmsg sendto recvfrom futex getpid prctl capset clone "
           "clone3 wait4 pipe2 dup2 munmap mmap brk setsid umask chdir getcwd setuid setresuid setgroups")


@pytest.fixture
def make_agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def make(*arguments: Any, **keywords: Any) -> Agent:
        made.append(Agent(tmp_path, *arguments, **keywords))
        return made[-1]

    yield make
    for agent in made:
        agent.close()


def listening(agent: Agent | str, *rules: dict[str, Any], metadata: str = "") -> dict[str, Any]:
    path = agent if isinstance(agent, str) else str(agent.path)
    members = {"listenerPath": path, **({"listenerMetadata": metadata} if metadata else {})}
    return allowing(*(rules or (rule("uname sysinfo getpgrp", "NOTIFY"),)), **members)


@pytest.mark.parametrize("flag", [True, False], ids=["no new privileges", "new privileges"])
def test_an_agent_answers(runtime: Runtime, bundle: Bundle, host: Host, make_agent: Callable[..., Agent],
                          flag: bool) -> None:
    """config-linux.md, Seccomp: with SCMP_ACT_NOTIFY the agent decides; calls no rule names don't reach it."""
    agent = make_agent({63: DENIED, 111: MADE_UP})
    bundle.process["noNewPrivileges"] = flag
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.linux["seccomp"] = listening(agent)
    result = runtime.run(install(bundle).args("/probe", UNAME, SYSINFO, GETPGRP, PIPE))
    assert seen(result) == ["EACCES", "EFAULT", "ok 4711", "EFAULT"], result
    assert agent.seen == [63, 99, 111]
    assert agent.listeners == ["anon_inode:seccomp notify"]


def test_what_the_agent_is_told(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host,
                                make_agent: Callable[..., Agent]) -> None:
    """config-linux.md, The Container Process State: ociVersion, fds, pid, metadata, state; from create as by runc."""
    agent = make_agent()
    bundle.linux["seccomp"] = listening(agent, metadata="whose\n\u2713")
    bundle.config["annotations"] = {"a": "b"}
    install(bundle).args("sleep", "100")
    told = []
    for one in (make_runtime("runc"), runtime):
        agent.states.clear()
        container = one.create(bundle)
        wait_for(lambda: agent.states, "the listener")
        (message,) = agent.states
        pid = one.state(container)["pid"]
        assert (message["fds"], message["metadata"], message["pid"]) == (["seccompFd"], "whose\n\u2713", pid)
        state = message["state"]
        assert (state["id"], state["status"], state["pid"]) == (container, "creating", pid)
        assert state["bundle"] == str(bundle.path) and state["annotations"]["a"] == "b"
        told.append([sorted(message), sorted(state)])
        if one is runtime:
            assert one("start", container).code == 0
            assert seen(one("exec", "--pid-file", bundle.path / "pid", container, "/probe", UNAME)) == ["EFAULT"]
            second = agent.states[1]
            assert second["pid"] == int((bundle.path / "pid").read_text()) != pid
            assert second == {**message, "pid": second["pid"], "state": {**state, "status": "running"}}
        assert one("delete", "--force", container).code == 0
    assert told[0] == told[1]


@pytest.mark.parametrize("flag", [True, False], ids=["no new privileges", "new privileges"])
def test_calls_the_runtime_makes_itself(runtime: Runtime, bundle: Bundle, host: Host, make_agent: Callable[..., Agent],
                                        flag: bool) -> None:
    """No deadlock when they are left to the agent: sendmsg, close, execve and all; in create, start, exec and run."""
    agent = make_agent({63: DENIED})
    bundle.process["noNewPrivileges"] = flag
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    bundle.linux["seccomp"] = listening(agent, rule("uname " + ITS_OWN, "NOTIFY"))
    container = runtime.create(install(bundle).args("sh", "-c", "/probe 63:1; sleep 100"), output=bundle.path / "out")
    assert agent.seen  # the runtime's own, some of which `create` waits for
    assert runtime("start", container).code == 0
    wait_for(lambda: (bundle.path / "out").read_text() == "errno 13\n", "the container's output")
    result = runtime("exec", container, "/probe", UNAME)
    assert seen(result) == ["EACCES"], result
    assert len(agent.states) == 2
    assert runtime("delete", "--force", container).code == 0
    assert seen(runtime.run(bundle.args("/probe", UNAME))) == ["EACCES"]
    assert {59, 0, 3} <= set(agent.seen)  # execve, read, close


def test_no_agent(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """An agent that isn't there is an error of create and of exec, with the place in config.json; nothing is left."""
    missing = tmp_path / "nobody"
    bundle.linux["seccomp"] = listening(str(missing))
    result = runtime.run(bundle, "true")
    assert result.code == 1 and len(result.errors) == 1, result
    told = f"/linux/seccomp/listenerPath: seccomp agent {missing}: connect: no such file or directory (ENOENT)"
    assert told in result.err
    agent = Agent(tmp_path)
    bundle.linux["seccomp"] = listening(agent)
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", container).code == 0
    agent.close()
    result = runtime("exec", container, "true")
    assert result.code != 0, result
    assert f"/linux/seccomp/listenerPath: seccomp agent {agent.path}: connect" in result.err
    assert runtime.state(container)["status"] == "running"


def test_an_agent_that_hangs_up_with_the_listener(runtime: Runtime, bundle: Bundle, host: Host,
                                                   make_agent: Callable[..., Agent]) -> None:
    """CRI-O's: one recvmsg(2), then close(2), before the runtime has had time for another call on the socket."""
    agent = make_agent(hasty=True)
    bundle.linux["seccomp"] = listening(agent)
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", container).code == 0
    assert [runtime("exec", container, "true").err for _ in range(30)] == [""] * 30


def test_an_agent_that_gives_up(runtime: Runtime, bundle: Bundle, host: Host, make_agent: Callable[..., Agent]) -> None:
    """seccomp_unotify(2): without a listener calls fail with ENOSYS; nobody waits, since the runtime has no copy."""
    agent = make_agent(given=os.close)
    bundle.linux["seccomp"] = listening(agent)
    assert seen(runtime.run(install(bundle).args("/probe", UNAME, PIPE))) == ["ENOSYS", "EFAULT"]
    # And where the runtime needs the call itself, it fails with that call's name.
    bundle.linux["seccomp"] = listening(agent, rule("openat", "NOTIFY"))
    container = runtime.create(bundle.args("true"))
    runtime.wait(container)
    result = runtime("start", container)
    assert result.code == 1 and "cannot start a container that has stopped" in result.err, result


def test_a_profile_that_forbids_what_follows(runtime: Runtime, bundle: Bundle, host: Host,
                                             make_agent: Callable[..., Agent]) -> None:
    """With an agent the runtime goes on under the filter; that it can't is told by create."""
    agent = make_agent()
    bundle.linux["seccomp"] = listening(agent, rule("uname", "NOTIFY"), rule("openat"))
    result = runtime.run(bundle, "true")
    assert result.code == 1 and len(result.errors) == 1, result
    assert "/linux/seccomp: SCMP_ACT_ERRNO for openat, which the runtime needs once the agent has" in result.err
    bundle.linux["seccomp"] = listening(agent, rule("uname", "NOTIFY"), rule("openat", "LOG"))
    assert runtime.run(bundle, "true").code == 0  # the control


def test_a_listener_nobody_needs(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """listenerPath without a rule of SCMP_ACT_NOTIFY: nobody is connected to, as with runc."""
    bundle.linux["seccomp"] = listening(str(tmp_path / "nobody"), rule("uname"))
    assert runtime.run(bundle, "true").code == 0


def test_write_is_refused(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host,
                          make_agent: Callable[..., Agent]) -> None:
    """By which the listener's number reaches the parent; runc refuses it as well."""
    agent = make_agent()
    bundle.linux["seccomp"] = listening(agent, rule("write", "NOTIFY"))
    ours, theirs = runtime.run(bundle, "true"), make_runtime("runc").run(bundle, "true")
    assert ours.code == theirs.code == 1
    assert "/linux/seccomp/syscalls/0/names/0: write can't wait for the listener" in ours.err
    assert "SCMP_ACT_NOTIFY cannot be used for the write syscall" in theirs.err
    assert agent.connections == 0


def test_a_killed_container_lets_go(runtime: Runtime, bundle: Bundle, host: Host,
                                    make_agent: Callable[..., Agent]) -> None:
    """While it waits for an answer that doesn't come it can be killed and deleted."""
    kept: list[int] = []
    agent = make_agent(given=kept.append)
    bundle.linux["seccomp"] = listening(agent)
    container = runtime.create(install(bundle).args("/probe", UNAME))
    assert runtime("start", container).code == 0
    assert runtime.state(container)["status"] == "running"
    assert runtime("delete", "--force", container).code == 0
    for fd in kept:
        os.close(fd)
