# SPDX-License-Identifier: Apache-2.0
"""config-linux.md, Network Devices: moved into the container, renamed, with their addresses, set up.

The runtime runs in a network namespace of the test's own, whose devices these are.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killed import killed_at
from support import Bundle, Host, Runtime, wait_for


class Net:
    """A network namespace of the test's, held by a process."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE)
        assert self.holder.stdout is not None
        self.holder.stdout.readline()
        self.prefix = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]
        self.ip("link set lo up")

    def close(self) -> None:
        self.holder.kill()
        self.holder.communicate()

    def run(self, *command: str) -> str:
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def ip(self, text: str) -> str:
        return self.run("ip", *text.split())

    def veth(self, name: str, *addresses: str, up: bool = True) -> None:
        self.ip(f"link add {name} type veth peer name p{name}"[:80])
        for address in addresses:
            self.ip(f"address add {address} dev {name}")
        for end in (name, f"p{name}") if up else ():
            self.ip(f"link set {end} up")

    def names(self) -> set[str]:
        return {link["ifname"] for link in json.loads(self.ip("-j link"))} - {"lo"}

    def address_lines(self, name: str) -> list[tuple[str, int]]:
        (link,) = json.loads(self.ip(f"-j address show dev {name}"))
        return [(entry["local"], entry["prefixlen"]) for entry in link["addr_info"]]


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    yield net
    net.close()


class There(Runtime):
    """The runtime under test, in the test's network namespace."""

    prefix: list[str]

    def command(self, *words: Any) -> list[str]:
        return [*self.prefix, *super().command(*words)]


@pytest.fixture
def runtime(runtime: Runtime, net: Net) -> Runtime:
    there = There(runtime.path, runtime.root)
    there.prefix = net.prefix
    return there


def devices(bundle: Bundle, **named: str) -> Bundle:
    bundle.linux["netDevices"] = {host: {"name": name} if name else {} for host, name in named.items()}
    return bundle


def inside(runtime: Runtime, container: str) -> list[dict[str, Any]]:
    """The devices of the container, as the host's `ip` tells them."""
    pid = runtime.state(container)["pid"]
    out = subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-j", "-d", "address"], capture_output=True,
                         text=True, check=True).stdout
    return [link for link in json.loads(out) if link["ifname"] != "lo"]


def test_moved_renamed_addressed_and_up(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    """MUST: permanent addresses of global scope of any family are kept, the device is up, its attributes stay."""
    net.veth("d0", "10.9.0.1/24", "10.9.0.2/24", "fd00:9::1/64")
    net.ip("address add 10.9.1.1/32 peer 10.9.1.9/32 dev d0 noprefixroute metric 7")
    net.ip("link set d0 mtu 1400 address 02:00:00:00:00:09")
    net.ip("link property add dev d0 altname other")
    container = runtime.create(devices(bundle, d0="eth0"))
    (link,) = inside(runtime, container)
    assert (link["ifname"], link["mtu"], link["address"], link["altnames"]) == ("eth0", 1400, "02:00:00:00:00:09",
                                                                                 ["other"])
    assert "UP" in link["flags"]
    found = {(entry["local"], entry["prefixlen"], entry["scope"]) for entry in link["addr_info"]
             if entry["scope"] == "global"}
    assert found == {("10.9.0.1", 24, "global"), ("10.9.0.2", 24, "global"), ("fd00:9::1", 64, "global"),
                     ("10.9.1.1", 32, "global")}
    (peer,) = [entry for entry in link["addr_info"] if entry["local"] == "10.9.1.1"]
    assert (peer["address"], peer["metric"], peer["noprefixroute"]) == ("10.9.1.9", 7, True)
    assert net.names() == {"pd0"}


def test_it_carries_traffic(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    net.veth("d0", "10.9.0.1/24")
    net.ip("address add 10.9.0.254/24 dev pd0")
    for kind in ("bounding", "effective", "permitted"):
        bundle.process["capabilities"][kind].append("CAP_NET_RAW")
    result = runtime.run(devices(bundle, d0=""), "ping -c 1 -W 5 10.9.0.254")
    assert result.code == 0 and "1 packets received" in result.out, result


def test_only_permanent_addresses_of_global_scope(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    """What is host-specific, or will end, is not handed on."""
    net.veth("d0", "10.9.0.1/24")
    net.ip("address add 10.9.0.3/24 dev d0 valid_lft 1000 preferred_lft 900")
    net.ip("address add 10.8.0.4/24 scope link dev d0")
    net.ip("address add 10.7.0.5/24 scope host dev d0")
    container = runtime.create(devices(bundle, d0=""))
    (link,) = inside(runtime, container)
    assert link["ifname"] == "d0"
    assert [entry["local"] for entry in link["addr_info"] if entry["family"] == "inet"] == ["10.9.0.1"]


def test_a_device_that_was_down_is_set_up(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    net.veth("d0", "10.9.0.1/24", up=False)
    (link,) = inside(runtime, runtime.create(devices(bundle, d0="")))
    assert "UP" in link["flags"] and [entry["local"] for entry in link["addr_info"]] == ["10.9.0.1"]


def test_a_device_that_shares_another_s_wire(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    """A macvlan moves, what it is on top of stays."""
    net.veth("d0")
    net.ip("link add i0 link d0 type macvlan")
    net.ip("address add 10.9.0.7/24 dev i0")
    (link,) = inside(runtime, runtime.create(devices(bundle, i0="eth0")))
    assert (link["ifname"], link["linkinfo"]["info_kind"]) == ("eth0", "macvlan")
    assert "UP" in link["flags"]
    assert [entry["local"] for entry in link["addr_info"] if entry["scope"] == "global"] == ["10.9.0.7"]
    assert net.names() == {"d0", "pd0"}


def test_a_template_is_filled_in_by_the_kernel(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    """`%d`: a unique name, also where the plain one is taken."""
    for name in ("d0", "d1", "d2"):
        net.veth(name, f"10.9.{name[1]}.1/24")
    found = inside(runtime, runtime.create(devices(bundle, d0="eth%d", d1="eth%d", d2="eth0x")))
    assert len({link["ifname"] for link in found}) == 3
    by_name = {link["ifname"]: [entry["local"] for entry in link["addr_info"] if entry["family"] == "inet"]
               for link in found}
    assert by_name.pop("eth0x") == ["10.9.2.1"]
    assert all(name.startswith("eth") and name[3:].isdigit() for name in by_name)
    assert sorted(by_name.values()) == [["10.9.0.1"], ["10.9.1.1"]]


def joined(net: Net, bundle: Bundle, other: Net) -> Bundle:
    return bundle.namespace("network", f"/proc/{other.holder.pid}/ns/net")


def test_a_taken_name_is_an_error_and_moves_nothing(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    """MUST generate an error; also the devices that could have been moved stay, as they were."""
    other = Net()
    try:
        other.veth("eth0")
        net.veth("d0", "10.9.0.1/24")
        net.veth("d1", "10.9.1.1/24")
        before = net.address_lines("d0")
        joined(net, devices(bundle, d0="", d1="eth0"), other)
        result = runtime.run(bundle, "true")
        assert result.code == 1
        if runtime.name == "pyrunc":
            assert "/linux/netDevices/d1/name" in result.err and "eth0 already" in result.err
        assert net.names() == {"d0", "pd0", "d1", "pd1"} and other.names() == {"eth0", "peth0"}
        assert net.address_lines("d0") == before
        # With a template it is no error, and the old one keeps its name.
        devices(bundle, d1="eth%d")
        container = runtime.create(bundle)
        assert {link["ifname"] for link in inside(runtime, container)} == {"eth0", "peth0", "eth1"}
        runtime.clean_up()
        assert other.names() == {"eth0", "peth0", "eth1"}  # and delete has not touched it
    finally:
        other.close()


def test_the_same_name_and_number_taken(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    """The device's own name is in the other namespace too: given a new one on the way it is no clash."""
    other = Net()
    try:
        other.veth("d0")
        net.veth("d0", "10.9.0.1/24")
        found = inside(runtime, runtime.create(joined(net, devices(bundle, d0="new"), other)))
        assert {link["ifname"] for link in found} == {"d0", "pd0", "new"}
        assert [entry["local"] for link in found if link["ifname"] == "new"
                for entry in link["addr_info"] if entry["family"] == "inet"] == ["10.9.0.1"]
    finally:
        other.close()


def test_a_create_that_fails_puts_them_back(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    """Whatever fails after the move: names, addresses, up or down are as before."""
    net.veth("d0", "10.9.0.1/24", "fd00:9::1/64")
    net.veth("d1", "10.9.1.1/24", up=False)
    devices(bundle, d0="eth0", d1="eth1").args("/nowhere", "x")
    before = json.loads(net.ip("-j address show dev d1"))
    result = runtime.run(bundle)
    assert result.code != 0 and "/nowhere" in result.err
    assert net.names() == {"d0", "pd0", "d1", "pd1"}
    assert {("10.9.0.1", 24), ("fd00:9::1", 64)} <= set(net.address_lines("d0"))
    assert "state UP" in net.ip("link show dev d0")
    assert json.loads(net.ip("-j address show dev d1")) == before


def test_a_create_that_is_killed_puts_them_back(runtime: Runtime, net: Net, bundle: Bundle, host: Host, tmp_path: Path,
                                                long: bool) -> None:
    """A veth whose namespace ends is destroyed: it comes home first, wherever after the move create died."""

    def make() -> None:
        net.veth("d0", "10.9.0.1/24", "fd00:9::1/64")
        net.veth("d1", "10.9.1.1/24", up=False)

    def state() -> dict[str, object]:
        return {link["ifname"]: (link["address"], "UP" in link["flags"],
                                 {(entry["local"], entry["prefixlen"]) for entry in link["addr_info"]
                                  if entry["scope"] == "global"}) for link in json.loads(net.ip("-j address"))}

    make()
    devices(bundle, d0="eth0", d1="eth%d").args("sleep", "100").save()
    trace, command, container = tmp_path / "trace", runtime.command("create", "--bundle", bundle.path), runtime.new_id()
    subprocess.run(["strace", "-o", trace, *command, container], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, check=True, timeout=60)
    assert {link["ifname"] for link in inside(runtime, container)} == {"eth0", "eth1"}  # the control
    runtime.clean_up()
    wait_for(lambda: not net.names(), "the pairs to be destroyed")
    calls = [line.partition("(")[0] for line in trace.read_text().splitlines() if re.match(r"\w+\(", line)]
    first = max(index for index, call in enumerate(calls) if call == "clone3")  # the process that moves them
    last = max(index for index, call in enumerate(calls) if call == "wait4")  # which is at its end by then
    while calls[last] != "write":  # of the word that they may stay
        last -= 1
    make()
    before = state()
    points = range(first + 1, last + 1)
    for index in sorted({*points[::max(1, len(points) // 40)], last} if long else {points[0], points[len(points) // 2],
                                                                                  last}):
        container = runtime.new_id()
        killed_at([*command, container], trace, calls[index], calls[:index + 1].count(calls[index]))
        deleted = runtime("delete", "--force", container)
        assert (deleted.code, deleted.err) == (0, ""), (calls[index], index, deleted)
        wait_for(lambda: state() == before, f"the devices, after {calls[index]} ({index} of {len(calls)})")


def test_delete_leaves_them_to_the_kernel(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    """MUST NOT move them out: a virtual device is destroyed with the namespace, and its peer with it."""
    net.veth("d0")
    container = runtime.create(devices(bundle, d0="eth0"))
    assert net.names() == {"pd0"}
    assert runtime("delete", "--force", container).code == 0
    wait_for(lambda: net.names() == set(), "the pair to be destroyed")


@pytest.mark.parametrize("name", ["nosuch0", "lo", "b0"])
def test_a_device_that_can_not_be_moved(runtime: Runtime, net: Net, bundle: Bundle, host: Host, name: str) -> None:
    """One that isn't there, and those that the kernel keeps where they are: the error names it, nothing moves."""
    net.veth("d0")
    net.ip("link add b0 type bridge")
    result = runtime.run(devices(bundle, d0="eth0", **{name: "eth9"}), "true")
    assert result.code == 1 and len(result.errors) == 1
    if runtime.name == "pyrunc":
        assert f"/linux/netDevices/{name}" in result.err
    assert net.names() == {"d0", "pd0", "b0"}


def test_without_a_network_namespace_of_its_own(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    net.veth("d0")
    own = f"/proc/{net.holder.pid}/ns/net"
    result = runtime.run(devices(bundle.namespace("network", own), d0="eth0"), "true")
    assert result.code == 1 and "/linux/netDevices" in result.err
    assert net.names() == {"d0", "pd0"}
    result = runtime.run(bundle.without("network"), "true")
    assert result.code == 1 and "network namespace" in result.err


def test_in_a_user_namespace(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    """The container's root owns the network namespace; the device is moved by the host's."""
    net.veth("d0", "10.9.0.1/24")
    bundle.namespace("user")
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    bundle.namespace("cgroup")
    result = runtime.run(devices(bundle, d0="eth0"), "ip -o -4 address show eth0")
    assert "10.9.0.1/24" in result.out, result


def test_hooks_find_them_in_place(runtime: Runtime, net: Net, bundle: Bundle, host: Host) -> None:
    net.veth("d0")
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", (
        "pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/'); nsenter --net=/proc/$pid/ns/net ip -o link > "
        f"{bundle.path}/seen")], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}]}
    runtime.create(devices(bundle, d0="eth0"))
    assert "eth0" in (bundle.path / "seen").read_text()
