# SPDX-License-Identifier: Apache-2.0
"""One table of linux.resources: a row a field, the value given, and the value each runtime left in the kernel.

    python -m conformance.resources --runtime PATH [--runtime PATH2]... [--json]

Each row makes a container with that field alone (created, not started), reads the file of its cgroup,
found through /proc/PID/cgroup, and deletes it; with each runtime in turn, on whatever host this is: v1,
hybrid or v2.  A difference between the first runtime and another is looked up in `EXPLANATIONS`;
one that isn't there makes the exit status 1.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path("/sys/fs/cgroup")
MiB = 1 << 20
BPF_PROG_QUERY, BPF_CGROUP_DEVICE, NR_BPF = 16, 6, {"x86_64": 321, "aarch64": 280}
DEVICE_PROGRAMS = "(bpf device programs)"
NOTHING = "-"  # no such file here


class Row:
    """A field: `resources` is linux.resources as given, `v1` and `v2` the files where it should show.

    Files are tried in order (`blkio.weight` on one kernel is `blkio.bfq.weight` on another); none
    means that this version has no place for the field, which is a row nevertheless: refused or not?
    """

    def __init__(self, pointer: str, resources: Mapping[str, Any], v1: Sequence[str] = (), v2: Sequence[str] = (),
                 line: str = "") -> None:
        self.pointer = pointer
        self.resources = resources
        self.v1 = v1
        self.v2 = v2
        self.line = line  # of a keyed file, the line that starts so

    def given(self) -> str:
        """The values, without the names where there is one only."""
        value: Any = self.resources
        for key in self.pointer.split("/")[1:]:
            if not isinstance(value, Mapping) or key not in value or len(value) > 1:
                break
            value = value[key]
        return value if isinstance(value, str) else json.dumps(value)


def memory(pointer: str, v1: str, v2: str, line: str = "", **fields: Any) -> Row:
    return Row(f"/memory/{pointer}", {"memory": fields}, [f"memory/memory.{v1}"], [f"memory.{v2}"] if v2 else [], line)


def cpu(pointer: str, v1: str, v2: str, **fields: Any) -> Row:
    return Row(f"/cpu/{pointer}", {"cpu": fields}, [f"cpu/cpu.{v1}"], [f"cpu.{v2}"] if v2 else [])


def cpuset(pointer: str, value: str) -> Row:
    return Row(f"/cpu/{pointer}", {"cpu": {pointer: value}}, [f"cpuset/cpuset.{pointer}"], [f"cpuset.{pointer}"])


def block_rows(device: str) -> Iterator[Row]:
    """blockIO's; `device` is MAJOR:MINOR of a disk of this host."""
    major, minor = map(int, device.split(":"))
    node = {"major": major, "minor": minor}
    weights = ["io.bfq.weight", "io.weight"]
    yield Row("/blockIO/weight", {"blockIO": {"weight": 500}}, ["blkio/blkio.weight", "blkio/blkio.bfq.weight"],
              weights, "default")
    yield Row("/blockIO/leafWeight", {"blockIO": {"leafWeight": 500}}, ["blkio/blkio.leaf_weight"])
    yield Row("/blockIO/weightDevice/0/weight", {"blockIO": {"weightDevice": [{**node, "weight": 300}]}},
              ["blkio/blkio.weight_device", "blkio/blkio.bfq.weight_device"], weights, device)
    yield Row("/blockIO/weightDevice/0/leafWeight", {"blockIO": {"weightDevice": [{**node, "leafWeight": 300}]}},
              ["blkio/blkio.leaf_weight_device"])
    for name, v1 in (("throttleReadBpsDevice", "read_bps"), ("throttleWriteBpsDevice", "write_bps"),
                     ("throttleReadIOPSDevice", "read_iops"), ("throttleWriteIOPSDevice", "write_iops")):
        yield Row(f"/blockIO/{name}/0/rate", {"blockIO": {name: [{**node, "rate": 1048576}]}},
                  [f"blkio/blkio.throttle.{v1}_device"], ["io.max"], device)


def rows(device: str) -> list[Row]:
    """Every field of linux.resources, some with more than one value."""
    rdma = rdma_device()
    fuse = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
    everything = {"allow": False, "access": "rwm"}
    return [
        memory("limit", "limit_in_bytes", "max", limit=64 * MiB),
        memory("limit", "limit_in_bytes", "max", limit=-1),
        memory("limit", "limit_in_bytes", "max", limit=64 * MiB + 1),
        memory("reservation", "soft_limit_in_bytes", "low", reservation=32 * MiB),
        memory("swap", "memsw.limit_in_bytes", "swap.max", limit=64 * MiB, swap=96 * MiB),
        memory("swap", "memsw.limit_in_bytes", "swap.max", limit=64 * MiB, swap=64 * MiB),
        memory("swap", "memsw.limit_in_bytes", "swap.max", limit=64 * MiB, swap=-1),
        memory("swap", "memsw.limit_in_bytes", "swap.max", limit=-1),
        memory("kernel", "kmem.limit_in_bytes", "", kernel=32 * MiB),
        memory("kernelTCP", "kmem.tcp.limit_in_bytes", "", kernelTCP=32 * MiB),
        memory("swappiness", "swappiness", "", swappiness=30),
        memory("disableOOMKiller", "oom_control", "", "oom_kill_disable", disableOOMKiller=True),
        memory("useHierarchy", "use_hierarchy", "", useHierarchy=True),
        memory("checkBeforeUpdate", "limit_in_bytes", "max", limit=64 * MiB, checkBeforeUpdate=True),
        memory("checkBeforeUpdate", "limit_in_bytes", "max", limit=4096, checkBeforeUpdate=True),
        *(cpu("shares", "shares", "weight", shares=value) for value in (512, 1024, 2, 262144, 0)),
        cpu("quota", "cfs_quota_us", "max", quota=50000, period=100000),
        cpu("quota", "cfs_quota_us", "max", quota=50000),
        cpu("quota", "cfs_quota_us", "max", quota=-1),
        cpu("period", "cfs_period_us", "max", period=50000),
        cpu("burst", "cfs_burst_us", "max.burst", quota=50000, period=100000, burst=20000),
        cpu("burst", "cfs_burst_us", "max.burst", burst=20000),
        cpu("idle", "idle", "idle", idle=1),
        cpu("realtimePeriod", "rt_period_us", "", realtimePeriod=500000),
        cpu("realtimeRuntime", "rt_runtime_us", "", realtimeRuntime=10000),
        cpuset("cpus", "0"),
        cpuset("cpus", "0-1:1/2"),
        cpuset("mems", "0"),
        *(Row("/pids/limit", {"pids": {"limit": value}}, ["pids/pids.max"], ["pids.max"]) for value in (100, -1, 0)),
        *block_rows(device),
        Row("/hugepageLimits/0/limit", {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MiB}]},
            ["hugetlb/hugetlb.2MB.limit_in_bytes"], ["hugetlb.2MB.max"]),
        Row("/hugepageLimits/0/limit", {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MiB}]},
            ["hugetlb/hugetlb.2MB.rsvd.limit_in_bytes"], ["hugetlb.2MB.rsvd.max"]),
        Row("/network/classID", {"network": {"classID": 1048577}}, ["net_cls/net_cls.classid"]),
        Row("/network/priorities/0/priority", {"network": {"priorities": [{"name": "lo", "priority": 5}]}},
            ["net_prio/net_prio.ifpriomap"], line="lo"),
        Row("/rdma/{}/hcaHandles", {"rdma": {rdma: {"hcaHandles": 2}}}, ["rdma/rdma.max"], ["rdma.max"], rdma),
        Row("/rdma/{}/hcaObjects", {"rdma": {rdma: {"hcaObjects": 9}}}, ["rdma/rdma.max"], ["rdma.max"], rdma),
        Row("/unified/memory.high", {"unified": {"memory.high": "33554432"}}, [], ["memory.high"]),
        Row("/unified/memory.oom.group", {"unified": {"memory.oom.group": "1"}}, [], ["memory.oom.group"]),
        Row("/unified/pids.max", {"unified": {"pids.max": "77"}, "pids": {"limit": 100}}, [], ["pids.max"]),
        Row("/devices", {}, ["devices/devices.list"], [DEVICE_PROGRAMS]),
        Row("/devices", {"devices": [everything]}, ["devices/devices.list"], [DEVICE_PROGRAMS]),
        Row("/devices", {"devices": [everything, fuse]}, ["devices/devices.list"], [DEVICE_PROGRAMS]),
        Row("/devices", {"devices": [{"allow": True, "access": "rwm"}]}, ["devices/devices.list"], [DEVICE_PROGRAMS]),
    ]


class Explanation:
    """Why the first runtime has `ours` where another, whose path ends so, has `theirs` (regular expressions)."""

    def __init__(self, version: str, pointer: str, ours: str, theirs: str, text: str) -> None:
        self.version = version
        self.pointer = pointer
        self.ours = ours
        self.theirs = theirs
        self.text = text

    def fits(self, version: str, pointer: str, ours: str, theirs: str) -> bool:
        return (self.version in ("", version) and re.fullmatch(self.pointer, pointer) is not None
                and re.fullmatch(self.ours, ours) is not None and re.fullmatch(self.theirs, theirs) is not None)


# Those of pyrunc beside runc 1.1.5, Debian's; later runcs agree with pyrunc where "since" says so.
EXPLANATIONS: list[Explanation] = [
    Explanation("v2", "/cpu/shares", r"\d+", r"\d+", "linear in runc 1.1.5; log-quadratic in runc since 2025"),
    Explanation("", "/memory/checkBeforeUpdate", ".*", ".*", "runc's own init is charged, and in the way; "
                "pyrunc's joins the cgroup last"),
    Explanation("", "/cpu/burst", ".*", "0|-", "since runc 1.2"),
    Explanation("", "/cpu/idle", "1", "0|-", "since runc 1.2"),
    Explanation("v1", "/memory/kernelTCP", r"\d+", r"\d+", "runc ignores it; crun writes it too"),
    Explanation("", "/hugepageLimits/0/limit", r"\d+", r"max|9223372036\d+", "since runc 1.1.10"),
    Explanation("v2", "/devices", "0", "1", "nothing is denied: runc attaches a program that says so"),
    Explanation("v1", "/hugepageLimits/0/limit", r"\d+", "refused.*", "on this hybrid host v2 has the controller: "
                "written there; runc looks at v1 only"),
]


# What is done for a row

def version() -> str:
    """`v2`, or `v1` (a hybrid host is one, as runc sees it)."""
    return "v2" if (ROOT / "cgroup.controllers").exists() else "v1"


def disk() -> str:
    """MAJOR:MINOR of a block device that can be throttled."""
    names = sorted(os.listdir("/sys/block"), key=lambda name: (not name.startswith(("loop", "vd", "sd")), name))
    return Path("/sys/block", names[0], "dev").read_text().strip() if names else "7:0"


def rdma_device() -> str:
    """One of this host's, or the name of one that isn't there."""
    try:
        return min(os.listdir("/sys/class/infiniband"), default="mlx5_0")
    except FileNotFoundError:
        return "mlx5_0"


def config(resources: Mapping[str, Any], cgroups_path: str) -> dict[str, Any]:
    return {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["/bin/busybox", "true"], "user": {"uid": 0, "gid": 0},
                    "env": ["PATH=/bin"]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                   {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}],
        "linux": {"namespaces": [{"type": name} for name in ("pid", "ipc", "mount")],
                  "cgroupsPath": cgroups_path, "resources": resources},
    }


def device_programs(directory: Path) -> str:
    """How many device programs are attached to a v2 cgroup (bpf(2), BPF_PROG_QUERY)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ids = (ctypes.c_uint32 * 64)()
        attr = (ctypes.c_uint32 * 16)(fd, BPF_CGROUP_DEVICE, 0, 0)
        ctypes.cast(attr, ctypes.POINTER(ctypes.c_uint64))[2] = ctypes.addressof(ids)
        attr[6] = len(ids)
        if libc.syscall(ctypes.c_long(NR_BPF[os.uname().machine]), ctypes.c_long(BPF_PROG_QUERY),
                        ctypes.byref(attr), ctypes.c_ulong(ctypes.sizeof(attr))) != 0:
            return f"error: {os.strerror(ctypes.get_errno())}"
        return str(attr[6])
    finally:
        os.close(fd)


def directory_of(pid: int, controller: str) -> Path | None:
    """The process's cgroup in that v1 controller's hierarchy, "" being v2."""
    place = controller or ("" if version() == "v2" else "unified")
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") and (ROOT / place).is_dir():
            return ROOT / place / path.lstrip("/")
    return None


def read_back(pid: int, row: Row, how: str) -> tuple[str, str]:
    """(file, value); the value is `NOTHING` where there is no such file."""
    files = row.v2 if how == "v2" else [*row.v1, *row.v2]  # what v1 lacks a hybrid host may have on v2
    for file in files:
        controller, _, name = file.rpartition("/")
        directory = directory_of(pid, controller)
        if directory is None:
            continue
        if name == DEVICE_PROGRAMS:
            return name, device_programs(directory)
        try:
            text = (directory / name).read_text()
        except FileNotFoundError:
            continue
        lines = sorted(" ".join(line.split()) for line in text.splitlines())
        if row.line and (len(lines) != 1 or " " in lines[0]):
            lines = [line for line in lines if line.split(" ")[0] == row.line]
        return name, ", ".join(lines) or "(none)"
    return (files[0].rpartition("/")[2] if files else NOTHING), NOTHING


def _message(line: str) -> str:
    """What an error line says: without runc's time and level, and the steps it came through."""
    if found := re.search(r'msg="(.*)"$', line):
        line = found[1].replace('\\"', '"')
    for step in ("pyrunc: ", "create ID: ", "runc create failed: ", "unable to start container process: ",
                 "error during container init: ", "error setting cgroup config for procHooks process: "):
        line = line.removeprefix(step)
    return line


def measure(runtime: str, work: Path, row: Row, how: str) -> tuple[str, str]:
    """(file, value or refusal) of one row with one runtime; nothing of the container is left."""
    name = f"conformance-{uuid.uuid4().hex[:12]}"
    (work / "config.json").write_text(json.dumps(config(row.resources, f"/{name}")))
    command = [runtime, "--root", str(work / "state")]
    log, pid_file = work / "log", work / "pid"
    try:
        with open(log, "wb") as file:
            made = subprocess.run([*command, "create", "--bundle", str(work), "--pid-file", str(pid_file), name],
                                  stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=600)
        if made.returncode != 0:
            lines = log.read_text(errors="replace").splitlines() or [f"exit {made.returncode}"]
            files = row.v2 if how == "v2" else row.v1
            file_name = files[0].rpartition("/")[2] if files else NOTHING
            return file_name, "refused: " + _message(lines[-1].replace(name, "ID"))
        pid = int(pid_file.read_text())
        if not _lives(pid):
            return NOTHING, "created, and its init killed"
        return read_back(pid, row, how)
    finally:
        subprocess.run([*command, "delete", "--force", name], capture_output=True, timeout=600)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def explain(values: Sequence[str], row: Row, how: str) -> tuple[bool, str]:
    """Whether each of the others agrees with the first, or is known not to; and the reasons."""
    texts: list[str] = []
    fine = True
    for other in values[1:]:
        if other == values[0] or (other.startswith("refused") and values[0].startswith("refused")):
            continue
        found = [each.text for each in EXPLANATIONS if each.fits(how, row.pointer, values[0], other)]
        fine = fine and bool(found)
        texts += found[:1] or ["UNEXPLAINED"]
    return fine, "; ".join(dict.fromkeys(texts))


def table(runtimes: Sequence[str], *, only: str = "") -> list[dict[str, Any]]:
    """The whole table; `only` picks the pointers that begin so."""
    how = version()
    found = []
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        work = Path(scratch)
        for name in ("bin", "dev", "proc"):
            (work / "rootfs" / name).mkdir(parents=True)
        shutil.copy2(shutil.which("busybox") or "/bin/busybox", work / "rootfs/bin/busybox")
        for row in rows(disk()):
            if not row.pointer.startswith(only):
                continue
            seen = [measure(runtime, work, row, how) for runtime in runtimes]
            values = [value for _, value in seen]
            fine, text = explain(values, row, how)
            found.append({"field": "/linux/resources" + row.pointer, "given": row.given(), "version": how,
                          "file": seen[0][0], "values": values, "explained": fine, "explanation": text})
    return found


# Showing it

def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def render(found: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """A Markdown table, its columns aligned."""
    heads = ["field", "given", "file", *names, "difference"]
    lines = [[row["field"].removeprefix("/linux/resources"), _short(row["given"], 60), row["file"],
              *(_short(value, 70) for value in row["values"]), row["explanation"]] for row in found]
    widths = [max(len(line[n]) for line in [heads, *lines]) for n in range(len(heads))]
    rule = ["-" * width for width in widths]
    return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
                     for line in [heads, rule, *lines])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="conformance.resources", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", action="append", required=True, help="a path or name; again for more")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    parser.add_argument("--only", default="", metavar="POINTER", help="only the fields that begin so, e.g. /memory")
    args = parser.parse_args(arguments)
    found = table([shutil.which(path) or path for path in args.runtime], only=args.only)
    if args.json:
        print(json.dumps(found, indent=1))
    else:
        print(render(found, [Path(path).name for path in args.runtime]))
    return 0 if all(row["explained"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
