# SPDX-License-Identifier: Apache-2.0
"""Lists that change while the kernel gives them out (NLM_F_DUMP_INTR): asked for again, though not for ever."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest
from netlab import Lab

from pyrunc.linux import netlink, nftables
from pyrunc.linux.netlink import NetlinkError, attribute
from pyrunc.linux.nftables import NFPROTO_INET, Netfilter, add_chain, add_table

CHAINS = 3000  # several datagrams
DELCHAIN = 5  # NFT_MSG_DELCHAIN


@pytest.fixture
def busy(netlab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], tuple[Netfilter, list[int]]]]:
    """A function that gives a socket in a namespace with many chains, and the rounds that were disturbed.

    In as many rounds as it is told a chain comes and goes after the list's first datagram.
    """
    with netlab.router.inside():
        reader, writer = Netfilter(), Netfilter()
    writer.commit([add_table(NFPROTO_INET, "t"), *(add_chain(NFPROTO_INET, "t", f"c{at}") for at in range(CHAINS))])
    disturbed: list[int] = []
    last = 0

    def make(rounds: int) -> tuple[Netfilter, list[int]]:
        def disturbing(datagram: bytes) -> list[tuple[int, int, int, bytes]]:
            nonlocal last
            found = netlink_messages(datagram)
            sequence = found[0][2]
            if sequence != last and len(disturbed) < rounds:
                disturbed.append(sequence)
                writer.commit([add_chain(NFPROTO_INET, "t", "x")])
                writer.commit([(DELCHAIN, 0, NFPROTO_INET, attribute(1, b"t\0") + attribute(3, b"x\0"))])
            last = sequence
            return found

        netlink_messages = netlink.messages
        monkeypatch.setattr(netlink, "messages", disturbing)
        return reader, disturbed

    assert nftables.messages is netlink.messages
    yield make
    reader.close()
    writer.close()


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_a_list_that_changes_is_read_again(busy: Callable[[int], tuple[Netfilter, list[int]]], rounds: int) -> None:
    reader, disturbed = busy(rounds)
    found = [chain.name for chain in reader.chains()]
    assert sorted(found) == sorted(f"c{at}" for at in range(CHAINS))
    assert len(disturbed) == rounds and reader._sequence == rounds + 1  # each disturbance was seen


def test_one_that_never_stops_changing(busy: Callable[[int], tuple[Netfilter, list[int]]]) -> None:
    reader, disturbed = busy(1000)
    with pytest.raises(NetlinkError) as caught:
        reader.chains()
    assert caught.value.errno == errno.EAGAIN and caught.value.said == "what is to be listed changes all the time"
    assert len(disturbed) == 20
