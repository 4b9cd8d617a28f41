# SPDX-License-Identifier: Apache-2.0
"""Who the container's processes are: users, groups, capabilities, the terminal; and who may see its state."""

from __future__ import annotations

import copy
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks import Attack
from mountinfo import mounts, of_process
from support import Bundle, Host, Runtime, wait_for

INHERITABLE = """
from pyrunc import capabilities
plain = capabilities.apply
def apply(sets, *rest):
    sets.inheritable = sets.permitted
    plain(sets, *rest)
capabilities.apply = apply
"""
#: An id is what int() makes of the text, in 32 bits.
LENIENT = """
from pyrunc.cli import exec
exec._id = lambda text, option: int(text or 0) & 0xffffffff
"""
IDS = {"1": 1, "0": 0, "1000": 1000, "4294967294": 4294967294, "4294967295": None, "4294967296": None, "01": None,
       "-1": None, "+1": None, " 1": None, "1 ": None, "0x1": None, "1_0": None, "\u0661": None, "1e3": None,
       "root": None, "alice": None, "1.0": None, "": None}


def started(victim: Runtime, bundle: Bundle) -> str:
    container = victim.create(bundle.args("sleep", "100"))
    assert victim("start", container).code == 0
    return container


@pytest.mark.attack("CVE-2026-30892", "exec -u takes a number that isn't written plainly for another user's")
def test_cve_2026_30892_the_users_of_exec(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, runc: Runtime,
                                          weakened: Callable[[str], Runtime]) -> None:
    """Exactly the id that is written, or an error: also for the group and the additional ones."""
    tried = {**{text: (number, None) for text, number in IDS.items() if text},
             **{f"7:{text}": (None if number is None else 7, number) for text, number in IDS.items()},
             ":7": (None, None), "7:7:7": (None, None), "1:2": (1, 2)}

    def other(victim: Runtime, container: str, texts: dict[str, tuple[int | None, int | None]]) -> list[str]:
        """The texts by which somebody else is found."""
        found = []
        for text, (uid, gid) in texts.items():
            result = victim("exec", "-u", text, container, "sh", "-c", "id -u; id -g")
            ids = [int(line) for line in result.lines] if result.code == 0 else None
            if ids is not None and (ids[0] != uid or (gid is not None and ids[1] != gid)):
                found.append(text)
            if victim is runtime and uid is not None and ids is None and (":" not in text or gid is not None):
                found.append(f"{text} is refused: {result.err}")
        return found

    container = started(runtime, bundle)
    assert other(runtime, container, tried) == []
    attack.on(runtime, False)
    for text, number in IDS.items():
        result = runtime("exec", "-u", "5", "--additional-gids", text, container, "grep", "^Groups:",
                         "/proc/self/status")
        if number is None:
            assert result.code == 255 and len(result.errors) == 1, (text, result)
        else:
            assert result.out.split() == ["Groups:", str(number)], (text, result)
    some = {text: (None, None) for text in ("4294967296", "-1", "01", "1_0", "\u0661", " 1")}
    attack.on(runc, bool(other(runc, started(runc, bundle), some)))
    victim = weakened(LENIENT)
    attack.on("pyrunc that lets int() read it", "4294967296" in other(victim, started(victim, bundle), some))


@pytest.mark.attack("CVE-2016-3697", "a user of the image is called 1000, and is root")
def test_cve_2016_3697_numbers_are_not_names(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                             runc: Runtime) -> None:
    (bundle.rootfs / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n1000:x:0:0::/:/bin/sh\n")
    for victim in (runtime, runc):
        bundle.process["user"] = {"uid": 0, "gid": 0}
        container = started(victim, bundle)
        result = victim("exec", "-u", "1000", container, "id", "-u")
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
        attack.on(victim, result.lines != ["1000"] or victim.run(bundle, "id -u").lines != ["1000"])
    fooled = subprocess.run(["chroot", "--userspec=1000:0", bundle.rootfs, "/bin/id", "-u"], capture_output=True,
                            text=True)
    attack.on("chroot --userspec", fooled.stdout == "0\n")


@pytest.mark.attack("CVE-2024-40635, CVE-2026-46680", "a uid of config.json beyond 32 bits becomes root")
def test_cve_2024_40635_uids_of_config_json(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                            runc: Runtime, weakened: Callable[[str], Runtime]) -> None:
    script = "id -u; id -g"

    def root(victim: Runtime, number: Any) -> bool:
        bundle.process["user"] = {"uid": number, "gid": number}
        return "0" in victim.run(bundle, script).lines

    for number in (1, 2**31 - 1, 2**31, 2**32 - 2):
        bundle.process["user"] = {"uid": number, "gid": number}
        assert runtime.run(bundle, script).lines == [str(number)] * 2
    for number in (-1, 2**32 - 1, 2**32, 2**33, 2**64, 1.5, "0", "1000", True, 10**400):
        bundle.process["user"] = {"uid": number, "gid": 0}
        result = runtime.run(bundle, script)
        assert result.code == 1 and len(result.errors) == 1 and "/process/user/uid" in result.err, (number, result)
        attack.on(runtime, root(runtime, number))
    for number in (2**32, -1, 2**31):
        attack.on(runc, root(runc, number))
    attack.on("pyrunc that takes 32 bits of it", root(weakened("""
from pyrunc.spec import _validator, check
from pyrunc import process
_validator.validate = lambda config: True
check.check = lambda config: None
plain = process.ProcessPlan.__init__
def init(self, *rest):
    plain(self, *rest)
    self.uid &= 0xffffffff
    self.gid &= 0xffffffff
process.ProcessPlan.__init__ = init
"""), 2**32))


@pytest.mark.attack("CVE-2022-29162, CVE-2022-27650, CVE-2022-24769",
                    "inheritable capabilities, which a file's own make permitted")
def test_cve_2022_29162_no_inheritable_capabilities(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                    runc: Runtime, weakened: Callable[[str], Runtime]) -> None:
    """By run, by exec and by exec --cap."""
    def found(text: str) -> dict[str, int]:
        return {name: int(mask, 16) for name, mask in re.findall(r"^(Cap\w+):\t(\w+)$", text, re.M)}

    def some(victim: Runtime) -> bool:
        status = "/proc/self/status"
        seen = [found(victim.run(bundle, f"cat {status}").out)]
        container = started(victim, bundle)
        for options in ((), ("--cap", "CAP_NET_RAW"), ("-u", "1000", "--cap", "CAP_NET_RAW")):
            seen.append(found(victim("exec", *options, container, "cat", status).out))
        if victim is runtime:  # the control: the default's three, the one more; execve takes a user's (capabilities(7))
            assert [caps["CapEff"] for caps in seen] == [0x20000420, 0x20000420, 0x20002420, 0]
            assert {caps["CapBnd"] for caps in seen} == {0x20000420, 0x20002420}
        return any(caps["CapInh"] or caps["CapAmb"] for caps in seen)

    attack.on(runtime, some(runtime))
    attack.on("pyrunc that makes them inheritable", some(weakened(INHERITABLE)))
    attack.on(runc, some(runc))


@pytest.mark.attack("CVE-2022-36109, CVE-2023-25173, CVE-2022-2989, CVE-2022-2990, CVE-2022-2995",
                    "groups that nobody asked for stay, or those asked for are missing")
@pytest.mark.parametrize("groups", [[], [7], [7, 1000, 2000000000]])
def test_cve_2022_36109_supplementary_groups_are_exact(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                       runc: Runtime, weakened: Callable[[str], Runtime],
                                                       groups: list[int]) -> None:
    """None is added, from the image's /etc/group or the caller's, and none is lost."""
    (bundle.rootfs / "etc" / "group").write_text("root:x:0:alice\nalice:x:1000:\nwheel:x:10:alice,root\n")
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": groups}

    def wrong(victim: Runtime) -> bool:
        bundle.args("grep ^Groups: /proc/self/status; id -g").save()
        seen = [victim("run", "--bundle", bundle.path, victim.new_id(), extra_groups=[77, 88])]
        container = started(victim, bundle)
        seen.append(victim("exec", container, "sh", "-c", "grep ^Groups: /proc/self/status; id -g",
                           extra_groups=[77, 88]))
        for result in seen:
            assert result.lines[1] == "1000", result
        return any({int(word) for word in result.lines[0].split()[1:]} - {1000} != set(groups) - {1000}
                   for result in seen)

    attack.on(runtime, wrong(runtime))
    attack.on(runc, wrong(runc))
    attack.on("pyrunc that leaves the groups", wrong(weakened(
        "from pyrunc.process import ProcessPlan\nProcessPlan._set_groups = lambda self: None")))


#: As runc has it: whatever the streams are, they are the user's.
GENEROUS = """
import os
from pyrunc import process
process.own_stdio = lambda fd, uid: os.fchown(fd, uid, -1)
"""


@pytest.mark.attack("streams", "a file or a device that is given to be read becomes the user's, who writes to it")
@pytest.mark.parametrize("how", ["run", "exec"])
def test_what_is_given_to_be_read_is_not_given_away(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                    runc: Runtime, weakened: Callable[[str], Runtime], tmp_path: Path,
                                                    how: str) -> None:
    """Through /proc/self/fd a file can be opened again, and then its owner counts."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    secret, device = tmp_path / "secret", tmp_path / "device"
    os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    script = "head -c 3 >/dev/null; echo taken >/proc/self/fd/0"

    def works(victim: Runtime, path: Path) -> bool:
        secret.write_text("of the host")
        for place in (secret, device):
            os.chown(place, 0, 0)
            place.chmod(0o600)
        if how == "run":
            container = victim.new_id()
            bundle.args(script).save()
            command = victim.command("run", "--detach", "--bundle", bundle.path, container)
        else:
            container = started(victim, bundle.args("sleep", "100"))
            command = victim.command("exec", "--user", "1000:1000", "--detach", container, "sh", "-c", script)
        with open(path, "rb") as file, open(tmp_path / "log", "wb") as log:
            log.truncate()
            os.fchown(log.fileno(), 0, 0)
            subprocess.run(command, stdin=file, stdout=log, stderr=log, check=True, timeout=60)
        wait_for(lambda: (tmp_path / "log").read_text() or secret.read_text() != "of the host" or
                 device.stat().st_uid, "the program to have tried")
        assert (tmp_path / "log").stat().st_uid == 1000  # the control: what it writes to is its own
        return secret.read_text() != "of the host" or path.stat().st_uid != 0

    attack.on(runtime, works(runtime, secret) or works(runtime, device))
    attack.on(runc, works(runc, secret))
    attack.on("pyrunc that gives all its streams away", works(weakened(GENEROUS), device))


@pytest.mark.attack("CVE-2024-25621, CVE-2021-41103, CVE-2021-41091", "somebody else reads a container's state")
def test_cve_2024_25621_state_is_for_its_owner_only(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                    runc: Runtime, weakened: Callable[[str], Runtime],
                                                    tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/") and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o011)

    def readable(victim: Runtime) -> bool:
        victim.root.chmod(0o755)
        old = os.umask(0)
        try:
            container = victim.create(bundle)
        finally:
            os.umask(old)
        place = victim.root / container
        if victim is runtime:
            assert stat.S_IMODE(place.lstat().st_mode) == 0o700
            assert all(path.is_fifo() or not stat.S_IMODE(path.lstat().st_mode) & 0o077 for path in place.iterdir())
        reader = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", place / "state.json"]
        return subprocess.run(reader, capture_output=True).returncode == 0

    attack.on(runtime, readable(runtime))
    attack.on(runc, readable(runc))
    attack.on("pyrunc with the modes of everyday", readable(weakened("""
import os
mkdir, opened = os.mkdir, os.open
os.mkdir = lambda path, mode=0, **rest: mkdir(path, 0o777, **rest)
os.open = lambda path, flags, mode=0, **rest: opened(path, flags, 0o666, **rest)
""")))


@pytest.mark.attack("names in /tmp (CVE-2020-5291's kind)", "another user has made the directory in /tmp that an "
                                                            "ordinary user's state goes to")
def test_a_state_root_in_tmp_is_ours(runtime: Runtime, host: Host, attack: Attack,
                                     weakened: Callable[[str], Runtime], tmp_path: Path) -> None:
    """Without XDG_RUNTIME_DIR there is no better place; what somebody else put there is not believed."""
    for path in (tmp_path, *tmp_path.parents):
        if path != Path("/") and path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o011)

    def listed(program: str, owner: int, mode: str = "777", where: str = "/tmp") -> subprocess.CompletedProcess[str]:
        state = json.dumps({"version": 1, "id": "planted", "pid": 0, "start_time": 0, "bundle": "/of/the/attacker",
                            "creator": {"pid": 0, "start_time": 1}})
        # The program may be below /tmp itself: it is executed by its descriptor there.
        script = (f"exec 9<{program}; mount -t tmpfs -o mode=1777 t /tmp; umask 0; mkdir -p /tmp/pyrunc-65534/planted; "
                  f"echo '{state}' >/tmp/pyrunc-65534/planted/state.json; chown -R {owner} /tmp/pyrunc-65534; "
                  f"chmod {mode} /tmp/pyrunc-65534; "
                  f"exec setpriv --reuid=65534 --regid=65534 --clear-groups {where} list")
        return subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-ec", script], text=True,
                              capture_output=True, env={"PATH": os.environ["PATH"]})

    path = runtime.path
    if Path(path).is_relative_to("/tmp"):
        pytest.fail("the runtime lies below /tmp, which this test hides")
    mine = listed(path, 65534, "700", path)
    assert "planted" in mine.stdout, mine  # the control: one's own is read
    foreign = [listed(path, owner, mode, path) for owner, mode in ((1, "777"), (1, "755"), (65534, "777"))]
    attack.on(runtime, any("planted" in result.stdout for result in foreign))
    for result in foreign:
        assert result.returncode == 1 and "XDG_RUNTIME_DIR" in result.stderr, result
    naive = [sys.executable, "-c", "import os; print(*os.listdir(f'/tmp/pyrunc-{os.geteuid()}'))"]
    attack.on("a program that trusts the name", "planted" in listed(
        path, 1, "777", f"{naive[0]} -c \"{naive[2]}\"").stdout)


@pytest.mark.attack("CVE-2017-5226, CVE-2019-10063", "the program types into its caller's terminal (TIOCSTI)")
@pytest.mark.parametrize("how", ["run", "exec"])
def test_cve_2017_5226_no_controlling_terminal(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                               runc: Runtime, weakened: Callable[[str], Runtime], how: str) -> None:
    """stdin is a terminal of the host's, but not the session's: whose it is /proc/PID/stat says (proc_pid_stat(5))."""
    script = ("sh", "-c", "read line </proc/self/stat; set -- ${line##*)}; echo tty $5 >/result")
    result = bundle.rootfs / "result"

    def has_it(victim: Runtime) -> bool:
        result.write_text("")
        if how == "run":
            words: list[str | Path] = ["run", "--bundle", bundle.args(*script).save(), victim.new_id()]
        else:
            words = ["exec", started(victim, bundle), *script]
        master, slave = os.openpty()
        done = subprocess.run(["setsid", "--ctty", "--wait", *victim.command(*words)], stdin=slave, stdout=slave,
                              stderr=slave, timeout=60)
        os.close(slave)
        os.close(master)
        assert done.returncode == 0 and result.read_text().startswith("tty "), (done, result.read_text())
        return result.read_text() != "tty 0\n"

    attack.on(runtime, has_it(runtime))
    attack.on(runc, has_it(runc))
    attack.on("pyrunc that stays in the session", has_it(weakened("import os\nos.setsid = lambda: None")))


@pytest.mark.attack("reused pids", "a pid in the state has been given to a process of the host's, which is signalled")
def test_a_pid_used_again_is_not_signalled(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, runc: Runtime,
                                           weakened: Callable[[str], Runtime]) -> None:
    def signalled(victim: Runtime) -> bool:
        container = victim.create(bundle)
        sleeper = subprocess.Popen(["sleep", "100"])
        path = victim.root / container / "state.json"
        whole = path.read_text()
        state = json.loads(whole)
        state["init_process_pid" if victim is runc else "pid"] = sleeper.pid
        path.write_text(json.dumps(state))
        result = victim("kill", container, "KILL")
        assert victim is not runtime or result.err.rstrip().endswith("container not running"), result
        if victim is runtime:
            assert victim.state(container)["status"] == "stopped"
        path.write_text(whole)
        try:
            return sleeper.wait(0.2) != 0
        except subprocess.TimeoutExpired:
            sleeper.kill()
            sleeper.wait()
            return False

    attack.on(runtime, signalled(runtime))
    attack.on(runc, signalled(runc))
    careless = weakened("from pyrunc.lifecycle import Container\nContainer.alive = lambda self: bool(self.pid)")
    attack.on("pyrunc without the start time", signalled(careless))
    for container in careless.ids:  # it would wait for ever for its init to be gone
        subprocess.run([runtime.path, "--root", str(careless.root), "delete", "--force", container], check=True)
    careless.ids.clear()


#: The init ends when its namespaces have been opened, and its number is another's by the time its root is.
REUSED = """
import os, time
from pyrunc.execution import Execution
before = Execution._namespaces
def namespaces(self, proc):
    joins = before(self, proc)
    self.container.kill(9)
    while self.container.alive():
        time.sleep(0.01)
    self.container.data["pid"] = os.getpid()
    return joins
Execution._namespaces = namespaces
"""
NO_SECOND_LOOK = """
Execution._gone = lambda *_: None
"""


@pytest.mark.attack("reused pids", "exec finds the root of another process, the host's, for a container without "
                                   "mounts of its own")
def test_a_root_is_the_containers(attack: Attack, bundle: Bundle, host: Host,
                                  weakened: Callable[[str], Runtime]) -> None:
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    bundle.config["mounts"] = []
    bundle.without("mount").without("pid")

    def reached(program: Runtime) -> bool:
        container = started(program, bundle)
        result = program("exec", container, "/bin/sh", "-c", "cat /proc/sys/kernel/ostype")  # the image has no /proc
        assert "Linux" in result.out or "cannot exec in a stopped container" in result.err, result
        deleted = program("delete", "--force", container)  # its root was mounted on the host
        assert deleted.code == 0, deleted
        return "Linux" in result.out

    attack.on("pyrunc", reached(weakened(REUSED)))
    attack.on("pyrunc that doesn't look again", reached(weakened(REUSED + NO_SECOND_LOOK)))


@pytest.mark.attack("CVE-2024-9676, CVE-2024-9407, CVE-2026-47262", "/etc/passwd of the image is a fifo, a device, "
                                                                    "or without end")
@pytest.mark.parametrize("how", ["run", "exec"])
def test_cve_2024_9676_the_images_passwd(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, runc: Runtime,
                                         weakened: Callable[[str], Runtime], how: str) -> None:
    """Whatever it is, the home directory is / and nobody waits for it."""
    passwd = bundle.rootfs / "etc" / "passwd"
    config = copy.deepcopy(bundle.config)

    def hangs(victim: Runtime, seconds: float) -> bool:
        bundle.config.clear()
        bundle.config.update(copy.deepcopy(config))
        try:
            if how == "run":
                result = victim("run", "--bundle", bundle.args("echo $HOME").save(), victim.new_id(), timeout=seconds)
            else:
                original = passwd.with_name("put-aside")
                passwd.rename(original)
                container = started(victim, bundle)
                original.rename(passwd)
                result = victim("exec", container, "sh", "-c", "echo $HOME", timeout=seconds)
        except subprocess.TimeoutExpired:
            return True
        assert victim is not runtime or result.lines == ["/"], result
        return False

    passwd.unlink()
    os.mkfifo(passwd)
    attack.on(runtime, hangs(runtime, 60))
    attack.on(runc, hangs(runc, 5))
    attack.on("pyrunc that just opens it", hangs(weakened("""
import os
from pyrunc import process
process.home_directory = lambda *_: open("/etc/passwd").read() if os.path.exists("/etc/passwd") else "/"
"""), 5))
    for target in ("/dev/zero", "/proc/kmsg", "/proc/self/mem", "passwd", "/"):
        passwd.unlink()
        passwd.symlink_to(target)
        attack.on(runtime, hangs(runtime, 60))
    passwd.unlink()
    with open(passwd, "wb") as file:
        file.truncate(1 << 30)
    attack.on(runtime, hangs(runtime, 60))


@pytest.mark.attack("CVE-2021-43784", "a length of the configuration overflows on its way to the init")
def test_cve_2021_43784_long_values(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, runc: Runtime,
                                    weakened: Callable[[str], Runtime]) -> None:
    """64 KiB and more of mounts, environment, arguments and errors: it works, or is one clear line."""
    bundle.process["env"] += [f"V{number}={'x' * 1000}" for number in range(200)]
    bundle.config["mounts"] += [{"destination": f"/mnt/{'m' * 200}-{number}", "type": "tmpfs", "source": "tmpfs",
                                 "options": ["size=4k"]} for number in range(350)]
    script = "grep -c mmmm /proc/self/mountinfo; env | wc -c; readlink /proc/self/ns/user"
    outside = os.readlink("/proc/self/ns/user")

    def lost(victim: Runtime) -> bool:
        result = victim.run(bundle, script)
        return result.lines[:1] != ["350"] or int(result.lines[1]) < 200000 or result.lines[2] != outside

    attack.on(runtime, lost(runtime))
    attack.on(runc, lost(runc))
    attack.on("pyrunc whose lengths have 16 bits", lost(weakened("""
from pyrunc import mounts
plain = mounts.plan
mounts.plan = lambda config, bundle: plain({**config, "mounts": config["mounts"][:65536 // 256]}, bundle)
""")))
    for word in ("a" * 100_000, "/" + "b" * 100_000, "\U0001f600" * 20_000, "/" + "\U0001f600/" * 20_000,
                 "\u0007" * 9_000):
        result = runtime.run(bundle.args(word, ""))
        assert result.code == 1 and len(result.errors) == 1, (word[:9], result.code, result.err[:300])
        assert "exec: " in result.err and "internal" not in result.err and "JSON" not in result.err


@pytest.mark.attack("namespaces", "a mount shows the host's /proc, or a file of a namespace")
def test_the_namespaces_of_the_host_are_out_of_reach(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                     runc: Runtime) -> None:
    def found(pid: int) -> list[str]:
        own = {"/", *(path.removeprefix("/proc") for path in bundle.linux["readonlyPaths"])}
        return [str(mount) for mount in mounts(of_process(pid))
                if mount.fstype == "nsfs" or (mount.fstype == "proc" and mount.root not in own)]

    attack.on(runtime, bool(found(int(runtime.state(runtime.create(bundle))["pid"]))))
    attack.on(runc, bool(found(int(runc.state(runc.create(bundle))["pid"]))))
    bundle.mount("/proc/self/ns/net", "/mnt/net", options=["bind"])
    (bundle.rootfs / "mnt" / "net").write_text("")
    attack.on("a config that binds one", bool(found(int(runtime.state(runtime.create(bundle))["pid"]))))


def test_the_environment_is_the_configs(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Nothing of the caller's, nothing of the interpreter's; HOME is the user's (runc adds it)."""
    bundle.process["env"] = ["PATH=/bin", "A=b"]
    bundle.process["args"] = ["env"]
    bundle.save()
    hostile = {"PATH": os.environ["PATH"], "SECRET": "of the host", "PYTHONPATH": "/tmp", "LC_ALL": "C",
               "LD_LIBRARY_PATH": "/nowhere"}
    result = runtime("run", "--bundle", bundle.path, runtime.new_id(), env=hostile)
    assert sorted(result.lines) == ["A=b", "HOME=/root", "PATH=/bin"]
    container = started(runtime, bundle)
    wait_for(lambda: runtime.state(container)["status"] == "running", "the container")
    result = runtime("exec", "--env", "C=d", container, "env", env=hostile)
    assert sorted(result.lines) == ["A=b", "C=d", "HOME=/root", "PATH=/bin"]
