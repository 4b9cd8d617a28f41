# SPDX-License-Identifier: Apache-2.0
"""pull and unpack beside skopeo with umoci and podman, in one alternating run; and the memory that a large image takes.

    python -m bench.images --runtime pyrunc [--rounds N] [--size MIB] [--json FILE]

The image is a Debian made with debootstrap, in several layers, on a docker-registry on loopback; in each
round each tool, in an order that rotates, pulls it into an empty store and makes a root directory of it:
a plain one (pyrunc's copy, umoci) or one of layers (pyrunc's overlay, podman).  The large image (of
--size MiB, half of it random) is pulled and unpacked once by pyrunc; what is reported is the peak of its
resident memory (getrusage(2), ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def command(*words: str | Path, **options: Any) -> None:
    done = subprocess.run([*map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: exit {done.returncode}: {done.stdout.strip()[-2000:]}")


@contextmanager
def registry(scratch: Path) -> Iterator[str]:
    """docker-registry on loopback; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {"version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
              "storage": {"filesystem": {"rootdirectory": str(scratch / "registry")}}, "http": {"addr": address}}
    (scratch / "registry.yml").write_text(json.dumps(config))  # JSON is YAML
    process = subprocess.Popen(["docker-registry", "serve", scratch / "registry.yml"],
                               stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("docker-registry does not listen")
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


def debian(scratch: Path) -> Path:
    """An OCI layout with the image `debian`: a base and three layers with files of their own."""
    root, layout = scratch / "root", scratch / "layout"
    command("debootstrap", "--variant=minbase", "stable", root)
    command("umoci", "init", "--layout", layout)
    command("umoci", "new", "--image", f"{layout}:debian")
    command("umoci", "insert", "--image", f"{layout}:debian", root, "/")
    source = random.Random(1)
    for number in range(3):
        layer = scratch / f"layer{number}"
        for index in range(300):
            path = layer / f"srv/{number}/{index % 10}/{index}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.randbytes(20000) + bytes(20000))
        command("umoci", "insert", "--image", f"{layout}:debian", layer, "/")
        shutil.rmtree(layer)
    shutil.rmtree(root)
    return layout


def large(scratch: Path, mib: int) -> Path:
    """An OCI layout with the image `large`: one file, half of it random."""
    layout, layer = scratch / "large-layout", scratch / "large"
    layer.mkdir()
    source = random.Random(2)
    with open(layer / "file", "wb") as file:
        for _ in range(mib // 2):
            file.write(source.randbytes(1 << 20))
            file.write(bytes(1 << 20))
    command("umoci", "init", "--layout", layout)
    command("umoci", "new", "--image", f"{layout}:large")
    command("umoci", "insert", "--image", f"{layout}:large", layer, "/")
    shutil.rmtree(layer)
    return layout


class Tools:
    """Each makes an image's root directory, from nothing, in a directory of its own.

    Nothing is removed before all is measured: ext4 makes files slowly for seconds after others were deleted.
    """

    def __init__(self, scratch: Path, pyrunc: str) -> None:
        self.scratch = scratch
        self.pyrunc = pyrunc
        self.overlays: list[Path] = []
        self.storages: list[str] = []

    def _unpack(self, image: str, path: Path, backend: str) -> None:
        command(self.pyrunc, "image", "unpack", "--quiet", "--backend", backend, "--store", path / "store", image,
                path / "bundle")

    def overlay(self, image: str, path: Path) -> None:
        self._unpack(image, path, "overlay")
        self.overlays.append(path)

    def copy(self, image: str, path: Path) -> None:
        self._unpack(image, path, "copy")

    def skopeo_and_umoci(self, image: str, path: Path) -> None:
        command("skopeo", "copy", "--src-tls-verify=false", f"docker://{image}", f"oci:{path}/layout:x")
        command("umoci", "unpack", "--image", f"{path}/layout:x", path / "bundle")

    def podman(self, image: str, path: Path) -> None:
        # It wants short paths, and one of its own for all that it keeps.
        storage = tempfile.mkdtemp(prefix="pod", dir=self.scratch.parent)
        self.storages.append(storage)
        command("podman", f"--root={storage}/root", f"--runroot={storage}/run", f"--tmpdir={storage}/tmp",
                "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "pull",
                "--quiet", "--tls-verify=false", image)

    def close(self) -> None:
        for path in self.overlays:
            command(self.pyrunc, "image", "umount", "--store", path / "store", path / "bundle")
        for storage in self.storages:
            subprocess.run(["umount", f"{storage}/root/overlay"], stderr=subprocess.DEVNULL, check=False)
            shutil.rmtree(storage)


def peak(pyrunc: str, scratch: Path, image: str) -> float:
    """MiB: the most that a pull with unpacking had resident."""
    pid = os.posix_spawn(pyrunc, [pyrunc, "image", "unpack", "--quiet", "--store", str(scratch / "store"), image,
                                  str(scratch / "bundle")], os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"pyrunc image unpack: exit {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="pull and unpack, pyrunc beside others")
    parser.add_argument("--runtime", default="pyrunc", metavar="PATH", help="the pyrunc to measure")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=2048, metavar="MIB", help="of the large image; 0: without it")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    pyrunc = shutil.which(args.runtime)
    if not pyrunc:
        raise SystemExit(f"there is no {args.runtime}")
    times: dict[str, list[float]] = {}
    memory = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as name:
        scratch = Path(name)
        layout = debian(scratch)
        tools = Tools(scratch, pyrunc)
        ways = [("pyrunc, overlay", tools.overlay), ("pyrunc, copy", tools.copy),
                ("skopeo + umoci", tools.skopeo_and_umoci), ("podman pull", tools.podman)]
        try:
            with registry(scratch) as served:
                image = f"{served}/bench/debian:1"
                command("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:debian", f"docker://{image}")
                for number in range(-1, args.rounds):
                    for shift in range(len(ways)):
                        way, run = ways[(number + shift) % len(ways)]
                        path = scratch / f"{number}-{shift}"
                        path.mkdir()
                        os.sync()
                        started = time.perf_counter()
                        run(image, path)
                        if number >= 0:  # the first warms the page cache
                            times.setdefault(way, []).append(time.perf_counter() - started)
                if args.size:
                    layout = large(scratch, args.size)
                    image = f"{served}/bench/large:1"
                    command("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:large", f"docker://{image}")
                    memory = peak(pyrunc, scratch, image)
        finally:
            tools.close()
    medians = {way: statistics.median(times[way]) for way, _ in ways}
    for way, median in medians.items():
        beside = "  ".join(f"{median / medians[other]:5.2f} of {other}" for other, _ in ways[2:])
        print(f"{way:16} {median:7.2f} s  {beside}")
    if memory:
        print(f"peak memory for an image of {args.size} MiB: {memory:.0f} MiB")
    if args.json:
        Path(args.json).write_text(json.dumps({"seconds": times, "peak_mib": memory}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
