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
from support import Bundle, Host, Runtime

from pyrunc.capabilities import NAMES

# Plain words of a shell that busybox and Debian have in common; pid 1 is the program itself.
PROBE = r"""
section() { echo "@@ $1"; }
section cwd; pwd | cat -n
cd /proc/1
numbered() { section "$1"; cat -n "$1" | sed 's/\t/ /'; }
section status; cat status
section signals; grep Sig /proc/self/status  # of a child: a shell blocks them for a moment when it forks
section mounts; while read id parent device root point rest; do echo "$point:	$root $rest"; done < mountinfo
for file in cgroup uid_map gid_map setgroups; do numbered $file; done
section limits; sed 's/   */:\t/' limits
for file in oom_score_adj loginuid sessionid coredump_filter personality attr/current cmdline timens_offsets; do
  section $file; tr '\0' '\n' < $file | cat -n
done
section environ; tr '\0' '\n' < environ | sed 's/=/:\t/'
section stat; set -- $(cat stat); echo "pgrp:	$5"; echo "session:	$6"; echo "tty:	$7"; echo "tpgid:	$8"
echo "priority:	${18} nice ${19} rt ${40} policy ${41}"
section sched; grep -E '^(policy|prio)' sched
section links; for link in cwd root exe ns/*; do echo "$link:	$(readlink $link)"; done
section umask; umask | cat -n
section id; id | cat -n
section hostname; hostname | cat -n
section net; cat /proc/net/dev | cut -d: -f1 | tail -n +3 | while read i; do
  echo "$i:	flags $(cat /sys/class/net/$i/flags) mtu $(cat /sys/class/net/$i/mtu)"; done
section route; cat -n /proc/net/route
section keys; sed 's/^\([0-9a-f]*\) \([^ ]*\) *[0-9]* \(.*\) \(_ses[^ ]*\)/\4:\t\2 \3/' /proc/keys
section fd; for fd in fd/*; do echo "$fd:	$(readlink $fd), $(grep flags ${fd%/*}info/${fd##*/})"; done
section stdio; for fd in 0 1 2; do stat -L -c "%n:	%F %a %u:%g %t:%T" fd/$fd; done
section dev; find /dev | sort | while read i; do stat -c "%n:	%F %a %u:%g %t:%T %h $(readlink $i)" $i; done
section tree; for i in / /*; do stat -c "%n:	%F %a %u:%g $(readlink $i)" $i; done
section sysctl; cd /proc/sys; grep -s "" net/ipv4/* net/core/* kernel/* fs/mqueue/* | sed 's/:/:	/'
section masked; for i in asound acpi kcore keys latency_stats timer_list timer_stats sched_debug scsi bus fs irq sys \
    sysrq-trigger; do stat -c "%n:	%F %a %u:%g %t:%T" /proc/$i 2>&1; done; stat -c "%n:	%F %a" /sys/firmware
section write; for i in / /tmp /mnt /etc /proc /sys /sys/fs/cgroup /dev /dev/shm; do
  mkdir $i/probe 2> /dev/null && echo "$i:	writable" && rmdir $i/probe || echo "$i:	not writable"; done
for i in kernel/domainname kernel/msgmax net/ipv4/ip_forward; do
  (cat $i > $i) 2> /dev/null && echo "$i:	writable" || echo "$i:	not writable"; done
""".strip()

SECTIONS = 30
PLAIN: dict[str, str] = {}  # what was seen in the default bundle

# What is another at every look: it says nothing about the runtime.
VOLATILE = re.compile(r"status/(State|SigQ|SigBlk|Vm|Rss|Hugetlb|.*ctxt|untag)|signals/SigQ|keys/(?!_ses.ID$)|"
                      r"sysctl/.*/(ns_last_pid|cad_pid|tcp_mem|udp_mem|.*random.*|tcp_fastopen_key|pty)$")

# What a case changes in the bundle; the options of `create` it returns.
Change = Callable[[Bundle], "list[str] | None"]


def unchanged(bundle: Bundle) -> None:
    """The default config.json."""


def no_pivot(bundle: Bundle) -> list[str]:
    return ["--no-pivot"]


def no_new_keyring(bundle: Bundle) -> list[str]:
    no_masks(bundle)  # /proc/keys is masked by default
    return ["--no-new-keyring"]


def ordinary_user(bundle: Bundle) -> None:
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [4, 1000, 2000]}


def privileges(bundle: Bundle) -> None:
    bundle.process["noNewPrivileges"] = True
    bundle.process["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SYS_PTRACE"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "effective": ["CAP_KILL", "CAP_NET_RAW"],
        "inheritable": ["CAP_CHOWN", "CAP_NET_RAW"], "ambient": ["CAP_NET_RAW"],
    }


def user_with_ambient(bundle: Bundle) -> None:
    privileges(bundle)
    bundle.process["noNewPrivileges"] = False
    bundle.process["user"] = {"uid": 1000, "gid": 100, "umask": 0o077}


def no_capabilities(bundle: Bundle) -> None:
    del bundle.process["capabilities"]


def every_capability(bundle: Bundle) -> None:
    """All the runtime has itself."""
    status = Path("/proc/self/status").read_text()
    own = int(status.partition("CapBnd:")[2].split()[0], 16)
    names = [name for number, name in enumerate(NAMES) if own >> number & 1]
    bundle.process["capabilities"] = dict.fromkeys(
        ("bounding", "permitted", "effective", "inheritable", "ambient"), names)


def limits(bundle: Bundle) -> None:
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                                 {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
                                 {"type": "RLIMIT_NPROC", "soft": 300, "hard": 300},
                                 {"type": "RLIMIT_STACK", "soft": 4 << 20, "hard": 2**64 - 1}]
    bundle.process["oomScoreAdj"] = 321


def surroundings(bundle: Bundle) -> None:
    bundle.config["hostname"] = "parity"
    bundle.process["cwd"] = "/made/for/it"
    bundle.process["env"] += ["EMPTY=", "TWICE=1", "HOME=/elsewhere", "TWICE=2", "UNICODE=\u00e4"]
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "123456", "fs.mqueue.msg_max": "20",
                              "net.ipv4.ping_group_range": "0 100"}


def readonly(bundle: Bundle) -> None:
    bundle.config["root"]["readonly"] = True


def own_devices(bundle: Bundle) -> None:
    bundle.linux["devices"] = [
        {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
        {"path": "/dev/deep/down", "type": "b", "major": 7, "minor": 1},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600, "major": 0, "minor": 0},
        {"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "fileMode": 0o600},
        {"path": "/mnt/zero", "type": "u", "major": 1, "minor": 5},
    ]


def all_mounts(bundle: Bundle) -> None:
    (bundle.path / "host" / "below").mkdir(parents=True)
    bundle.mount(bundle.path / "host", "/bound", options=["rbind", "ro", "nosuid", "slave"])
    bundle.mount(bundle.path / "host", "/mnt", options=["bind", "nodev", "noatime"])
    bundle.mount("tmpfs", "/tmp", type="tmpfs", options=["nosuid", "strictatime", "mode=1770", "size=1m"])
    bundle.mount("tmpfs", "/copied", type="tmpfs", options=["noexec", "shared"])


def few_namespaces(bundle: Bundle) -> None:
    for name in ("ipc", "uts", "network"):
        bundle.without(name)
    del bundle.config["hostname"]
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"] if mount["destination"] != "/sys"]


def user_namespace(bundle: Bundle) -> None:
    bundle.namespace("user")
    bundle.linux["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 5000}]
    bundle.linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 6000}]


def user_in_a_user_namespace(bundle: Bundle) -> None:
    user_namespace(bundle)
    user_with_ambient(bundle)


def other_masks(bundle: Bundle) -> None:
    bundle.linux["maskedPaths"] = ["/etc/group", "/mnt", "/proc/uptime", "/missing"]
    bundle.linux["readonlyPaths"] = ["/etc", "/proc/sys/kernel", "/missing/too"]


def no_masks(bundle: Bundle) -> None:
    del bundle.linux["maskedPaths"], bundle.linux["readonlyPaths"]


def the_hosts_dev(bundle: Bundle) -> None:
    """/dev bound from outside is left alone."""
    mounts = bundle.config["mounts"]
    bundle.config["mounts"] = [mount for mount in mounts if not mount["destination"].startswith("/dev")]
    (bundle.path / "dev").mkdir()
    os.mknod(bundle.path / "dev" / "null", 0o20644, os.makedev(1, 3))
    bundle.mount(bundle.path / "dev", "/dev", options=["rbind"])


def little(bundle: Bundle) -> None:
    """Only what has to be in a config.json."""
    bundle.config["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    bundle.config["linux"] = {"namespaces": [{"type": "pid"}, {"type": "mount"}]}
    bundle.config["process"] = {"cwd": "/", "args": [], "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}
    del bundle.config["hostname"]


def slave_root(bundle: Bundle) -> None:
    bundle.linux["rootfsPropagation"] = "rslave"


def private_root(bundle: Bundle) -> None:
    bundle.linux["rootfsPropagation"] = "rprivate"


def bare_root(bundle: Bundle) -> None:
    for name in ("dev", "proc", "sys"):
        (bundle.rootfs / name).rmdir()


def shared_root(bundle: Bundle) -> None:
    bundle.linux["rootfsPropagation"] = "shared"


def cgroup_mount(bundle: Bundle) -> None:
    bundle.namespace("cgroup")
    bundle.mount("cgroup", "/sys/fs/cgroup", type="cgroup", options=["nosuid", "noexec", "nodev", "relatime", "ro"])


CASES: list[Change] = [
    unchanged, no_pivot, no_new_keyring, ordinary_user, privileges, user_with_ambient, no_capabilities,
    every_capability, limits, surroundings, readonly, own_devices, all_mounts, few_namespaces, user_namespace,
    user_in_a_user_namespace, other_masks, no_masks, the_hosts_dev, little, bare_root, shared_root, slave_root,
    private_root, cgroup_mount,
]
# What a program can't tell from the default (where the host's mounts are private, for the last two).
UNSEEN = (unchanged, no_pivot, bare_root, slave_root, private_root)
HYBRID = not Path("/sys/fs/cgroup/cgroup.controllers").exists()


class Accepted:
    """A difference that is meant to be: fields and both values as patterns, the cases it shows in."""

    def __init__(self, reason: str, field: str, ours: str, theirs: str, *, only: tuple[Change, ...] = (),
                 but: tuple[Change, ...] = (), where: bool = True) -> None:
        self.reason = reason
        self.field = re.compile(field)
        self.values = re.compile(ours), re.compile(theirs)
        self.cases = [case for case in only or CASES if case not in but and where]

    def covers(self, field: str, ours: str | None, theirs: str | None) -> bool:
        return bool(self.field.fullmatch(field) and self.values[0].fullmatch(ours or "")
                    and self.values[1].fullmatch(theirs or ""))


ACCEPTED = [
    Accepted("what covers a masked directory needs no room, and gets none",
             r"mounts//(proc/.*|sys/.*|mnt)", r"(.* tmpfs ro),size=4k,nr_inodes=1", r".* tmpfs ro",
             but=(no_masks, no_new_keyring, little)),
    Accepted("the options say ro: so is the tmpfs around the hierarchies, not just each of them",
             r"mounts//sys/fs/cgroup", r"(/ ro,\S+ - tmpfs tmpfs rw\S*(; )?)+", r"(/ rw,\S+ - tmpfs tmpfs rw\S*(; )?)+",
             but=(little,), where=HYBRID),
    Accepted("and so what has the capability to pass over the mode can't write there either",
             r"write//sys/fs/cgroup", r"not writable", r"writable", only=(every_capability, few_namespaces),
             where=HYBRID),
    Accepted("the source of a cgroup mount is a label",
             r"mounts//sys/fs/cgroup/systemd", r".* cgroup cgroup .*", r".* cgroup systemd .*",
             only=(cgroup_mount,), where=HYBRID),
    Accepted("an explicit mode= of a tmpfs holds; that runc overrides it with the directory's was a bug there",
             r"tree//tmp", r"directory 1770 0:0", r"directory 755 0:0", only=(all_mounts,)),
    Accepted("config-linux.md: with `shared` the root belongs to a new peer group",
             r"mounts//", r"(\S+ \S+) shared - .*", r"\S+ \S+ - .*", only=(shared_root,)),
]


def look(runtime: Runtime, bundle: Bundle, *options: str) -> dict[str, str]:
    """Run PROBE; what it wrote as {section/key: value}, without what has to differ: ids, serials, paths."""
    own = {os.readlink(f"/proc/self/ns/{name}"): "the host's" for name in os.listdir("/proc/self/ns")}
    # By `create`, as engines do: with `run`, runc puts pipes of its own between.
    output = bundle.path.parent / "output"
    container = runtime.create(bundle.args(PROBE), *options, output=output)
    assert runtime("start", container).code == 0
    runtime.wait(container)
    assert runtime("delete", container).code == 0
    written = output.read_text()
    output.unlink()
    found: dict[str, str] = {}
    section = ""
    text = written.replace(container, "ID").replace(str(bundle.path), "BUNDLE").replace(
        str(bundle.path.parent), "PARENT").replace(bundle.path.parent.name, "PARENT")
    for line in text.splitlines():
        if line.startswith("@@ "):
            section = line[3:]
            continue
        key, _, value = line.partition("\t")
        value = " ".join(value.split())
        field = f"{section}/{key.strip().rstrip(':')}"
        if field in ("links/ns/" + name for name in os.listdir("/proc/self/ns")):
            value = own.get(value, "its own")
        if section == "mounts":
            value = re.sub(r"(shared|master|propagate_from):\d+", r"\1", value)
        if section == "fd":
            value = re.sub(r"\[\d+\]|out-[0-9a-f]+", "", value)
        if not VOLATILE.match(field):
            found[field] = f"{found[field]}; {value}" if field in found else value
    return found


def differences(ours: dict[str, str], theirs: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    return {field: (ours.get(field), theirs.get(field)) for field in sorted({*ours, *theirs})
            if ours.get(field) != theirs.get(field)}


def compare(change: Change, ours: dict[str, str], theirs: dict[str, str]) -> None:
    """Nothing but ACCEPTED, and all of that."""
    found = differences(ours, theirs)
    accepted = [difference for difference in ACCEPTED if change in difference.cases]
    unknown = {field: values for field, values in found.items()
               if not any(difference.covers(field, *values) for difference in accepted)}
    assert not unknown, "\n".join(f"{field}:\n   ours {ours!r}\n   runc's {theirs!r}"
                                  for field, (ours, theirs) in unknown.items())
    for difference in accepted:
        assert any(difference.covers(field, *values) for field, values in found.items()), difference.reason


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
    assert differences(*seen) == {}


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


@pytest.mark.parametrize("user", [0, 1000])
def test_a_program_on_a_terminal(user: int, runtime: Runtime, make_bundle: Callable[[str], Bundle],
                                 make_runtime: Callable[[str], Runtime], host: Host) -> None:
    seen = []
    for which in (runtime, make_runtime("runc")):
        bundle = make_bundle("bundle").args(TERMINAL_PROBE)
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
        # With runc stty's first ioctl fails at times (seen with 1.1.5), which is a line of its own.
        assert which is not runtime or all(tab for _, tab, _ in lines), output
        lines = [line for line in lines if line[1]]
        seen.append({name: value for name, _, value in lines})
        shutil.rmtree(bundle.path)
    assert seen[0]["tty:"].startswith("/dev/") and {"33:", "99:"} <= set(seen[0])
    # Of the two terminals one has to turn line feeds into new lines: the container's, so that a program finds it
    # as it finds any; the caller's stays raw.  With runc it's the other way round.
    assert differences(*seen) == {"onlcr:": ("set", None), "-onlcr:": (None, "set")}
