# SPDX-License-Identifier: Apache-2.0
"""Podman: what it has in common with Docker, pods, user namespaces, and an ordinary user's containers."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from conformance import image, snippets
from conformance.checks import Table, wait_for
from conformance.lanes import engine, engine_options
from conformance.lanes.base import Done, output
from conformance.lanes.engine import IMAGE, Engine
from conformance.sandbox import PATH, SUB_IDS, TEAM_ID, USER_ID, Room

CONF = """\
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
conmon_env_vars = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


QUIET = "PODMAN_IGNORE_CGROUPSV1_WARNING"  # which Podman 5 writes between a container's lines


class Podman(Engine):
    needs = ("podman", "conmon", "catatonit", "iptables")
    bridge = ("--network", "podman")
    tells_oom = False  # conmon 2.1.6 misses it on cgroup v1, whatever the runtime

    def start(self) -> None:
        (self.scratch / "containers.conf").write_text(self.conf())
        self.environment["CONTAINERS_CONF"] = str(self.scratch / "containers.conf")
        self.environment[QUIET] = "1"
        release = re.search(r"\d+", self.must("podman", "--version"))
        self.release = int(release[0]) if release else 4
        archive = self.scratch / "busybox.tar"
        image.write(archive)
        self.words = ["podman", "--root", self.scratch / "root", "--runroot", self.scratch / "runroot",
                      "--tmpdir", self.scratch / "podman-tmp", "--network-config-dir", self.scratch / "networks",
                      "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
                      "--runtime", self.runtime]
        self("load", "-i", archive)

    def conf(self) -> str:
        if "pids" in self.room.controllers():
            return CONF
        # Podman's default limit could not be set, whatever the runtime.
        return CONF.replace("[engine]", "pids_limit = 0\n[engine]")

    def remove(self, *names: str) -> None:
        # Podman's own clean-up of a container that has just ended may still be at it.
        wait_for(lambda: self.do("rm", "-f", "-t", "0", *names).code == 0, f"{' '.join(names)} to be removed")

    def clean(self) -> None:
        self("pod", "rm", "-f", "-a", "-t", "0")
        super().clean()

    def probe(self, name: str) -> None:
        # Podman leaves that to systemd's timers, and there is none in the lane.
        self.do("healthcheck", "run", name)

    def table(self) -> Table[Engine]:
        from conformance.lanes import checkpoint_checks, podman_new

        return Table(engine.TABLE, engine_options.TABLE, TABLE, PODMAN_4 if self.release < 5 else podman_new.TABLE,
                     *([checkpoint_checks.PODMAN] if checkpoint_checks.possible() else []))

    def user(self, *words: str | Path, input: str = "") -> Done:
        """Podman as an ordinary user."""
        home = self.scratch / "user"
        command = self.as_user(f"CONTAINERS_CONF={self.scratch / 'containers.conf'}", f"{QUIET}=1", "podman",
                               "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
                               "--runtime", self.runtime, *words)
        if not (home / "busybox.tar").exists():
            shutil.copy(self.scratch / "busybox.tar", home)
            os.chown(home / "busybox.tar", USER_ID, USER_ID)
            load = [*command[:len(command) - len(words)], "load", "-i", str(home / "busybox.tar")]
            output(self.command(*load, cwd=home, environment={"PATH": PATH}), load)
        return self.command(*command, input=input, cwd=home, environment={"PATH": PATH})

    def as_ordinary(self, *words: str | Path, input: str = "") -> str:
        return output(self.user(*words, input=input), words)


def make(room: Room, runtime: str, suite: str) -> Podman:
    return Podman(room, runtime)


TABLE: Table[Engine] = Table()
PODMAN_4: Table[Engine] = Table()  # what newer ones have no more: CNI
check = TABLE.check
MAP = "awk '{print $1, $2, $3}' /proc/self/uid_map"


@check("healthcheck run: exit status", "0 1")
def _(podman: Engine) -> str:
    seen = []
    for command in ("true", "false"):
        with podman.container("--health-cmd", command) as name:
            seen.append(str(podman.do("healthcheck", "run", name).code))
    return " ".join(seen)


@check("pod: network, IPC and host name are shared", "shared: net ipc uts; not: pid mnt", short=True)
def _(podman: Engine) -> str:
    pod = podman.name("pod")
    podman("pod", "create", "--name", pod)
    kinds = ("net", "ipc", "uts", "pid", "mnt")
    script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
    with podman.container("--pod", pod) as one, podman.container("--pod", pod) as two:
        pairs = list(zip(kinds, podman.sh(one, script).split(), podman.sh(two, script).split(), strict=True))
    podman("pod", "rm", "-f", "-t", "0", pod)
    return (f"shared: {' '.join(kind for kind, a, b in pairs if a == b)}; "
            f"not: {' '.join(kind for kind, a, b in pairs if a != b)}")


@check("pod with --share pid: one sees the other's processes", "sleep 4321")
def _(podman: Engine) -> str:
    pod = podman.name("pod")
    podman("pod", "create", "--name", pod, "--share", "pid,net")
    with podman.container("--pod", pod, IMAGE, "sleep", "4321"), podman.container("--pod", pod) as two:
        seen = podman.sh(two, "ps -o args | grep '^[s]leep 4321'")
    podman("pod", "rm", "-f", "-t", "0", pod)
    return seen


@check("pod pause, unpause, stop, start", "Paused Running Exited Running")
def _(podman: Engine) -> str:
    pod = podman.name("pod")
    podman("pod", "create", "--name", pod)
    seen = []
    with podman.container("--pod", pod):
        for verb in ("pause", "unpause", "stop", "start"):
            podman("pod", verb, *(["-t", "0"] if verb == "stop" else []), pod)
            seen.append(podman("pod", "inspect", "--format", "{{.State}}", pod))
    podman("pod", "rm", "-f", "-t", "0", pod)
    return " ".join(seen)


@check("--uidmap, --gidmap", f"0 {SUB_IDS} 65536|root is root|{SUB_IDS + 1000}", short=True)
def _(podman: Engine) -> str:
    where = podman.directory(0o777)
    seen = podman.script(f"{MAP}; id -un | sed 's/^/|/; s/$/ is root/'; su alice -c 'touch /v/hers'",
                         "--uidmap", f"0:{SUB_IDS}:65536", "--gidmap", f"0:{SUB_IDS}:65536", "-v", f"{where}:/v")
    return " ".join(seen.replace("\n", "").split()) + f"|{(where / 'hers').stat().st_uid}"


@check("--userns auto", "0 1 mapped")
def _(podman: Engine) -> str:
    seen = podman.script(MAP, "--userns", "auto:size=1024").split()
    return f"{seen[0]} {int(int(seen[1]) >= SUB_IDS)} mapped"


@check("a user namespace: exec, terminal, pause, kill", "600000|31 97|paused|137")
def _(podman: Engine) -> str:
    with podman.container("--uidmap", f"0:{SUB_IDS}:65536", "--gidmap", f"0:{SUB_IDS}:65536") as name:
        outside = podman.sh(name, MAP).split()[1]
        _, shown = podman.talk("exec", "-it", name, "sh", "-c", "sleep 0.5; stty size", answer=())
        podman("pause", name)
        status = podman.inspect(name, "{{.State.Status}}")
        podman("unpause", name)
        podman("kill", name)
        podman.wait_status(name, "exited")
        return f"{outside}|{shown.strip()}|{status}|{podman.inspect(name, '{{.State.ExitCode}}')}"


@check("--mount type=bind,idmap", "1000, and on the host 1000")
def _(podman: Engine) -> str:
    where = podman.directory(0o755)
    os.chown(where, 1000, 1000)
    seen = podman.script("stat -c %u /m; su alice -c 'touch /m/hers'", "--uidmap", f"0:{SUB_IDS}:65536", "--gidmap",
                         f"0:{SUB_IDS}:65536", "--mount", f"type=bind,source={where},target=/m,idmap")
    return f"{seen}, and on the host {(where / 'hers').stat().st_uid}"


@check("--rootfs", "from the directory")
def _(podman: Engine) -> str:
    where = podman.directory()
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "run"):
        (where / name).mkdir()
    shutil.copy(image.busybox(), where / "bin/busybox")
    (where / "note").write_text("from the directory")
    return podman.run("--rootfs", where, "/bin/busybox", "cat", "/note")


@check("--preserve-fds", "through descriptor 3")
def _(podman: Engine) -> str:
    words = " ".join(map(str, podman.words))
    return podman.must("sh", "-c", f"echo through descriptor 3 >fd3; {words} run --rm --preserve-fds 1 {IMAGE} "
                                   "sh -c 'cat <&3' 3<fd3")


@check("--umask, --tz", "0027 UTC")
def _(podman: Engine) -> str:
    return podman.script("echo $(umask) $(date +%Z)", "--umask", "0027", "--tz", "UTC")


@check("--security-opt unmask, mask", "/proc/sys isn't read-only, /proc/version is empty")
def _(podman: Engine) -> str:
    return podman.script("grep -q ' /proc/sys ' /proc/mounts || echo -n \"/proc/sys isn't read-only, \"; "
                         "test -s /proc/version || echo '/proc/version is empty'",
                         "--security-opt", "unmask=/proc/sys", "--security-opt", "mask=/proc/version")


def documented(podman: Podman, *words: str) -> str:
    """What a command prints with containers.conf as docs/integrations.md has it."""
    text = snippets.snippet("Podman", podman.runtime).replace("[engine]", podman.conf().rstrip())
    environment = {**podman.environment, "CONTAINERS_CONF": str(podman.file(text))}
    own = [word for word in podman.words if word not in ("--runtime", podman.runtime)]
    return output(podman.command(*own, *words, environment=environment), words)


@check("containers.conf as docs/integrations.md has it", f"{snippets.NAME} hello", short=True)
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    name = podman.name()
    said = documented(podman, "run", "--name", name, IMAGE, "echo", "hello")
    return f"{podman.inspect(name, '{{.OCIRuntime}}')} {said}"


@check("containers.conf as docs/integrations.md has it: --cgroups disabled", "in Podman's cgroup; exec too")
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    name = podman.name()
    documented(podman, "run", "-d", "--name", name, "--cgroups", "disabled", "--cgroupns", "host", IMAGE,
               "sleep", "1000")
    pid = podman.inspect(name, "{{.State.Pid}}")
    own = Path("/proc/self/cgroup").read_text().strip()
    seen = "in Podman's cgroup" if Path(f"/proc/{pid}/cgroup").read_text().strip() == own else "in another"
    seen += "; exec too" if documented(podman, "exec", name, "cat", "/proc/self/cgroup") == own else "; exec not"
    documented(podman, "rm", "-f", "-t", "0", name)
    return seen


@PODMAN_4.check("a network of pyrunc-cni, as docs/integrations.md has it",
                "10.77.0.50 02:00:00:00:00:50 db; one: hello over the bridge; outside: hello over the bridge; "
                "then 0 attached", short=True)
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    plugin = snippets.plugin(podman.runtime)
    conf = snippets.blocks("pyrunc-cni")[2]
    (podman.scratch / "cni").mkdir()
    store = podman.scratch / "pyrunc-net"
    (podman.scratch / "cni/10-pods.conflist").write_text(snippets.network(store))
    text = podman.conf() + conf.replace(snippets.DIRECTORY, str(plugin.parent))
    environment = {**podman.environment, "CONTAINERS_CONF": str(podman.file(text))}
    words = [podman.scratch / "cni" if word == podman.scratch / "networks" else word for word in podman.words]

    def do(*options: str) -> str:
        return output(podman.command(*words, *options, environment=environment), options)

    serve = "echo hello over the bridge >/index.html; httpd -f -p 80 -h /"
    do("run", "-d", "--name", "cni1", "--network", "pods", "--ip", "10.77.0.50", "--mac-address", "02:00:00:00:00:50",
       "--network-alias", "db", "-p", "8080:80", IMAGE, "sh", "-c", serve)
    seen = do("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.MacAddress}}{{end}}", "cni1")
    address = seen.split()[0]
    seen += " db; " if f"{address}\tdb" in (store / "hosts/net-pods").read_text() else "; "
    fetch = f"ping -c 1 -W 5 {address} >&2 && wget -q -O - http://{address}/"
    seen += f"one: {do('run', '--rm', '--network', 'pods', IMAGE, 'sh', '-c', fetch)}; "
    seen += f"outside: {engine_options.fetched('http://127.0.0.1:8080/')}; "
    do("rm", "-f", "-t", "0", "cni1")
    return seen + f"then {len(list((store / 'attachments').iterdir()))} attached"


# As an ordinary user

NO_NETWORK = ("--network", "none")


@check("ordinary user: run", f"0 {USER_ID} 1|1 {SUB_IDS} 65536", short=True)
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    seen = podman.as_ordinary("run", "--rm", *NO_NETWORK, IMAGE, "sh", "-c", MAP)
    return "|".join(seen.splitlines())


@check("ordinary user: run -d, exec, logs, kill", "hello|up|137", short=True)
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    name = podman.name()
    podman.as_ordinary("run", "-d", "--name", name, *NO_NETWORK, IMAGE, "sh", "-c", "echo up; sleep 1000")
    seen = podman.as_ordinary("exec", name, "echo", "hello")
    logs = podman.as_ordinary("logs", name)
    podman.as_ordinary("kill", name)
    code = podman.as_ordinary("wait", name)
    podman.as_ordinary("rm", "-f", "-t", "0", name)
    return f"{seen}|{logs}|{code}"


@check("ordinary user: a volume's owner", f"0|{USER_ID}|{SUB_IDS + 999}")
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    podman.as_user()
    where = podman.scratch / "user" / podman.name("volume")
    where.mkdir()
    where.chmod(0o777)
    os.chown(where, USER_ID, USER_ID)
    seen = podman.as_ordinary("run", "--rm", *NO_NETWORK, "-v", f"{where}:/v", IMAGE, "sh", "-c",
                              "stat -c %u /v; touch /v/a; su alice -c 'touch /v/b'")
    return f"{seen}|{(where / 'a').stat().st_uid}|{(where / 'b').stat().st_uid}"


@check("ordinary user: --group-add keep-groups: a file of the user's group, exec", "of the team, of the team")
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    podman.as_user()
    where = podman.scratch / "user" / podman.name("volume")
    where.mkdir()
    (where / "a").write_text("of the team")
    (where / "a").chmod(0o640)
    os.chown(where / "a", 0, TEAM_ID)
    name = podman.name()
    podman.as_ordinary("run", "-d", "--name", name, *NO_NETWORK, "--group-add", "keep-groups", "-v", f"{where}:/v",
                       IMAGE, "sh", "-c", "cat /v/a; sleep 1000")
    seen = podman.as_ordinary("exec", name, "cat", "/v/a")
    wait_for(lambda: podman.as_ordinary("logs", name), "its output")
    seen = f"{podman.as_ordinary('logs', name)}, {seen}"
    podman.as_ordinary("rm", "-f", "-t", "0", name)
    return seen


@check("ordinary user: --privileged", "000001ffffffffff mounted")
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    seen = podman.as_ordinary("run", "--rm", *NO_NETWORK, "--privileged", IMAGE, "sh", "-c",
                              "grep CapEff /proc/self/status; mount -t tmpfs x /tmp && echo mounted")
    return " ".join(seen.split()[1:])


@check("ordinary user: --userns keep-id", str(USER_ID))
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    return podman.as_ordinary("run", "--rm", *NO_NETWORK, "--userns", "keep-id", IMAGE, "id", "-u")


@check("ordinary user: --read-only, --tmpfs, --cap-drop, --ulimit", "ro tmpfs 0000000000000000 256")
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    return podman.as_ordinary("run", "--rm", *NO_NETWORK, "--read-only", "--tmpfs", "/t", "--cap-drop", "ALL",
                              "--ulimit",
                              "nofile=256:256", IMAGE, "sh", "-c",
                              "echo $(touch /x 2>/dev/null || echo ro) $(grep ' /t ' /proc/mounts | cut -d ' ' -f 3) "
                              "$(grep CapEff /proc/self/status | cut -f 2) $(ulimit -n)")


@check("ordinary user: a pod", "shared")
def _(podman: Engine) -> str:
    assert isinstance(podman, Podman)
    pod = podman.name("pod")
    podman.as_ordinary("pod", "create", "--name", pod, *NO_NETWORK)
    links = [podman.as_ordinary("run", "--rm", "--pod", pod, IMAGE, "readlink", "/proc/self/ns/net") for _ in range(2)]
    podman.as_ordinary("pod", "rm", "-f", "-t", "0", pod)
    return "shared" if links[0] == links[1] else " ".join(links)
