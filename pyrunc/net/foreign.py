# SPDX-License-Identifier: Apache-2.0
"""Tables of others that drop what is forwarded: an accept of ours is not the last word, a drop of theirs is.

Docker and many a firewall set the policy of iptables' FORWARD to DROP, others end it with REJECT.  There a rule of
ours lets our bridges through, in DOCKER-USER where Docker has one, since that is what it is for; it gives nothing
away, our own table still decides.
Of other tables it is told which one drops, and what to do about it.
"""

from __future__ import annotations

from pyrunc.linux import nftables as nft
from pyrunc.linux.netlink import attributes

from . import links
from .links import BRIDGE_PREFIX
from .ruleset import TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyrunc.linux.netlink import Route
    from pyrunc.linux.nftables import Chain, Netfilter, Rule

    from .model import Network

_IPTABLES = {nft.NFPROTO_IPV4: "ip", nft.NFPROTO_IPV6: "ip6"}
_META_KEY = 2  # NFTA_META_KEY
_FAMILIES = {1: "inet", 2: "ip", 7: "bridge", 10: "ip6", 5: "netdev", 3: "arp"}
_MATCHES = frozenset(("meta", "cmp", "lookup", "payload", "bitwise", "ct", "fib", "match", "immediate", "range"))


def admit(netfilter: Netfilter, network: Network, warn: Callable[[str], None]) -> None:
    """Have others' tables let our bridges through where that is known how; else say that they don't."""
    try:
        chains = netfilter.chains()
        families = {subnet.family for subnet in network.subnets}
        for chain in chains:
            if chain.hook != nft.HOOK_FORWARD or chain.type != "filter" or chain.table == TABLE or \
                    chain.family not in (1, 2, 10) or (chain.family == 2 and 4 not in families) or \
                    (chain.family == 10 and 6 not in families):
                continue
            if chain.family in _IPTABLES and (chain.table, chain.name) == ("filter", "FORWARD"):
                if _drops(netfilter, chain):
                    _let_through(netfilter, chain.family, chains)
            elif _drops(netfilter, chain) and not _mentions(netfilter, chain, network.interface):
                warn(_told(chain, network))
    except OSError as error:  # somebody changes them this moment: what is asked here is advice
        warn(f"other tables of rules could not be read: {error.strerror}")


def withdraw(netfilter: Netfilter) -> None:
    """Take our rules out of iptables' chains."""
    try:
        for chain in netfilter.chains():
            if chain.family in _IPTABLES and chain.table == "filter" and chain.name in ("FORWARD", "DOCKER-USER"):
                for rule in netfilter.rules(chain.family, chain.table, chain.name):
                    if _direction(rule):
                        netfilter.commit([nft.delete_rule(chain.family, chain.table, chain.name, rule.handle)])
    except OSError:
        pass  # a rule that admits bridges which aren't there does no harm


def look_for_routes(route: Route, network: Network, warn: Callable[[str], None]) -> None:
    """Since the network was made the host may have got a route to what is its subnet, which is in the way now."""
    for its in links.taken_subnets(route):
        for subnet in network.subnets:
            if subnet.overlaps(its):
                warn(f"{its}, which this host has a route to, overlaps {subnet}, which is {network.name}'s: no more is "
                     "sent there")


def _let_through(netfilter: Netfilter, family: int, chains: Iterable[Chain]) -> None:
    """`-i pyr-+ -j ACCEPT` and `-o pyr-+ -j ACCEPT`, as iptables would write them, at the top; once."""
    names = {chain.name for chain in chains if chain.family == family and chain.table == "filter"}
    name = "DOCKER-USER" if "DOCKER-USER" in names else "FORWARD"
    present = {_direction(rule) for rule in netfilter.rules(family, "filter", name)}
    batch = [nft.add_rule(family, "filter", name, nft.load_meta(which), nft.compare(BRIDGE_PREFIX.encode()),
                          nft.counter(), nft.verdict("accept"), first=True)
             for which in ("oifname", "iifname") if which not in present]
    if batch:
        netfilter.commit(batch)


def _direction(rule: Rule) -> str:
    """iifname or oifname, if the rule is one of ours."""
    if [name for name, _ in rule.expressions] != ["meta", "cmp", "counter", "immediate"] or rule.verdict != "accept":
        return ""
    if not rule.expressions[1][1].rstrip(b"\0").endswith(BRIDGE_PREFIX.encode()):
        return ""
    key = dict(attributes(rule.expressions[0][1])).get(_META_KEY, b"")
    return {b"\x06": "iifname", b"\x07": "oifname"}.get(key[-1:], "")


def _drops(netfilter: Netfilter, chain: Chain) -> bool:
    """Whether what nobody lets through is dropped: by the policy, or by a last rule without a condition."""
    if chain.policy == "drop":
        return True
    rules = netfilter.rules(chain.family, chain.table, chain.name)
    return bool(rules) and rules[-1].verdict in ("drop", "reject") and not \
        _MATCHES.intersection(name for name, _ in rules[-1].expressions[:-1])


def _mentions(netfilter: Netfilter, chain: Chain, device: str) -> bool:
    """Whether some rule of the table knows our bridge: somebody has taken care."""
    wanted = (device.encode(), BRIDGE_PREFIX.encode())
    return any(any(name in body for name in wanted)
               for rule in netfilter.rules(chain.family, chain.table) for _, body in rule.expressions)


def _told(chain: Chain, network: Network) -> str:
    family = _FAMILIES.get(chain.family, str(chain.family))
    remedy = (f"`firewall-cmd --permanent --zone=trusted --add-interface={network.interface}` and `firewall-cmd "
              f"--reload` let it through"
              if chain.table == "firewalld" else
              f"`nft insert rule {family} {chain.table} {chain.name} iifname {network.interface} accept` and the same "
              f"with oifname let it through")
    return (f"the chain {chain.name} of table {family} {chain.table} drops what it doesn't know, "
            f"{network.name}'s traffic too: {remedy}")
