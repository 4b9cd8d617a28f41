# SPDX-License-Identifier: Apache-2.0
"""Attacks that other runtimes have fallen to, each named after its CVE: hostile images, partly hostile bundles."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mountinfo import mounts, of_process
from support import Bundle, Host, Runtime, wait_for

CAPABILITIES = ("bounding", "effective", "permitted")


def checksums(runtime: Runtime) -> dict[str, str]:
    """Of all that the host runs when the runtime is called: the command, the interpreter, the package."""
    files = {Path(runtime.path), Path(runtime.path).resolve(), Path(sys.executable).resolve()}
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if path.startswith("/"):
            files.add(Path(path))
    for package in Path(sys.prefix).glob("lib/python*/site-packages/pyrunc"):
        files |= {path for path in package.rglob("*") if path.suffix in (".py", ".pyc", ".so")}
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files) if path.is_file()}


def outside(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A directory of the host's that an image would like to reach, and how it looks."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "ptmx").write_text("of the host")
    (path / "target").mkdir()
    return path, look(path)


def look(path: Path) -> dict[str, Any]:
    return {str(found): (os.lstat(found).st_mode, os.lstat(found).st_uid, os.lstat(found).st_ino,
                         found.read_text() if found.is_file() else "") for found in (path, *path.rglob("*"))}


def replace(bundle: Bundle, name: str, target: Path | str) -> None:
    """Make `name` in the image a link."""
    path = bundle.rootfs / name
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif path.exists():
        path.unlink()
    path.symlink_to(target)


def test_cve_2019_5736_the_runtime_is_not_its_own_program(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """args[0] is /proc/self/exe: it must not be the host's runtime, and can't be written."""
    before = checksums(runtime)
    (bundle.rootfs / "bin" / "self").symlink_to("/proc/self/exe")
    script = bundle.rootfs / "bin" / "script"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    for program in ("/proc/self/exe", "/bin/self", "/bin/script"):
        bundle.process["args"] = [program, "--version"]
        result = runtime.run(bundle)
        assert result.code != 0, result
        assert "spec: 1" not in result.out
    assert checksums(runtime) == before


def test_cve_2019_5736_no_writable_program_in_proc(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """With every process of the host's visible, writing to each /proc/PID/exe of the runtime fails."""
    before = checksums(runtime)
    bundle.without("pid")
    for kind in CAPABILITIES:
        bundle.process["capabilities"][kind] += ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]
    script = ("echo ready; while [ ! -e /stop ]; do for p in /proc/[0-9]*; do case $(readlink $p/exe) in "
              "*memfd*|*pyrunc*|*python*) (echo x >>$p/exe) 2>/dev/null && echo written $p;; "
              "esac; done; done; echo end")
    output = bundle.path / "output"
    container = runtime.create(bundle.args(script), output=output)
    assert runtime("start", container).code == 0
    wait_for(lambda: "ready" in output.read_text(), "the attacker")
    assert Path(f"/proc/{runtime.state(container)['pid']}/exe").exists()
    for _ in range(5):
        runtime("state", container)
        other = runtime.create(Bundle(bundle.path, {**bundle.config, "process": {
            **bundle.process, "args": ["true"]}}))
        runtime("delete", "--force", other)
    (bundle.rootfs / "stop").touch()
    wait_for(lambda: "end" in output.read_text(), "the attacker's end")
    # Only a copy in memory could be written to, and that is sealed.
    assert "written" not in output.read_text()
    assert checksums(runtime) == before


def test_cve_2019_16884_nothing_but_a_procfs_on_proc(runtime: Runtime, bundle: Bundle, host: Host,
                                                     tmp_path: Path) -> None:
    """A volume on /proc, or in it, would take what the runtime writes there."""
    (tmp_path / "fake" / "self" / "attr").mkdir(parents=True)
    original = list(bundle.config["mounts"])
    for destination in ("/proc", "/proc/self/attr", "/proc/self", "//proc/./sys", "/x/../proc"):
        bundle.config["mounts"] = list(original)
        bundle.mount(tmp_path / "fake", destination, options=["rbind"])
        assert runtime.run(bundle, "true").code == 1, destination
        bundle.config["mounts"][-1] = {"destination": destination, "type": "tmpfs", "source": "tmpfs"}
        assert runtime.run(bundle, "true").code == 1, destination
    bundle.config["mounts"] = original
    if runtime.name == "pyrunc":
        bundle.mount("/proc/sys", "/proc", options=["rbind"])  # of procfs, but no /proc
        assert "only a procfs can be mounted on /proc" in runtime.run(bundle, "true").err
        bundle.config["mounts"].pop()
        replace(bundle, "link", "/proc/self")
        bundle.mount(tmp_path / "fake", "/link", options=["rbind"])
        refused = runtime.run(bundle, "true")
        assert refused.code == 1 and "leads into /proc" in refused.err
        bundle.config["mounts"].pop()
    assert runtime.run(bundle, "true").code == 0


@pytest.mark.parametrize("name", ["dev", "etc", "mnt"])
def test_cve_2019_18837_links_of_the_image_stay_in_it(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                                      name: str) -> None:
    """Mount points below a link are found, or made, below the root."""
    place, before = outside(tmp_path)
    if name == "etc":
        for path in (bundle.rootfs / "etc").iterdir():
            path.unlink()
    replace(bundle, name, place)
    bundle.mount("tmpfs", f"/{name}/target/new", type="tmpfs", options=[])
    result = runtime.run(bundle, f"grep -c target/new /proc/self/mountinfo; touch /{name}/target/new/x")
    if runtime.name == "pyrunc":
        assert result.lines == ["1"], result
    assert look(place) == before


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_cve_2019_19921_and_cve_2023_27561_proc_or_sys_is_a_link(runtime: Runtime, bundle: Bundle, host: Host,
                                                                tmp_path: Path, name: str) -> None:
    """It would put the file system where its masks don't apply."""
    place, before = outside(tmp_path)
    for target in (place / "target", "/tmp", "tmp", "../../../../tmp"):
        replace(bundle, name, target)
        result = runtime.run(bundle, "true")
        assert result.code == 1, target
        if runtime.name == "pyrunc":
            assert "a link in the image can't stand where" in result.err
    assert look(place) == before


def exchange(first: Path, second: Path) -> subprocess.Popen[bytes]:
    """A process that exchanges two names as fast as it can (renameat2(2), RENAME_EXCHANGE)."""
    program = ("import ctypes,sys\nrename=ctypes.CDLL(None).renameat2\na,b=(s.encode() for s in sys.argv[1:])\n"
               "while True: rename(-100,a,-100,b,2)")
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", program, str(first), str(second)])


def test_cve_2021_30465_and_cve_2024_45310_exchange_of_a_mount_point(runtime: Runtime, bundle: Bundle, host: Host,
                                                                     tmp_path: Path, long: bool) -> None:
    """A directory on the way to a mount point and a link take turns: no mount and no inode lands outside."""
    place, before = outside(tmp_path)
    volume = tmp_path / "volume"
    (volume / "dir").mkdir(parents=True)
    (volume / "link").symlink_to(f"/../../../../../../../../../../..{place}")
    (tmp_path / "file").write_text("")
    bundle.mount(volume, "/volume", options=["rbind"])
    bundle.mount("tmpfs", "/volume/dir/target", type="tmpfs", options=[])
    bundle.mount(tmp_path / "file", "/volume/dir/new/file")
    bundle.mount("tmpfs", "/volume/dir/made/here", type="tmpfs", options=[])
    racer = exchange(volume / "dir", volume / "link")
    inside = 0
    try:
        for _ in range(1000 if long else 40):
            result = runtime.run(bundle, "grep -c '/target \\|/here \\|/file ' /proc/self/mountinfo")
            if result.code == 0:  # losing the race may be an error, never an escape
                assert result.lines == ["3"]
                inside += 1
            assert look(place) == before
    finally:
        racer.kill()
        racer.wait()
    assert inside, "the control: some runs work"


def test_cve_2022_29162_no_inheritable_capabilities(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    result = runtime.run(bundle, "grep '^Cap' /proc/self/status")
    found = dict(line.split(":\t") for line in result.lines)
    assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
    assert int(found["CapEff"], 16) == 0x20000420  # the control: the default's three


def test_cve_2024_21626_the_working_directory_is_inside(runtime: Runtime, bundle: Bundle, host: Host,
                                                       tmp_path: Path) -> None:
    """Neither a descriptor of the runtime's nor one of its caller's leads out, as a cwd or afterwards."""
    leaked = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in ("/", "/etc", str(tmp_path), "/sys/fs/cgroup")]
    try:
        for number in range(3, 21):
            for cwd in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../.."):
                bundle.process["cwd"] = cwd
                bundle.save()
                result = runtime.run(bundle, "pwd; cat ../../../../../../etc/debian_version", pass_fds=leaked)
                assert result.code != 0, (cwd, result)
                assert Path("/etc/debian_version").read_text() not in result.out
        replace(bundle, "work", "/proc/self/fd/7")
        bundle.process["cwd"] = "/work"
        assert runtime.run(bundle, "cat ../../etc/debian_version", pass_fds=leaked).code != 0
    finally:
        for fd in leaked:
            os.close(fd)


def test_no_descriptor_of_the_hosts_is_left_open(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """Fifty of the caller's, and all of the runtime's own: inside there are 0, 1 and 2."""
    leaked = [os.open(tmp_path, os.O_RDONLY) for _ in range(50)]
    try:
        # busybox's ls has one open: the directory it lists.
        result = runtime.run(bundle.args("ls", "/proc/self/fd"), pass_fds=leaked)
    finally:
        for fd in leaked:
            os.close(fd)
    assert result.lines == ["0", "1", "2", "3"]


def test_preserved_descriptors_are_passed_and_no_others(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """--preserve-fds N: 3 … 3+N-1, which the shell puts there."""
    bundle.args("ls", "-l", "/proc/self/fd").save()
    line = " ".join(runtime.command("run", "--preserve-fds", "2", "--bundle", bundle.path, runtime.new_id()))
    done = subprocess.run(["sh", "-c", f"exec 3</etc/passwd 4</etc/group 5</etc/hosts; {line}"], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)
    links = dict(re.findall(r" (\d+) -> (\S+)", done.stdout))
    assert set(links) == {"0", "1", "2", "3", "4"}, done
    assert (links["3"], links["4"]) == ("/etc/passwd", "/etc/group")
    assert len(done.stdout.splitlines()) == 7, done  # a headline; and ls's own, closed by the time it is looked at


def test_cve_2025_24965_files_made_in_the_image(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """A mount point that is a link: what is made is made below the root."""
    place, before = outside(tmp_path)
    source = tmp_path / "source"
    source.write_text("bound")
    replace(bundle, "etc/resolv.conf", place / "resolv.conf")
    replace(bundle, "etc/hosts", f"../../../../../..{place}/target/hosts")
    replace(bundle, "work", place / "cwd")
    bundle.mount(source, "/etc/resolv.conf").mount(source, "/etc/hosts")
    bundle.process["cwd"] = "/work"
    result = runtime.run(bundle, "cat /etc/resolv.conf /etc/hosts")
    if runtime.name == "pyrunc":
        assert result.out == "bound" * 2, result
    assert look(place) == before


def test_cve_2025_31133_the_mask_is_the_null_device(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """An image whose /dev/null is something else would have that bound over what is to be hidden.

    The link leads to a sysctl of the container's own: a runtime that falls for it must not harm the host.
    """
    before = Path("/proc/sys/kernel/domainname").read_text()
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"]
                               if not mount["destination"].startswith("/dev")]
    (bundle.rootfs / "etc" / "secret").write_text("secret")
    bundle.linux["maskedPaths"] = ["/etc/secret"]
    bundle.linux["readonlyPaths"] = []
    for target in ("/proc/sys/kernel/domainname", "/etc/passwd", "zero"):
        replace(bundle, "dev/null", target)
        result = runtime.run(bundle, "cat /etc/secret; echo x >/etc/secret")
        assert result.code == 1 and result.out == "", (target, result)
    (bundle.rootfs / "dev" / "null").unlink()
    (bundle.rootfs / "dev" / "null").write_text("a file")
    assert runtime.run(bundle, "cat /etc/secret").code == 1
    (bundle.rootfs / "dev" / "null").unlink()
    assert runtime.run(bundle, "cat /etc/secret").out == ""  # the control: made by the runtime
    assert Path("/proc/sys/kernel/domainname").read_text() == before


def test_cve_2025_52881_sysctls_are_written_to_the_hosts_procfs(runtime: Runtime, bundle: Bundle, host: Host,
                                                                tmp_path: Path) -> None:
    """The container's /proc is never trusted: with none, or a link in its place, the value still gets there."""
    place, before = outside(tmp_path)
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmni": "1234"}
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni"
    own = [Path(f"/proc/sys/{name}").read_text() for name in ("net/ipv4/ip_forward", "kernel/shmmni")]
    assert runtime.run(bundle, script).lines == ["1", "1234"]
    if runtime.name == "pyrunc":
        bundle.config["mounts"] = [mount for mount in bundle.config["mounts"] if mount["destination"] != "/proc"]
        replace(bundle, "proc", place)
        for path in ("sys/net/ipv4", "sys/kernel"):
            (bundle.rootfs / place.relative_to("/") / path).mkdir(parents=True)
            fake = bundle.rootfs / place.relative_to("/") / path / Path(
                "ip_forward" if "net" in path else "shmmni")
            fake.write_text("fake")
        assert runtime.run(bundle, script).out == "fakefake"
    assert look(place) == before
    assert [Path(f"/proc/sys/{name}").read_text() for name in ("net/ipv4/ip_forward", "kernel/shmmni")] == own


@pytest.mark.parametrize("mounted", [True, False], ids=["dev-mounted", "no-dev-mount"])
def test_cve_2026_41579_dev_is_a_link(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                      mounted: bool) -> None:
    """Device nodes, the links in /dev and the removal of ptmx stay in the image."""
    place, before = outside(tmp_path)
    if not mounted:
        bundle.config["mounts"] = [mount for mount in bundle.config["mounts"]
                                   if not mount["destination"].startswith("/dev")]
    for target in (str(place), f"../../../../../../..{place}"):
        replace(bundle, "dev", target)
        result = runtime.run(bundle, "echo x >/dev/null && readlink /dev/ptmx; test -c /dev/zero && echo zero")
        if runtime.name == "pyrunc":
            assert result.lines == ["pts/ptmx", "zero"], result
        assert look(place) == before


def test_the_init_cannot_be_looked_into_before_the_program_runs(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """CVE-2016-9962's lesson, for create: not dumpable, so an ordinary user of its pid namespace finds nothing."""
    pid = runtime.state(runtime.create(bundle))["pid"]
    # What ptrace(2) may attach to, /proc shows to its owner: that of a process not dumpable is root's.
    look_at = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", f"/proc/{pid}/fd"],
                             capture_output=True, text=True)
    assert look_at.returncode != 0 and "Permission denied" in look_at.stderr
    uid = 4321
    bundle.process["user"] = {"uid": uid, "gid": uid}
    bundle.process["capabilities"] = {}
    pid = runtime.state(runtime.create(bundle))["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"\nUid:\t{uid}\t" in status
    if runtime.name == "pyrunc":
        assert os.stat(f"/proc/{pid}/fd").st_uid == 0  # its own user's if it were dumpable
    same = subprocess.run(["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--bounding-set=-all",
                           "ls", f"/proc/{pid}/fd"], capture_output=True, text=True)
    assert same.returncode != 0 and "Permission denied" in same.stderr


def test_state_directories_are_for_their_owner_only(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """CVE-2024-25621's lesson: nobody else may enter where a container's state and its fifo are."""
    old = os.umask(0)
    try:
        container = runtime.create(bundle)
    finally:
        os.umask(old)
    for path in (runtime.root / container, *(runtime.root / container).iterdir()):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_dir():
            assert mode & 0o077 in (0, 0o011), path
            if runtime.name == "pyrunc":
                assert mode == 0o700
        else:
            assert not mode & 0o022 or path.is_fifo(), path


@pytest.mark.parametrize("groups", [[], [7], [7, 1000, 4000000000]])
def test_cve_2022_36109_supplementary_groups_are_exact(runtime: Runtime, bundle: Bundle, host: Host,
                                                       groups: list[int]) -> None:
    """None is added, from the image's /etc/group or the caller's, and none is lost."""
    (bundle.rootfs / "etc" / "group").write_text("root:x:0:alice\nalice:x:1000:\nwheel:x:10:alice,root\n")
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": groups}
    bundle.args("grep ^Groups: /proc/self/status; id -g").save()
    result = runtime("run", "--bundle", bundle.path, runtime.new_id(), extra_groups=[77, 88])
    found = {int(number) for number in result.lines[0].split()[1:]}
    assert found - {1000} == set(groups) - {1000}, result
    assert result.lines[1] == "1000"


def test_the_environment_is_the_configs(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Nothing of the caller's, nothing of the interpreter's; HOME is the user's (runc adds it)."""
    bundle.process["env"] = ["PATH=/bin", "A=b"]
    bundle.process["args"] = ["env"]
    bundle.save()
    hostile = {"PATH": os.environ["PATH"], "SECRET": "of the host", "PYTHONPATH": "/tmp", "LC_ALL": "C",
               "LD_LIBRARY_PATH": "/nowhere"}
    result = runtime("run", "--bundle", bundle.path, runtime.new_id(), env=hostile)
    assert sorted(result.lines) == ["A=b", "HOME=/root", "PATH=/bin"]


def test_the_namespaces_of_the_host_are_out_of_reach(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """No mount of a container is a namespace file or below the host's /proc."""
    pid = runtime.state(runtime.create(bundle))["pid"]
    assert not [mount for mount in mounts(of_process(pid)) if mount.fstype == "nsfs"]
    assert {mount.root for mount in mounts(of_process(pid)) if mount.fstype == "proc"} <= {
        "/", *(path.removeprefix("/proc") for path in bundle.linux["readonlyPaths"])}
