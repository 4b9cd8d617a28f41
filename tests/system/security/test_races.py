# SPDX-License-Identifier: Apache-2.0
"""Races: another process exchanges names in a shared volume while the runtime works on it.

Losing such a race may be an error, never an escape: what is mounted, made or written lands below the
root, or not at all.
"""

from __future__ import annotations

import array
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import Attack, exchange, look, outside
from support import Bundle, Host, Result, Runtime
from test_images import ANY_NULL, NAIVE_PATHS

#: Directories made by path too, those above a file among them.
NAIVE_DIRECTORIES = NAIVE_PATHS + """
def naive_directory(root_fd, path, mode=0o755, **_options):
    os.makedirs(f"/proc/self/fd/{root_fd}/{path}", mode, exist_ok=True)
    return naive(root_fd, path, os.O_PATH | os.O_DIRECTORY)
def naive_file_and_directories(root_fd, path, mode=0o755):
    os.close(naive_directory(root_fd, os.path.dirname(path)))
    return naive_file(root_fd, path, mode)
for module in (paths, rootfs):
    module.make_directory = naive_directory
    module.make_file = naive_file_and_directories
"""
#: A sysctl written where the container's own paths lead.
SYSCTL_BY_PATH = """
from pyrunc import init
def write(proc, sysctl):
    for name, value in sysctl.items():
        with open("/proc/sys/" + name.replace(".", "/"), "w") as file:
            file.write(value)
init._sysctls = write
"""
CONSOLE_BY_PATH = """
import os
from pyrunc import console, paths
from pyrunc.linux import mount as k
def bind(root, peer):
    target = paths.make_file(root.fd, "dev/console")
    k.move_mount(k.open_tree(paths.open_in_root(root.fd, "dev/pts/0")), target)
console._bind_console = bind
"""


def tries(long: bool) -> int:
    return 1000 if long else 25


def until(worked: Callable[[], bool], count: int) -> bool:
    """Whether it works once in so many tries; on a machine that is busy the racer has its turn seldom."""
    return any(worked() for _ in range(count))


@pytest.mark.attack("CVE-2021-30465, CVE-2024-45310, CVE-2019-19921",
                    "a directory on the way to a mount point takes turns with a link to the host")
def test_cve_2021_30465_exchange_of_a_mount_point(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                  runc: Runtime, weakened: Callable[[str], Runtime], attacker: Path,
                                                  tmp_path: Path, long: bool) -> None:
    """No mount and no inode, directory or file, lands outside."""
    place, before = outside(tmp_path)
    volume = tmp_path / "volume"
    (volume / "dir").mkdir(parents=True)
    (volume / "link").symlink_to(f"/../../../../../../../../../../..{place}")
    (tmp_path / "file").write_text("")
    bundle.mount(volume, "/volume", options=["rbind"])
    bundle.mount("tmpfs", "/volume/dir/target", type="tmpfs", options=[])
    bundle.mount(tmp_path / "file", "/volume/dir/new/file")
    bundle.mount("tmpfs", "/volume/dir/made/here", type="tmpfs", options=[])
    script = "grep -c '/target \\|/here \\|/file ' /proc/self/mountinfo"
    inside = 0
    directory = os.open(volume / "dir", os.O_RDONLY | os.O_DIRECTORY)

    def run(victim: Runtime) -> Result:
        for name in os.listdir(directory):  # all is to be made anew
            shutil.rmtree(name, dir_fd=directory)
        return victim.run(bundle, script)

    with exchange(attacker, volume / "dir", volume / "link"):
        for _ in range(tries(long)):
            result = run(runtime)
            if result.code == 0:
                assert result.lines == ["3"]
                inside += 1
            attack.on(runtime, look(place) != before)
        assert inside, "the control: some runs work"

        def worked(victim: Runtime) -> bool:
            run(victim)
            return look(place) != before

        attack.on(runc, until(lambda: worked(runc), 50))
        shutil.rmtree(place)  # what one victim has made there is no help to the next
        place, before = outside(tmp_path)
        victim = weakened(NAIVE_DIRECTORIES)
        attack.on("pyrunc with naive paths", until(lambda: worked(victim), 500))
    os.close(directory)


@pytest.mark.attack("CVE-2019-19921, CVE-2023-27561", "a directory above /proc takes turns with a link in a volume")
def test_cve_2019_19921_exchange_above_a_procfs(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                runc: Runtime, weakened: Callable[[str], Runtime], attacker: Path,
                                                tmp_path: Path, long: bool) -> None:
    """A procfs is mounted at its own place or nowhere, so that its masks apply to it."""
    volume = tmp_path / "volume"
    (volume / "dir" / "proc").mkdir(parents=True)
    (bundle.rootfs / "tmp" / "proc").mkdir()
    (volume / "link").symlink_to("/tmp")
    bundle.mount(volume, "/volume", options=["rbind"])
    bundle.mount("proc", "/volume/dir/proc", type="proc", options=[])
    bundle.linux["maskedPaths"] = ["/volume/dir/proc/timer_list"]
    script = "test -e /tmp/proc/self && echo elsewhere; true"
    inside = 0
    with exchange(attacker, volume / "dir", volume / "link"):
        for _ in range(tries(long)):
            result = runtime.run(bundle, script)
            inside += result.code == 0
            attack.on(runtime, "elsewhere" in result.out)
        attack.on(runc, until(lambda: "elsewhere" in runc.run(bundle, script).out, 15))
        victim = weakened("from pyrunc.rootfs import RootFs\nmake = RootFs.make_target\nRootFs.make_target = "
                          "lambda self, target, **options: make(self, target, **{**options, 'follow': True})")
        attack.on("pyrunc that follows links there", until(lambda: "elsewhere" in victim.run(bundle, script).out, 500))
    assert inside, "the control: some runs work"


@pytest.mark.attack("CVE-2025-31133", "/dev/null takes turns with a link in a volume while paths are masked")
def test_cve_2025_31133_exchange_of_dev_null(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                             runc: Runtime, weakened: Callable[[str], Runtime], attacker: Path,
                                             tmp_path: Path, long: bool) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    os.mknod(volume / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (volume / "link").symlink_to("/proc/sys/kernel/domainname")
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"]
                               if not mount["destination"].startswith("/dev")]
    bundle.mount(volume, "/dev", options=["rbind"])
    (bundle.rootfs / "etc" / "secret").write_text("secret")
    bundle.linux["maskedPaths"] = ["/etc/secret"]
    bundle.linux["readonlyPaths"] = []
    result = bundle.rootfs / "result"
    script = "stat -c %F /etc/secret >/result"
    masked = 0

    def worked(victim: Runtime) -> bool:
        nonlocal masked
        result.write_text("")
        victim.run(bundle, script)
        masked += victim is runtime and result.read_text() == "character special file\n"
        return result.read_text() not in ("", "character special file\n")

    with exchange(attacker, volume / "null", volume / "link"):
        for _ in range(tries(long)):
            attack.on(runtime, worked(runtime))
        attack.on(runc, until(lambda: worked(runc), 50))
        victim = weakened(ANY_NULL)
        attack.on("pyrunc without the checks of devices", until(lambda: worked(victim), 500))
    assert masked, "the control: some runs work"


@pytest.mark.attack("CVE-2025-52565", "/dev/pts is exchanged before the terminal is bound to /dev/console")
def test_cve_2025_52565_exchange_of_the_console(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                runc: Runtime, weakened: Callable[[str], Runtime], attacker: Path,
                                                tmp_path: Path, long: bool) -> None:
    volume = tmp_path / "volume"
    for name in ("pts", "evil"):
        (volume / name).mkdir(parents=True)
        for number in range(4):
            (volume / name / str(number)).symlink_to("/proc/sys/kernel/domainname")
    os.mknod(volume / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (volume / "ptmx").symlink_to("pts/ptmx")
    (volume / "console").write_text("")
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"]
                               if not mount["destination"].startswith("/dev")]
    bundle.mount(volume, "/dev", options=["rbind"])
    bundle.mount("devpts", "/dev/pts", type="devpts", options=["newinstance", "ptmxmode=0666"])
    bundle.process["terminal"] = True
    bundle.args("stat -c %t /dev/console >/result").save()
    result = bundle.rootfs / "result"
    bound = 0

    def worked(victim: Runtime) -> bool:
        nonlocal bound
        result.write_text("")
        with_a_terminal(victim, bundle, tmp_path / "console.sock")
        bound += victim is runtime and result.read_text() == "88\n"
        return result.read_text() not in ("", "88\n")  # 0x88, a pty

    with exchange(attacker, volume / "pts", volume / "evil"):
        for _ in range(tries(long)):
            attack.on(runtime, worked(runtime))
        attack.on(runc, until(lambda: worked(runc), 60))
        victim = weakened(CONSOLE_BY_PATH)
        attack.on("pyrunc that binds the terminal by its path", until(lambda: worked(victim), 500))
    assert bound, "the control: some runs work"


def with_a_terminal(victim: Runtime, bundle: Bundle, path: Path) -> None:
    """create and start with a console socket, until the container has ended."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        container = victim.new_id()
        if victim("create", "--console-socket", path, "--bundle", bundle.path, container).code:
            return
        connection = server.accept()[0]
        with connection:
            _, [(_, _, data)], _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4))
            victim("start", container)
            victim.wait(container)
            os.close(array.array("i", data[:4])[0])
    victim("delete", "--force", container)


@pytest.mark.attack("CVE-2025-52881", "the image, or a volume mounted in a race, takes what is written to /proc")
def test_cve_2025_52881_sysctls_are_written_to_the_hosts_procfs(runtime: Runtime, bundle: Bundle, host: Host,
                                                                attack: Attack, runc: Runtime,
                                                                weakened: Callable[[str], Runtime], attacker: Path,
                                                                tmp_path: Path, long: bool) -> None:
    """The container's /proc is never trusted: with none there, or another in its place, the value still gets there."""
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmni": "1234"}
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    paths = ("sys/net/ipv4/ip_forward", "sys/kernel/shmmni")
    own = [Path(f"/proc/{path}").read_text() for path in paths]
    mounts = list(bundle.config["mounts"])
    bundle.config["mounts"] = [mount for mount in mounts if mount["destination"] != "/proc"]
    for path in paths:
        fake = bundle.rootfs / "proc" / path
        fake.parent.mkdir(parents=True)
        fake.symlink_to("/etc/taken")  # in an attack a file of procfs that does harm

    def taken(victim: Runtime) -> bool:
        (bundle.rootfs / "etc" / "taken").write_text("untouched")
        victim.run(bundle, "true")
        return (bundle.rootfs / "etc" / "taken").read_text() != "untouched"

    attack.on(runtime, taken(runtime))
    attack.on(runc, taken(runc))
    attack.on("pyrunc that writes by the container's paths", taken(weakened(SYSCTL_BY_PATH)))
    shutil.rmtree(bundle.rootfs / "proc" / "sys")
    # And with a procfs, on parts of which a mount lands while it is built.
    volume = tmp_path / "volume"
    (volume / "dir" / "net").mkdir(parents=True)
    (volume / "link").symlink_to("/proc/sys")
    bundle.config["mounts"] = mounts
    bundle.mount(volume, "/volume", options=["rbind"])
    bundle.mount("tmpfs", "/volume/dir/net", type="tmpfs", options=[])
    written = 0
    with exchange(attacker, volume / "dir", volume / "link"):
        for _ in range(tries(long)):
            result = runtime.run(bundle, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni")
            if result.code == 0:
                attack.on(runtime, result.lines != ["1", "1234"])
                written += 1
    assert written, "the control: some runs work"
    assert [Path(f"/proc/{path}").read_text() for path in paths] == own
