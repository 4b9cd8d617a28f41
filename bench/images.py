# SPDX-License-Identifier: Apache-2.0
"""pull and unpack beside skopeo with umoci and podman, in one alternating run; and the memory that a large image takes.

    python -m bench.images --runtime pyrunc [--rounds N] [--size MIB] [--json FILE]

The image is a Debian made with debootstrap, in several layers, on a docker-registry on loopback; each
round empties every store and then lets each tool, in an order that rotates, pull it and make a root
directory of it.  The large image (of --size MiB, half of it random) is pulled and unpacked once by
pyrunc; what is reported is the peak of its resident memory (getrusage(2), ru_maxrss).
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
    """Each makes an image's root directory below `scratch`, from nothing."""

    def __init__(self, scratch: Path, pyrunc: str) -> None:
        self.scratch = scratch
        self.pyrunc = pyrunc
        # It wants short paths, and one of its own for all that it keeps.
        self.storage = tempfile.mkdtemp(prefix="pod", dir="/tmp")
        kept = {"--root": "root", "--runroot": "run", "--tmpdir": "tmp"}
        where = (f"{option}={self.storage}/{name}" for option, name in kept.items())
        self._podman = ["podman", *where, "--storage-driver",
                        "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]

    def podman(self, *words: str) -> None:
        command(*self._podman, *words)

    def close(self) -> None:
        """podman's storage is a mount of itself."""
        subprocess.run(["umount", f"{self.storage}/root/overlay"], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.storage)

    def clear(self) -> None:
        for name in ("store", "bundle", "skopeo", "umoci"):
            path = self.scratch / name
            if path.exists():
                shutil.rmtree(path)
        self.podman("image", "rm", "--all", "--force")
        os.sync()

    def by_pyrunc(self, image: str) -> None:
        command(self.pyrunc, "image", "unpack", "--quiet", "--store", self.scratch / "store", image,
                self.scratch / "bundle")

    def by_skopeo_and_umoci(self, image: str) -> None:
        command("skopeo", "copy", "--src-tls-verify=false", f"docker://{image}", f"oci:{self.scratch}/skopeo:x")
        command("umoci", "unpack", "--image", f"{self.scratch}/skopeo:x", self.scratch / "umoci")

    def by_podman(self, image: str) -> None:
        self.podman("pull", "--quiet", "--tls-verify=false", image)


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
    times: dict[str, list[float]] = {"pyrunc": [], "skopeo + umoci": [], "podman": []}
    memory = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as name:
        scratch = Path(name)
        layout = debian(scratch)
        tools = Tools(scratch, pyrunc)
        ways = list(zip(times, (tools.by_pyrunc, tools.by_skopeo_and_umoci, tools.by_podman), strict=True))
        try:
            with registry(scratch) as served:
                image = f"{served}/bench/debian:1"
                command("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:debian", f"docker://{image}")
                for number in range(-1, args.rounds):
                    for shift in range(len(ways)):
                        way, run = ways[(number + shift) % len(ways)]
                        tools.clear()
                        started = time.perf_counter()
                        run(image)
                        if number >= 0:  # the first warms the page cache
                            times[way].append(time.perf_counter() - started)
                tools.clear()
                if args.size:
                    layout = large(scratch, args.size)
                    image = f"{served}/bench/large:1"
                    command("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:large", f"docker://{image}")
                    memory = peak(pyrunc, scratch, image)
        finally:
            tools.close()
    medians = {way: statistics.median(found) for way, found in times.items()}
    for way, median in medians.items():
        print(f"{way:16} {median:7.2f} s  {medians['pyrunc'] / median:5.2f} of it is pyrunc's")
    if memory:
        print(f"peak memory for an image of {args.size} MiB: {memory:.0f} MiB")
    if args.json:
        Path(args.json).write_text(json.dumps({"seconds": times, "peak_mib": memory}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
