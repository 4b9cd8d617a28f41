# SPDX-License-Identifier: Apache-2.0
"""Time a container's place in a network, made and undone: `pyrunc net`, and the CNI plugins bridge and portmap.

    python -m bench.net --pyrunc PATH [--rounds N] [--containers N] [--ports N] [--json FILE]

Each subject has a host of its own (a network namespace), with one container in it from the beginning, so that bridges
and tables are there.  In each round every subject, in an order that rotates, attaches a container with one published
port and detaches it; all programs that takes are timed from their start to their end.  `crowded` is `pyrunc net` on a
host with many containers and published ports.  Namespaces and files are gone when the program ends.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.bench import Sample, measure
from pyrunc.linux.process import CLONE_NEWNET, setns

PLUGINS = "/usr/lib/cni"
WARM_UP = 2
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PORT = 8080
MARK = "PYRUNC_BENCH_NET"  # in the environment: we are in namespaces of our own


class Host:
    """A network namespace that a subject works in, and its containers'."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.name = name
        self.place = scratch / name
        self.place.mkdir()
        self.output = self.place / "output"
        namespace(name)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        self.first, self.container = (namespace(f"{name}-{which}") for which in ("first", "container"))
        self._fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)

    def measure(self, *words: str, **options: Any) -> Sample:
        setns(self._fd, CLONE_NEWNET)
        return measure(list(words), self.place, self.output, **options)


def namespace(name: str) -> str:
    """A new one; its path."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    return f"/run/netns/{name}"


class Pyrunc:
    """`pyrunc net attach` and `detach`."""

    steps = ("attach", "detach")

    def __init__(self, name: str, scratch: Path, program: str) -> None:
        self.host = Host(name, scratch)
        self.words = [program, "net"]
        self.root = f"--net-root={self.host.place}/net"
        self.do("create", "web", "--subnet", "10.98.0.0/16")
        self.attach("first", self.host.first, PORT + 1)

    def do(self, command: str, *words: str) -> Sample:
        return self.host.measure(*self.words, command, *words, self.root)

    def attach(self, container: str, netns: str, port: int, count: int = 1) -> Sample:
        ports = f"{port}-{port + count - 1}:80-{79 + count}" if count > 1 else f"{port}:80"
        return self.do("attach", container, "web", "--netns", netns, "-p", ports)

    def round(self) -> list[Sample]:
        return [self.attach("container", self.host.container, PORT), self.do("detach", "container", "web")]

    def crowd(self, containers: int, ports: int) -> None:
        """So many containers, which publish so many ports between them."""
        each, more = divmod(ports, containers)
        port = 20000
        for number in range(containers):
            count = each + (number < more)
            self.attach(f"c{number}", namespace(f"{self.host.name}-{number}"), port, count)
            port += count


class Cni:
    """Plugins in a row, called as a runtime calls them."""

    steps = ("ADD", "DEL")

    def __init__(self, name: str, scratch: Path, plugins: list[dict[str, Any]], directory: str) -> None:
        self.host = Host(name, scratch)
        self.plugins = plugins
        self.directory = directory
        self.results: dict[str, Any] = {}
        self.call("ADD", "first", self.host.first, PORT + 1)

    def call(self, command: str, container: str, netns: str, port: int) -> Sample:
        environment = {"PATH": PATH, "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": netns,
                       "CNI_IFNAME": "eth0", "CNI_PATH": PLUGINS}
        wall = cpu = 0.0
        result = self.results.get(container)
        for plugin in self.plugins if command == "ADD" else reversed(self.plugins):
            request: dict[str, Any] = {"cniVersion": "1.0.0", "name": "web", **plugin}
            if plugin.get("capabilities", {}).get("portMappings"):
                request["runtimeConfig"] = {"portMappings": [{"hostPort": port, "containerPort": 80,
                                                              "protocol": "tcp"}]}
            if result is not None:
                request["prevResult"] = result
            stdin = self.host.place / "stdin"
            stdin.write_text(json.dumps(request))
            sample = self.host.measure(f"{self.directory}/{plugin['type']}", stdin=str(stdin), environment=environment)
            wall, cpu = wall + sample.wall, cpu + sample.cpu
            if command == "ADD":
                result = json.loads(self.host.output.read_text())
        self.results[container] = result
        return Sample(wall, cpu)

    def round(self) -> list[Sample]:
        self.results.pop("container", None)
        return [self.call(command, "container", self.host.container, PORT) for command in self.steps]


def bridge_and_portmap(scratch: Path) -> list[dict[str, Any]]:
    """Debian's plugins for what `pyrunc net` does: a bridge, addresses, NAT, hairpin and published ports."""
    return [
        {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True,
         "ipam": {"type": "host-local", "dataDir": str(scratch / "leases"), "routes": [{"dst": "0.0.0.0/0"}],
                  "ranges": [[{"subnet": "10.98.0.0/16"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]


def subjects(program: str, scratch: Path, containers: int, ports: int) -> dict[str, Pyrunc | Cni]:
    own = [{"type": "pyrunc-cni", "capabilities": {"portMappings": True}, "dataDir": str(scratch / "pyrunc-cni/net"),
            "subnets": ["10.98.0.0/16"]}]
    found: dict[str, Pyrunc | Cni] = {
        "pyrunc net": Pyrunc("pyrunc", scratch, program),
        "pyrunc-cni": Cni("pyrunc-cni", scratch, own, os.path.dirname(program)),
        "bridge+portmap": Cni("cni", scratch, bridge_and_portmap(scratch), PLUGINS),
    }
    if containers:
        crowded = Pyrunc("crowded", scratch, program)
        crowded.crowd(containers, ports)
        found["crowded"] = crowded
    return found


def run_all(found: dict[str, Pyrunc | Cni], rounds: int) -> dict[str, list[list[Sample]]]:
    """By subject, the samples of its two steps in each round."""
    results: dict[str, list[list[Sample]]] = {name: [] for name in found}
    names = list(found)
    for number in range(-WARM_UP, rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            samples = found[name].round()
            if number >= 0:
                results[name].append(samples)
    return results


def table(results: dict[str, list[list[Sample]]], base: str) -> str:
    """Medians of each step and of both, and which part of `base`'s they are."""
    def wall_and_cpu(name: str) -> tuple[float, float]:
        """Medians of making and undoing together."""
        return (statistics.median(sum(sample.wall for sample in samples) for samples in results[name]),
                statistics.median(sum(sample.cpu for sample in samples) for samples in results[name]))

    lines = [f"{'':15} {'making':>8} {'undoing':>8} {'both':>8} {'min':>8} {'cpu':>8} {'both x':>7} {'cpu x':>7}"]
    base_wall, base_cpu = wall_and_cpu(base)
    for name, rounds in results.items():
        wall, cpu = wall_and_cpu(name)
        making, undoing = (statistics.median(samples[step].wall for samples in rounds) for step in (0, 1))
        least = min(sum(sample.wall for sample in samples) for samples in rounds)
        lines.append(f"{name:15} {making:8.2f} {undoing:8.2f} {wall:8.2f} {least:8.2f} {cpu:8.2f} "
                     f"{wall / base_wall:7.3f} {cpu / base_cpu:7.3f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pyrunc", required=True, help="its path; pyrunc-cni is beside it")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--containers", type=int, default=200, help="on the crowded host; 0: without one")
    parser.add_argument("--ports", type=int, default=1000, help="that those have published")
    parser.add_argument("--json", type=Path, help="also write all samples (wall, cpu in ms) to this file")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    if MARK not in os.environ:  # what is mounted and made is gone with us
        os.environ[MARK] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--net", "--propagation", "private",
                              sys.executable, "-m", "bench.net", *sys.argv[1:]])
    program, out = os.path.abspath(options.pyrunc), options.json and options.json.absolute()
    with tempfile.TemporaryDirectory(prefix="pyrunc-bench-") as directory:
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)  # for iptables' lock and `ip netns`
        found = subjects(program, Path(directory), options.containers, options.ports)
        results = run_all(found, options.rounds)
        os.chdir("/")
    print(f"{options.rounds} rounds; ms; x: times the median of bridge+portmap"
          + (f"; crowded: {options.containers} containers, {options.ports} ports" if options.containers else ""))
    print(table(results, "bridge+portmap"))
    if out:
        out.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
