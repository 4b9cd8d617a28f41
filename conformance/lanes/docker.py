# SPDX-License-Identifier: Apache-2.0
"""Docker: what it has in common with Podman, docker build, mapped users, a swarm of two daemons."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from conformance import image, snippets
from conformance.checks import Table, wait_for
from conformance.errors import Failed
from conformance.lanes import engine, engine_options
from conformance.lanes.base import output
from conformance.lanes.engine import IMAGE, Engine
from conformance.sandbox import SUB_IDS, USER, Room

RUNTIME = "tested"  # the runtime's name for dockerd


class Docker(Engine):
    """One dockerd and its command line; `place` names its directory."""

    exec_missing = "127"
    needs = ("docker", "dockerd", "containerd", "iptables", "docker-init", "docker-proxy")

    def __init__(self, room: Room, runtime: str, place: str = "docker") -> None:
        super().__init__(room, runtime)
        self.place = room.scratch / place
        self.words = ["docker", "-H", f"unix://{self.place}/socket"]
        self.others: dict[str, Docker] = {}

    def start(self) -> None:
        image.write(self.scratch / "busybox.tar")
        release = re.search(r"\d+", self.must("docker", "--version"))
        if release and int(release[0]) < 23:
            self.exec_missing = "126"
        self.plug_in("docker-buildx")
        self.serve()

    def plug_in(self, name: str) -> None:
        """Let docker find a plugin, which newer ones build with, where it is beside them and not at its own place."""
        found = shutil.which(name, path=self.environment["PATH"])
        if found:
            place = Path(self.environment["HOME"], ".docker/cli-plugins")
            place.mkdir(parents=True)
            (place / name).symlink_to(found)

    def serve(self, *before: str | Path, **settings: Any) -> None:
        """Start the daemon, `before` it on its command line, and load the image."""
        self.place.mkdir()
        socket = self.place / "socket"
        (self.place / "daemon.json").write_text(json.dumps({
            "data-root": str(self.place / "data"), "exec-root": str(self.place / "exec"),
            "pidfile": str(self.place / "pid"), "hosts": [f"unix://{socket}"],
            "runtimes": {RUNTIME: {"path": self.runtime}}, "default-runtime": RUNTIME, **settings}))
        self.daemon([*before, "dockerd", "--config-file", self.place / "daemon.json"], self.place / "log", socket)
        wait_for(lambda: self.do("version").code == 0, "dockerd to answer")
        self("load", "-i", self.scratch / "busybox.tar")

    def stop(self) -> None:
        for other in self.others.values():
            other.stop()
        super().stop()

    def other(self, place: str, *before: str | Path, **settings: Any) -> Docker:
        """Another daemon, started when first asked for."""
        if place not in self.others:
            self.others[place] = Docker(self.room, self.runtime, place)
            self.others[place].serve(*before, **settings)
        return self.others[place]

    @staticmethod
    def table() -> Table[Engine]:
        return Table(engine.TABLE, engine_options.TABLE, TABLE)

    def build(self, dockerfile: str, *, buildkit: bool) -> str:
        """Build it; the tag."""
        tag = self.name("built")
        where = self.directory()
        (where / "Dockerfile").write_text(dockerfile)
        self.environment["DOCKER_BUILDKIT"] = str(int(buildkit))
        self("build", "--network", "none", "-t", tag, where)
        return tag

    def swarm(self) -> tuple[Docker, Docker]:
        """Two daemons, each in a network namespace of its own with a cable between, one a manager."""
        if "swarm1" in self.others:
            return self.others["swarm1"], self.others["swarm2"]
        for number in (1, 2):
            self.must("ip", "netns", "add", f"dk{number}")
            self.must("ip", "-n", f"dk{number}", "link", "set", "lo", "up")
        self.must("ip", "link", "add", "cable", "netns", "dk1", "type", "veth", "peer", "name", "cable", "netns", "dk2")
        nodes = []
        for number in (1, 2):
            self.must("ip", "-n", f"dk{number}", "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            self.must("ip", "-n", f"dk{number}", "link", "set", "cable", "up")
            # dockerd keeps its network namespaces at one place, wherever its directories are.
            apart = ("nsenter", f"--net=/run/netns/dk{number}", "unshare", "--mount", "--propagation", "private", "sh",
                     "-c",
                     'mkdir -p /run/docker && mount -t tmpfs tmpfs /run/docker && exec "$@"', "sh")
            nodes.append(self.other(f"swarm{number}", *apart))
        first, second = nodes
        first("swarm", "init", "--advertise-addr", "10.77.0.1", "--listen-addr", "10.77.0.1:2377")
        token = first("swarm", "join-token", "-q", "worker")
        second("swarm", "join", "--advertise-addr", "10.77.0.2", "--listen-addr", "10.77.0.2:2377", "--token", token,
               "10.77.0.1:2377")
        wait_for(lambda: first("node", "ls", "--format", "{{.Status}}").split() == ["Ready", "Ready"], "both nodes")
        return first, second

    def containers(self, service: str) -> list[str]:
        """Those of a service that run on this node."""
        return self("ps", "-q", "--filter", f"label=com.docker.swarm.service.name={service}").split()


def make(room: Room, runtime: str, suite: str) -> Docker:
    return Docker(room, runtime)


APART = ("unshare", "--net")  # a daemon without a bridge takes away the one that it finds
TABLE: Table[Engine] = Table()
check = TABLE.check
BUILD = f"""\
FROM {IMAGE}
RUN echo one >/steps && id -u >>/steps
RUN ["/bin/sh", "-c", "cat /proc/1/comm >>/steps"]
USER alice
WORKDIR /home/alice
ENV WHO=alice
RUN touch made && echo $(id -un) $PWD $WHO $(stat -c %U made) >/tmp/step
CMD ["sh", "-c", "cat /steps /tmp/step"]
"""


def docker(lane: Engine) -> Docker:
    assert isinstance(lane, Docker)
    return lane


@check("the runtime is the daemon's default, and starts what it is named for", f"{RUNTIME}, named", short=True)
def _(engine: Engine) -> str:
    default = engine("info", "--format", "{{.DefaultRuntime}}")
    return f"{default}, {engine.run('--runtime', RUNTIME, IMAGE, 'echo', 'named')}"


@check("seccomp: the default profile refuses a user namespace", "unshare: unshare(0x10000000): Operation not permitted")
def _(engine: Engine) -> str:
    return engine.script("unshare --user true 2>&1 || :")


#: A router between an outside and a namespace of pyrunc's network, on the host that dockerd is on.
BESIDE = """
ip netns add outside
ip netns add inside
ip link add out type veth peer name in netns outside
ip address add 192.0.2.2/24 dev out
ip link set out up
ip -n outside address add 192.0.2.1/24 dev in
ip -n outside link set in up
echo of the outside >outside/index.html
echo of the inside >inside/index.html
ip netns exec outside busybox httpd -p 80 -h outside
"$PYRUNC" net create beside --subnet 10.66.0.0/24 >&2
"$PYRUNC" net attach web beside --netns /run/netns/inside -p 8066:80 >&2
ip netns exec inside busybox httpd -p 80 -h inside
ip netns exec inside wget -q -T 5 -O - http://192.0.2.1/
ip netns exec outside wget -q -T 5 -O - http://192.0.2.2:8066/
ip netns exec outside wget -q -T 5 -O - http://192.0.2.2:8067/
iptables -S DOCKER-USER | grep -c pyr
"$PYRUNC" net detach web beside
"$PYRUNC" net rm beside >&2
iptables -S DOCKER-USER | grep -c pyr || true
"""


@check("networks of pyrunc's beside: out, in by a published port, by Docker's; rules in DOCKER-USER, and after",
       "of the outside|of the inside|of docker|2|0")
def _(docker: Engine) -> str:
    where = docker.directory()
    for name in ("inside", "outside"):
        (where / name).mkdir()
    environment = {**docker.environment, "PYRUNC_NET_ROOT": str(where / "net"),
                   "PYRUNC": str(snippets.plugin(docker.runtime).with_name("pyrunc"))}
    with docker.container("-p", "8067:80", IMAGE, "sh", "-c", "echo of docker >/index.html; httpd -f -p 80 -h /"):
        done = docker.command("sh", "-ec", BESIDE, cwd=where, environment=environment)
    return "|".join(output(done, ("sh",)).splitlines())


@check("daemon.json as docs/integrations.md has it", f"{snippets.NAME} hello", timeout=120)
def _(engine: Engine) -> str:
    documented = json.loads(snippets.snippet("Docker", engine.runtime))
    other = docker(engine).other("documented", *APART, bridge="none", iptables=False, **documented)
    with other.container(IMAGE, "sh", "-c", "echo hello; sleep 1000") as name:
        other.wait_logs(name, "hello")
        return f"{other.inspect(name, '{{.HostConfig.Runtime}}')} {other('logs', name)}"


@check("events of a container's life", "create attach start exec_create exec_start exec_die die destroy")
def _(engine: Engine) -> str:
    since = engine.must("date", "+%s.%N")
    name = engine.name()
    engine("run", "-d", "--rm", "--name", name, IMAGE, "sh", "-c", "while [ ! -e /end ]; do sleep 0.1; done")
    engine("exec", name, "touch", "/end")
    wait_for(lambda: engine.do("inspect", name).code != 0, "the end")
    lines = engine("events", "--since", since, "--until", engine.must("date", "+%s.%N"), "--filter",
                   f"container={name}",
                   "--format", "{{.Action}}").splitlines()
    seen = [line.split(":")[0] for line in lines]
    return " ".join(["create", "attach", *[action for action in seen if action not in ("create", "attach")]])


@check("--restart on-failure: started again until it works", "3 0", timeout=90)
def _(engine: Engine) -> str:
    script = "echo x >>/tries; [ $(wc -l </tries) -ge 3 ]"
    with engine.container("--restart", "on-failure:5", IMAGE, "sh", "-c", script) as name:
        wait_for(lambda: engine.inspect(name, "{{.State.Status}} {{.State.ExitCode}}") == "exited 0", "the last start")
        engine("cp", f"{name}:/tries", engine.scratch / name)
        tries = len((engine.scratch / name).read_text().splitlines())
        return f"{tries} {engine.inspect(name, '{{.State.ExitCode}}')}"


@check("exec in a paused container is refused", matches="1 .*is paused.*")
def _(engine: Engine) -> str:
    with engine.container() as name:
        engine("pause", name)
        done = engine.do("exec", name, "true")
        engine("unpause", name)
        return f"{done.code} {done.err}"


@check("build: classic", "one\n0\nsh\nalice /home/alice alice alice", short=True)
def _(engine: Engine) -> str:
    return engine.run(docker(engine).build(BUILD, buildkit=False)).replace("cat\n", "sh\n")


@check("build: BuildKit", "one\n0\nsh\nalice /home/alice alice alice", short=True)
def _(engine: Engine) -> str:
    return engine.run(docker(engine).build(BUILD, buildkit=True)).replace("cat\n", "sh\n")


@check("build: a step that fails, classic and BuildKit", "23 23")
def _(engine: Engine) -> str:
    seen = []
    for buildkit in (False, True):
        try:
            docker(engine).build(f"FROM {IMAGE}\nRUN exit 23\n", buildkit=buildkit)
        except Failed as error:
            seen.append("23" if "23" in str(error) else str(error))
    return " ".join(seen)


@check("userns-remap: run, exec, a volume's owner", f"0 {SUB_IDS} 65536|hello|{SUB_IDS}", timeout=120)
def _(engine: Engine) -> str:
    other = docker(engine).other("remapped", *APART, **{"userns-remap": USER, "bridge": "none", "iptables": False})
    where = engine.directory(0o777)
    with other.container("-v", f"{where}:/v") as name:
        seen = " ".join(other.sh(name, "awk '{print $1, $2, $3}' /proc/self/uid_map").split())
        hello = other.sh(name, "touch /v/file; echo hello")
        return f"{seen}|{hello}|{(where / 'file').stat().st_uid}"


# A swarm of two

@check("swarm: replicas on both nodes, by the runtime", "4 running, 2 and 2, tested", short=True, timeout=180)
def _(engine: Engine) -> str:
    first, second = docker(engine).swarm()
    first("service", "create", "-d", "--name", "web", "--no-resolve-image", "--replicas", "4", IMAGE, "sleep", "1000")
    wait_for(lambda: len(first.containers("web")) + len(second.containers("web")) == 4, "four replicas")
    counts = sorted((len(first.containers("web")), len(second.containers("web"))))
    runtimes = {node.inspect(name, "{{.HostConfig.Runtime}}") for node in (first, second)
                for name in node.containers("web")}
    seen = f"4 running, {counts[0]} and {counts[1]}, {' '.join(runtimes)}"
    first("service", "rm", "web")
    return seen


@check("swarm: a replica that is killed is replaced", "another is there", timeout=180)
def _(engine: Engine) -> str:
    first, second = docker(engine).swarm()
    first("service", "create", "-d", "--name", "healing", "--no-resolve-image", "--replicas", "2", "--restart-delay",
          "0s",
          IMAGE, "sleep", "1000")
    wait_for(lambda: len(first.containers("healing")) + len(second.containers("healing")) == 2, "two replicas")
    node = first if first.containers("healing") else second
    victim = node.containers("healing")[0]
    node("kill", victim)

    def healed() -> bool:
        names = first.containers("healing") + second.containers("healing")
        return len(names) == 2 and victim not in names

    wait_for(healed, "another replica")
    first("service", "rm", "healing")
    return "another is there"


@check("swarm: scaled up and down", "3 then 1", timeout=180)
def _(engine: Engine) -> str:
    first, second = docker(engine).swarm()
    first("service", "create", "-d", "--name", "scaled", "--no-resolve-image", "--stop-grace-period", "0s", IMAGE,
          "sleep",
          "1000")
    def scaled_to(number: int) -> bool:
        return len(first.containers("scaled")) + len(second.containers("scaled")) == number

    for number in (3, 1):
        first("service", "scale", "-d", f"scaled={number}")
        wait_for(partial(scaled_to, number),
                 f"{number} replicas")
    first("service", "rm", "scaled")
    return "3 then 1"


@check("swarm: an overlay network between the nodes, a service by its name", "1 packets received", timeout=180)
def _(engine: Engine) -> str:
    first, second = docker(engine).swarm()
    first("network", "create", "-d", "overlay", "--attachable", "between")
    first("service", "create", "-d", "--name", "page", "--no-resolve-image", "--network", "between",
          "--endpoint-mode", "dnsrr", "--constraint", "node.role==worker", IMAGE, "sleep", "1000")
    wait_for(lambda: second.containers("page"), "the service")
    # A static busybox has no resolver of its own but nslookup's.
    ping = ("for i in $(seq 50); do address=$(nslookup page | awk '/^Address/ {a = $NF} END {print a}'); "
            "ping -c 1 -w 2 $address && exit; sleep 0.2; done")
    lines = first.script(ping, "--network", "between").splitlines()
    seen = next((line.split(", ")[1] for line in lines if "packets transmitted" in line), "no answer")
    first("service", "rm", "page")
    wait_for(lambda: not second.containers("page"), "the end of the service")
    wait_for(lambda: first.do("network", "rm", "between").code == 0, "the network's end")
    return seen
