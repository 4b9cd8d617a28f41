# SPDX-License-Identifier: Apache-2.0
"""The guest is what the tests in it take it for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime

pytestmark = pytest.mark.vm_short

CGROUPS = Path("/sys/fs/cgroup")
both = [pytest.mark.vm, pytest.mark.vm_systemd]


def mounts_at(path: str) -> list[tuple[str, set[str]]]:
    """Type and options of what is mounted there."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [(fields[2], set(fields[3].split(","))) for fields in lines if fields[1] == path]


class TestBoth:
    pytestmark = both

    def test_cgroup_v2_alone(self) -> None:
        """One hierarchy, which delegation is checked in, and no mount of v1."""
        (found,) = mounts_at("/sys/fs/cgroup")
        assert found[0] == "cgroup2" and "nsdelegate" in found[1]
        assert " cgroup rw" not in Path("/proc/self/mounts").read_text()

    def test_all_controllers(self) -> None:
        available = set((CGROUPS / "cgroup.controllers").read_text().split())
        assert available >= {"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma"}

    def test_debians_kernel_and_its_modules(self) -> None:
        """The modules fit the kernel: one is loaded."""
        release = os.uname().release
        assert release.endswith("-amd64") and Path("/lib/modules", release, "modules.dep").exists()
        subprocess.run(["modprobe", "dummy"], check=True)
        assert Path("/sys/module/dummy").exists()

    def test_apparmor_and_all_capabilities(self) -> None:
        assert Path("/sys/module/apparmor/parameters/enabled").read_text() == "Y\n"
        assert "apparmor" in Path("/sys/kernel/security/lsm").read_text().split(",")
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
        last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
        assert int(status["CapEff"], 16) == (1 << last + 1) - 1

    def test_scratch_is_a_tmpfs_where_all_is_allowed(self, tmp_path: Path) -> None:
        scratch = os.environ["TMPDIR"]
        assert tmp_path.is_relative_to(scratch)
        (found,) = mounts_at(scratch)
        assert found[0] == "tmpfs" and not found[1] & {"ro", "nosuid", "nodev", "noexec"}

    def test_the_disk(self, blank_disk: Path, tmp_path: Path) -> None:
        """It takes a file system."""
        subprocess.run(["mkfs.ext4", "-q", "-F", blank_disk], check=True)
        subprocess.run(["mount", blank_disk, tmp_path], check=True)
        try:
            (tmp_path / "file").write_text("kept")
            assert (tmp_path / "file").read_text() == "kept"
        finally:
            subprocess.run(["umount", tmp_path], check=True)
            subprocess.run(["wipefs", "--all", "--quiet", blank_disk], check=True)

    def test_a_container_runs(self, runtime: Runtime, bundle: Bundle, host: Host) -> None:
        result = runtime.run(bundle, "read -r line </proc/self/cgroup; echo $line; exit 7")
        assert result.code == 7 and result.lines == ["0::/"], result
        assert runtime.run(bundle.args("true")).code == 0


@pytest.mark.vm
def test_pid_1_is_a_shell_of_the_machines_own() -> None:
    assert Path("/proc/1/comm").read_text() == "init\n"
    assert Path("/proc/self/cgroup").read_text() == "0::/\n"


@pytest.mark.vm
def test_what_is_written_stays_in_the_machine() -> None:
    """The host's root is below an overlay."""
    root = mounts_at("/")[-1]
    assert root[0] == "overlay" and any(option.startswith("upperdir=") for option in root[1])


@pytest.mark.vm_systemd
def test_systemd_is_up() -> None:
    """All units, or `degraded` with the names of those that failed in the message of this failure."""
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    state = subprocess.run(["systemctl", "is-system-running"], capture_output=True, text=True).stdout.strip()
    failed = subprocess.run(["systemctl", "--failed", "--plain", "--no-legend"], capture_output=True, text=True)
    assert (state, failed.stdout) == ("running", "")


@pytest.mark.vm_systemd
def test_systemd_makes_scopes() -> None:
    """What the systemd driver needs: a transient unit over D-Bus, with its limit in its cgroup."""
    done = subprocess.run(["systemd-run", "--quiet", "--scope", "--unit=vm-self", "--property=TasksMax=77", "sh", "-c",
                           "cat /proc/self/cgroup /sys/fs/cgroup/system.slice/vm-self.scope/pids.max"],
                          capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["0::/system.slice/vm-self.scope", "77"], done.stderr
