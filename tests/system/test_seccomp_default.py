# SPDX-License-Identifier: Apache-2.0
"""The profile that `spec --seccomp` writes: what it lets through and what not, beside runc and under real programs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from seccomp_probe import probe
from support import PYRUNC, Bundle, Host, Runtime

from pyrunc.spec.seccomp_default import default_seccomp

ENGINE = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP",
          "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT", "AUDIT_WRITE")

#: x86_64: what, the call as the probe takes it, what is seen under the profile.  Arguments are such that a
#: call that gets through fails harmlessly: with an error of its own, never EPERM, or as told.
TABLE = [
    ("keyctl", "250:0:0", "EPERM"),
    ("add_key", "248:0:0:0:0:0", "EPERM"),
    ("request_key", "249:0:0:0:0", "EPERM"),
    ("bpf", "321:0:0:0", "EPERM"),
    ("mount", "165:0:0:0:0:0", "EPERM"),
    ("umount2", "166:0:0", "EPERM"),
    ("pivot_root", "155:0:0", "EPERM"),
    ("unshare a user namespace", f"272:{0x10000000}", "EPERM"),
    ("setns", "308:-1:0", "EPERM"),
    ("clone into a user namespace", f"56:{0x10000000 | 17}:0:0:0:0", "EPERM"),
    ("clone3", "435:0:0", "ENOSYS"),
    ("open_tree", "428:-1:0:0", "EPERM"),
    ("move_mount", "429:-1:0:-1:0:0", "EPERM"),
    ("fsopen", "430:0:0", "EPERM"),
    ("mount_setattr", "442:-1:0:0:0:0", "EPERM"),
    ("init_module", "175:0:0:0", "EPERM"),
    ("finit_module", "313:-1:0:0", "EPERM"),
    ("delete_module", "176:0:0", "EPERM"),
    ("kexec_load", "246:0:0:0:0", "EPERM"),
    ("reboot", "169:0:0:0:0", "EPERM"),
    ("swapon", "167:0:0", "EPERM"),
    ("acct", "163:0", "EPERM"),
    ("iopl", "172:0", "EPERM"),
    ("ioperm", "173:0:1:0", "EPERM"),
    ("perf_event_open", "298:0:0:-1:-1:0", "EPERM"),
    ("userfaultfd", "323:0", "EPERM"),
    ("io_uring_setup", "425:0:0", "EPERM"),
    ("io_uring_enter", "426:-1:0:0:0:0:0", "EPERM"),
    ("clock_settime", "227:0:0", "EPERM"),
    ("settimeofday", "164:1:0", "EPERM"),
    ("open_by_handle_at", "304:-1:0:0", "EPERM"),
    ("kcmp", "312:0:0:0:0:0", "EPERM"),
    ("lookup_dcookie", "212:0:0:0", "EPERM"),
    ("move_pages", "279:-1:0:0:0:0:0", "EPERM"),
    ("mbind", "237:0:0:0:0:0:0", "EPERM"),
    ("quotactl", "179:0:0:0:0", "EPERM"),
    ("syslog", "103:10:0:0", "EPERM"),
    ("vhangup", "153", "EPERM"),
    ("nfsservctl", "180:0:0:0", "EPERM"),
    ("pidfd_getfd", "438:-1:0:0", "EPERM"),
    ("personality, ADDR_NO_RANDOMIZE", f"135:{0x40000}", "EPERM"),
    ("socket AF_ALG", "41:38:5:0", "EPERM"),  # CVE-2026-31431
    ("socket AF_VSOCK", "41:40:1:0", "EPERM"),
    ("i386's socket of AF_ALG", "i359:38:5:0", "EPERM"),
    ("i386's keyctl", "i288:0:0", "EPERM"),
    ("a call newer than the profile", "600", "ENOSYS"),
    # The controls: the same kinds of calls, let through.
    ("socket AF_NFC, between the two", "41:39:77:0", "EINVAL"),
    ("socket AF_INET of no type", "41:2:77:0", "EINVAL"),
    ("personality, only asked", f"135:{0xFFFFFFFF}", "ok 0"),
    ("clone without a namespace, of a bad kind", f"56:{0x10000}:0:0:0:0", "EINVAL"),
    ("ptrace of nobody", "101:16:0:0:0", "ESRCH"),
    ("seccomp, an unknown operation", "317:99:0:0", "EINVAL"),
    ("memfd_create without a name", "319:0:0", "EFAULT"),
    ("landlock_create_ruleset, its version's place", "444:1:0:0", "EFAULT|EINVAL|ENOSYS|EOPNOTSUPP"),
    ("process_vm_readv of nobody", "310:0:0:0:0:0:0", "ok 0"),
    ("futex_waitv of nothing", "449:0:0:0:0:0", "EINVAL|ENOSYS"),
]


def engines(bundle: Bundle) -> Bundle:
    """Capabilities as an engine gives them, and the profile that goes with them."""
    names = [f"CAP_{name}" for name in ENGINE]
    for kind in ("bounding", "permitted", "effective"):
        bundle.process["capabilities"][kind] = names
    bundle.linux["seccomp"] = default_seccomp(names, "x86_64")
    return bundle


@pytest.mark.parametrize("privileges", ["new privileges", "no new privileges"])
def test_the_table(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host,
                   privileges: str) -> None:
    """What an engine's default profile forbids is forbidden, the rest is not; as under runc with the same profile."""
    engines(bundle).process["noNewPrivileges"] = privileges == "no new privileges"
    calls = [call for _, call, _ in TABLE]
    found = probe(runtime, bundle, bundle.linux["seccomp"], *calls)
    for (what, _, expected), line in zip(TABLE, found, strict=True):
        assert line in expected.split("|"), what
    assert found == probe(make_runtime("runc"), bundle, bundle.linux["seccomp"], *calls)
    # The control: without the profile most of these calls get through to the kernel.
    bare = probe(runtime, bundle, None, *calls)
    assert sum(one != other for one, other in zip(found, bare, strict=True)) >= 20, bare


def test_capabilities_bring_calls_back(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """With CAP_SYS_ADMIN and CAP_SYS_PTRACE the calls that need them are allowed."""
    calls = ("165:0:0:0:0:0", "438:-1:0:0", "250:0:0")
    without = probe(runtime, bundle, default_seccomp([], "x86_64"), *calls)
    assert without == ["EPERM"] * 3
    names = ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]
    for kind in ("bounding", "permitted", "effective"):
        bundle.process["capabilities"][kind] = names
    assert probe(runtime, bundle, default_seccomp(names, "x86_64"), *calls) == ["EFAULT", "EBADF", "EPERM"]


def test_spec_writes_it(tmp_path: Path) -> None:
    """spec --seccomp is spec with the profile for the capabilities it gives, and nothing else."""
    configs = []
    for options in ([], ["--seccomp"]):
        place = tmp_path / f"with{len(options)}"
        place.mkdir()
        subprocess.run([PYRUNC, "spec", *options], cwd=place, check=True)
        configs.append(json.loads((place / "config.json").read_text()))
    plain, with_profile = configs
    assert "seccomp" not in plain["linux"]
    capabilities = plain["process"]["capabilities"]["bounding"]
    assert with_profile["linux"].pop("seccomp") == default_seccomp(capabilities, "x86_64")
    assert with_profile == plain


# Real programs


@pytest.fixture
def own_debian(make_bundle: Callable[[str], Bundle], debian: Path) -> Bundle:
    """A Debian that may be written to, under the profile."""
    bundle = make_bundle("own")
    shutil.rmtree(bundle.rootfs)
    subprocess.run(["cp", "--archive", "--reflink=auto", debian, bundle.rootfs], check=True)
    return engines(bundle)


def test_apt_installs_a_package(runtime: Runtime, own_debian: Bundle, host: Host) -> None:
    """apt reads a repository as the user _apt, which it becomes, and dpkg installs from it; no call is missing."""
    result = runtime.run(own_debian, r"""set -e; exec 2>&1; mkdir -p /srv/p/DEBIAN /srv/p/usr/bin; cd /srv
        printf 'Package: small\nVersion: 1\nArchitecture: all\nMaintainer: me <me@localhost>\nDescription: a\n' \
            > p/DEBIAN/control
        printf '#!/bin/sh\nuseradd --create-home keeper\n' > p/DEBIAN/postinst
        printf '#!/bin/sh\necho from the package\n' > p/usr/bin/small; chmod 755 p/DEBIAN/postinst p/usr/bin/small
        dpkg-deb --build p small.deb >/dev/null; rm -r p
        { dpkg-deb -f small.deb; echo "Filename: ./small.deb"; echo "Size: $(stat -c %s small.deb)";
          echo "SHA256: $(sha256sum small.deb | cut -d' ' -f1)"; } > Packages
        rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*
        echo 'deb [trusted=yes] file:/srv ./' > /etc/apt/sources.list
        apt-get --version | head -1; apt-get update; apt-get install --yes small; small; id keeper
        dpkg --verify small coreutils; grep Seccomp: /proc/self/status""")
    assert result.code == 0, result
    assert result.lines[0].startswith("apt 2."), result
    assert "Setting up small (1) ..." in result.lines, result
    assert result.lines[-3:] == ["from the package", "uid=1000(keeper) gid=1000(keeper) groups=1000(keeper)",
                                 "Seccomp:\t2"], result


def test_python(runtime: Runtime, own_debian: Bundle, host: Host) -> None:
    """Threads, children, sockets, files and clocks from Python; a user namespace is what it may not make."""
    program = r"""
import os, socket, threading, time
found = []
thread = threading.Thread(target=lambda: found.append(os.getpid())); thread.start(); thread.join()
one, two = socket.socketpair(); one.sendall(b"word"); found.append(two.recv(9))
server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname())
child = os.fork()
if not child: os._exit(5)
found.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
with open("/tmp/file", "wb") as file: file.write(os.urandom(100000))
found.append(os.stat("/tmp/file").st_size); time.sleep(0.01)
found.append(os.waitstatus_to_exitcode(os.system("true")))
for family in (socket.AF_ALG, socket.AF_VSOCK):
    try: socket.socket(family)
    except OSError as error: found.append(error.strerror)
print(found)
"""
    result = runtime.run(own_debian.args("python3", "-c", program))
    assert result.lines == ["[1, b'word', 5, 100000, 0, 'Operation not permitted', 'Operation not permitted']"], result


GO = r"""
package main

import ("fmt"; "net"; "os"; "os/exec"; "runtime"; "sync"; "time")

func main() {
	var all sync.WaitGroup
	sums := make(chan int, 100)
	for i := 0; i < 100; i++ {
		all.Add(1)
		go func(n int) { defer all.Done(); runtime.LockOSThread(); time.Sleep(time.Millisecond); sums <- n }(i)
	}
	all.Wait()
	close(sums)
	sum := 0
	for n := range sums { sum += n }
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil { panic(err) }
	go func() { c, _ := listener.Accept(); c.Write([]byte("over tcp")); c.Close() }()
	c, err := net.Dial("tcp", listener.Addr().String())
	if err != nil { panic(err) }
	word := make([]byte, 8)
	c.Read(word)
	out, err := exec.Command("/bin/echo", "from a child").Output()
	if err != nil { panic(err) }
	err = os.WriteFile("/tmp/file", make([]byte, 1<<20), 0o600)
	garbage := 0
	for i := 0; i < 50; i++ { garbage += len(make([]byte, 1<<20)) }
	runtime.GC()
	fmt.Printf("%d %s %s%v %d\n", sum, word, out, err, garbage>>20)
}
"""


def test_a_go_program(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """Go's own scheduler, collector and network poller, with a hundred threads, make no call that is missing."""
    (tmp_path / "main.go").write_text(GO)
    built = subprocess.run(["go", "build", "-o", bundle.rootfs / "bin" / "gopher", "main.go"], cwd=tmp_path,
                           capture_output=True, text=True, timeout=300,
                           env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GOCACHE": str(tmp_path / "cache"),
                                "GO111MODULE": "off", "CGO_ENABLED": "0", "GOFLAGS": "-p=2"})
    assert built.returncode == 0, built.stderr
    engines(bundle)
    result = runtime.run(bundle.args("gopher"))
    assert result.lines == ["4950 over tcp from a child", "<nil> 50"], result
