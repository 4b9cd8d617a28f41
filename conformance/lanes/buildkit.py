# SPDX-License-Identifier: Apache-2.0
"""BuildKit by itself: buildkitd with its OCI worker, and buildctl.  Both come from --clients."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from conformance import image, snippets
from conformance.checks import Table, wait_for
from conformance.lanes.base import Done, Lane, output
from conformance.sandbox import CGROUPS, SUB_IDS, USER_ID, Room

PLACE = Path("/run/lane")  # socket names are short
MAP = "awk '{print $1, $2, $3}' /proc/self/uid_map"
WORKER = ("--oci-worker-gc=false", "--containerd-worker=false", "--cdi-disabled", "--allow-insecure-entitlement",
          "network.host", "--allow-insecure-entitlement", "security.insecure")


class BuildKit(Lane):
    needs = ("buildkitd", "buildctl", "skopeo")

    def start(self) -> None:
        PLACE.mkdir()
        archive = self.scratch / "busybox.tar"
        image.write(archive)
        self.layout = self.scratch / "layout"
        self.must("skopeo", "--insecure-policy", "copy", f"docker-archive:{archive}", f"oci:{self.layout}:latest")
        for limit in ("SIZE", "SPEED"):  # of what is shown of a step's output
            self.environment[f"BUILDKIT_STEP_LOG_MAX_{limit}"] = "-1"
        self.digest = json.loads((self.layout / "index.json").read_text())["manifests"][0]["digest"]
        self.configuration = self.file(snippets.snippet("BuildKit", self.runtime))
        self.serve()

    def serve(self, name: str = "worker", snapshotter: str = "overlayfs", *options: str,
              place: Path = PLACE, before: Sequence[str] = ()) -> None:
        """Start buildkitd; what is built from now on is built by that one."""
        self.root, self.address = place / name, f"unix://{place / name}.socket"
        self.store = self.root / f"runc-{snapshotter}" / "executor"
        self.process = self.daemon([*before, self.program("buildkitd"), "--config", self.configuration, "--root",
                                    self.root, "--addr", self.address, "--otel-socket-path", place / f"{name}.otel",
                                    f"--oci-worker-snapshotter={snapshotter}", *WORKER, *options],
                                   self.scratch / f"{name}.log", place / f"{name}.socket")
        wait_for(lambda: self.buildctl("debug", "workers").code == 0, "buildkitd to answer")

    @contextmanager
    def another(self, name: str, snapshotter: str = "overlayfs", *options: str, place: Path = PLACE,
                before: Sequence[str] = ()) -> Iterator[None]:
        """One more, for a while."""
        first = self.root, self.address, self.store, self.process
        try:
            self.serve(name, snapshotter, *options, place=place, before=before)
            yield
            self.process.terminate()
            self.process.wait()
        finally:
            self.root, self.address, self.store, self.process = first

    def program(self, name: str) -> str:
        """Where it is, for an ordinary user too, whose PATH has no --clients; "" where it isn't."""
        return shutil.which(name, path=self.environment["PATH"]) or ""

    def buildctl(self, *words: str | Path) -> Done:
        return self.command("buildctl", "--addr", self.address, *words)

    def words(self, dockerfile: str, options: Sequence[str | Path] = ()) -> list[str]:
        """`buildctl`'s of a build `FROM base`; the context has a file."""
        where = self.directory()
        (where / "Dockerfile").write_text(f"FROM base\n{dockerfile}" if "FROM" not in dockerfile else dockerfile)
        (where / "file").write_text("of the context\n")
        return [str(word) for word in (
            "build", "--progress=plain", "--no-cache", "--oci-layout", f"base={self.layout}", "--opt",
            f"context:base=oci-layout://base@{self.digest}", "--frontend", "dockerfile.v0", "--local",
            f"context={where}", "--local", f"dockerfile={where}", *options)]

    def build(self, dockerfile: str, *options: str | Path) -> Done:
        return self.buildctl(*self.words(dockerfile, options))

    def built(self, dockerfile: str, *options: str | Path) -> str:
        """Build it; what /seen has, its lines joined."""
        made = self.directory()
        output(self.build(dockerfile, "--output", f"type=local,dest={made}", *options), ("build", dockerfile))
        return "|".join((made / "seen").read_text().splitlines())

    def failing(self, dockerfile: str, *options: str | Path) -> str:
        """Build what has to fail; the code of buildctl, and what it says of the step's."""
        done = self.build(dockerfile, *options)
        said = re.findall(r"did not complete successfully: exit code: (\d+)", done.err)
        return f"{done.code}, {said[-1] if said else done.err[-200:]}"

    @contextmanager
    def building(self, dockerfile: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A build whose step has said `up`."""
        said = self.scratch / self.name("said")
        with open(said, "wb") as file:
            process = subprocess.Popen(["buildctl", "--addr", self.address, *self.words(dockerfile, options)],
                                       env=self.environment, stdout=file, stderr=file)
        try:
            wait_for(lambda: re.search(r" up$", said.read_text(errors="replace"), re.MULTILINE), "the step")
            yield process
        finally:
            process.kill()
            process.wait()

    def containers(self) -> list[str]:
        return self.must(self.runtime, "list", "-q").split()

    def left(self) -> str:
        """Of containers that are gone: those that the runtime has, bundles, cgroups."""
        bundles = [path for path in self.store.iterdir() if path.is_dir()]
        cgroups = [path for path in CGROUPS.glob("**/buildkit/*") if path.is_dir()]
        return f"{len(self.containers())} {len(bundles)} {len(cgroups)}"

    def clean(self) -> None:
        for name in self.containers():
            self.command(self.runtime, "delete", "--force", name)

    def table(self) -> Table[BuildKit]:
        return Table(TABLE, *([LIMITS] if "memory" in self.room.controllers() else []),
                     *([ROOTLESS] if self.program("rootlesskit") else []))


def make(room: Room, runtime: str, suite: str) -> BuildKit:
    return BuildKit(room, runtime)


TABLE: Table[BuildKit] = Table()
LIMITS: Table[BuildKit] = Table()  # on v2 the controllers may not be there
ROOTLESS: Table[BuildKit] = Table()
check = TABLE.check
STEPS = """\
RUN echo $(id -u) $PWD $(cat /proc/1/comm) >/seen
RUN <<EOF
echo from a heredoc >>/seen
EOF
RUN chmod 666 /seen
USER alice
WORKDIR /home/alice/new
SHELL ["/bin/sh", "-ec"]
ENV WHO=alice
RUN touch made; echo $(id -un) $PWD $WHO $(stat -c %U made) >>/seen
"""


@check("RUN: shell, heredoc; USER, WORKDIR, SHELL, ENV", "0 / sh|from a heredoc|alice /home/alice/new alice alice",
       short=True)
def _(buildkit: BuildKit) -> str:
    return buildkit.built(STEPS)


@check("the same with the snapshotter native", "0 / sh|from a heredoc|alice /home/alice/new alice alice")
def _(buildkit: BuildKit) -> str:
    with buildkit.another("native", "native"):
        return buildkit.built(STEPS)


@check("a step that fails, by exit and by a signal; a program that isn't there", "1, 23; 1, 137; 1, 1", short=True)
def _(buildkit: BuildKit) -> str:
    return "; ".join(map(buildkit.failing, ("RUN exit 23", "RUN sh -c 'kill -9 $$'; exit $?", 'RUN ["nosuch"]')))


@check("--network: none, default, host", "1 2 host")
def _(buildkit: BuildKit) -> str:
    buildkit.must("ip", "link", "add", "beside", "type", "bridge")
    own = os.readlink("/proc/self/ns/net")
    seen = buildkit.built("RUN --network=none ip -o link | wc -l >/seen\nRUN ip -o link | wc -l >>/seen\n"
                          "RUN --network=host readlink /proc/self/ns/net >>/seen\n", "--allow", "network.host")
    buildkit.must("ip", "link", "delete", "beside")
    return seen.replace(own, "host").replace("|", " ")


@check("--mount=type=cache: kept between steps, owner and mode", "one two 700 1000")
def _(buildkit: BuildKit) -> str:
    return buildkit.built("RUN --mount=type=cache,target=/c,id=a echo one >/c/f\n"
                          "RUN --mount=type=cache,target=/d,id=a echo $(cat /d/f) two >/seen\n"
                          "RUN --mount=type=cache,target=/e,id=b,uid=1000,mode=0700 echo $(cat /seen) $(stat -c "
                          "'%a %u' /e) >/seen\n")


@check("--mount=type=secret, ssh, tmpfs, bind", "hidden 400 0|hidden|socket 600|1024|of the context ro|written")
def _(buildkit: BuildKit) -> str:
    secret, agent = buildkit.file("hidden"), PLACE / buildkit.name("agent")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(agent))
        listener.listen()
        return buildkit.built("RUN --mount=type=secret,id=s echo $(cat /run/secrets/s; stat -c ' %a %u' "
                              "/run/secrets/s) >/seen\nRUN --mount=type=secret,id=s,env=S echo $S >>/seen\n"
                              "RUN --mount=type=ssh stat -c '%F %a' $SSH_AUTH_SOCK >>/seen\n"
                              "RUN --mount=type=tmpfs,target=/t,size=1m df -k /t | awk 'END {print $2}' >>/seen\n"
                              "RUN --mount=type=bind,target=/b echo $(cat /b/file; touch /b/x 2>/dev/null || echo ro) "
                              ">>/seen\nRUN --mount=type=bind,target=/b,rw touch /b/x && echo written >>/seen\n",
                              "--secret", f"id=s,src={secret}", "--ssh", f"default={agent}")


@check("--security=insecure, and not", "mounted 0 / refused 2", short=True)
def _(buildkit: BuildKit) -> str:
    script = ("echo $(mount -t tmpfs x /tmp 2>/dev/null && echo mounted || echo refused) "
              "$(awk '/^Seccomp:/ {print $2}' /proc/self/status)")
    return buildkit.built(f"RUN --security=insecure {script} / >/seen\nRUN {script} >>/seen\n", "--allow",
                          "security.insecure").replace("|", " ")


@check("ulimit, shm-size, add-hosts, hostname", "100 200 8192 1.2.3.4 builder")
def _(buildkit: BuildKit) -> str:
    return buildkit.built("RUN echo $(ulimit -n; ulimit -Hn; df -k /dev/shm | awk 'END {print $2}'; awk '/one/ {print "
                          "$1}' /etc/hosts; hostname) >/seen\n", *(word for option in (
                              "ulimit=nofile=100:200", "shm-size=8388608", "add-hosts=one=1.2.3.4", "hostname=builder")
                              for word in ("--opt", option)))


@check("stdin is empty, much on stdout and stderr", "'' 100000 50000")
def _(buildkit: BuildKit) -> str:
    count = "awk 'BEGIN {while (i++ < %d) print \"%s\"}'"
    done = buildkit.build(f"RUN echo read: \"'$(cat)'\"; {count % (100000, 'out')}; {count % (50000, 'err')} >&2\n")
    read = re.findall(r" read: ('.*')$", done.err, re.MULTILINE)
    counts = [str(done.err.count(f" {word}\n")) for word in ("out", "err")]
    return " ".join([read[-1] if read else done.err[-200:], *counts])


@check("twelve stages at once", "12", short=True, timeout=120)
def _(buildkit: BuildKit) -> str:
    numbers = range(12)
    stages = "".join(f"FROM base AS s{number}\nRUN sleep 0.5; echo {number} >/f\n" for number in numbers)
    copies = "".join(f"COPY --from=s{number} /f /d/{number}\n" for number in numbers)
    return buildkit.built(f"{stages}FROM base\n{copies}RUN cat /d/* | sort -u | wc -l >/seen\n")


@check("what a step leaves running ends with it", "0", short=True)
def _(buildkit: BuildKit) -> str:
    return buildkit.built("RUN (sleep 4321 &); (setsid sleep 4321 >/dev/null 2>&1 </dev/null &)\n"
                          "RUN ps -o args | grep -c '^sleep' >/seen || :\n")


@check("buildctl is interrupted: the step ends", "1, 1 then 0 0 0", short=True)
def _(buildkit: BuildKit) -> str:
    with buildkit.building("RUN trap '' INT TERM HUP; echo up; sleep 1000\n") as process:
        running = len(buildkit.containers())
        process.send_signal(signal.SIGINT)
        code = process.wait()
        wait_for(lambda: buildkit.left() == "0 0 0", f"the end of the step: {buildkit.left()}")
        return f"{code}, {running} then {buildkit.left()}"


@check("one of two stages fails: the other's step is ended", "1, 5; 0 0 0")
def _(buildkit: BuildKit) -> str:
    seen = buildkit.failing("FROM base AS a\nRUN sleep 0.5; exit 5\nFROM base AS b\nRUN sleep 1000\nFROM base\n"
                            "COPY --from=a /etc/hosts /a\nCOPY --from=b /etc/hosts /b\n")
    wait_for(lambda: buildkit.left() == "0 0 0", f"the end of the other: {buildkit.left()}")
    return f"{seen}; {buildkit.left()}"


@check("buildkitd is killed during a step; another goes on, and the container can be deleted", "fine, 1 then 0")
def _(buildkit: BuildKit) -> str:
    with buildkit.building("RUN echo up; sleep 1000\n"):
        buildkit.process.kill()
        buildkit.process.wait()
    buildkit.serve()
    seen = buildkit.built("RUN echo fine >/seen\n")
    left = buildkit.containers()
    buildkit.clean()
    return f"{seen}, {len(left)} then {len(buildkit.containers())}"


@check("steps on a network of pyrunc-cni", "10.77.0.2/16 then 0 attached")
def _(buildkit: BuildKit) -> str:
    store, plugins = buildkit.scratch / "cni-store", buildkit.directory()
    (plugins / "pyrunc-cni").symlink_to(snippets.plugin(buildkit.runtime))
    (plugins / "loopback").symlink_to("/usr/lib/cni/loopback")
    network = buildkit.directory() / "pods.conflist"
    network.write_text(snippets.network(store))
    text = snippets.snippet("BuildKit", buildkit.runtime)
    before, buildkit.configuration = buildkit.configuration, buildkit.file(
        f'{text}networkMode = "cni"\ncniConfigPath = "{network}"\ncniBinaryPath = "{plugins}"\n')
    try:
        with buildkit.another("cni"):
            seen = buildkit.built("RUN ip -4 -o address show scope global | awk '{print $4}' >/seen\n")
    finally:
        buildkit.configuration = before
    attached = list((store / "attachments").iterdir())
    return f"{seen} then {len(attached)} attached"


@LIMITS.check("cgroup-parent; memory: what it is, what is more than that", "1 of mine, 33554432; 1, 137")
def _(buildkit: BuildKit) -> str:
    options = ("--opt", "cgroup-parent=mine", "--opt", "memory=33554432", "--opt", "memory-swap=33554432")
    with buildkit.building("RUN echo up; sleep 1000\n", *options) as process:
        container, = buildkit.containers()
        parents = {path.parent for path in CGROUPS.glob(f"**/mine/buildkit/{container}")}
        limits = {path.read_text().strip() for name in ("memory.limit_in_bytes", "memory.max")
                  for path in CGROUPS.glob(f"**/mine/buildkit/{container}/{name}")}
        process.terminate()
        process.wait()
    seen = f"{len({path.name for path in parents})} of mine, {' '.join(limits)}"
    return f"{seen}; {buildkit.failing('RUN x=0123456789abcdef; while :; do x=$x$x; done', *options)}"


@ROOTLESS.check("ordinary user, below rootlesskit; the same with --oci-worker-no-process-sandbox",
                f"0 {USER_ID} 1|1 {SUB_IDS} 65536|alice|1, 23; " * 2, short=True)
def _(buildkit: BuildKit) -> str:
    seen = ""
    for number, options in enumerate(([], ["--oci-worker-no-process-sandbox"])):
        home = buildkit.scratch / "user"
        rootless = buildkit.as_user(buildkit.program("rootlesskit"), "--state-dir", home / f"rootlesskit{number}")
        with buildkit.another(f"user{number}", "overlayfs", *options, place=home, before=rootless):
            built = buildkit.built(f"{STEPS}RUN {MAP} >/seen; id -un >>/seen\n")
            seen += f"{built}|{buildkit.failing('RUN exit 23')}; "
    return seen
