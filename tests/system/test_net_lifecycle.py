# SPDX-License-Identifier: Apache-2.0
"""Networks and attachments come and go; whatever happens meanwhile, nothing is left of what has gone."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from pathlib import Path

import pytest
from killed import killed_at
from netlab import OUTSIDE_4, OUTSIDE_6, ROUTER_4, ROUTER_6, Lab, Node
from netting import attach, detach, gateway, ip, left
from support import PYRUNC

#: The calls by which an attachment changes something, or is about to.
CHANGING = "sendto,rename,pwrite64,unlink,openat,mkdir,rmdir,setns,write,ftruncate"


def test_networks_are_made_listed_shown_and_removed(netlab: Lab) -> None:
    made = json.loads(netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24", "--gateway", "10.1.0.254",
                                    "--mtu", "1400", "--dns", "192.0.2.53", "--dns-search", "example",
                                    "--format", "json"))
    assert made["subnets"] == [{"subnet": "10.1.0.0/24", "gateway": "10.1.0.254"}]
    assert (made["interface"], made["mtu"], made["dns"], made["search"]) == (
        "pyr-web", 1400, ["192.0.2.53"], ["example"])
    assert netlab.pyrunc("net", "create", "a-rather-long-name", "--internal") == "a-rather-long-name\n"
    listed = {network["name"]: network for network in json.loads(netlab.pyrunc("net", "ls", "--format", "json"))}
    assert list(listed) == ["a-rather-long-name", "web"]
    bridge = listed["a-rather-long-name"]["interface"]
    assert re.fullmatch(r"pyr-[0-9a-f]{8}", bridge)
    assert netlab.pyrunc("net", "ls").splitlines() == [
        "NAME                 DRIVER   SUBNETS         DEVICE         CONTAINERS",
        f"a-rather-long-name   bridge   10.208.0.0/24   {bridge}   0            internal",
        "web                  bridge   10.1.0.0/24     pyr-web        0"]
    assert netlab.router.links().keys() == {"out"}  # a network without containers is but a file

    one = netlab.container("one")
    attached = attach(netlab, one, "web", "--ip", "10.1.0.77", "--mac", "02:00:00:00:00:77", "--interface", "web0")
    assert (attached["addresses"], attached["mac"]) == (["10.1.0.77/24"], "02:00:00:00:00:77")
    assert (one.links()["web0"]["mtu"], one.links()["web0"]["address"]) == (1400, "02:00:00:00:00:77")
    (shown,) = json.loads(netlab.pyrunc("net", "inspect", "web"))
    assert [container["container"] for container in shown["containers"]] == ["one"]
    refused = netlab.do("net", "rm", "web")
    assert refused.err == "pyrunc: net rm: one is in the network web (`pyrunc net detach one web`, or --force)\n"
    assert netlab.pyrunc("net", "rm", "--force", "web", "a-rather-long-name") == "web\na-rather-long-name\n"
    assert netlab.router.links().keys() == {"out"} and one.links() == {} and netlab.router.ruleset() == []
    assert [path for path in netlab.net_root.rglob("*") if path.is_file() and path.name != "lock"] == []
    assert netlab.net_root.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("words", "said"), [
    (("web",), "there is a network web already"),
    (("../x",), "'../x' is no name of a network (at most 64 letters, digits, and inside _ . -)"),
    (("x", "--subnet", "10.1.0.128/25"), "10.1.0.128/25 overlaps 10.1.0.0/24, which is the network web's"),
    (("x", "--subnet", "192.0.2.0/25"), "192.0.2.0/25 overlaps 192.0.2.0/24, which this host has a route to"),
    (("x", "--subnet", "10.7.0.1/24"), "10.7.0.1/24 has bits of a host in it (the subnet is 10.7.0.0/24)"),
    (("x", "--subnet", "10.7.0.0/24", "--gateway", "10.8.0.1"),
     "10.8.0.1 is not in 10.7.0.0/24"),
    (("x", "--subnet", "10.7.0.0/24", "--gateway", "fd00::1"),
     "the gateway fd00::1 is in none of the network's subnets"),
    (("x", "--subnet", "10.7.0.0/24", "--subnet", "10.8.0.0/24"),
     "a network has one subnet of IPv4 and one of IPv6 at most"),
    (("host",), "host can't be a network's name: `--net host` means something else"),
    (("x", "--subnet", "127.8.0.0/16"), "127.8.0.0/16 is no subnet to take addresses from: 127.0.0.0/8 has another "
                                        "meaning"),
    (("x", "--subnet", "239.0.0.0/24"), "239.0.0.0/24 is no subnet to take addresses from: 224.0.0.0/3 has another "
                                        "meaning"),
    (("x", "--subnet", "fe80:0:0:1::/64"), "fe80:0:0:1::/64 is no subnet to take addresses from: fe80::/10 has another "
                                           "meaning"),
    (("x", "--mtu", "100"), "an MTU of 100 is out of range (from 576, with IPv6 1280, to 65535)"),
    (("x", "--driver", "overlay"), "'overlay' is no driver (bridge, macvlan, ipvlan, none)"),
    (("x", "--driver", "macvlan"), "a network of macvlan devices needs --subnet (that of the network which its parent "
                                   "is in)"),
    (("x", "--driver", "macvlan", "--subnet", "10.7.0.0/24", "--parent", "eth9"),
     "this host has no network device eth9"),
    (("x", "--driver", "none", "--subnet", "10.7.0.0/24"), "a network without devices has no subnet"),
    (("x", "--parent", "out"), "--parent is for macvlan and ipvlan, not for bridge"),
    (("x", "--driver", "ipvlan", "--mode", "vepa"), "'vepa' is no mode of ipvlan (l2, l3, l3s)"),
    (("x", "--dns", "localhost"), "'localhost' is no IP address"),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_what_makes_no_network(netlab: Lab, words: tuple[str, ...], said: str) -> None:
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24")
    before = left(netlab)
    done = netlab.do("net", "create", *words)
    assert (done.code, done.out, done.err) == (1, "", f"pyrunc: net create: {said}\n")
    assert left(netlab) == before


def test_the_default_network_is_where_nothing_else_is(netlab: Lab) -> None:
    """Made on first use, from a range that overlaps no route of the host, no address, and no other network."""
    netlab.router.ip("route add 10.208.0.0/23 via 192.0.2.1")
    for half in ("0.0.0.0/1", "128.0.0.0/1"):  # a tunnel's default route
        netlab.router.ip(f"route add {half} via 192.0.2.1")
    netlab.router.ip("address add 10.208.2.7/24 dev out")
    netlab.pyrunc("net", "create", "web")
    made = attach(netlab, netlab.container("one"), "default")
    (web,) = json.loads(netlab.pyrunc("net", "inspect", "web"))
    assert web["subnets"][0]["subnet"] == "10.208.3.0/24"
    assert made["addresses"] == ["10.208.4.2/24"] and made["gateways"] == ["10.208.4.1"]


def test_a_route_that_came_later(netlab: Lab) -> None:
    """A tunnel, say, between a network's making and its first container: the network goes first, and it is said."""
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24")
    netlab.router.ip("route add 10.1.0.0/16 via 192.0.2.1")
    first, second = (netlab.do("net", "attach", name, "web", "--netns", netlab.container(name).path)
                     for name in ("one", "two"))
    assert (first.code, first.err) == (0, "pyrunc: warning: 10.1.0.0/16, which this host has a route to, overlaps "
                                          "10.1.0.0/24, which is web's: no more is sent there\n")
    assert (second.code, second.err) == (0, "")


@pytest.mark.parametrize(("words", "said"), [
    (("one", "nothing"), "no network nothing (`pyrunc net create nothing` makes it)"),
    (("one", "wep"), "no network wep (did you mean web?)"),
    (("one", "web", "--ip", "10.1.0.1"), "10.1.0.1 is not for containers: it is the gateway's, or the subnet's own"),
    (("one", "web", "--ip", "10.1.0.2"), "10.1.0.2 is taken (`pyrunc net inspect` shows by whom)"),
    (("one", "web", "--ip", "10.2.0.2"), "10.2.0.2 is not in 10.1.0.0/24"),
    (("one", "web", "--ip", "fd00::1"), "fd00::1: the network web has no IPv6 addresses"),
    (("one", "web", "--mac", "01:00:00:00:00:00"), "01:00:00:00:00:00 is a group's MAC address, not a device's "
                                                   "(the first byte has to be even)"),
    (("one", "web", "--interface", "lo"), "the container has a network device lo already "
                                          "(--interface gives it another name)"),
    (("one", "web", "-p", "x"), "'x' publishes nothing ([HOSTIP:][HOSTPORT:]PORT[/tcp|udp|sctp], as in 8080:80 or "
                                "[fd00::1]:8000-8010:80-90/udp)"),
    (("one", "web", "-p", "[::1]:80:80"), "what is sent to ::1 never leaves the loopback device: no port of it can be "
                                          "published (127.0.0.1 can: programs that look for localhost try it next)"),
    (("../one", "web"), "'../one' is no name of a container (at most 160 letters, digits, and inside _ + . -)"),
    (("one", "web", "--alias", "a b"), "'a b' is no host name (letters, digits, dots and hyphens make one)"),
    (("there", "web"), "there is in the network web already, as eth0"),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_what_attaches_nothing(netlab: Lab, words: tuple[str, ...], said: str) -> None:
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24")
    attach(netlab, netlab.container("there"), "web")
    one = netlab.container("one")
    before = left(netlab)
    done = netlab.do("net", "attach", *words, "--netns", one.path)
    assert (done.code, done.out, done.err) == (1, "", f"pyrunc: net attach: {said}\n")
    assert left(netlab) == before and one.links() == {}


def test_what_is_no_network_namespace_of_a_container(netlab: Lab, tmp_path: Path) -> None:
    netlab.pyrunc("net", "create", "web")
    (tmp_path / "file").touch()
    for path, said in (
            (f"/proc/{os.getpid()}/ns/mnt", "is not a network namespace (give the path of /proc/PID/ns/net, or of one "
                                            "that `ip netns add` made)"),
            (tmp_path / "file", "is not a network namespace (give the path of /proc/PID/ns/net, or of one that "
                                "`ip netns add` made)"),
            (tmp_path / "none", "openat: no such file or directory (ENOENT)"),
            (netlab.router.path, "the container is in the host's own network namespace (give it a network namespace of "
                                 "its own)")):
        done = netlab.do("net", "attach", "x", "web", "--netns", str(path))
        assert done.code == 1 and done.err.endswith(f"{said}\n") and done.err.count("\n") == 1, done


def test_two_hundred_come_and_go(netlab: Lab, long: bool) -> None:
    """Links, rules, routes, files and leases are what they were after the first (without --long it is fifty)."""
    count = 200 if long else 50
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24", "--ipv6")
    one = netlab.container("one")
    script = f"""
        set -e
        for i in $(seq {count}); do
            {PYRUNC} net attach one web --netns {one.path} -p 8080:80 -p 9000-9003:90-93/udp >/dev/null
            {PYRUNC} net detach one web
        done
    """
    attach(netlab, one, "web")
    detach(netlab, one, "web")
    before = left(netlab)
    netlab.router.run("sh", "-c", script, env=netlab.environment, timeout=200)
    assert left(netlab) == before
    assert one.links() == {}
    made = attach(netlab, one, "web")  # the control: `left` sees what an attachment is
    now = left(netlab)
    assert all(now[what] != before[what] for what in ("links", "rules", "files", "leases", "hosts"))
    assert ip(made) == f"10.1.0.{count + 3}"  # each has had an address that nobody had before


@pytest.mark.parametrize("command", ["attach", "detach"])
def test_killed_at_any_point(netlab: Lab, command: str, tmp_path: Path, long: bool) -> None:
    """Whoever comes next undoes what was begun: detach leaves nothing, an attach works, a prune leaves nothing."""
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24", "--ipv6")
    one, two, three = (netlab.container(name) for name in ("one", "two", "three"))
    attach(netlab, two, "web", "-p", "7000:70")
    two.listen(70)
    attach(netlab, one, "web")
    detach(netlab, one, "web")
    before = left(netlab)
    attaching = ["net", "attach", "one", "web", "--netns", one.path, "-p", "8080:80", "-p", "53:53/udp"]
    words = attaching if command == "attach" else ["net", "detach", "one", "web"]
    command_line = netlab.router.command(PYRUNC, *words, f"--net-root={netlab.net_root}")
    if command == "detach":
        netlab.pyrunc(*attaching)
    trace = tmp_path / "trace"
    subprocess.run(["strace", "-o", trace, "-e", f"trace={CHANGING}", *command_line], check=True, capture_output=True)
    if command == "attach":
        netlab.pyrunc("net", "detach", "one", "web")
    assert left(netlab) == before
    lines = re.findall(r"^([a-z0-9_]+)\((.*)", trace.read_text(), re.M)
    names = [name for name, _ in lines]
    first = next(number for number, (_, rest) in enumerate(lines) if "/lock" in rest)  # before it nothing is changed
    points = [(name, names[:number + 1].count(name)) for number, name in enumerate(names) if number >= first]
    assert len(points) > 20
    chosen = points if long else sorted(random.Random(command).sample(points, 10))
    for number, (call, count) in enumerate(chosen):
        if command == "detach":
            netlab.pyrunc(*attaching)
        killed_at(command_line, trace, call, count)
        if number % 3 == 0:
            attach(netlab, three, "web")
            detach(netlab, three, "web")
        elif number % 3 == 1:
            netlab.pyrunc("net", "prune")
        netlab.do("net", "detach", "one", "web")
        assert (left(netlab), one.links()) == (before, {}), (call, count)
    assert netlab.outside.ask(ROUTER_4, 7000).name == "two"


def test_killed_while_the_bridge_is_made(netlab: Lab, tmp_path: Path, long: bool) -> None:
    """The first container of a network: the next one finds a bridge that has its addresses, and rules."""
    netlab.outside.listen(80)
    netlab.outside.listen(80, family=6)
    one, two = netlab.container("one"), netlab.container("two")
    trace = tmp_path / "trace"

    def first(node: Node) -> list[str]:
        netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24", "--ipv6")
        return netlab.router.command(PYRUNC, "net", "attach", node.name, "web", "--netns", node.path, "-p", "8080:80",
                                     f"--net-root={netlab.net_root}")

    def away() -> None:
        assert netlab.pyrunc("net", "rm", "--force", "web") == "web\n"
        assert netlab.router.links().keys() == {"out"} and netlab.router.ruleset() == []

    for _ in range(2):  # the very first time the host begins to forward as well
        subprocess.run(["strace", "-o", trace, "-e", f"trace={CHANGING}", *first(one)], check=True, capture_output=True)
        away()
    lines = re.findall(r"^([a-z0-9_]+)\((.*)", trace.read_text(), re.M)
    names = [name for name, _ in lines]
    begin = next(number for number, (_, rest) in enumerate(lines) if "/lock" in rest)
    points = [(name, names[:number + 1].count(name)) for number, name in enumerate(names) if number >= begin]
    for call, count in points if long else sorted(random.Random("bridge").sample(points, 8)):
        killed_at(first(one), trace, call, count)
        made = attach(netlab, two, "web", "-p", "8081:80")
        assert two.ask(OUTSIDE_4, 80).source == ROUTER_4 and two.ask(OUTSIDE_6, 80).source == ROUTER_6, (call, count)
        assert gateway(made) == "10.1.0.1"
        away()


def test_a_container_that_vanishes(netlab: Lab) -> None:
    """With its namespace its devices go; prune takes the rest back, and so does an attach to a range that is full."""
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/29")
    nodes = [netlab.container(f"n{number}") for number in range(6)]
    made = [attach(netlab, node, "web", "-p", f"{8000 + number}:80") for number, node in enumerate(nodes[:5])]
    full = netlab.do("net", "attach", "late", "web", "--netns", nodes[5].path)
    assert full.err == ("pyrunc: net attach: no address of 10.1.0.0/29 is free (`pyrunc net prune` takes back those of "
                        "containers that are gone)\n")
    before = netlab.router.links().keys()
    for node in nodes[1:3]:
        node.vanish()
    vanished = {made[1]["hostInterface"], made[2]["hostInterface"]}
    wait_until_gone(netlab, vanished)
    assert netlab.router.links().keys() == before - vanished
    late = attach(netlab, nodes[5], "web", "-p", "8001:80")
    assert ip(late) in (ip(made[1]), ip(made[2]))
    nodes[0].vanish()
    wait_until_gone(netlab, {made[0]["hostInterface"]})
    assert netlab.pyrunc("net", "prune").splitlines() == ["n0/web@eth0"]
    (shown,) = json.loads(netlab.pyrunc("net", "inspect", "web"))
    assert [container["container"] for container in shown["containers"]] == ["n3", "n4", "n5"]
    assert netlab.pyrunc("net", "detach", "n3", "web") == "" and netlab.pyrunc("net", "detach", "n4", "web") == ""
    assert "n0" not in netlab.router.run("nft", "list", "ruleset")
    assert netlab.pyrunc("net", "prune", "--all") == ""
    detach(netlab, nodes[5], "web")
    assert netlab.pyrunc("net", "prune", "--all") == "web\n"
    assert netlab.router.links().keys() == {"out"} and netlab.router.ruleset() == []


def wait_until_gone(lab: Lab, links: set[str]) -> None:
    from support import wait_for

    wait_for(lambda: not links & lab.router.links().keys(), f"{links} to be gone")


def test_reload_after_a_flush(netlab: Lab) -> None:
    """Rules and bridges are made anew, and nothing else; an attach to a flushed host does so by itself."""
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24", "--ipv6")
    netlab.pyrunc("net", "create", "inner", "--internal")
    one, two = netlab.container("one"), netlab.container("two")
    attach(netlab, one, "web", "-p", "8080:80")
    attach(netlab, one, "inner")
    one.listen(80)
    netlab.outside.listen(80)
    rules = netlab.router.ruleset()
    with netlab.outside.connect(ROUTER_4, 8080) as connection:
        assert connection.ask().name == "one"
        netlab.router.run("nft", "flush", "ruleset")
        assert netlab.outside.hears_nothing(ROUTER_4, 8080) and one.hears_nothing(OUTSIDE_4, 80)
        netlab.pyrunc("net", "reload")
        assert sorted(netlab.router.ruleset()) == sorted(rules)
        assert netlab.outside.ask(ROUTER_4, 8080).name == "one" and one.ask(OUTSIDE_4, 80).source == ROUTER_4
        assert connection.ask().name == "one"  # what was there before goes on
    netlab.pyrunc("net", "reload")
    assert sorted(netlab.router.ruleset()) == sorted(rules)
    netlab.router.run("nft", "flush", "ruleset")
    attach(netlab, two, "web", "-p", "8081:80")
    two.listen(80)
    assert [netlab.outside.ask(ROUTER_4, port).name for port in (8080, 8081)] == ["one", "two"]


@pytest.mark.parametrize(("taken", "by"), [("bridge", "attach"), ("table", "attach"), ("both", "reload")])
def test_a_bridge_or_a_table_that_somebody_took_away(netlab: Lab, taken: str, by: str) -> None:
    """Who was plugged in is again, with all that it had; also when a container without published ports comes."""
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24", "--ipv6")
    one, two, three = (netlab.container(name) for name in ("one", "two", "three"))
    made = attach(netlab, one, "web", "-p", "8080:80")
    attach(netlab, two, "web")
    netlab.outside.listen(80)
    for family in (4, 6):
        one.listen(80, family=family)
    before = netlab.router.look()
    if taken != "table":
        netlab.router.ip("link del pyr-web")
        assert two.hears_nothing(ip(made), 80)
    if taken != "bridge":
        netlab.router.run("nft", "delete", "table", "inet", "pyrunc")
        assert two.hears_nothing(OUTSIDE_4, 80)
    if by == "reload":
        netlab.pyrunc("net", "reload")
    else:
        attach(netlab, three, "web")
    for family, router in ((4, ROUTER_4), (6, ROUTER_6)):
        assert two.ask(ip(made, family), 80).name == netlab.outside.ask(router, 8080).name == "one"
        assert one.ask(router, 8080).name == "one"
    assert netlab.router.ask("127.0.0.1", 8080).name == "one" and two.ask(OUTSIDE_4, 80).source == ROUTER_4
    if by == "attach":
        detach(netlab, three, "web")
    now = netlab.router.look()
    assert {what: sorted(value) for what, value in now.items()} == {
        what: sorted(value) for what, value in before.items()}


def test_after_a_reboot(netlab: Lab) -> None:
    """Nothing is left but files: the first container of a network finds it empty, in names and in addresses."""
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/28")
    gone = [netlab.container(f"n{number}") for number in range(5)]
    for node in gone:
        attach(netlab, node, "web", "--alias", f"alias-of-{node.name}")
    for node in gone:
        node.vanish()
    netlab.router.ip("link del pyr-web")
    netlab.router.run("nft", "flush", "ruleset")
    netlab.outside.listen(80)
    one = netlab.container("one")
    attach(netlab, one, "web", "-p", "8080:80")
    assert one.ask(OUTSIDE_4, 80).source == ROUTER_4
    now = left(netlab)
    assert now["leases"] == {"web.4": 1} and [path for path in now["files"] if path.startswith("attachments/")] == [
        "attachments/one", "attachments/one/web@eth0.json"]
    assert "alias-of" not in "".join(now["hosts"]["net-web"]) and "one" in "".join(now["hosts"]["net-web"])


def test_two_places_for_one_host(netlab: Lab, tmp_path: Path) -> None:
    """Two stores would write the same tables: the second is told whose they are, and has its turn when that is gone."""
    second = tmp_path / "second"
    other = {"env": {"PYRUNC_NET_ROOT": str(second)}}
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24")
    netlab.pyrunc("net", "create", "web", **other)  # its bridge would be called the same
    one, two = netlab.container("one"), netlab.container("two")
    attach(netlab, one, "web", "-p", "8080:80")
    one.listen(80)
    before, rules = left(netlab), netlab.router.ruleset()
    words = ("net", "attach", "two", "web", "--netns", two.path)
    for refused in (words, ("net", "reload"), ("net", "rm", "web")):
        done = netlab.do(*refused, **other)
        assert (done.code, done.out, done.err) == (
            1, "", f"pyrunc: {' '.join(refused[:2])}: the networks of this network namespace are kept in "
                   f"{netlab.net_root}, not in {second} (`--net-root {netlab.net_root}`, or a network namespace of its "
                   "own)\n")
    assert left(netlab) == before and netlab.router.ruleset() == rules and two.links() == {}
    table = netlab.router.run("nft", "list", "table", "inet", "pyrunc")
    assert f'comment "made by pyrunc from {netlab.net_root}"' in table
    link = tmp_path / "link"
    link.symlink_to(netlab.net_root)  # the same place by another name
    netlab.pyrunc("net", "reload", "--net-root", link)
    assert netlab.outside.ask(ROUTER_4, 8080).name == "one"
    link.unlink()
    attach(netlab, two, "web")  # the control: the first place goes on
    detach(netlab, two, "web")
    netlab.net_root.rename(tmp_path / "away")
    netlab.pyrunc("net", "create", "new", **other)
    done = netlab.do("net", "attach", "two", "new", "--netns", two.path, **other)
    assert done.code == 1 and done.err.endswith(
        f"(there is no {netlab.net_root} here, but there are containers; without them this can be overcome)\n")
    assert netlab.outside.ask(ROUTER_4, 8080).name == "one"
    one.vanish()
    wait_until_gone(netlab, {name for name in netlab.router.links() if name.startswith("pyv")})
    netlab.pyrunc("net", "attach", "two", "new", "--netns", two.path, "-p", "8080:80", **other)
    two.listen(80)
    assert netlab.outside.ask(ROUTER_4, 8080).name == "two"


def test_datagrams_after_another_container_has_the_port(netlab: Lab) -> None:
    """A client that goes on sending from one port reaches who has the port now: what conntrack remembers is deleted."""
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/24")
    one, two = netlab.container("one"), netlab.container("two")
    for node in (one, two):
        node.listen(53, "udp")
    with netlab.outside.connect(ROUTER_4, 5353, "udp", source_port=4000) as client, \
            netlab.router.connect("127.0.0.1", 5353, "udp", source_port=4000) as local:
        client.socket.send(b"too early")  # an entry that leads to nobody
        with pytest.raises(ConnectionRefusedError):
            client.socket.recv(1)
        attach(netlab, one, "web", "-p", "5353:53/udp")
        assert client.ask().name == local.ask().name == "one"
        detach(netlab, one, "web")
        attach(netlab, two, "web", "-p", "5353:53/udp")
        assert client.ask().name == local.ask().name == "two"
    # The control: with rules alone changed, the client's packets go on to where they went.
    with netlab.outside.connect(ROUTER_4, 5353, "udp", source_port=4001) as client:
        assert client.ask().name == "two"
        other = attach(netlab, one, "web")
        netlab.router.nft("flush map inet pyrunc ports4\n"
                          f"add element inet pyrunc ports4 {{ udp . 5353 : {ip(other)} . 53 }}")
        assert client.ask().name == "two" and netlab.outside.ask(ROUTER_4, 5353, "udp").name == "one"


def test_a_container_in_two_networks(netlab: Lab) -> None:
    """Two devices, one default route, two names for the networks' other containers."""
    for name in ("front", "back"):
        netlab.pyrunc("net", "create", name)
    both, front, back = (netlab.container(name) for name in ("both", "front", "back"))
    first, second = attach(netlab, both, "front"), attach(netlab, both, "back")
    attach(netlab, front, "front")
    alone = attach(netlab, back, "back")
    assert (first["interface"], second["interface"]) == ("eth0", "eth1")
    assert [route for route in both.routes() if route.startswith("default")] == [f"default {gateway(first)} eth0"]
    both.listen(80)
    assert front.ask(ip(first), 80).name == "both" and back.ask(ip(second), 80).name == "both"
    detach(netlab, both, "front")
    assert both.links().keys() == {"eth1"} and back.ask(ip(second), 80).name == "both"
    # The default route is the other's now, as docker has it, and is known to be.
    assert [route for route in both.routes() if route.startswith("default")] == [f"default {gateway(alone)} eth1"]
    netlab.outside.listen(7000)
    assert both.ask(OUTSIDE_4, 7000).name == "outside"
    assert attach(netlab, both, "front")["gateways"] == []
    netlab.pyrunc("net", "rm", "--force", "back")
    assert [route.split()[0] for route in both.routes()].count("default") == 1


def test_the_address_that_was_free_the_longest(netlab: Lab) -> None:
    netlab.pyrunc("net", "create", "web", "--subnet", "10.1.0.0/29")
    one = netlab.container("one")
    found = []
    for _ in range(7):
        found.append(ip(attach(netlab, one, "web")))
        detach(netlab, one, "web")
    assert found == ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2", "10.1.0.3"]


def test_many_at_once(netlab: Lab) -> None:
    """Twenty commands at the same time, of two networks; every address once, and nothing left in the end."""
    for name in ("web", "other"):
        netlab.pyrunc("net", "create", name)
    nodes = [netlab.container(f"n{number}") for number in range(10)]
    running = [subprocess.Popen(netlab.router.command(PYRUNC, "net", "attach", node.name, network, "--netns", node.path,
                                                      "-p", f"{port + number}:80"),
                                env=netlab.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for number, node in enumerate(nodes) for network, port in (("web", 8000), ("other", 9000))]
    outcomes = [(*process.communicate(timeout=60), process.returncode) for process in running]
    assert all(code == 0 and err == "" for _, err, code in outcomes), outcomes
    assert len({out for out, _, _ in outcomes}) == 20
    assert all(node.links().keys() == {"eth0", "eth1"} for node in nodes)
    running = [subprocess.Popen(netlab.router.command(PYRUNC, "net", "detach", node.name, network),
                                env=netlab.environment, stderr=subprocess.PIPE, text=True)
               for node in nodes for network in ("web", "other")]
    assert all(process.communicate(timeout=60)[1] == "" and process.returncode == 0 for process in running)
    assert [path for path in netlab.net_root.joinpath("attachments").iterdir()] == []
    assert netlab.router.links().keys() == {"out", "pyr-web", "pyr-other"}
