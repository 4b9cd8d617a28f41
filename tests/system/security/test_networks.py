# SPDX-License-Identifier: Apache-2.0
"""What a container does to its neighbours, to the host and to its own limits by the network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks import PYRUNC, Attack, weaken
from netframes import Mouth
from netlab import OUTSIDE_4, ROUTER_4, Lab, Node
from netting import attach, gateway, ip
from support import PYRUNC as PROGRAM
from support import SLOW, Bundle, wait_for

from pyrunc.net.links import link_local
from pyrunc.net.model import unpack_address

WITHOUT_RULE = """
from pyrunc.net import ruleset
def without(made):
    return lambda *given: [message for message in made(*given) if {comment!r} not in message[3]]
for name in ("_inet", "_bridge", "network"):
    setattr(ruleset, name, without(getattr(ruleset, name)))
"""
#: Sysctls of the network are left as the kernel has them.
WITHOUT_SYSCTL = """
from pyrunc.net import links
def without(made):
    return lambda path, *rest, **more: None if path.endswith({names!r}) else made(path, *rest, **more)
links.set_sysctl = without(links.set_sysctl)
"""
LETS_THROUGH = WITHOUT_RULE.format(comment=b"a container is no router")
BELIEVES = WITHOUT_SYSCTL.format(names=("/accept_ra", "/disable_ipv6"))
MOMENT = 0.5 * SLOW  # for what is not to happen; where it is to, it is waited for


def attach_by(program: str | Path, lab: Lab, node: Node, network: str, *words: str) -> dict[str, Any]:
    """`net attach` by a pyrunc that may have been weakened."""
    made: dict[str, Any] = json.loads(lab.router.run(program, "net", "attach", node.name, network, "--netns", node.path,
                                                     *words, "--format", "json", env=lab.environment))
    return made


def happens(what: Callable[[], bool], *, expected: bool) -> bool:
    """Whether it does, soon."""
    if expected:
        wait_for(what, "the attack to work")
        return True
    deadline = time.monotonic() + MOMENT
    while time.monotonic() < deadline:
        if what():
            return True
        time.sleep(0.05)
    return False


def advertised(mouth: Mouth, victim: Node, device: str, **how: Any) -> Callable[[], bool]:
    """Advertise a router; whether the victim sends what leaves to it."""
    def heard() -> bool:
        mouth.router_advertisement(unpack_address(link_local(mouth.mac)), **how)
        return any(line.startswith("default") and "proto ra" in line
                   for line in victim.ip(f"-6 route show dev {device}").splitlines())
    return heard


@pytest.mark.attack("CVE-2020-8558", "a container sends to 127.0.0.1 over its bridge, and reaches what the host keeps "
                                     "to itself")
def test_cve_2020_8558_the_hosts_loopback(netlab: Lab, attack: Attack, tmp_path: Path) -> None:
    """A published port needs route_localnet on the bridge, for programs of the host that ask at 127.0.0.1."""
    netlab.pyrunc("net", "create", "web")
    evil = netlab.container("evil")
    weak = weaken(tmp_path / "weak", WITHOUT_RULE.format(comment=b"loopback addresses are the host's alone"))
    made = attach_by(weak, netlab, evil, "web", "-p", "8080:80")
    netlab.router.listen(9090, host="127.0.0.1", name="secret")
    assert netlab.router.sysctl("ipv4.conf.pyr-web.route_localnet") == "1"
    evil.sysctl("ipv4.conf.eth0.route_localnet", "1")
    evil.ip("address del 127.0.0.1/8 dev lo")
    evil.ip(f"route add 127.0.0.1/32 via {gateway(made)} dev eth0 src {ip(made)}")
    attack.on("pyrunc without that rule", evil.ask("127.0.0.1", 9090).name == "secret")
    netlab.pyrunc("net", "reload")
    attack.on(PYRUNC, not evil.hears_nothing("127.0.0.1", 9090))


def variants(tmp_path: Path, weaknesses: dict[str, str]) -> list[tuple[str | Path, str, bool]]:
    """(program, who it is, whether the attack is to work): pyrunc without any defence, with each alone, as it is."""
    rest = list(weaknesses.values())
    found: list[tuple[str | Path, str, bool]] = [
        (weaken(tmp_path / "weak", "".join(rest)), f"pyrunc {' and '.join(weaknesses)}", True)]
    found += [(weaken(tmp_path / "weak", code), PYRUNC, False) for code in rest]
    return [*found, (PROGRAM, PYRUNC, False)]


@pytest.mark.attack("CVE-2020-10749", "a container says that it is a router, and gets what its neighbours send")
def test_cve_2020_10749_neighbours_believe_no_router(netlab: Lab, attack: Attack, tmp_path: Path) -> None:
    """Each of the two defences, at the container's port and in the neighbour, holds without the other."""
    weaknesses = {"that lets it through": LETS_THROUGH, "whose containers believe it": BELIEVES}
    for number, (program, who, expected) in enumerate(variants(tmp_path, weaknesses)):
        netlab.pyrunc("net", "create", f"n{number}", "--ipv6")
        evil, victim = netlab.container(f"evil{number}"), netlab.container(f"victim{number}")
        made = attach_by(program, netlab, evil, f"n{number}")
        attach_by(program, netlab, victim, f"n{number}")
        with Mouth(evil, made["mac"]) as mouth:
            attack.on(who, happens(advertised(mouth, victim, "eth0"), expected=expected))


@pytest.mark.attack("CVE-2020-13401", "a container says that it is a router, and gets what the host sends")
def test_cve_2020_13401_the_host_believes_no_router(netlab: Lab, attack: Attack, tmp_path: Path) -> None:
    """A host that doesn't forward IPv6 takes routers' advertisements; not from a network of IPv4, for more reasons."""
    lets_all_in = WITHOUT_RULE.format(comment=b"pyv")  # the way to the rules for containers' ports
    weaknesses = {"that lets everything in": lets_all_in, "has IPv6 on every bridge": BELIEVES}
    for number, (program, who, expected) in enumerate(variants(tmp_path, weaknesses)):
        netlab.pyrunc("net", "create", f"n{number}")
        evil = netlab.container(f"evil{number}")
        made = attach_by(program, netlab, evil, f"n{number}")
        with Mouth(evil, made["mac"]) as mouth:
            attack.on(who, happens(advertised(mouth, netlab.router, f"pyr-n{number}"), expected=expected))


@pytest.mark.attack("CVE-2021-20206", "a network's configuration names a program anywhere as its plugin")
def test_cve_2021_20206_plugins_are_names(netlab: Lab, attack: Attack, tmp_path: Path) -> None:
    """`net cni` looks for a plugin in the directories of plugins, and nowhere else."""
    evil, mark = tmp_path / "evil/plugin", tmp_path / "mark"
    for directory in (evil.parent, tmp_path / "plugins"):
        directory.mkdir()
    evil.write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    evil.chmod(0o755)
    (tmp_path / "web.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "web",
                                                       "plugins": [{"type": "../evil/plugin"}]}))
    words = ("net", "cni", "--cache", tmp_path / "cache", "--plugins", tmp_path / "plugins", "add",
             tmp_path / "web.conflist", "one", "--netns", netlab.container("one").path)
    for program, who in ((weaken(tmp_path / "weak", "from pyrunc.net import cni_config\n"
                                 "cni_config._check_plugin = lambda *_: None"), "pyrunc that takes any text"),
                         (PROGRAM, PYRUNC)):
        done = netlab.router.do(program, *words, env=netlab.environment)
        assert done.code == 1, done
        attack.on(who, mark.exists())
        mark.unlink(missing_ok=True)
    assert "is no plugin's name" in done.err


@pytest.mark.attack("CVE-2021-27853", "what a container's port is to keep out hides behind tags of VLAN 0, which its "
                                      "neighbour takes off")
def test_cve_2021_27853_what_hides_a_router(netlab: Lab, attack: Attack, tmp_path: Path) -> None:
    """Nothing but IP and ARP is let in; one tag the kernel takes off before, as it goes past options."""
    notall = WITHOUT_RULE.format(comment=b"neither IP nor ARP")
    for number, (weakness, who) in enumerate(((notall, "pyrunc that lets in whatever it doesn't know"), ("", PYRUNC))):
        netlab.pyrunc("net", "create", f"n{number}", "--ipv6")
        evil, victim = netlab.container(f"evil{number}"), netlab.container(f"victim{number}")
        program = weaken(tmp_path / "weak", weakness + BELIEVES)  # else nobody would believe it anyway
        made = attach_by(program, netlab, evil, f"n{number}")
        attach_by(program, netlab, victim, f"n{number}")
        with Mouth(evil, made["mac"]) as mouth:
            for how in ({"tags": 1}, {"options": True}):
                assert not happens(advertised(mouth, victim, "eth0", **how), expected=False)
            attack.on(who, happens(advertised(mouth, victim, "eth0", tags=2), expected=bool(weakness)))


@pytest.mark.attack("CVE-2024-29018", "a container of an internal network tells the outside something by asking for a "
                                      "name")
def test_cve_2024_29018_internal_networks_keep_in(netlab: Lab, attack: Attack, tmp_path: Path, bundle: Bundle) -> None:
    """It isn't told of the host's name servers, and what it sends to them doesn't leave."""
    netlab.pyrunc("net", "create", "inner", "--subnet", "10.1.0.0/24", "--internal")
    netlab.pyrunc("net", "create", "web")
    attach(netlab, netlab.container("other"), "web")  # from now on the host forwards
    resolver = netlab.outside.listen(53, "udp")
    netlab.outside.ip(f"route add 10.1.0.0/24 via {ROUTER_4}")
    evil = netlab.container("evil")
    attach_by(weaken(tmp_path / "weak", WITHOUT_RULE.format(comment=b"nothing leaves")), netlab, evil, "inner")
    evil.ip("route add default via 10.1.0.1")

    def told() -> bool:
        with evil.connect(OUTSIDE_4, 53, "udp") as question:
            question.socket.send(b"secret.example")
        return "10.1.0.2" in resolver.seen

    attack.on("pyrunc without the rule that nothing leaves", happens(told, expected=True))
    netlab.pyrunc("net", "reload")
    resolver.seen.clear()
    attack.on(PYRUNC, happens(told, expected=False))
    netlab.pyrunc("net", "setup", "--net", "inner", bundle.path)
    (mount,) = [mount for mount in json.loads((bundle.path / "config.json").read_text())["mounts"]
                if mount["destination"] == "/etc/resolv.conf"]
    attack.on(PYRUNC, "nameserver" in Path(mount["source"]).read_text())
    netlab.pyrunc("net", "setup", "--undo", bundle.path)


@pytest.mark.attack("CVE-2024-32473", "a container of a network without IPv6 has it all the same, from who offers it")
def test_cve_2024_32473_no_ipv6_where_there_is_none(netlab: Lab, attack: Attack, tmp_path: Path) -> None:
    """A router in the network that the host is in: it reaches macvlan devices."""
    netlab.pyrunc("net", "create", "lan", "--driver", "macvlan", "--subnet", "192.0.2.0/24", "--gateway", OUTSIDE_4)
    mac = netlab.outside.links()["in"]["address"]
    for number, (program, who) in enumerate((
            (weaken(tmp_path / "weak", BELIEVES), "pyrunc that leaves IPv6 on"), (PROGRAM, PYRUNC))):
        node = netlab.container(f"c{number}")
        attach_by(program, netlab, node, "lan", "--ip", f"192.0.2.{50 + number}")
        with Mouth(netlab.outside, mac, "in") as mouth:
            def has_address(node: Node = node, mouth: Mouth = mouth) -> bool:
                mouth.router_advertisement("fe80::1")
                return any(address.startswith("2001:db8:666:") for address in node.addresses("eth0"))

            attack.on(who, happens(has_address, expected=who != PYRUNC))
    assert "inet6" not in node.ip("address show eth0")


@pytest.mark.attack("CVE-2025-67499", "a port published at one address of the host takes what is for others' ports")
def test_cve_2025_67499_ports_of_one_address(netlab: Lab, attack: Attack) -> None:
    """What a neighbour sends to a host outside, to the same number, goes there."""
    netlab.pyrunc("net", "create", "web")
    evil, neighbour = netlab.container("evil"), netlab.container("neighbour")
    made = attach(netlab, evil, "web", "-p", f"{ROUTER_4}:8080:80", "-p", "8081:80")
    attach(netlab, neighbour, "web")
    evil.listen(80)
    for port in (8080, 8081):
        netlab.outside.listen(port)
        netlab.router.nft("table ip naive {\nchain before {\ntype nat hook prerouting priority dstnat - 10\n"
                          f"tcp dport {port} dnat to {ip(made)}:80\n}}\n}}")
        attack.on("a rule without the address", neighbour.ask(OUTSIDE_4, port).name == "evil")
        netlab.router.run("nft", "delete", "table", "ip", "naive")
        attack.on(PYRUNC, neighbour.ask(OUTSIDE_4, port).name == "evil")
        assert netlab.outside.ask(ROUTER_4, port).name == "evil"
