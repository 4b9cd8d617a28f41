# SPDX-License-Identifier: Apache-2.0
"""The lab that the tests of networks stand on: what it shows is what is there."""

from __future__ import annotations

import os

import pytest
from netlab import OUTSIDE_4, OUTSIDE_6, PROTOCOLS, ROUTER_4, ROUTER_6, Lab


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("family", (4, 6))
def test_a_server_tells_who_asked(netlab: Lab, protocol: str, family: int) -> None:
    server = netlab.outside.listen(7000, protocol, family=family)
    there, here = (OUTSIDE_4, ROUTER_4) if family == 4 else (OUTSIDE_6, ROUTER_6)
    answer = netlab.router.ask(there, 7000, protocol)
    assert (answer.name, answer.source) == ("outside", here)
    assert server.seen == [here]


def test_silence_is_told_from_an_answer(netlab: Lab) -> None:
    netlab.outside.listen(7000)
    assert netlab.router.hears_nothing(OUTSIDE_4, 7001)
    assert not netlab.router.hears_nothing(OUTSIDE_4, 7000)


def test_translation_is_seen(netlab: Lab) -> None:
    """A namespace behind the router, by hand: nothing comes back until the router masquerades."""
    inner = netlab.container()
    netlab.router.ip(f"link add v type veth peer name eth0 netns {inner.pid}")
    netlab.router.ip("address add 10.9.0.1/24 dev v")
    netlab.router.ip("link set v up")
    inner.ip("address add 10.9.0.2/24 dev eth0")
    inner.ip("link set eth0 up")
    inner.ip("route add default via 10.9.0.1")
    netlab.router.sysctl("ipv4.ip_forward", "1")
    server = netlab.outside.listen(7000)
    before = netlab.router.look()
    assert inner.hears_nothing(OUTSIDE_4, 7000)
    netlab.router.nft("table ip t {\n chain c {\n type nat hook postrouting priority 100;\n masquerade\n }\n}\n")
    assert inner.ask(OUTSIDE_4, 7000).source == ROUTER_4
    assert server.seen[-1] == ROUTER_4
    assert netlab.router.look() != before
    netlab.router.nft("delete table ip t")
    assert netlab.router.look() == before


def test_nothing_is_left(netlab: Lab) -> None:
    inner = netlab.container()
    inner.listen(7000)
    pids = [node.pid for node in netlab.nodes]
    netlab.close()
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []
