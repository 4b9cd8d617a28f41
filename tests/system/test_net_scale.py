# SPDX-License-Identifier: Apache-2.0
"""Many containers, many ports: a new one costs what the first did, counted in system calls and packets' rules."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from netlab import ROUTER_4, Lab
from netting import attach, detach, left
from support import PYRUNC

from pyrunc.net.ipam import Leases
from pyrunc.net.model import Subnet


def effort(lab: Lab, trace: Path, *words: str) -> dict[str, int]:
    """The system calls of a command, and the bytes that it writes to the kernel and reads from it."""
    done = lab.router.do("strace", "-o", str(trace), PYRUNC, *words, env=lab.environment)
    assert done.code == 0, done
    calls = re.findall(r"^([a-z0-9_]+)\(.* = (\d+)", trace.read_text(), re.M)
    return {"calls": len(calls), "sent": sum(int(count) for name, count in calls if name == "sendto"),
            "received": sum(int(count) for name, count in calls if name == "recvfrom")}


def test_ports_and_containers_by_the_hundred(netlab: Lab, tmp_path: Path, long: bool) -> None:
    """With 1,000 published ports and 200 containers (without --long: 100 and 20) an attach does what it did before."""
    ports, containers = (1000, 200) if long else (100, 20)
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/22")
    first, last = netlab.container("first"), netlab.container("last")
    words = ("net", "attach", "last", "web", "--netns", last.path, "-p", "80:80")
    attach(netlab, first, "web")
    alone = effort(netlab, tmp_path / "trace", *words)
    away = effort(netlab, tmp_path / "trace", "net", "detach", "last", "web")
    each = ports // containers
    before = left(netlab)
    started = time.monotonic()
    nodes = [netlab.container(f"n{number}") for number in range(containers)]
    for number, node in enumerate(nodes):
        low = 10000 + number * each
        attach(netlab, node, "web", "-p", f"{low}-{low + each - 1}:{low}-{low + each - 1}")
    print(f"{containers} attachments: {time.monotonic() - started:.1f} s")
    crowded = effort(netlab, tmp_path / "trace", *words)
    crowded_away = effort(netlab, tmp_path / "trace", "net", "detach", "last", "web")
    print(alone, crowded, away, crowded_away)
    # The file of leases is read in one call; what is asked of the kernel is about one device, however many there are.
    for one, many in ((alone, crowded), (away, crowded_away)):
        assert many["calls"] <= one["calls"] + 2 and many["sent"] <= one["sent"] + 64
        assert many["received"] <= one["received"] + 512
    nodes[-1].listen(10000 + ports - 1)
    assert netlab.outside.ask(ROUTER_4, 10000 + ports - 1).name == nodes[-1].name
    # A packet goes by as few rules: none is of one port, or of one container.
    assert len(re.findall(r"dnat", netlab.router.run("nft", "list", "chain", "inet", "pyrunc", "published"))) == 4
    for node in nodes:
        detach(netlab, node, "web")
    assert left(netlab) == before


def test_a_thousand_ports_of_one_container(netlab: Lab) -> None:
    """A range is one option, and one transaction."""
    netlab.pyrunc("net", "create", "web", "--ipv6")
    one = netlab.container("one")
    attach(netlab, one, "web")
    detach(netlab, one, "web")
    before = left(netlab)
    attach(netlab, one, "web", "-p", "20000-20999:30000-30999", "-p", "20000-20999:30000-30999/udp")
    one.listen(30999, "udp")
    assert netlab.outside.ask(ROUTER_4, 20999, "udp").name == "one"
    netlab.router.run("nft", "flush", "ruleset")
    netlab.pyrunc("net", "reload")
    assert netlab.outside.ask(ROUTER_4, 20999, "udp").name == "one"
    detach(netlab, one, "web")
    assert left(netlab) == before


def test_a_bridge_that_is_full(netlab: Lab, long: bool) -> None:
    """The kernel's limit is told as such; nothing is left of the one that was too many."""
    if not long:
        pytest.skip("with --long: a thousand devices")
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/20")
    one, late = netlab.container("one"), netlab.container("late")
    attach(netlab, one, "web")
    netlab.router.run("ip", "-batch", "-", timeout=200, stdin="".join(
        f"link add x{at} type veth peer name y{at}\nlink set x{at} master pyr-web\nlink set y{at} master pyr-web\n"
        for at in range(511)))
    before = left(netlab)
    done = netlab.do("net", "attach", "late", "web", "--netns", late.path)
    assert (done.code, done.err) == (1, "pyrunc: net attach: make the bridge device eth0: rtnetlink: exchange full "
                                        "(EXFULL) (a bridge has 1023 ports at most, each container takes one: another "
                                        "network has room)\n")
    assert left(netlab) == before and late.links() == {}


def test_four_thousand_addresses(tmp_path: Path) -> None:
    """A /20: the last address is found as the first was, in one read; each is given once."""
    with Leases(str(tmp_path / "leases"), Subnet.parse("10.1.0.0/20"), ["10.1.0.1"]) as leases:
        found = set()
        started = time.monotonic()
        for number in range(4000):
            address = leases.choose()
            leases.take(address)
            found.add(address)
            if number in (99, 3899):
                print(f"after {number + 1}: {time.monotonic() - started:.3f} s")
        assert len(found) == 4000 and len(leases.taken()) == 4000
    assert (tmp_path / "leases").stat().st_size == 8 * 4002


def test_four_thousand_attachments_are_no_burden(netlab: Lab, tmp_path: Path) -> None:
    """A store with 4,000 containers' records: an attach reads as many files as in an empty one."""
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/20")
    one = netlab.container("one")
    attach(netlab, one, "web")
    record = (netlab.net_root / "attachments/one/web@eth0.json").read_text()
    detach(netlab, one, "web")
    words = ("net", "attach", "one", "web", "--netns", one.path, "-p", "80:80")
    alone = effort(netlab, tmp_path / "trace", *words)
    detach(netlab, one, "web")
    with Leases(str(netlab.net_root / "leases/web.4"), Subnet.parse("10.1.0.0/20"), ["10.1.0.1"]) as leases:
        for number in range(4000):
            address = leases.choose()
            leases.take(address)
            directory = netlab.net_root / f"attachments/c{number}"
            directory.mkdir()
            (directory / "web@eth0.json").write_text(
                record.replace('"one"', f'"c{number}"').replace("10.1.0.2", address).replace("pyv", f"p{number:04}"))
    crowded = effort(netlab, tmp_path / "trace", *words)
    print(alone, crowded)
    assert crowded["calls"] <= alone["calls"] + 2
    (made,) = subprocess.run(["ls", netlab.net_root / "attachments/one"], capture_output=True, text=True).stdout.split()
    assert made == "web@eth0.json"
