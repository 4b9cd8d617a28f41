# SPDX-License-Identifier: Apache-2.0
"""A real distribution's programs in a container: Debian's, as debootstrap unpacks it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime


@pytest.fixture
def debian_bundle(make_bundle: Callable[[str], Bundle], debian: Path) -> Bundle:
    """The shared root, read-only, with a /tmp and a /run to write to."""
    bundle = make_bundle("bundle")
    bundle.config["root"] = {"path": str(debian), "readonly": True}
    for place in ("/tmp", "/run"):
        bundle.mount("tmpfs", place, type="tmpfs", options=["nosuid", "nodev"])
    return bundle


@pytest.fixture
def own_debian(make_bundle: Callable[[str], Bundle], debian: Path) -> Bundle:
    """A copy of it that may be written to, and the capabilities an engine gives."""
    bundle = make_bundle("own")
    shutil.rmtree(bundle.rootfs)
    subprocess.run(["cp", "--archive", "--reflink=auto", debian, bundle.rootfs], check=True)
    return bundle


def allow(bundle: Bundle, *names: str) -> None:
    for kind in ("bounding", "permitted", "effective"):
        bundle.process["capabilities"][kind] = ["CAP_KILL", *names]


def test_os_release(runtime: Runtime, debian_bundle: Bundle, debian: Path, host: Host) -> None:
    result = runtime.run(debian_bundle.args("cat", "/etc/os-release"))
    assert result.code == 0 and result.err == ""
    assert result.out == (debian / "etc/os-release").read_text()
    assert 'VERSION_CODENAME=bookworm\n' in result.out


def test_users(runtime: Runtime, debian_bundle: Bundle, debian: Path, host: Host) -> None:
    """getent goes through glibc's NSS, which loads its modules from the container's root."""
    result = runtime.run(debian_bundle.args("getent", "passwd"))
    assert (result.code, result.out) == (0, (debian / "etc/passwd").read_text())
    one = runtime.run(debian_bundle.args("id", "www-data"))
    assert one.out == "uid=33(www-data) gid=33(www-data) groups=33(www-data)\n"


def test_the_mount_table(runtime: Runtime, debian_bundle: Bundle, host: Host) -> None:
    """findmnt's view: the configured mounts and the masks, nothing of the host's."""
    result = runtime.run(debian_bundle.args("findmnt", "--raw", "--noheadings", "--output", "TARGET,FSTYPE,OPTIONS"))
    table = {line.split()[0]: line.split()[1:] for line in result.lines}
    assert result.code == 0
    assert table["/"][1].startswith("ro,")
    assert table["/proc"][0] == "proc" and table["/dev/mqueue"][0] == "mqueue"
    for mount in debian_bundle.config["mounts"]:
        assert mount["destination"] in table
    known = [mount["destination"] for mount in debian_bundle.config["mounts"]]
    known += debian_bundle.linux["maskedPaths"] + debian_bundle.linux["readonlyPaths"]
    for target in table:
        assert target == "/" or target in known or target.startswith("/sys/fs/cgroup/"), target
    here = runtime.run(debian_bundle.args("findmnt", "--noheadings", "--output", "FSTYPE", "--mountpoint", "/tmp"))
    assert here.out == "tmpfs\n"


def test_perl(runtime: Runtime, debian_bundle: Bundle, host: Host) -> None:
    program = r"""
        use strict; use POSIX; use Fcntl; use File::Temp; use Socket;
        my ($file, $name) = File::Temp::tempfile(DIR => "/tmp"); print $file "x" x 100000; close $file;
        print -s $name, " ", (POSIX::uname())[1], " ", scalar(getpwuid($<)), " $$\n";
        my $child = fork(); if (!$child) { exit 9 } waitpid($child, 0); print $? >> 8, "\n";
        open(my $lines, "-|", "ls", "-d", "/etc", "/usr") or die; print <$lines>;
        socketpair(my $one, my $two, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; syswrite $one, "through a socket\n";
        sysread $two, my $got, 100; print $got; exit 3;
    """
    result = runtime.run(debian_bundle.args("perl", "-e", program))
    assert result.lines == ["100000 pyrunc root 1", "9", "/etc", "/usr", "through a socket"], result
    assert (result.code, result.err) == (3, "")


def test_python(runtime: Runtime, debian_bundle: Bundle, host: Host) -> None:
    program = ("import os, sys; pid = os.fork()\n"
               "if not pid: os._exit(7)\n"
               "print(os.getpid(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.getcwd(), "
               "repr(sys.stdin.read()), len(os.urandom(9)), os.environ['HOME'], sys.stdout.isatty()); sys.exit(41)")
    result = runtime.run(debian_bundle.args("python3", "-c", program), stdin="what came in")
    assert result.out == "1 7 / 'what came in' 9 /root False\n", result
    assert result.code == 41


@pytest.mark.parametrize(("program", "code"), [
    (["true"], 0), (["false"], 1), (["bash", "-c", "exit 200"], 200), (["sh", "-c", "kill -KILL $$"], 0),
    (["perl", "-e", "exit 255"], 255), (["bash", "-c", "(kill -SEGV $BASHPID); exit $?"], 139),
    (["timeout", "0.1", "sleep", "100"], 124), (["ls", "/missing"], 2),
])
def test_exit_codes(program: list[str], code: int, runtime: Runtime, debian_bundle: Bundle, host: Host) -> None:
    # The first process of a pid namespace is spared a KILL of its own.
    assert runtime.run(debian_bundle.args(*program)).code == code


def test_the_package_database(runtime: Runtime, debian_bundle: Bundle, host: Host) -> None:
    listed = runtime.run(debian_bundle.args("dpkg", "-l"))
    assert listed.code == 0
    installed = {line.split()[1].partition(":")[0] for line in listed.lines if line.startswith("ii ")}
    assert {"base-files", "dpkg", "libc6", "python3-minimal"} <= installed
    verified = runtime.run(debian_bundle.args("dpkg", "--verify", "base-files", "coreutils", "dpkg"))
    assert (verified.code, verified.err) == (0, "")
    owner = runtime.run(debian_bundle.args("dpkg", "-S", "/bin/ls"))
    assert owner.out == "coreutils: /bin/ls\n"


def test_a_package_is_built_and_installed(runtime: Runtime, own_debian: Bundle, host: Host) -> None:
    """dpkg changes owners, runs maintainer scripts in a chroot's shell, and writes its database."""
    allow(own_debian, "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT")
    result = runtime.run(own_debian, """set -e; mkdir -p /tmp/p/DEBIAN /tmp/p/usr/bin; cd /tmp
        printf 'Package: small\\nVersion: 1\\nArchitecture: all\\nMaintainer: me <me@localhost>\\nDescription: a\\n' \
            > p/DEBIAN/control
        printf '#!/bin/sh\\nuseradd --create-home keeper\\nchown keeper /usr/bin/small\\n' > p/DEBIAN/postinst
        printf '#!/bin/sh\\necho from the package\\n' > p/usr/bin/small
        chmod 755 p/DEBIAN/postinst p/usr/bin/small; dpkg-deb --build p small.deb; dpkg -i small.deb
        small; stat -c %U /usr/bin/small; dpkg -s small | grep Status; apt-cache policy small | grep Installed""")
    assert result.code == 0, result
    assert result.lines[-4:] == ["from the package", "keeper", "Status: install ok installed", "  Installed: 1"], result
    assert "keeper:x:1000:" in (own_debian.rootfs / "etc/passwd").read_text()


@pytest.mark.parametrize("words", [
    ["runuser", "-u", "nobody", "--", "id"],
    ["su", "-s", "/bin/sh", "nobody", "-c", "id"],
    ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "id"],
    ["perl", "-e", "$( = $) = '65534 65534'; $< = $> = 65534; exec 'id'"],
], ids=lambda words: words[0])
def test_becoming_an_ordinary_user(words: list[str], runtime: Runtime, debian_bundle: Bundle, host: Host) -> None:
    """PAM, and three ways to call setuid(2); without the capabilities none works."""
    assert "nobody" not in runtime.run(debian_bundle.args(*words)).out
    allow(debian_bundle, "CAP_SETUID", "CAP_SETGID", "CAP_AUDIT_WRITE")
    result = runtime.run(debian_bundle.args(*words))
    assert result.out == "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)\n", result


def test_as_an_ordinary_user(runtime: Runtime, debian_bundle: Bundle, host: Host) -> None:
    debian_bundle.process["user"] = {"uid": 33, "gid": 33, "additionalGids": [4, 100]}
    result = runtime.run(debian_bundle, "id; echo $HOME; cat /etc/shadow; touch /tmp/mine && stat -c %U:%G /tmp/mine; "
                                        "su -c id")
    assert result.lines == ["uid=33(www-data) gid=33(www-data) groups=33(www-data),4(adm),100(users)", "/var/www",
                            "www-data:www-data"], result
    assert "cat: /etc/shadow: Permission denied" in result.err
    assert result.code != 0  # su: no password


def test_no_new_privileges_stops_setuid_programs(runtime: Runtime, debian_bundle: Bundle, debian: Path,
                                                 host: Host) -> None:
    place = debian_bundle.path / "setuid"
    place.mkdir()
    shutil.copy(debian / "usr/bin/id", place)
    (place / "id").chmod(0o4755)
    debian_bundle.mount(place, "/mnt")
    debian_bundle.process["user"] = {"uid": 33, "gid": 33}
    seen = {}
    for flag in (False, True):
        debian_bundle.process["noNewPrivileges"] = flag
        seen[flag] = runtime.run(debian_bundle.args("/mnt/id", "--user", "--name")).out
    assert seen == {False: "root\n", True: "www-data\n"}
