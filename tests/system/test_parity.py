# SPDX-License-Identifier: Apache-2.0
"""What a program finds in a container of ours is what it finds in one of runc's, field by field.

The same program runs in the same bundle under both and writes down what it sees.  ACCEPTED names every
difference there may be, with its reason; a difference that isn't there (any more) fails as well.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import stat
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from parity import (
    PROBE,
    Accepted,
    Change,
    all_mounts,
    assert_only,
    bare_root,
    cgroup_mount,
    differences,
    every_capability,
    few_namespaces,
    fields,
    limits,
    little,
    no_capabilities,
    no_masks,
    no_new_keyring,
    no_pivot,
    ordinary_user,
    other_masks,
    own_devices,
    private_root,
    privileges,
    readonly,
    shared_root,
    slave_root,
    surroundings,
    the_hosts_dev,
    unchanged,
    user_in_a_user_namespace,
    user_namespace,
    user_with_ambient,
)
from support import Bundle, Host, Runtime, runc_version

SECTIONS = 30
PLAIN: dict[str, str] = {}  # what was seen in the default bundle

CASES: list[Change] = [
    unchanged, no_pivot, no_new_keyring, ordinary_user, privileges, user_with_ambient, no_capabilities,
    every_capability, limits, surroundings, readonly, own_devices, all_mounts, few_namespaces, user_namespace,
    user_in_a_user_namespace, other_masks, no_masks, the_hosts_dev, little, bare_root, shared_root, slave_root,
    private_root, cgroup_mount,
]
# What a program can't tell from the default (where the host's mounts are private, for the last two).
UNSEEN = (unchanged, no_pivot, bare_root, slave_root, private_root)
HYBRID = not Path("/sys/fs/cgroup/cgroup.controllers").exists()
NEWER = runc_version() > (1, 1, 5)
LATER = runc_version() >= (1, 2)


def shown(*, only: tuple[Change, ...] = (), but: tuple[Change, ...] = (), where: bool = True) -> list[Change]:
    """The cases a difference shows in."""
    return [case for case in only or CASES if case not in but and where]


ACCEPTED = [
    Accepted("what covers a masked directory needs no room, and gets none",
             r"mounts//(proc/.*|sys/.*|mnt)", r"(.* tmpfs ro),size=4k,nr_inodes=1", r".* tmpfs ro",
             shown(but=(no_masks, no_new_keyring, little)), always=not NEWER),
    Accepted("the options say ro: so is the tmpfs around the hierarchies, not just each of them",
             r"mounts//sys/fs/cgroup", r"(/ ro,\S+ - tmpfs tmpfs rw\S*(; )?)+", r"(/ rw,\S+ - tmpfs tmpfs rw\S*(; )?)+",
             shown(but=(little,), where=HYBRID)),
    Accepted("and so what has the capability to pass over the mode can't write there either",
             r"write//sys/fs/cgroup", r"not writable", r"writable", shown(only=(every_capability, few_namespaces),
             where=HYBRID and not NEWER)),
    Accepted("later versions of runc let it write there without",
             r"write//sys/fs/cgroup", r"not writable", r"writable", shown(
                 but=(little, ordinary_user, user_with_ambient, user_in_a_user_namespace), where=HYBRID and NEWER)),
    Accepted("the source of a cgroup mount is a label",
             r"mounts//sys/fs/cgroup/systemd", r".* cgroup cgroup .*", r".* cgroup systemd .*",
             shown(only=(cgroup_mount,), where=HYBRID)),
    Accepted("an explicit mode= of a tmpfs holds; that runc overrides it with the directory's was a bug there",
             r"tree//tmp", r"directory 1770 0:0", r"directory 755 0:0", shown(only=(all_mounts,), where=not NEWER)),
    Accepted("without capabilities in config.json later versions of runc leave all that it has itself",
             r"status/Cap(Bnd|Eff|Prm)|sysctl/net/core/bpf_jit_.*|write/net/ipv4/ip_forward", r"0{16}|not writable|",
             r".+", shown(only=(no_capabilities, little), where=LATER), always=False),
    Accepted("config-linux.md: with `shared` the root belongs to a new peer group",
             r"mounts//", r"(\S+ \S+) shared - .*", r"\S+ \S+ - .*", shown(only=(shared_root,)), always=not LATER),
]


def look(runtime: Runtime, bundle: Bundle, *options: str) -> dict[str, str]:
    """Run PROBE as the container's program; what it tells."""
    # By `create`, as engines do: with `run`, runc puts pipes of its own between.
    output = bundle.path.parent / "output"
    container = runtime.create(bundle.args(PROBE), *options, output=output)
    assert runtime("start", container).code == 0
    runtime.wait(container)
    assert runtime("delete", container).code == 0
    written = output.read_text()
    output.unlink()
    return fields(written, container, bundle)


def compare(change: Change, ours: dict[str, str], theirs: dict[str, str]) -> None:
    """Nothing but ACCEPTED, and all of that."""
    assert_only(differences(ours, theirs), [difference for difference in ACCEPTED if change in difference.cases])


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_a_program_sees_what_it_sees_under_runc(change: Change, runtime: Runtime, make_bundle: Callable[[str], Bundle],
                                                make_runtime: Callable[[str], Runtime], host: Host) -> None:
    seen = []
    for which in (runtime, make_runtime("runc")):
        bundle = make_bundle("bundle")
        options = change(bundle) or []
        seen.append(look(which, bundle, *options))
        shutil.rmtree(bundle.path)
    compare(change, *seen)
    # The control: the change can be seen at all.
    if change is unchanged:
        PLAIN.update(seen[0])
        assert len({field.partition("/")[0] for field in seen[0]}) >= SECTIONS
    elif change not in UNSEEN:
        assert differences(PLAIN or look(runtime, make_bundle("bundle")), seen[0])


@pytest.mark.parametrize("change", [unchanged, ordinary_user, privileges, limits, own_devices, user_namespace],
                         ids=lambda change: change.__name__)
def test_so_does_a_program_in_debian(change: Change, runtime: Runtime, make_bundle: Callable[[str], Bundle],
                                     make_runtime: Callable[[str], Runtime], debian: Path, host: Host) -> None:
    seen = []
    for which in (runtime, make_runtime("runc")):
        bundle = make_bundle("bundle")
        bundle.config["root"] = {"path": str(debian), "readonly": True}
        change(bundle)
        bundle.linux["devices"] = [device for device in bundle.linux.get("devices", [])
                                   if device["path"].startswith("/dev/")]
        seen.append(look(which, bundle))
        shutil.rmtree(bundle.path)
    compare(change, *seen)


def test_the_runtime_makes_the_same_files_in_the_root(runtime: Runtime, make_bundle: Callable[[str], Bundle],
                                                      make_runtime: Callable[[str], Runtime], host: Host) -> None:
    """Mount points, the working directory, and with a /dev of the image's own the nodes and links in it."""
    seen = []
    for which in (runtime, make_runtime("runc")):
        bundle = make_bundle("bundle")
        bundle.config["mounts"] = [mount for mount in bundle.config["mounts"] if mount["destination"] != "/dev"]
        for name in ("sys", "mnt"):
            (bundle.rootfs / name).rmdir()
        (bundle.rootfs / "etc" / "link").symlink_to("/made/by/a/link")
        bundle.mount(bundle.path / "config.json", "/etc/deep/file").mount(
            "tmpfs", "/etc/link", type="tmpfs", options=[])
        bundle.process["cwd"] = "/made/for/it"
        bundle.process["user"] = {"uid": 1000, "gid": 1000}
        assert which.run(bundle, "true").code == 0
        tree = {}
        for path in sorted(bundle.rootfs.rglob("*")):
            info = path.lstat()
            tree[str(path.relative_to(bundle.rootfs))] = (
                f"{stat.filemode(info.st_mode)} {info.st_uid}:{info.st_gid} {info.st_rdev} {info.st_size} "
                f"{os.readlink(path) if path.is_symlink() else ''}")
        seen.append(tree)
        shutil.rmtree(bundle.path)
    assert "made/by/a/link" in seen[0] and "etc/deep/file" in seen[0] and "dev/null" in seen[0]
    # What a file is bound onto can be executed, as long as the container doesn't run; no more with later ones.
    file = {"etc/deep/file": ("-rwxr-xr-x 0:0 0 0 ", "-rw-r--r-- 0:0 0 0 ")} if NEWER else {}
    assert differences(*seen) == file


TERMINAL_PROBE = r"""
cd /proc/1
echo "tty:	$(tty)"
for fd in 0 1 2; do stat -L -c "$fd:	%F %a %u:%g" fd/$fd; readlink fd/$fd | sed "s/^/link $fd:	/"; done
for i in /dev/console /dev/ptmx /dev/pts/ptmx /dev/pts/0; do stat -c "%n:	%F %a %u:%g %t:%T $(readlink $i)" $i; done
while read id parent device root point rest; do case $point in /dev*) echo "$point:	$root $rest"; esac; done < mountinfo
set -- $(cat stat); echo "group:	$5 session $6 terminal $7 foreground $8"
stty -a | tr -s '; ' '\n' | sed 's/$/:	set/'
echo > /dev/tty && echo "dev tty:	opens"
for fd in fd/*; do echo "$fd:	$(grep flags fdinfo/${fd##*/})"; done
"""

# A terminal that was opened by TIOCGPTPEER (what distributions mend in runc does that) isn't one for large files.
OPENED_HOW = re.compile(r"(?<=flags:\t)[0-7]+")


def access(flags: re.Match[str]) -> str:
    return f"{int(flags[0], 8) & (os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK):o}"


SIZED = 'for i in $(seq 100); do [ "$(stty size)" = "33 99" ] && break; sleep 0.05; done 2>/dev/null\n'


@pytest.mark.parametrize("user", [0, 1000])
def test_a_program_on_a_terminal(user: int, runtime: Runtime, make_bundle: Callable[[str], Bundle],
                                 make_runtime: Callable[[str], Runtime], host: Host) -> None:
    seen = []
    for which in (runtime, make_runtime("runc")):
        # runc 1.1.5 gives the terminal its size when the program runs already: seen by 28 programs of 40.
        bundle = make_bundle("bundle").args(TERMINAL_PROBE if which is runtime else SIZED + TERMINAL_PROBE)
        bundle.process["terminal"] = True
        bundle.process["user"] = {"uid": user, "gid": user}
        bundle.save()
        master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (33, 99))
        with subprocess.Popen(which.command("run", "-b", bundle.path, which.new_id()), stdin=slave, stdout=slave,
                              stderr=slave, start_new_session=True) as process:
            os.close(slave)
            output = b""
            while True:
                try:
                    output += os.read(master, 65536)
                except OSError:  # EIO: nobody has the other end open
                    break
        os.close(master)
        assert process.returncode == 0, output.decode()
        assert output.count(b"\n") == output.count(b"\r\n")
        lines = [line.partition("\t") for line in output.decode().splitlines() if line]
        assert all(tab for _, tab, _ in lines), output
        seen.append({name: OPENED_HOW.sub(access, value) for name, _, value in lines})
        shutil.rmtree(bundle.path)
    assert seen[0]["tty:"].startswith("/dev/") and {"33:", "99:"} <= set(seen[0])
    # Of the two terminals one has to turn line feeds into new lines: the container's, so that a program finds it
    # as it finds any; the caller's stays raw.  With runc it's the other way round.
    assert differences(*seen) == {"onlcr:": ("set", None), "-onlcr:": (None, "set")}
