# SPDX-License-Identifier: Apache-2.0
"""A lab of network namespaces: a host outside, a router that runs pyrunc, containers' namespaces.

    outside 192.0.2.1, 2001:db8:1::1 ------- 192.0.2.2, 2001:db8:1::2 router ------- what pyrunc makes

The host outside knows the router and no way to what is behind it: an answer comes back only if the router translated
the address, or if the test gives the route.  Servers are threads of the test with sockets of a namespace's, so that
nothing has to be started or stopped; they answer with who they are and what they have seen.  A namespace lives as
long as a process of the lab's, which dies with the test.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from support import PYRUNC, SLOW, Result, wait_for

from pyrunc.linux.process import CLONE_NEWNET, setns

SCTP = 132
OUTSIDE_4, ROUTER_4 = "192.0.2.1", "192.0.2.2"
OUTSIDE_6, ROUTER_6 = "2001:db8:1::1", "2001:db8:1::2"
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
PATIENCE = 5.0 * SLOW  # seconds for an answer that is to come
DEAF = 0.7  # seconds for one that is not


class Unanswered(Exception):
    """Nobody answered: refused, rejected, or silence."""


class Answer(NamedTuple):
    """What a server said of a question."""

    name: str  # the server's
    source: str  # the address the question came from, as the server saw it
    port: int  # and the port
    destination: str  # the address the server was asked at


def has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, SCTP).close()
    except OSError:
        return False
    return True


PROTOCOLS = ("tcp", "udp", "sctp") if has_sctp() else ("tcp", "udp")  # a kernel may come without


def _socket(protocol: str, family: int) -> socket.socket:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    made = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, kind,
                         SCTP if protocol == "sctp" else 0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == 6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made


class Server:
    """Answers each question with its name and with the addresses it sees; `seen` are the addresses that asked."""

    def __init__(self, name: str, protocol: str, listening: socket.socket) -> None:
        self.name = name
        self.protocol = protocol
        self.seen: list[str] = []
        self.socket = listening
        self.port: int = listening.getsockname()[1]
        self._ending, self._end = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No harm if it is closed."""
        if self._end >= 0:
            os.close(self._end)
            self._end = -1
            self._thread.join()
            os.close(self._ending)
            self.socket.close()

    def _serve(self) -> None:
        connections: list[socket.socket] = []
        try:
            while True:
                ready, _, _ = select.select([self._ending, self.socket, *connections], [], [])
                for one in ready:
                    if one == self._ending:
                        return
                    if one is self.socket and self.protocol != "udp":
                        connections.append(one.accept()[0])
                    else:
                        self._answer(one, connections)
        finally:
            for one in connections:
                one.close()

    def _answer(self, one: socket.socket, connections: list[socket.socket]) -> None:
        """A connection stays open for as long as its client wants."""
        try:
            if self.protocol == "udp":
                question, _, _, peer = one.recvmsg(2048)
                self.seen.append(peer[0])
                one.sendto(f"{self.name} {peer[0]} {peer[1]} {one.getsockname()[0]}".encode(), peer)
                return
            question = one.recv(2048)
            if question:
                peer = one.getpeername()
                self.seen.append(peer[0])
                one.sendall(f"{self.name} {peer[0]} {peer[1]} {one.getsockname()[0]}".encode())
                return
        except OSError:
            pass
        if one in connections:
            connections.remove(one)
            one.close()


class Node:
    """A network namespace: `path` leads to it."""

    def __init__(self, name: str, pid: int, holder: subprocess.Popen[bytes] | None = None) -> None:
        self.name = name
        self.pid = pid
        self.path = f"/proc/{pid}/ns/net"
        self._holder = holder
        self._servers: list[Server] = []
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    @classmethod
    def make(cls, name: str) -> Node:
        """A new one, with its loopback up, and no time lost to duplicate addresses."""
        holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c",
             "ip link set lo up; echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; echo; exec sleep 100000"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        holder.stdout.readline()
        return cls(name, holder.pid, holder)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        self.vanish()

    def vanish(self) -> None:
        """Let the namespace go, as when a container dies; its servers' sockets hold it no more."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._holder is not None:
            self._holder.kill()
            self._holder.communicate()
            self._holder = None

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread stands in the namespace: sockets made meanwhile belong to it."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        setns(self._fd, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(home, CLONE_NEWNET)
            os.close(home)

    def command(self, *words: str | Path) -> list[str]:
        return ["nsenter", f"--net={self.path}", "--", *map(str, words)]

    def do(self, *words: str | Path, stdin: str = "", timeout: float = 60.0, **options: Any) -> Result:
        """Run a program there, whatever comes of it."""
        done = subprocess.run(self.command(*words), input=stdin, capture_output=True, text=True,
                              timeout=timeout * SLOW, **options)
        return Result(done.returncode, done.stdout, done.stderr)

    def run(self, *words: str | Path, **options: Any) -> str:
        """Run a program there, which has to work; what it prints."""
        done = self.do(*words, **options)
        assert done.code == 0, (words, done)
        return done.out

    def ip(self, text: str) -> str:
        return self.run("ip", *text.split())

    def nft(self, rules: str) -> str:
        return self.run("nft", "-f", "-", stdin=rules)

    def links(self) -> dict[str, dict[str, Any]]:
        """The devices by name, but for the loopback."""
        return {link["ifname"]: link for link in json.loads(self.ip("-j -d link")) if link["ifname"] != "lo"}

    def addresses(self, device: str) -> list[str]:
        """Those of global scope, with the length of the mask."""
        return [f"{entry['local']}/{entry['prefixlen']}" for link in json.loads(self.ip("-j address"))
                if link["ifname"] == device for entry in link["addr_info"] if entry["scope"] == "global"]

    def routes(self) -> list[str]:
        """Both families', without what the kernel keeps for itself."""
        return sorted(f"{route['dst']} {route.get('gateway', '-')} {route.get('dev', '-')}"
                      for family in ("-4", "-6") for route in json.loads(self.ip(f"-j {family} route"))
                      if route["dst"] not in ("fe80::/64", "ff00::/8"))

    def ruleset(self) -> list[str]:
        """nftables' rules, a line each; counters and handles, which change by themselves, are left out."""
        found = json.loads(self.run("nft", "-j", "list", "ruleset"))["nftables"]
        return [json.dumps(_without(item, ("handle", "packets", "bytes"))) for item in found if "metainfo" not in item]

    def sysctl(self, name: str, value: str | None = None) -> str:
        """The value of net.NAME, set first where one is given."""
        path = f"/proc/sys/net/{name.replace('.', '/')}"
        with self.inside():
            if value is not None:
                Path(path).write_text(value)
            return Path(path).read_text().strip()

    def look(self) -> dict[str, list[str]]:
        """What something could leave behind in it."""
        return {
            "links": sorted(f"{name} {link.get('linkinfo', {}).get('info_kind', '')} {link.get('master', '')}"
                            for name, link in self.links().items()),
            "addresses": sorted(f"{link['ifname']} {entry['local']}/{entry['prefixlen']}"
                                for link in json.loads(self.ip("-j address")) for entry in link["addr_info"]
                                if entry["scope"] != "link"),
            "routes": self.routes(),
            "rules": self.ruleset(),
        }

    def listen(self, port: int = 0, protocol: str = "tcp", *, family: int = 4, host: str = "",
               name: str = "") -> Server:
        """A server in the namespace, until the lab is closed; port 0 is one that is free (see its `port`)."""
        with self.inside():
            made = _socket(protocol, family)
        made.bind((host or ("::" if family == 6 else "0.0.0.0"), port))
        if protocol != "udp":
            made.listen(64)
        server = Server(name or self.name, protocol, made)
        self._servers.append(server)
        return server

    def connect(self, host: str, port: int, protocol: str = "tcp", *, source: str = "", source_port: int = 0,
                timeout: float = PATIENCE) -> Connection:
        """Something to ask questions over, several times.  Raises Unanswered."""
        family = 6 if ":" in host else 4
        with self.inside():
            made = _socket(protocol, family)
        made.settimeout(timeout)
        try:
            if source or source_port:
                made.bind((source or ("::" if family == 6 else "0.0.0.0"), source_port))
            made.connect((host, port))
        except OSError as error:
            made.close()
            raise Unanswered(f"{self.name} to {host} {protocol} {port}: {error}") from None
        return Connection(made, f"{self.name} to {host} {protocol} {port}")

    def ask(self, host: str, port: int, protocol: str = "tcp", *, source: str = "",
            timeout: float = PATIENCE) -> Answer:
        """Ask the server at that address and port.  Raises Unanswered."""
        with self.connect(host, port, protocol, source=source, timeout=timeout) as connection:
            return connection.ask()

    def hears_nothing(self, host: str, port: int, protocol: str = "tcp", *, source: str = "") -> bool:
        """Whether a question there stays without an answer; a control has to show that it can have one."""
        try:
            self.ask(host, port, protocol, source=source, timeout=DEAF * SLOW)
        except Unanswered:
            return True
        return False


class Connection:
    """A connected socket; a datagram is sent again, as programs that use UDP have to."""

    def __init__(self, made: socket.socket, what: str) -> None:
        self.socket = made
        self.what = what

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self) -> Answer:
        try:
            self.socket.sendall(b"?")
            said = self.socket.recv(2048).decode()
        except OSError as error:
            raise Unanswered(f"{self.what}: {error}") from None
        if not said:
            raise Unanswered(f"{self.what}: closed")
        name, source, port, destination = said.split()
        return Answer(name, source, int(port), destination)


def _without(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    if isinstance(value, list):
        return [_without(item, names) for item in value]
    return value


class Lab:
    """The host outside, the router, and containers; `pyrunc` is run on the router with stores of the lab's."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.nodes: list[Node] = []
        self._stack = ExitStack()
        self.outside = self.node("outside")
        self.router = self.node("router")
        self.router.ip(f"link add out type veth peer name in netns {self.outside.pid}")
        for node, device, addresses in ((self.outside, "in", (f"{OUTSIDE_4}/24", f"{OUTSIDE_6}/64")),
                                        (self.router, "out", (f"{ROUTER_4}/24", f"{ROUTER_6}/64"))):
            for address in addresses:
                node.ip(f"address add {address} dev {device} {'nodad' if ':' in address else ''}")
            node.ip(f"link set {device} up")
        for family, gateway in (("-4", OUTSIDE_4), ("-6", OUTSIDE_6)):
            self.router.ip(f"{family} route add default via {gateway}")
        self.net_root = place / "net"
        self.environment = {**os.environ, "PYRUNC_NET_ROOT": str(self.net_root)}

    def node(self, name: str) -> Node:
        """A namespace more, connected to nothing."""
        node = Node.make(name)
        self.nodes.append(node)
        self._stack.callback(node.close)
        return node

    def container(self, name: str = "") -> Node:
        """A namespace for a container that is to be attached."""
        return self.node(name or f"c{len(self.nodes)}")

    def of_process(self, pid: int, name: str) -> Node:
        """The network namespace that a process stands in: a real container's."""
        node = Node(name, pid)
        self.nodes.append(node)
        self._stack.callback(node.close)
        return node

    def do(self, *words: str | Path, **options: Any) -> Result:
        """`pyrunc` on the router, whatever comes of it."""
        return self.router.do(PYRUNC, *words, env={**self.environment, **options.pop("env", {})}, **options)

    def pyrunc(self, *words: str | Path, **options: Any) -> str:
        """`pyrunc` on the router, which has to work; what it prints."""
        done = self.do(*words, **options)
        assert done.code == 0, (words, done)
        return done.out

    def close(self) -> None:
        pids = [node.pid for node in self.nodes if node._holder is not None]
        self._stack.close()
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "the namespaces to be gone")


@contextmanager
def lab(place: Path) -> Iterator[Lab]:
    """A lab with its stores below `place`; nothing of it is left."""
    made = Lab(place)
    try:
        yield made
    finally:
        made.close()
