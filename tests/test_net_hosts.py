# SPDX-License-Identifier: Apache-2.0
"""What a bundle has as /etc/hosts, /etc/resolv.conf and host name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyrunc.errors import NetworkError, UsageError
from pyrunc.net import hosts
from pyrunc.net import store as stores
from pyrunc.net.model import Attachment, Network
from pyrunc.net.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "net"))


def attachment(container: str, network: str, *addresses: str, aliases: tuple[str, ...] = ()) -> Attachment:
    return Attachment(container, network, interface="eth0", addresses=[f"{address}/24" for address in addresses],
                      aliases=aliases)


def come(store: Store, network: str, made: Attachment) -> None:
    store.begin(made)
    hosts.add(store, Network(network), made)
    store.finish(made)


def names(path: str) -> list[str]:
    return [line for line in Path(path).read_text().splitlines() if not line.startswith("#")]


LOCAL = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]


def test_a_file_is_made_by_one_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds no file must not make one over that of a container which comes at the same moment."""
    monkeypatch.setattr(stores, "LOCK_TIMEOUT", 0.0)
    with store.locked(), pytest.raises(NetworkError, match="another command"):
        hosts.file_for(store, ["web"], "one")
    assert hosts.file_for(store, ["web"], "one")


def test_a_networks_file_is_there_before_its_first_container(store: Store) -> None:
    path = hosts.file_for(store, ["web"], "one")
    assert names(path) == LOCAL
    one, two = attachment("one", "web", "10.1.0.2", "fd00::2"), attachment("two", "web", "10.1.0.3", aliases=("db",))
    come(store, "web", one)
    come(store, "web", two)
    assert names(path) == [*LOCAL, "10.1.0.2\tone", "fd00::2\tone", "10.1.0.3\tdb two"]
    hosts.remove(store, one)
    hosts.remove(store, one)
    assert names(path) == [*LOCAL, "10.1.0.3\tdb two"]


def test_a_name_that_is_the_end_of_another_stays(store: Store) -> None:
    path = hosts.file_for(store, ["web"], "one")
    come(store, "web", attachment("one", "web", "10.1.0.22"))
    come(store, "web", attachment("two", "web", "0.1.0.22"))
    hosts.remove(store, attachment("one", "web", "0.1.0.22"))  # whom there isn't
    assert names(path) == [*LOCAL, "10.1.0.22\tone", "0.1.0.22\ttwo"]


def test_a_container_of_two_networks_knows_both(store: Store) -> None:
    come(store, "front", attachment("early", "front", "10.1.0.2"))
    path = hosts.file_for(store, ["front", "back"], "both")
    assert names(path) == [*LOCAL, "10.1.0.2\tearly"]
    inode = Path(path).stat().st_ino
    late = attachment("late", "back", "10.2.0.2")
    come(store, "back", late)
    assert names(path) == [*LOCAL, "10.1.0.2\tearly", "10.2.0.2\tlate"] and Path(path).stat().st_ino == inode
    assert names(hosts.file_for(store, ["front"], "x")) == [*LOCAL, "10.1.0.2\tearly"]
    hosts.remove(store, late)
    assert names(path) == [*LOCAL, "10.1.0.2\tearly"]
    hosts.forget_container(store, "both")
    assert not Path(path).exists()
    come(store, "back", attachment("later", "back", "10.2.0.3"))
    assert not Path(path).exists()


@pytest.mark.parametrize(("host", "network", "own", "expected"), [
    ("nameserver 192.0.2.53\nsearch example.org\noptions ndots:2 edns0\n", Network("n"), [],
     "search example.org\nnameserver 192.0.2.53\noptions ndots:2\n"),
    ("nameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.53\n", Network("n"), [], "nameserver 192.0.2.53\n"),
    ("nameserver 192.0.2.53\n", Network("n", dns=["9.9.9.9"], search=["a", "b"]), [],
     "search a b\nnameserver 9.9.9.9\n"),
    ("nameserver 192.0.2.53\n", Network("n", dns=["9.9.9.9"]), ["1.1.1.1"], "nameserver 1.1.1.1\n"),
    ("nameserver 192.0.2.53\nsearch example.org\n", Network("n", internal=True), [], ""),
    ("nameserver 192.0.2.53\n", Network("n", internal=True, dns=["10.1.0.9"]), [], "nameserver 10.1.0.9\n"),
])
def test_name_servers(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, network: Network,
                      own: list[str], expected: str) -> None:
    """The container's, then the network's, then the host's; never the host's loopback, none in an internal network."""
    (tmp_path / "resolv.conf").write_text(host)
    monkeypatch.setattr(hosts, "_RESOLV_CONF", str(tmp_path / "resolv.conf"))
    monkeypatch.setattr(hosts, "_SYSTEMD_UPLINKS", str(tmp_path / "none"))
    assert Path(hosts.resolv_conf(store, [network], "one", dns=own)).read_text() == expected


def test_where_systemd_resolved_listens_its_own_servers_are_taken(store: Store, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stub").write_text("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.org\n")
    (tmp_path / "real").write_text("nameserver 192.0.2.53\nsearch example.org\n")
    monkeypatch.setattr(hosts, "_RESOLV_CONF", str(tmp_path / "stub"))
    monkeypatch.setattr(hosts, "_SYSTEMD_UPLINKS", str(tmp_path / "real"))
    assert Path(hosts.resolv_conf(store, [Network("n")], "one")).read_text() == \
        "search example.org\nnameserver 192.0.2.53\n"


def test_the_host_name(store: Store) -> None:
    path = Path(hosts.hostname(store, "one", "web-1.example"))
    assert path.read_text() == "web-1.example\n" and path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(UsageError):
        hosts.hostname(store, "one", "a\nb")
