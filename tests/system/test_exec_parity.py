# SPDX-License-Identifier: Apache-2.0
"""What exec's process finds is what it finds under runc: the same process.json or options, field by field."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parity import (
    PROBE,
    Accepted,
    assert_only,
    differences,
    few_namespaces,
    fields,
    limits,
    ordinary_user,
    privileges,
    surroundings,
    user_in_a_user_namespace,
    user_namespace,
)
from support import Bundle, Host, Runtime, wait_for

# Of the process itself and of its own children; the rest (mounts, devices, sysctls) is the container's.
OWN = (PROBE.replace("cd /proc/1\n", "cd /proc/$$; section own; echo \"pid:\t$$\"\n").partition("section dev;")[0]
       + "\necho '@@ end'")
ENV = ["PATH=/bin:/usr/bin"]
PROCESS = {"cwd": "/", "args": ["sh", "-c", OWN], "env": ENV}
# runc 1.1 takes the umask of its caller; 1.2 and later the container's, as here.
UMASK = Accepted("the container's umask is the process's", r"(status/Umask|umask/1)", r"\d+", "0022")
ACCEPTED = {"the container's umask": [UMASK], "user in a user namespace": [UMASK]}


def hidden(bundle: Bundle) -> None:
    """/proc/keys is masked by default."""
    bundle.linux["maskedPaths"] = []


def plain(bundle: Bundle) -> None:
    """Nothing changed."""


def shared_pids(bundle: Bundle) -> None:
    bundle.without("pid")


def time_and_cgroup(bundle: Bundle) -> None:
    bundle.namespace("cgroup")


def oom_score(bundle: Bundle) -> None:
    bundle.process["oomScoreAdj"] = 432


def containers_umask(bundle: Bundle) -> None:
    bundle.process["user"]["umask"] = 0o27


def process_of(runtime: Runtime, bundle: Bundle, change: dict[str, Any]) -> list[str]:
    path = bundle.path / "process.json"
    path.write_text(json.dumps({**PROCESS, **change}))
    return ["--process", str(path)]


def look(runtime: Runtime, make_bundle: Callable[[str], Bundle], prepare: Callable[[Bundle], object],
         words: list[str] | dict[str, Any], options: list[str]) -> dict[str, str]:
    """What the process sees that `words` (a command line's options, or a process.json) describe."""
    bundle = make_bundle("bundle").args("sleep", "1000")
    prepare(bundle)
    container = runtime.create(bundle, *options)
    assert runtime("start", container).code == 0
    given = process_of(runtime, bundle, words) if isinstance(words, dict) else words
    command = [] if isinstance(words, dict) else ["sh", "-c", OWN]
    # Detached, so that it has our files: in the foreground runc puts pipes between.
    output = bundle.path.parent / "output"
    errors = bundle.path.parent / "errors"
    with open(output, "wb") as file, open(errors, "wb") as err:
        done = subprocess.run(runtime.command("exec", "--detach", *given, container, *command), stdout=file,
                              stderr=err, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0, errors.read_text()
    wait_for(lambda: output.read_text().endswith("\n@@ end\n"), f"the process to end: {output.read_text()}")
    seen = fields(output.read_text(), container, bundle)
    assert len({field.partition("/")[0] for field in seen}) >= 24
    own = seen["own/pid"]
    seen = {field: "ITS PID" if field.startswith(("status/", "stat/", "own/")) and value == own
            else value.replace(f"/proc/{own}", "/proc/PID") for field, value in seen.items()}
    assert runtime("delete", "--force", container).code == 0
    shutil.rmtree(bundle.path)
    output.unlink()
    return seen


EVERY = {name: ["CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN", "CAP_NET_RAW"]
         for name in ("bounding", "permitted", "effective", "inheritable", "ambient")}
CASES: dict[str, tuple[Callable[[Bundle], object], list[str] | dict[str, Any]]] = {
    "plain": (plain, []),
    "plain process.json": (plain, {}),
    "keys": (hidden, []),
    "cwd, env": (plain, ["--cwd", "/tmp", "-e", "A=1", "-e", "B=2=3", "-e", "A=4", "-e", "EMPTY="]),
    "user": (plain, ["--user", "1000", "-g", "5", "-g", "6"]),
    "user and group": (plain, ["-u", "1000:1001"]),
    "user without a passwd entry": (plain, ["-u", "777:1001"]),
    "capabilities": (plain, ["--cap", "CAP_SYS_ADMIN", "--cap", "CAP_NET_RAW", "--no-new-privs"]),
    "capabilities beside inheritable ones": (privileges, ["--cap", "CAP_SYS_CHROOT"]),
    "no new privileges taken back": (privileges, ["--no-new-privs=false"]),
    "the container's user": (ordinary_user, []),
    "the container's limits": (limits, []),
    "no limits but the container's OOM score": (limits, {}),
    "the container's capabilities": (privileges, {}),
    "the container's OOM score": (oom_score, {}),
    "the container's umask": (containers_umask, {}),
    "a process's own": (privileges, {
        "user": {"uid": 1000, "gid": 100, "additionalGids": [8, 9]}, "capabilities": EVERY, "noNewPrivileges": False,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}], "cwd": "/tmp", "env": [*ENV, "HOME="]}),
    "surroundings": (surroundings, ["-e", "UNICODE=\u00fc"]),
    "few namespaces": (few_namespaces, []),
    "shared pids": (shared_pids, []),
    "cgroup namespace": (time_and_cgroup, []),
    "user namespace": (user_namespace, []),
    "user in a user namespace": (user_in_a_user_namespace, []),
}


@pytest.mark.parametrize("case", CASES)
def test_what_it_sees_is_what_it_sees_under_runc(case: str, runtime: Runtime, make_bundle: Callable[[str], Bundle],
                                                 make_runtime: Callable[[str], Runtime], host: Host) -> None:
    prepare, words = CASES[case]
    ours = look(runtime, make_bundle, prepare, words, [])
    theirs = look(make_runtime("runc"), make_bundle, prepare, words, [])
    found = differences(ours, theirs)
    # Go's runtime raises its own soft limit to the hard one, and runc 1.1 hands that on at times.
    own, others = found.get("limits/Max open files", (None, None))
    if own and others and others == re.sub(r"^\d+ (\d+)", r"\1 \1", own):
        del found["limits/Max open files"]
    # How the root is mounted is test_parity's to compare; the parent is the runtime as long as that lives.
    assert_only({field: values for field, values in found.items()
                 if not field.startswith("mounts/") and field != "status/PPid"},
                ACCEPTED.get(case, []))


def test_a_keyring_only_where_the_container_has_one(runtime: Runtime, make_bundle: Callable[[str], Bundle],
                                                    make_runtime: Callable[[str], Runtime], host: Host) -> None:
    """--no-new-keyring of create holds for exec as well."""
    seen = [look(which, make_bundle, hidden, [], ["--no-new-keyring"]) for which in (runtime, make_runtime("runc"))]
    for found in seen:
        assert not any("_ses.ID" in field for field in found)
    control = look(runtime, make_bundle, hidden, [], [])
    assert any("_ses.ID" in field for field in control)


def test_the_control(runtime: Runtime, make_bundle: Callable[[str], Bundle], host: Host) -> None:
    """The table tells processes apart."""
    seen = look(runtime, make_bundle, plain, [], [])
    other = look(runtime, make_bundle, plain, ["-u", "1000:1001", "--cwd", "/tmp", "-e", "A=1"], [])
    changed = {field.partition("/")[0] for field in differences(seen, other)}
    assert {"status", "cwd", "environ", "id"} <= changed, changed
    assert Path("/proc/self/status").exists()
