# SPDX-License-Identifier: Apache-2.0
"""What each command imports, and what the container's init touches once it has entered its root.

An import costs CPU time at each start of a container; after the root is entered it would run the image's code.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import netlab
import pytest
from support import Bundle, Host, Runtime

#: Slow to import, or of no use in a process that is about to become a container.
FORBIDDEN = frozenset((
    "typing", "re", "enum", "json", "dataclasses", "argparse", "subprocess", "socket", "pathlib", "collections",
    "functools", "contextlib", "logging", "ctypes", "tempfile", "shutil", "datetime", "traceback", "asyncio", "signal",
    "jsonschema", "pyroute2", "prctl", "struct", "inspect", "threading", "warnings", "random", "uuid", "site",
    "difflib", "string", "textwrap", "operator", "keyword", "copy", "glob", "fnmatch", "hashlib", "platform",
))
#: Written in C, or next to nothing, or part of `os`.
ALLOWED = frozenset((
    "_json", "_signal", "_socket", "_struct", "_stat", "errno", "fcntl", "gc", "select", "time", "posix", "pwd",
    "__future__", "math", "os", "os.path", "posixpath", "genericpath", "stat", "_collections_abc", "abc", "_abc",
))
ENTRY = {"pyrunc", "pyrunc._version", "pyrunc.cli", "pyrunc.cli.options", "pyrunc.errors", "pyrunc.log", "pyrunc.spec",
         "pyrunc.spec.load"}
#: What a command needs beside the entry: of the modules of the creating side nothing gets in here.
LIFECYCLE = {"pyrunc.cgroup", "pyrunc.cgroupfs", "pyrunc.cgroupv1", "pyrunc.cgroupv2",
             "pyrunc.lifecycle", "pyrunc.limits", "pyrunc.linux", "pyrunc.linux._syscall",
             "pyrunc.linux.fs", "pyrunc.linux.nr", "pyrunc.linux.process", "pyrunc.linux.syscall",
             "pyrunc.paths", "pyrunc.signals", "pyrunc.state"}
HOOKS = {"pyrunc.hooks"}
STATS = {"pyrunc.events", "pyrunc.stats", "pyrunc.stats_v1", "pyrunc.stats_v2"}
VALIDATING = {"pyrunc.spec._validator", "pyrunc.spec.check", "pyrunc.spec.check_linux"}
UPDATING = {"pyrunc.control", "pyrunc.resources", "pyrunc.limits", "pyrunc.device_rules"}
#: What goes into a container, and nothing of what makes one (creation, init, mounts, devices).
ENTERING = {"pyrunc.capabilities", "pyrunc.channel", "pyrunc.console", "pyrunc.doors", "pyrunc.entering",
            "pyrunc.execution", "pyrunc.foreground", "pyrunc.handover", "pyrunc.joining", "pyrunc.linux.mount",
            "pyrunc.mountopts", "pyrunc.namespaces", "pyrunc.options", "pyrunc.passwd", "pyrunc.process",
            "pyrunc.rlimits", "pyrunc.rootfs", "pyrunc.scheduling"}
COMMANDS: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "version": (("--version",), set()),
    "state": (("state", "{id}"), LIFECYCLE),
    "start": (("start", "{id}"), LIFECYCLE | HOOKS | {"pyrunc.starting"}),
    "kill": (("kill", "{id}", "KILL"), LIFECYCLE),
    "delete": (("delete", "--force", "{id}"), LIFECYCLE),
    "pause": (("pause", "{id}"), LIFECYCLE | {"pyrunc.control"}),
    "resume": (("resume", "{id}"), LIFECYCLE | {"pyrunc.control"}),
    "ps": (("ps", "--format", "json", "{id}"), LIFECYCLE | {"pyrunc.control"}),
    "events": (("events", "--stats", "{id}"), LIFECYCLE | STATS),
    "exec": (("exec", "{id}", "true"), LIFECYCLE | VALIDATING | ENTERING),
    "update": (("update", "--pids-limit", "9", "{id}"), LIFECYCLE | VALIDATING | UPDATING),
}
#: The parts that only a creating command may load.
CREATING = ("pyrunc.creation", "pyrunc.init", "pyrunc.rootfs", "pyrunc.mounts", "pyrunc.process", "pyrunc.namespaces")

SITE_PACKAGES = sysconfig.get_path("platlib")
ISOLATED = (sys.executable, "-I", "-S", "-P", "-B", "-X", "utf8")

TABLE = """
import sys
sys.path.append(sys.argv[1])
from pyrunc.cli import main
before = set(sys.argv[2].split())
status = main(sys.argv[4:])
with open(sys.argv[3], "w") as file:
    file.write("\\n".join(sorted(set(sys.modules) - before)))
sys.stdout.flush()
sys.exit(status)
"""

#: Shared memory needs no descriptor, which the init would close, and no path, which the root would hide.
AUDIT = """
import mmap, os, sys
sys.path.append(sys.argv[1])
from pyrunc import entering, init, rootfs
from pyrunc.cli import main

shared = mmap.mmap(-1, 1 << 20)
shared[:8] = (8).to_bytes(8, "little")
entered = False

def note(text):
    at = int.from_bytes(shared[:8], "little")
    line = text.encode() + b"\\n"
    shared[at:at + len(line)] = line
    shared[:8] = (at + len(line)).to_bytes(8, "little")

def hook(event, arguments):
    if entered and (event in ("open", "import", "exec", "compile", "ctypes.dlopen", "os.listdir", "os.scandir",
                              "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen")):
        note(f"{event} {str(arguments[0]) if arguments else ''}".strip())

def pivot(root, enter=rootfs.pivot):
    global entered
    enter(root)
    entered = True
    note("entered")

def main_of_exec(plan, enter=entering.main):
    global entered
    entered = True  # its namespaces are joined from here on
    note("entered")
    enter(plan)

rootfs.pivot = pivot
entering.main = main_of_exec
sys.addaudithook(hook)
status = main(sys.argv[3:])
with open(sys.argv[2], "wb") as file:
    file.write(shared[8:int.from_bytes(shared[:8], "little")])
os._exit(status)
"""


def baseline() -> set[str]:
    """What an isolated interpreter has before the first line of ours."""
    done = subprocess.run([*ISOLATED, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True,
                          check=True)
    return set(done.stdout.split())


def table(runtime: Runtime, place: Path, *words: str | Path) -> set[str]:
    """Run a command; the modules it added to the interpreter's own."""
    listed = place / "modules"
    done = subprocess.run([*ISOLATED, "-c", TABLE, SITE_PACKAGES, " ".join(baseline()), str(listed), "--root",
                           str(runtime.root), *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE if words[0] not in ("create", "run") else subprocess.DEVNULL,
                          timeout=60)
    assert done.returncode == 0, done.stderr
    return set(listed.read_text().split())


def check(modules: set[str]) -> None:
    crept_in = sorted(FORBIDDEN & modules)
    assert crept_in == []
    unknown = {name for name in modules if name.split(".")[0] != "pyrunc"} - ALLOWED
    assert sorted(unknown) == []


def test_the_control() -> None:
    """The list would find them: they are not part of a bare interpreter, but of one that imports json."""
    assert FORBIDDEN & baseline() == set()
    done = subprocess.run([*ISOLATED, "-c", "import sys, json; print(*sys.modules)"], capture_output=True, text=True,
                          check=True)
    assert {"json", "re", "enum", "functools", "collections"} <= FORBIDDEN & set(done.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_imports_of(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path, name: str) -> None:
    words, allowed = COMMANDS[name]
    container = runtime.create(bundle.args("sleep", "100")) if "{id}" in words else ""
    if name == "resume":
        assert runtime("pause", container).code == 0
    modules = table(runtime, tmp_path, *(container if word == "{id}" else word for word in words))
    check(modules)
    ours = {module for module in modules if module.startswith("pyrunc")}
    command = {f"pyrunc.cli.{name}"}
    assert sorted(ours - ENTRY - command - allowed) == []


#: What attaching a container takes: the networks' part of the package, and of the rest what any command has.
NETTING = {"pyrunc.cli.groups", "pyrunc.cli.net", "pyrunc.cli.netting", "pyrunc.linux", "pyrunc.linux._syscall",
           "pyrunc.linux.conntrack", "pyrunc.linux.netlink", "pyrunc.linux.nftables", "pyrunc.linux.nr",
           "pyrunc.linux.process", "pyrunc.linux.rtnetlink", "pyrunc.linux.syscall", "pyrunc.net",
           "pyrunc.net.attachments", "pyrunc.net.foreign", "pyrunc.net.gateways", "pyrunc.net.hosts", "pyrunc.net.ipam",
           "pyrunc.net.links", "pyrunc.net.model", "pyrunc.net.networks", "pyrunc.net.ports",
           "pyrunc.net.ruleset", "pyrunc.net.store"}


@pytest.mark.parametrize("name", ["attach", "detach"])
def test_imports_of_the_networks_commands(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          name: str) -> None:
    """Neither pyroute2 nor libnftables: an engine calls them at every start of a container."""
    with netlab.lab(tmp_path) as lab:
        monkeypatch.setenv("PYRUNC_NET_ROOT", str(lab.net_root))
        words = ("net", "attach", "one", "web", "--netns", lab.container("one").path, "-p", "80:80/udp")
        lab.pyrunc("net", "create", "web", "--ipv6")
        if name == "detach":
            lab.pyrunc(*words)
            words = ("net", "detach", "one", "web")
        with lab.router.inside():
            modules = table(runtime, tmp_path, *words)
    check(modules)
    ours = {module for module in modules if module.startswith("pyrunc")}
    assert sorted(ours - ENTRY - {f"pyrunc.cli.net_{name}"} - NETTING) == []


@pytest.mark.parametrize("name", ["create", "run"])
def test_imports_of_the_creating_commands(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                          name: str) -> None:
    modules = table(runtime, tmp_path, name, "--bundle", bundle.save(), runtime.new_id())
    check(modules)
    assert set(CREATING) <= modules
    assert "pyrunc.spec.explain" not in modules and "pyrunc.explain" not in modules


#: What a seccomp profile needs, once it is compiled: a hash, and no library.
FILTERING = {"pyrunc.seccomp", "pyrunc.seccomp_cache", "pyrunc.linux.seccomp"}


@pytest.mark.parametrize("name", ["create", "run", "exec"])
def test_imports_with_a_seccomp_profile(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                        name: str) -> None:
    """The first time libseccomp is loaded, through ctypes; from then on neither is."""
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7,
         "args": [{"index": 5, "value": int.from_bytes(os.urandom(8), "big"), "op": "SCMP_CMP_EQ"}]}]}
    container = ""
    if name == "exec":
        container = runtime.create(bundle.args("sleep", "100"))
        assert runtime("start", container).code == 0
    else:
        first = table(runtime, tmp_path, name, "--bundle", bundle.save(), runtime.new_id())
        assert {"ctypes", "pyrunc.libseccomp"} <= first
    words = (name, container, "true") if container else (name, "--bundle", bundle.save(), runtime.new_id())
    modules = table(runtime, tmp_path, *words)
    check(modules - {"_sha256", "_sha2"})
    assert modules >= FILTERING and "pyrunc.libseccomp" not in modules
    assert modules & {"_sha256", "_sha2"}


@pytest.mark.parametrize("hooks", [False, True], ids=["plain", "with a startContainer hook"])
def test_init_opens_and_imports_nothing_in_its_root(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                                    hooks: bool) -> None:
    """DESIGN, process model: after the child has changed its root nothing is imported, opened or dlopened by path.

    But for what it has to do there: the fifo and its own attributes through the procfs of the host,
    passwd below the root's descriptor, the parts that are masked, and the program.
    """
    bundle.process["args"] = ["true"]
    bundle.process["env"] = ["PATH=/bin"]
    bundle.process["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}]}
    if hooks:
        bundle.config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    trail = tmp_path / "trail"
    done = subprocess.run([*ISOLATED, "-c", AUDIT, SITE_PACKAGES, str(trail), "--root", str(runtime.root), "run",
                           "--bundle", str(bundle.save()), runtime.new_id()], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    events = trail.read_text().splitlines()
    # What it opens by name are descriptors of its own, relative to the host's /proc/self.
    told = [re.sub(r"^open fd/\d+$", "open fd/N", event) for event in events]
    hook = ["os.fork", "os.exec b'/bin/true'"] if hooks else []
    assert told == ["entered", "open fd/N", "open fd/N", *hook, "os.exec /bin/true"]


@pytest.mark.parametrize("home", [True, False], ids=["HOME given", "HOME looked up"])
def test_exec_opens_and_imports_nothing_in_the_container(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                                         home: bool) -> None:
    """From where it has joined the container's namespaces: its own attributes, the root, passwd, the program."""
    if home:
        bundle.process["env"].append("HOME=/root")
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", container).code == 0
    trail = tmp_path / "trail"
    done = subprocess.run([*ISOLATED, "-c", AUDIT, SITE_PACKAGES, str(trail), "--root", str(runtime.root), "exec",
                           container, "/bin/true"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done
    told = [re.sub(r"^open fd/\d+$", "open fd/N", event) for event in trail.read_text().splitlines()]
    # `self` is relative to the host's procfs, `fd/N` to that: a descriptor below the root, opened again to be read.
    # And before it joins: its command line is taken away.
    assert told == ["entered", "open self/stat", "open self/mem", "open self", "open /",
                    *([] if home else ["open fd/N"]), "os.exec /bin/true"]


def test_the_audit_sees_an_import(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """The control: an init that imports and opens something in its root is found out."""
    trail = tmp_path / "trail"
    defect = AUDIT.replace('note("entered")', 'note("entered"); import json; os.close(os.open("/etc/passwd", 0))')
    done = subprocess.run([*ISOLATED, "-c", defect, SITE_PACKAGES, str(trail), "--root", str(runtime.root), "run",
                           "--bundle", str(bundle.save()), runtime.new_id()], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60)
    events = trail.read_text().splitlines() if trail.exists() else []
    assert "import json" in events, (done, events)
