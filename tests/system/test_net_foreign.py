# SPDX-License-Identifier: Apache-2.0
"""Others' rules on the same host: Docker's and iptables' FORWARD, firewalld's, a firewall of somebody's own."""

from __future__ import annotations

import pytest
from netlab import OUTSIDE_4, ROUTER_4, Lab
from netting import detach

DOCKER = """\
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A FORWARD -i docker0 -j ACCEPT
COMMIT
"""
FORWARD = {"docker": DOCKER, "a policy": "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n",
           "a last rule": "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n"
                          "-A FORWARD -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n"}


def check(netlab: Lab) -> None:
    """Out, and in by a published port; and between networks still not."""
    one, two = netlab.nodes[2:4]
    assert one.ask(OUTSIDE_4, 80).name == "outside"
    assert netlab.outside.ask(ROUTER_4, 8080).name == one.name
    assert two.hears_nothing(one.addresses("eth0")[0].partition("/")[0], 80)


@pytest.fixture
def two(netlab: Lab) -> Lab:
    """Two networks, not yet a container in them."""
    for name in ("one", "two"):
        netlab.container(name).listen(80)
        netlab.pyrunc("net", "create", name)
    netlab.outside.listen(80)
    return netlab


def come(lab: Lab) -> str:
    """Attach both; what was said."""
    one, other = lab.nodes[2:4]
    first = lab.do("net", "attach", "one", "one", "--netns", one.path, "-p", "8080:80")
    second = lab.do("net", "attach", "two", "two", "--netns", other.path)
    assert first.code == second.code == 0, (first, second)
    return first.err


@pytest.mark.parametrize("chains", FORWARD)
def test_docker_and_iptables(two: Lab, chains: str) -> None:
    """FORWARD lets nothing through: a rule for our bridges stands in DOCKER-USER, or in FORWARD; not for ever."""
    two.router.run("iptables-nft-restore", stdin=FORWARD[chains])
    before = two.router.run("iptables-nft-save")
    assert come(two) == ""
    check(two)
    place = "DOCKER-USER" if chains == "docker" else "FORWARD"
    rules = [line for line in two.router.run("iptables-nft-save").splitlines() if "pyr" in line]
    assert rules == [f"-A {place} -i pyr-+ -j ACCEPT", f"-A {place} -o pyr-+ -j ACCEPT"]
    two.pyrunc("net", "reload")
    assert [line for line in two.router.run("iptables-nft-save").splitlines() if "pyr" in line] == rules
    for node, name in zip(two.nodes[2:4], ("one", "two"), strict=True):
        detach(two, node, name)
        two.pyrunc("net", "rm", name)
    assert _rules(two.router.run("iptables-nft-save")) == _rules(before)


def _rules(text: str) -> list[str]:
    return [line.partition("[")[0] for line in text.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(("rules", "chain"), [
    ("chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept; "
     "ct state established accept; reject with icmpx admin-prohibited; }", "filter_FORWARD"),
    ("chain strict { type filter hook forward priority 5; policy drop; }", "strict"),
])
def test_it_says_when_another_table_drops(two: Lab, rules: str, chain: str) -> None:
    """Which chain of which table, and what to do, which then works and is believed."""
    table = "firewalld" if chain == "filter_FORWARD" else "mine"
    two.router.nft(f"table inet {table} {{\n{rules.replace('; ', ';' + chr(10))}\n}}")
    said = come(two)
    remedy = ("`firewall-cmd --permanent --zone=trusted --add-interface=pyr-one` and `firewall-cmd --reload` let it "
              "through" if table == "firewalld" else
              "`nft insert rule inet mine strict iifname pyr-one accept` and the same with oifname let it through")
    assert said == (f"pyrunc: warning: the chain {chain} of table inet {table} drops what it doesn't know, one's "
                    f"traffic too: {remedy}\n")
    assert two.nodes[2].hears_nothing(OUTSIDE_4, 80)
    for which in ("iifname", "oifname"):
        two.router.run("nft", "insert", "rule", "inet", table, chain, which, "pyr-one", "accept")
    check(two)
    detach(two, two.nodes[2], "one")
    again = two.do("net", "attach", "one", "one", "--netns", two.nodes[2].path, "-p", "8080:80")
    assert (again.code, again.err) == (0, "")


def test_a_table_that_drops_nothing_is_not_told_of(two: Lab) -> None:
    two.router.nft("table inet calm {\nchain f {\ntype filter hook forward priority 0; policy accept;\n"
                   "iifname \"eth7\" drop\n}\n}")
    assert come(two) == ""
    check(two)
