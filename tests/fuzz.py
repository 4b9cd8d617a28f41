# SPDX-License-Identifier: Apache-2.0
"""Mutated config.json documents, driven through the commands: the program of tests/system/test_fuzz_config.py.

    unshare --mount --uts --ipc --net --pid --fork --mount-proc python tests/fuzz.py DIR SEED FIRST COUNT [CODE]

It is the first process of namespaces of its own, where all but DIR (a tmpfs), /proc and the cgroups is
read-only: a document may ask for anything, and none may reach the host.  What a document must keep is put
right after it was mutated: its root lies in DIR, what it binds is there or harmless, and its cgroup is below
the test's.  The commands run in forks of this process, with all of pyrunc but the launcher.

A line of JSON for each document that breaks a rule, and one with figures at the end.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
SECONDS = 60.0  # for a command; a machine can be busy
TRUE = {"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 20}
RUNTIME_DEFECTS = re.compile(r"Traceback|internal error|\[Errno|Fatal Python|: \w*(?:Error|Exception|Exit)(?:\(|: )|"
                             r"expected the message|malformed|init exited with status")
PLACES = ("/proc", "/sys", "/dev/null", "/etc/hosts")

NUMBERS = (0, 1, -1, 2, 7, 127, 255, 256, 4095, 65535, 65536, 2**31 - 1, 2**31, -2**31, 2**32 - 1, 2**32, 2**53,
           2**63 - 1, 2**63, -2**63, 2**64 - 1, 2**64, 10**30, 0.5, -0.0, 1e3, 1e308, 1.0)
STRINGS = ("", " ", "a", "0", "-1", "true", "null", "rootfs", "x" * 300, "x" * 5000, "é", "\u202e\u2066",
           "\U0001f600" * 9, "\x00", "a\x00b", "\n", "a\nb", "\x1b[31m", "\u0085", "%s%n", "{}", "$(id)",
           "a=b", "=", "~0~1/", "\ud800",
           "tmpfs", "bind", "rw", "ro", "rshared", "CAP_SYS_ADMIN", "SCMP_ACT_KILL", "user", "mount", "1.0.2", "true")
PATHS = ("/", ".", "..", "/..", "/../../etc", "//", "/proc", "/proc/self", "/proc/self/fd/3", "/proc/self/exe",
         "/proc/self/ns/net", "/proc/self/ns/mnt", "/proc/1/root", "/sys", "/sys/fs/cgroup", "/dev", "/dev/null",
         "/etc/passwd", "/a/" * 60, "/" + "n" * 255, "/" + "n" * 256, "/" + "d/" * 2100, "/link", "/loop",
         "/etc/passwd/x", "/proc/sys", "/dev/pts", "/tmp/./../tmp", "relative/path", "/\n", "/é", "/with space",
         "/bin/true", "/none")


def base(directory: str, user_namespace: bool) -> dict[str, Any]:
    """A valid document that uses every part of the specification that can be used here."""
    default = json.loads(Path(f"{directory}/bundle/default.json").read_text())
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup", "time")]
    config: dict[str, Any] = {
        **default,
        "hostname": "fuzz",
        "domainname": "example",
        "annotations": {"org.example": "value", "a": "b"},
        "hooks": {kind: [copy.deepcopy(TRUE)] for kind in HOOKS},
        "process": {**default["process"], "terminal": False, "args": ["true"],
                    "user": {"uid": 7, "gid": 8, "umask": 18, "additionalGids": [9, 10]},
                    "env": ["PATH=/bin", "A=b"], "cwd": "/tmp", "oomScoreAdj": 100, "noNewPrivileges": True,
                    "consoleSize": {"height": 24, "width": 80},
                    "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                                {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}],
                    "scheduler": {"policy": "SCHED_BATCH", "nice": 3, "flags": []},
                    "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
                    "execCPUAffinity": {"initial": "0", "final": "0"}},
        "root": {"path": "rootfs", "readonly": False},
        "mounts": [*default["mounts"],
                   {"destination": "/mnt", "type": "bind", "source": f"{directory}/source",
                    "options": ["rbind", "ro", "nosuid"]},
                   {"destination": "/etc/hosts", "type": "none", "source": f"{directory}/file", "options": ["bind"]},
                   {"destination": "/tmp/deep/er", "type": "tmpfs", "source": "tmpfs",
                    "options": ["size=64k", "mode=755", "tmpcopyup", "rslave"]}],
    }
    linux = config["linux"]
    linux.update({
        "namespaces": namespaces, "cgroupsPath": "/here", "rootfsPropagation": "slave",
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmni": "1000"},
        "timeOffsets": {"monotonic": {"secs": 100, "nanosecs": 5}, "boottime": {"secs": 7}},
        "personality": {"domain": "LINUX", "flags": []},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
        "devices": [{"path": "/dev/fuzz", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0},
                    {"path": "/dev/fifo", "type": "p"}],
        "resources": {"devices": [{"allow": False, "access": "rwm"},
                                  {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}],
                      "memory": {"limit": 1 << 28, "reservation": 1 << 27, "swap": 1 << 29},
                      "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
                      "pids": {"limit": 50}, "blockIO": {"weight": 100}},
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
                    "syscalls": [{"names": ["acct", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                                  "args": [{"index": 0, "value": 5, "op": "SCMP_CMP_EQ"}]}]},
    })
    if user_namespace:
        namespaces.append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            linux[key] = [{"containerID": 0, "hostID": 0, "size": 1000},
                          {"containerID": 1000, "hostID": 100000, "size": 10}]
        for key in ("timeOffsets", "devices"):
            del linux[key]
    return config


# Mutations

def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value below `value`."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += nodes(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += nodes(item, (*path, index))
    return found


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def anything(rng: random.Random) -> Any:
    kind = rng.randrange(9)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind < 4:
        return rng.choice(STRINGS)
    if kind < 6:
        return rng.choice(PATHS)
    return rng.choice(([], {}, None, True, False, [None], [[]], {"": {}}, [1, "a"], {"a": 1}, ["a"] * 2000))


def nested(depth: int, rng: random.Random) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def mutate(config: dict[str, Any], rng: random.Random) -> None:
    """One change of the document."""
    path = rng.choice(nodes(config))
    parent, key = at(config, path[:-1]), path[-1]
    old = parent[key]
    change = rng.randrange(-3, 14)
    if change < 4:  # something near by its kind
        if isinstance(old, bool):
            parent[key] = not old
        elif isinstance(old, int):
            parent[key] = rng.choice((old + 1, -old, old * 1000, old << 32, rng.choice(NUMBERS)))
        elif isinstance(old, str):
            parent[key] = rng.choice((old + rng.choice(STRINGS), old.upper(), old[1:], old * 300, rng.choice(PATHS),
                                      rng.choice(STRINGS)))
        elif isinstance(old, list) and old:
            parent[key] = rng.choice((old + old, old[::-1], old[:1], old * rng.choice((3, 400)),
                                      [*old, anything(rng)]))
        elif isinstance(old, dict) and old:
            items = list(old.items())
            rng.shuffle(items)
            parent[key] = dict(items[:rng.randrange(len(items) + 1)])
    elif change < 6:
        parent[key] = anything(rng)
    elif change < 8:
        if isinstance(parent, dict):
            del parent[key]
        else:
            parent.pop(key)
    elif change == 8 and isinstance(old, dict):
        old[rng.choice((*STRINGS, "path", "type", "options", "uid", "source"))] = anything(rng)
    elif change == 9:
        parent[key] = nested(rng.choice((3, 63, 64, 65, 2000)), rng)
    elif change == 10:  # something of the document in another place
        parent[key] = copy.deepcopy(at(config, rng.choice(nodes(config))))
    elif change == 11 and isinstance(old, list):
        old.insert(rng.randrange(len(old) + 1), copy.deepcopy(rng.choice(old)) if old else anything(rng))
    elif change == 12 and isinstance(parent, dict):
        parent[rng.choice((str(key).upper(), f"{key} ", f"x{key}"))] = parent.pop(key)
    else:
        other = rng.choice(nodes(config))
        holder = at(config, other[:-1])
        if path[:len(other)] != other and other[:len(path)] != path:
            parent[key], holder[other[-1]] = holder[other[-1]], old


def confine(config: Any, directory: str, number: int) -> None:
    """What keeps the host out of it."""
    if not isinstance(config, dict):
        return
    root, linux, mounts = config.get("root"), config.get("linux"), config.get("mounts")
    hooks = config.get("hooks")
    for programs in hooks.values() if isinstance(hooks, dict) else ():
        if isinstance(programs, list):
            del programs[40:]  # they are run, one after the other
    if isinstance(root, dict) and isinstance(root.get("path"), str):
        try:
            real = os.path.realpath(os.path.join(f"{directory}/bundle", root["path"]))
        except (ValueError, UnicodeEncodeError, OSError):
            real = directory + "/refused"
        if not real.startswith(directory + "/"):
            root["path"] = "rootfs"
    if isinstance(linux, dict) and isinstance(linux.get("cgroupsPath"), str):
        linux["cgroupsPath"] = f"/pyrunc-fuzz-{os.path.basename(directory)}/{number}"
    for mount in mounts if isinstance(mounts, list) else ():
        if isinstance(mount, dict) and isinstance(mount.get("source"), str) and mount["source"].startswith("/"):
            source = mount["source"]
            if not source.startswith(directory) and source not in PLACES:
                mount["source"] = f"{directory}/source"


def document(directory: str, number: int, seed: int) -> bytes:
    """The mutated document of that number."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(50_000)  # ours alone: pyrunc has to do with Python's own
    try:
        return _document(directory, number, seed)
    finally:
        sys.setrecursionlimit(limit)


def _document(directory: str, number: int, seed: int) -> bytes:
    rng = random.Random(f"{seed} {number}")
    config: Any = base(directory, rng.random() < 0.2)
    # A document with all of it fails early; with less it comes further.
    for part, always in ((config["linux"], ("namespaces", "uidMappings", "gidMappings")), (config["hooks"], ()),
                         (config["process"], ("args", "cwd", "env", "user"))):
        for key in rng.sample(sorted(part), rng.randrange(len(part) + 1)):
            if key not in always:
                del part[key]
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 2, 4))):
        mutate(config, rng)
    confine(config, directory, number)
    text = json.dumps(config, ensure_ascii=rng.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass")
    raw = rng.randrange(20)
    if raw == 0:
        data = data[:rng.randrange(len(data))]
    elif raw == 1:  # a name twice
        place = [match.start() for match in re.finditer(rb'"\w+": ', data)]
        start = rng.choice(place)
        data = data[:start] + b'"hostname": "twice", "hostname": "twice", ' + data[start:]
    elif raw == 2:
        place = rng.randrange(len(data))
        data = data[:place] + rng.randbytes(rng.randrange(1, 5)) + data[place + 2:]
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            return data
        confine(parsed, directory, number)  # it may have become another path
        data = json.dumps(parsed).encode()
    return data


# Driving it

class Driver:
    """Commands in forks of this process, each looked at."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.root = f"{directory}/state"
        self.bundle = f"{directory}/bundle"
        self.name = f"fuzz-{os.path.basename(directory)}"  # of the container, and of its cgroup by default
        self.figures: dict[str, Any] = {"documents": 0, "created": 0, "started": 0, "refused": 0, "slowest": 0.0}
        self.before = self.host()

    def host(self) -> dict[str, list[str]]:
        name = f"pyrunc-fuzz-{os.path.basename(self.directory)}"
        cgroups = [path for path, _, _ in os.walk("/sys/fs/cgroup")
                   if name in path or os.path.basename(path) == self.name]
        own = str(os.getpid())
        return {
            "mounts": sorted(" ".join(line.split()[3:6])
                             for line in Path("/proc/self/mountinfo").read_text().splitlines()),
            "cgroups": [path for path in cgroups if not path.endswith(name)],
            "processes": [entry for entry in os.listdir("/proc") if entry.isdigit() and entry != own],
            "state": os.listdir(self.root),
            "descriptors": os.listdir("/proc/self/fd"),
        }

    def run(self, *words: str) -> tuple[int | None, str]:
        """(the exit code, the errors); no code when it took too long."""
        with open(f"{self.directory}/err", "w+b") as err, open(f"{self.directory}/out", "wb") as out:
            pid = os.fork()
            if pid == 0:
                try:
                    os.setsid()
                    null = os.open("/dev/null", os.O_RDONLY)
                    for number, fd in enumerate((null, out.fileno(), err.fileno())):
                        os.dup2(fd, number)
                    from pyrunc.cli import main

                    code = main(["--root", self.root, *words])
                    sys.stdout.flush()
                    os._exit(code)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                os._exit(99)
            started = time.monotonic()
            pidfd = os.pidfd_open(pid)
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            ended = poller.poll(SECONDS * 1000)
            os.close(pidfd)
            if not ended:
                os.kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            took = time.monotonic() - started
            if took > self.figures["slowest"]:
                self.figures.update(slowest=took, slowest_was=f"{words[0]}, document {self.figures['documents']}")
            err.seek(0)
            return (code if ended else None), err.read().decode(errors="replace")

    def reap(self) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def one(self, data: bytes) -> list[str]:
        """The rules that this document breaks."""
        Path(f"{self.bundle}/config.json").write_bytes(data)
        self.figures["documents"] += 1
        broken: list[str] = []
        explained, said = self.run("explain", "--bundle", self.bundle)
        broken += self.judge("explain", explained, said)
        created, said = self.run("create", "--bundle", self.bundle, self.name)
        broken += self.judge("create", created, said)
        if explained and not created:
            broken.append("explain refuses what create takes")
        if created == 0:
            self.figures["created"] += 1
            code, said = self.run("start", self.name)
            broken += self.judge("start", code, said)
            self.figures["started"] += code == 0
            code, said = self.run("delete", "--force", self.name)
            broken += self.judge("delete", code, said)
            if code:
                broken.append(f"delete: {said}")
        else:
            self.figures["refused"] += 1
            if os.listdir(self.root):
                broken.append(f"create left its state: {said}")
                self.run("delete", "--force", self.name)
        deadline = time.monotonic() + 10
        while True:
            self.reap()
            now = self.host()
            if now == self.before:
                break
            if time.monotonic() > deadline:
                changed = {key: (self.before[key], now[key]) for key in now if now[key] != self.before[key]}
                broken.append(f"the host has changed: {changed}"[:2000])
                self.before = now
                break
            time.sleep(0.01)
        return broken

    @staticmethod
    def judge(what: str, code: int | None, said: str) -> list[str]:
        """Ended in time, by itself, with one line of error where it failed, and that no defect."""
        lines = [line for line in said.splitlines() if not line.startswith("pyrunc: warning: ")]
        if code is None:
            return [f"{what} hangs: {said[:300]}"]
        if code not in (0, 1):
            return [f"{what} ends with {code}: {said[-1500:]}"]
        if len(lines) != (code == 1):
            return [f"{what}: {len(lines)} lines of error: {said[-1500:]}"]
        if RUNTIME_DEFECTS.search(said):
            return [f"{what}: {said[-1500:]}"]
        return []


def prepare(directory: str) -> None:
    """The tmpfs, the bundle on it, and everything else read-only."""
    sys.path.insert(0, str(Path(__file__).parent))
    from support import make_rootfs

    from pyrunc.linux import mount as k
    from pyrunc.spec.default import default_config

    k.mount(None, "/", None, k.MS_PRIVATE | k.MS_REC)
    k.mount("tmpfs", directory, "tmpfs", 0)
    for place, clear in (("/", False), (directory, True), ("/proc", True), ("/sys/fs/cgroup", True)):
        fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
        if clear:
            k.mount_setattr(fd, recursive=True, clear=k.MOUNT_ATTR_RDONLY)
        else:
            k.mount_setattr(fd, recursive=True, set_=k.MOUNT_ATTR_RDONLY)
        os.close(fd)
    for name in ("state", "bundle", "source/sub"):
        os.makedirs(f"{directory}/{name}")
    Path(f"{directory}/file").write_text("bound")
    rootfs = make_rootfs(Path(f"{directory}/bundle/rootfs"))
    (rootfs / "link").symlink_to("/proc/self")
    (rootfs / "loop").symlink_to("loop")
    config = default_config()
    Path(f"{directory}/bundle/default.json").write_text(json.dumps(config))
    shutil.copy(f"{directory}/bundle/default.json", f"{directory}/bundle/config.json")


def main() -> None:
    directory, seed, first, count = sys.argv[1], *map(int, sys.argv[2:5])
    prepare(directory)
    # All that the commands need, so that a fork has it.
    import pyrunc.cli.create
    import pyrunc.cli.delete
    import pyrunc.cli.explain
    import pyrunc.cli.start
    import pyrunc.creation
    import pyrunc.explain
    import pyrunc.spec.check_linux
    import pyrunc.spec.explain  # noqa: F401

    if sys.argv[5:]:
        exec(sys.argv[5])  # a defect, for the control: are they found?
    driver = Driver(directory)
    for number in range(first, first + count):
        data = document(directory, number, seed)
        for broken in driver.one(data):
            print(json.dumps({"number": number, "broken": broken, "document": data.decode(errors="replace")[:20000]}),
                  flush=True)
    for path, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if name == f"pyrunc-fuzz-{os.path.basename(directory)}":  # above the containers' cgroups, and empty
                os.rmdir(os.path.join(path, name))
    print(json.dumps(driver.figures), flush=True)


if __name__ == "__main__":
    main()
