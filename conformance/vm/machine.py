# SPDX-License-Identifier: Apache-2.0
"""One run of a machine: the job it finds, qemu, and the command's output and status on their way out."""

from __future__ import annotations

import os
import platform
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from conformance.vm import image, initramfs, kernel
from conformance.vm.errors import Broken, Unavailable

MACHINES = ("controllers", "selinux", "systemd")
#: What the kernel is told beside the usual: the module that confines programs, without a policy yet.
ARGUMENTS = {"selinux": "security=selinux selinux=1 enforcing=0"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SCRATCH = "/run/pyrunc-vm"  # in the guest: a tmpfs where everything is allowed, and TMPDIR

MARK = b"\x1e"  # ASCII's record separator: begins the line with the status, and what may become it is held back

# PID 1 of all but `systemd`, and the parent of what is orphaned there: the shell reaps it while it waits.
INIT = f"""\
#!/bin/sh
export PATH={PATH}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue /dev/hugepages
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t hugetlbfs hugetlbfs /dev/hugepages
mount -t securityfs securityfs /sys/kernel/security
mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock
ip link set lo up
modprobe fuse
hostname pyrunc-vm
/bin/sh {initramfs.JOB}/command </dev/null
echo o >/proc/sysrq-trigger
sleep 60
"""

COMMAND = f"""\
#!/bin/sh
exec </dev/null >/dev/vport0p1 2>&1
mkdir -p {SCRATCH}
mount -t tmpfs -o mode=1777 scratch {SCRATCH}
"""


class Job:
    """The directory that the guest mounts first: what to mount, what to run."""

    def __init__(self, path: Path, machine: str) -> None:
        self.path = path
        self.machine = machine
        self.token = f"{MARK.decode()}status {uuid.uuid4().hex}"
        self.console = path / "console"
        self.shares: list[tuple[str, Path, str]] = []  # 9p tag, host's path, path in the guest

    def share(self, source: Path, target: str) -> None:
        self.shares.append((f"share{len(self.shares)}", source, target))

    def write(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        systemd = self.machine == "systemd"
        (self.path / "machine").write_text(
            f"DISK={'/dev/vda' if systemd else ''}\n"
            f"INIT={'/sbin/init' if systemd else initramfs.JOB + '/init'}\n")
        (self.path / "shares").write_text("".join(f"{tag} {target}\n" for tag, _, target in self.shares))
        (self.path / "init").write_text(INIT)
        (self.path / "init").chmod(0o755)
        disk = "/dev/vdb" if systemd else "/dev/vda"
        variables = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TMPDIR": SCRATCH, "PYRUNC_VM": self.machine,
                     "PYRUNC_VM_DISK": disk, **environment}
        settled = "timeout 120 systemctl is-system-running --wait >/dev/null\n" if systemd else ""
        (self.path / "command").write_text(
            COMMAND + settled + f"cd {shlex.quote(os.getcwd())} || exit\n"
            f"env -i {shlex.join(f'{name}={value}' for name, value in variables.items())} {shlex.join(words)}\n"
            f"echo {self.token} $?\n")


def run(machine: str, words: Sequence[str], *, timeout: float = 600, environment: Mapping[str, str] | None = None,
        shares: Sequence[Path] = (), write: Callable[[bytes], object] | None = None) -> int:
    """Run a command in a machine, in the directory of the same name as ours; its exit status.

    `shares` are further directories that `systemd` sees at their own paths; the others see all.
    """
    check_host()
    linux = kernel.fetch()
    disk = image.fetch() if machine == "systemd" else None
    with tempfile.TemporaryDirectory(prefix="pyrunc-vm-") as place:
        job = Job(Path(place), machine)
        if machine == "systemd":
            environments = [Path(sys.prefix)] if sys.prefix != sys.base_prefix else []
            for path in outermost([Path.cwd(), *environments, *shares]):
                job.share(path, str(path))
        else:
            job.share(Path("/"), "/")
        job.share(linux.modules, f"/lib/modules/{linux.version}")
        job.write(words, environment or {})
        (job.path / "initramfs").write_bytes(initramfs.build(linux))
        with open(job.path / "scratch", "wb") as scratch:
            scratch.truncate(256 << 20)
        return _drive(job, _qemu(job, linux, disk), timeout, write or _write_stdout)


def check_host() -> None:
    if platform.machine() != "x86_64":
        raise Unavailable(f"the machines are x86_64, and this is {platform.machine()}")
    if os.geteuid() != 0:
        raise Unavailable("it takes root: for the files that the machine sees, and to make its disk")


def outermost(paths: Sequence[Path]) -> list[Path]:
    """Those directories that are in none of the others."""
    real = sorted({path.resolve() for path in paths})
    return [path for path in real if not any(other in path.parents for other in real)]


def _qemu(job: Job, linux: kernel.Kernel, disk: Path | None) -> list[str]:
    words = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
             "-m", "2048", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
             "-kernel", str(linux.image), "-initrd", str(job.path / "initramfs"),
             "-append", f"console=ttyS0 quiet panic=-1 mitigations=off {ARGUMENTS.get(job.machine, '')}",
             "-serial", f"file:{job.console}",
             "-device", "virtio-serial-pci",
             "-chardev", "stdio,id=out,signal=off", "-device", "virtserialport,chardev=out"]
    if disk:  # snapshot: what is written goes to a file without a name
        words += ["-drive", f"file={disk},format=raw,if=virtio,snapshot=on"]
    words += ["-drive", f"file={job.path / 'scratch'},format=raw,if=virtio,cache=unsafe"]
    for tag, source, _ in [("job", job.path, ""), *job.shares]:
        words += ["-virtfs", f"local,path={str(source).replace(',', ',,')},mount_tag={tag},security_model=passthrough,"
                             "readonly=on,multidevs=remap"]
    return words


def _drive(job: Job, words: list[str], timeout: float, write: Callable[[bytes], object]) -> int:
    # It dies with us, whatever we die of.  Its standard input stays open: at its end the port would close.
    try:
        qemu = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *words], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError:
        raise Unavailable("setpriv is not installed") from None
    try:
        status = _pass_on(qemu, job.token.encode(), time.monotonic() + timeout, write)
        if status is not None:
            return status
        assert qemu.stderr
        said = qemu.stderr.read().decode(errors="replace").strip()
        if "setpriv: failed to execute" in said:
            raise Unavailable("qemu-system-x86_64 is not installed")
        raise Broken(f"the machine {job.machine} ended before its command did\n{said}\n{_last_words(job)}")
    except TimeoutError:
        raise Broken(f"the machine {job.machine} took more than {timeout:g} s\n{_last_words(job)}") from None
    finally:
        qemu.send_signal(signal.SIGKILL)
        qemu.wait()


def _pass_on(qemu: subprocess.Popen[bytes], token: bytes, deadline: float,
             write: Callable[[bytes], object]) -> int | None:
    """Hand on the guest's output as it comes, until the line with the status or the end."""
    assert qemu.stdout
    held = b""
    while True:
        ready, _, _ = select.select([qemu.stdout], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        piece = os.read(qemu.stdout.fileno(), 65536)
        if not piece:
            write(held)
            return None
        held += piece
        before, found, after = held.partition(token + b" ")
        if found and b"\n" in after:
            write(before)
            return int(after.split()[0])
        text, mark, rest = held.partition(MARK)
        if rest and not (mark + rest).startswith(token[:len(mark + rest)]):  # a mark of the command's own
            text, mark, rest = held, b"", b""
        write(text)
        held = mark + rest


def _last_words(job: Job) -> str:
    text = job.console.read_text(errors="replace") if job.console.exists() else ""
    return "\n".join(["its console:", *text.splitlines()[-30:]])


def _write_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
