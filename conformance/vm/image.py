# SPDX-License-Identifier: Apache-2.0
"""The disk of the machine `systemd`: a small Debian, made once for each recipe."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from conformance.vm import cache
from conformance.vm.initramfs import JOB

# libpython: what the command in the shared environment loads.
PACKAGES = ("systemd", "systemd-sysv", "udev", "dbus", "dbus-user-session", "libpam-systemd", "kmod", "apparmor",
            "python3", f"libpython{sys.version_info[0]}.{sys.version_info[1]}", "libcap2-bin", "libseccomp2",
            "iproute2", "procps", "uidmap", "e2fsprogs", "busybox-static", "runc", "crun")
SIZE = "1500M"

UNIT = f"""\
[Unit]
Description=The command that this machine was started for
After=dbus.socket systemd-logind.service

[Service]
ExecStart=/bin/sh {JOB}/command
OOMPolicy=continue
TasksMax=infinity
LimitMEMLOCK=infinity
"""

# Nothing that wakes up by itself, and no terminals.
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
          "e2scrub_reap.service", "fstrim.timer", "systemd-tmpfiles-clean.timer", "getty@tty1.service",
          "serial-getty@ttyS0.service")


def fetch() -> Path:
    """The image in the cache; a change of the recipe makes another."""
    recipe = repr((cache.codename(), PACKAGES, SIZE, UNIT, MASKED, Path(__file__).read_text()))
    name = f"systemd-{cache.codename()}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    path = cache.keep(name, _make)
    for other in path.parent.glob(f"systemd-{cache.codename()}-*"):
        if other.name != name and other.suffix != ".part":
            shutil.rmtree(other, ignore_errors=True)
    return path / "disk"


def _make(work: Path) -> None:
    root = work / "root"
    cache.command("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", cache.codename(), root,
                  *os.environ.get("PYRUNC_TEST_MIRROR", "").split())
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    _configure(root)
    cache.command("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-d", root, work / "disk", SIZE)
    shutil.rmtree(root)


def _configure(root: Path) -> None:
    etc = root / "etc"
    (etc / "fstab").write_text("")
    (etc / "hostname").write_text("pyrunc-vm\n")
    (etc / "hosts").write_text("127.0.0.1 localhost pyrunc-vm\n")
    (etc / "machine-id").write_text("")  # empty: made at each boot, and no first boot to set things up in
    units = etc / "systemd/system"
    (units / "pyrunc-vm.service").write_text(UNIT)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(parents=True, exist_ok=True)
    (wanted / "pyrunc-vm.service").symlink_to("/etc/systemd/system/pyrunc-vm.service")
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    # Else its workers, which come and go, would each look like something that a container left behind:
    # tests tell processes of containers by their mount namespace.
    dropin = units / "systemd-udevd.service.d"
    dropin.mkdir()
    (dropin / "mounts.conf").write_text("[Service]\nPrivateMounts=no\n")
    # The tree under test may lie in /tmp, which is emptied at boot otherwise.
    (etc / "tmpfiles.d/tmp.conf").symlink_to("/dev/null")
    (root / JOB.lstrip("/")).mkdir()
