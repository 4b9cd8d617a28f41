# SPDX-License-Identifier: Apache-2.0
"""Addresses: which one is next, what a full range says, what a file that was cut off does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pyrunc.errors import NetworkError, UsageError
from pyrunc.net.ipam import Leases
from pyrunc.net.model import Subnet


def leases(path: Path, subnet: str = "10.1.0.0/29", *reserved: str) -> Leases:
    return Leases(str(path / "leases"), Subnet.parse(subnet), reserved or ("10.1.0.1",))


def take(held: Leases) -> str:
    address = held.choose()
    held.take(address)
    return address


def test_fresh_addresses_come_first_then_the_longest_idle(tmp_path: Path) -> None:
    with leases(tmp_path) as held:
        assert [take(held) for _ in range(3)] == ["10.1.0.2", "10.1.0.3", "10.1.0.4"]
        held.release("10.1.0.3")
        held.release("10.1.0.2")
        assert [take(held) for _ in range(2)] == ["10.1.0.5", "10.1.0.6"]
        held.release("10.1.0.6")
        assert [take(held) for _ in range(3)] == ["10.1.0.3", "10.1.0.2", "10.1.0.6"]


def test_a_full_range_is_a_clear_error(tmp_path: Path) -> None:
    with leases(tmp_path) as held:
        taken = [take(held) for _ in range(5)]
        assert held.taken() == taken
        with pytest.raises(NetworkError) as error:
            held.choose()
        assert str(error.value).startswith("no address of 10.1.0.0/29 is free (")


def test_leases_outlive_the_process(tmp_path: Path) -> None:
    with leases(tmp_path) as held:
        first = take(held)
    with leases(tmp_path) as held:
        assert held.taken() == [first]
        assert take(held) != first


@pytest.mark.parametrize("address", ["10.1.0.0", "10.1.0.7", "10.1.0.1"])
def test_network_broadcast_and_gateway_are_nobodys(tmp_path: Path, address: str) -> None:
    with leases(tmp_path) as held, pytest.raises(NetworkError):
        held.check(address)


def test_an_address_that_is_asked_for(tmp_path: Path) -> None:
    with leases(tmp_path) as held:
        held.check("10.1.0.5")
        held.take("10.1.0.5")
        with pytest.raises(NetworkError, match="is taken"):
            held.check("10.1.0.5")
        assert [take(held) for _ in range(3)] == ["10.1.0.2", "10.1.0.3", "10.1.0.4"]
        assert take(held) == "10.1.0.6"
        with pytest.raises(UsageError, match="is not in"):
            held.check("10.2.0.5")


def test_giving_back_twice_does_no_harm(tmp_path: Path) -> None:
    with leases(tmp_path) as held:
        address = take(held)
        held.release(address)
        held.release(address)
        held.release("10.1.0.6")  # which nobody had
        assert held.taken() == []
        assert take(held) == "10.1.0.3"


def test_a_file_that_a_crash_cut_off(tmp_path: Path) -> None:
    with leases(tmp_path) as held:
        take(held)
        take(held)
    path = tmp_path / "leases"
    path.write_bytes(path.read_bytes()[:-3])
    with leases(tmp_path) as held:
        assert held.taken() == ["10.1.0.2"]
        assert take(held) == "10.1.0.3"


@pytest.mark.parametrize("subnet", ["10.1.0.0/31", "10.1.0.0/30", "fd00::/126", "fd00::/127", "fd00::/64"])
def test_small_and_endless_subnets(tmp_path: Path, subnet: str) -> None:
    parsed = Subnet.parse(subnet)
    gateway = parsed.address(parsed.usable()[0])
    first, last = parsed.usable()
    with leases(tmp_path, subnet, gateway) as held:
        found = [take(held) for _ in range(min(last - first, 100))]
        assert len(set(found)) == len(found) and gateway not in found and all(address in parsed for address in found)
        if last - first < 100:
            with pytest.raises(NetworkError):
                held.choose()


def test_choices_against_a_model(tmp_path: Path) -> None:
    """A thousand random steps, beside a list that does the same slowly."""
    chance = random.Random(7)
    taken: list[str] = []
    idle = [f"10.1.0.{number}" for number in range(2, 31)]
    with leases(tmp_path, "10.1.0.0/27") as held:
        for _ in range(1000):
            if idle and chance.random() < 0.55:
                assert take(held) == idle[0]
                taken.append(idle.pop(0))
            elif taken:
                address = taken.pop(chance.randrange(len(taken)))
                held.release(address)
                idle.append(address)
        assert sorted(held.taken()) == sorted(taken)
