# SPDX-License-Identifier: Apache-2.0
"""The configuration that the `spec` command writes.

It means what `runc spec` writes, so that guides written for runc hold: a shell on a terminal in a
read-only rootfs, with five namespaces and three capabilities.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.spec.types import Config, IDMapping, Mount, Namespace

OCI_VERSION = "1.3.0"

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_MASKED = ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
           "/proc/timer_list",
           "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def default_config(rootless: bool = False, uid: int = 0, gid: int = 0) -> Config:
    """A new default configuration; with `rootless`, one that `uid` and `gid` can run themselves."""
    config: Config = {
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": [*_CAPABILITIES],
                "effective": [*_CAPABILITIES],
                "permitted": [*_CAPABILITIES],
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "pyrunc",
        "mounts": _mounts(rootless),
        "linux": {
            "namespaces": _namespaces(rootless),
            "maskedPaths": [*_MASKED],
            "readonlyPaths": [*_READ_ONLY],
        },
    }
    if rootless:
        config["linux"]["uidMappings"] = _one_id(uid)
        config["linux"]["gidMappings"] = _one_id(gid)
    else:
        config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return config


def _mounts(rootless: bool) -> list[Mount]:
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    if not rootless:
        terminals.append("gid=5")  # the group tty, which a namespace of one id does not have
    # sysfs belongs to the network namespace, which without root stays the host's: bound instead.
    sys: Mount = {"destination": "/sys", "type": "sysfs", "source": "sysfs",
                  "options": ["nosuid", "noexec", "nodev", "ro"]}
    bound: Mount = {"destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]}
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": terminals},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
         "options": ["nosuid", "noexec", "nodev"]},
        bound if rootless else sys,
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
    ]


def _namespaces(rootless: bool) -> list[Namespace]:
    namespaces: list[Namespace] = [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                                   {"type": "mount"}]
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        # Under cgroup v2 alone, as runc does: on v1 a container would lose sight of its cgroups.
        namespaces.append({"type": "cgroup"})
    if rootless:
        namespaces = [namespace for namespace in namespaces if namespace["type"] != "network"]
        namespaces.append({"type": "user"})
    return namespaces


def _one_id(host_id: int) -> list[IDMapping]:
    return [{"containerID": 0, "hostID": host_id, "size": 1}]
