# SPDX-License-Identifier: Apache-2.0
"""Buildah: images built with RUN steps, and `buildah run`, as root and as an ordinary user."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conformance import image, snippets
from conformance.checks import Table
from conformance.errors import Failed
from conformance.lanes.base import Done, Lane, output
from conformance.sandbox import PATH, SUB_IDS, USER_ID, Room

IMAGE = image.NAME

LIMITS = """\
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
"""


class Buildah(Lane):
    needs = ("buildah",)

    def start(self) -> None:
        archive = self.scratch / "busybox.tar"
        image.write(archive)
        # `export NAME=VALUE`, as docs/integrations.md has it.
        name, _, value = snippets.snippet("Buildah", self.runtime).removeprefix("export ").strip().partition("=")
        self.environment[name] = value
        # Newer ones raise the limits otherwise, for which root may lack the capability.
        (self.scratch / "containers.conf").write_text(LIMITS)
        self.environment["CONTAINERS_CONF"] = str(self.scratch / "containers.conf")
        self.words = ["buildah", "--root", str(self.scratch / "root"), "--runroot", str(self.scratch / "runroot"),
                      "--storage-driver", "overlay"]
        self("pull", "-q", f"docker-archive:{archive}")

    def do(self, *words: str | Path) -> Done:
        return self.command(*self.words, *words)

    def __call__(self, *words: str | Path) -> str:
        return output(self.do(*words), words)

    def clean(self) -> None:
        self("rm", "-a")

    @contextmanager
    def container(self, *options: str | Path) -> Iterator[str]:
        name = self("from", "-q", *options, IMAGE)
        yield name
        self("rm", name)

    def bud(self, dockerfile: str, *options: str | Path) -> Done:
        where = self.directory()
        (where / "Dockerfile").write_text(dockerfile)
        return self.do("bud", "--network", "none", *options, "-t", "built", where)

    def built(self, dockerfile: str, *options: str | Path) -> str:
        """Build it; what /seen has in the image."""
        output(self.bud(dockerfile, *options), ("bud", dockerfile))
        name = self("from", "-q", "--pull-never", "localhost/built")
        self("copy", name, self.file(""), "/dev-null")  # the container's storage works
        seen = (Path(self("mount", name)) / "seen").read_text().strip()
        self("rm", name)
        return seen

    def user(self, *words: str | Path) -> str:
        """Buildah as an ordinary user."""
        home = self.scratch / "user"
        command = self.as_user(f"BUILDAH_RUNTIME={self.runtime}", "buildah", "--storage-driver", "vfs")
        if not (home / "busybox.tar").exists():
            shutil.copy(self.scratch / "busybox.tar", home)
            os.chown(home / "busybox.tar", USER_ID, USER_ID)
            load = [*command, "pull", "-q", f"docker-archive:{home}/busybox.tar"]
            output(self.command(*load, cwd=home, environment={"PATH": PATH}), load)
        return output(self.command(*command, *words, cwd=home, environment={"PATH": PATH}), words)

    @staticmethod
    def table() -> Table[Buildah]:
        return TABLE


def make(room: Room, runtime: str, suite: str) -> Buildah:
    return Buildah(room, runtime)


TABLE: Table[Buildah] = Table()
check = TABLE.check


@check("run", "hello", short=True)
def _(buildah: Buildah) -> str:
    with buildah.container() as name:
        return buildah("run", name, "echo", "hello")


@check("run: exit status", "7", short=True)
def _(buildah: Buildah) -> str:
    with buildah.container() as name:
        return str(buildah.do("run", name, "sh", "-c", "exit 7").code)


@check("run -t: a terminal", "31 97", short=True)
def _(buildah: Buildah) -> str:
    with buildah.container() as name:
        _, shown = buildah.terminal([*buildah.words, "run", "-t", name, "--", "sh", "-c",
                                     "sleep 0.5; tty >/dev/null && stty size"], (), size=(31, 97))
        return (shown.strip().splitlines() or [""])[-1]  # warnings of the runtime come first


@check("run: what it changes stays for the next run", "kept")
def _(buildah: Buildah) -> str:
    with buildah.container() as name:
        buildah("run", name, "sh", "-c", "echo kept >/note")
        return buildah("run", name, "cat", "/note")


@check("run: user, directory, environment", "1000 /tmp b", short=True)
def _(buildah: Buildah) -> str:
    with buildah.container() as name:
        return buildah("run", "--user", "alice", "--workingdir", "/tmp", "--env", "A=b", name, "--", "sh", "-c",
                       "echo $(id -u) $PWD $A")


@check("run --volume, :ro", "from outside|touch: /r/x: Read-only file system")
def _(buildah: Buildah) -> str:
    where = buildah.directory()
    (where / "a").write_text("from outside|")
    with buildah.container() as name:
        return buildah("run", "-v", f"{where}:/v", "-v", f"{where}:/r:ro", name, "--", "sh", "-c",
                       "cat /v/a; touch /r/x 2>&1 || :")


@check("run --cap-drop, --cap-add", "0 1, without 1 0")
def _(buildah: Buildah) -> str:
    with buildah.container() as name:
        def seen(*options: str) -> str:
            mask = int(buildah("run", *options, name, "--", "grep", "CapEff", "/proc/self/status").split()[1], 16)
            return f"{mask & 1} {mask >> 21 & 1}"

        return f"{seen('--cap-drop', 'CAP_CHOWN', '--cap-add', 'CAP_SYS_ADMIN')}, without {seen()}"


@check("run --hostname", "box")
def _(buildah: Buildah) -> str:
    with buildah.container() as name:
        return buildah("run", "--hostname", "box", name, "hostname")


@check("run: no such program", matches=r"[1-9]\d* .*(no such file or directory|not found).*")
def _(buildah: Buildah) -> str:
    with buildah.container() as name:
        done = buildah.do("run", name, "no-such-program")
        return f"{done.code} {done.err}"


@check("run: a filter from the default seccomp profile", "2")
def _(buildah: Buildah) -> str:
    with buildah.container() as name:
        return buildah("run", name, "sh", "-c", "grep Seccomp: /proc/self/status | cut -f 2")


@check("bud: RUN steps, shell and exec form", "one 0 sh two", short=True)
def _(buildah: Buildah) -> str:
    return " ".join(buildah.built(f'FROM {IMAGE}\nRUN echo one >/seen && id -u >>/seen\n'
                                  'RUN ["sh", "-c", "cat /proc/self/comm >>/seen"]\nRUN echo two >>/seen\n').split()
                    ).replace("cat", "sh")


@check("bud: ENV, ARG, USER, WORKDIR reach the step", "alice /home/alice e given", short=True)
def _(buildah: Buildah) -> str:
    return buildah.built(f"FROM {IMAGE}\nARG WHAT=default\nENV E=e\nRUN touch /seen && chmod 666 /seen\nUSER alice\n"
                         "WORKDIR /home/alice\nRUN echo $(id -un) $PWD $E $WHAT >/seen\n", "--build-arg", "WHAT=given")


@check("bud --layers: a step is not run twice", "same")
def _(buildah: Buildah) -> str:
    dockerfile = f"FROM {IMAGE}\nRUN cat /proc/sys/kernel/random/uuid >/seen\n"
    first, second = (buildah.built(dockerfile, "--layers") for _ in range(2))
    return "same" if first == second and first else f"{first} and {second}"


@check("bud: stages, COPY --from", "made in the first")
def _(buildah: Buildah) -> str:
    return buildah.built(f"FROM {IMAGE} AS one\nRUN echo made in the first >/made\nFROM {IMAGE}\n"
                         "COPY --from=one /made /from-one\nRUN cp /from-one /seen\n")


@check("bud: RUN --mount tmpfs and bind", "tmpfs, from the first, gone")
def _(buildah: Buildah) -> str:
    return buildah.built(f"FROM {IMAGE} AS one\nRUN echo from the first >/made\nFROM {IMAGE}\n"
                         "RUN --mount=type=tmpfs,target=/t --mount=type=bind,from=one,source=/,target=/one "
                         "echo $(grep ' /t ' /proc/mounts | cut -d ' ' -f 3), $(cat /one/made), >/seen\n"
                         "RUN test -e /one/made || echo gone >>/seen\n").replace("\n", " ")


@check("bud: a step that fails", "23", short=True)
def _(buildah: Buildah) -> str:
    done = buildah.bud(f"FROM {IMAGE}\nRUN exit 23\n")
    if done.code == 0:
        raise Failed("it passed")
    return "23" if "exit status 23" in done.err else done.err


@check("bud --ulimit, --shm-size", "256 32768")
def _(buildah: Buildah) -> str:
    return buildah.built(f"FROM {IMAGE}\nRUN echo $(ulimit -n) $(df -k /dev/shm | awk 'END {{print $2}}') >/seen\n",
                         "--ulimit", "nofile=256:256", "--shm-size", "32m")


@check("bud --userns-uid-map", f"0 {SUB_IDS} 65536")
def _(buildah: Buildah) -> str:
    return " ".join(buildah.built(f"FROM {IMAGE}\nRUN cat /proc/self/uid_map >/seen\n", "--userns-uid-map",
                                  f"0:{SUB_IDS}:65536", "--userns-gid-map", f"0:{SUB_IDS}:65536").split())


@check("bud --memory", "67108864")
def _(buildah: Buildah) -> str:
    # A step sees the host's cgroups unless its namespaces are given; so the path is its own.
    return buildah.built(f"FROM {IMAGE}\nRUN cat /sys/fs/cgroup/memory$(grep memory /proc/self/cgroup | cut -d : -f 3)/"
                         "memory.limit_in_bytes /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max "
                         "2>/dev/null | head -n 1 >/seen\n", "--memory", "64m")


@check("ordinary user: run", f"0 {USER_ID} 1 1 {SUB_IDS} 65536", short=True)
def _(buildah: Buildah) -> str:
    name = buildah.user("from", "-q", "--pull-never", IMAGE)
    seen = buildah.user("run", "--network", "host", name, "cat", "/proc/self/uid_map")
    buildah.user("rm", name)
    return " ".join(seen.split())


@check("ordinary user: bud", "0 done")
def _(buildah: Buildah) -> str:
    where = buildah.directory()
    (where / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN echo $(id -u) done >/seen\nRUN cat /seen\n")
    lines = buildah.user("bud", "--network", "host", where).splitlines()
    return next((line for line in lines if line == "0 done"), lines[-1])
