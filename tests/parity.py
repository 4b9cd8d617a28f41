# SPDX-License-Identifier: Apache-2.0
"""What a program sees of itself and its surroundings, as a table to compare between runtimes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from support import Bundle

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


class Accepted:
    """A difference that is meant to be: fields and both values as patterns, the cases it shows in.

    `always`: not only with some builds of a version of runc, as what distributions mend in one.
    """

    def __init__(self, reason: str, field: str, ours: str, theirs: str, cases: Iterable[Change] = (), *,
                 always: bool = True) -> None:
        self.reason = reason
        self.field = re.compile(field)
        self.values = re.compile(ours), re.compile(theirs)
        self.cases = list(cases)
        self.always = always

    def covers(self, field: str, ours: str | None, theirs: str | None) -> bool:
        return bool(self.field.fullmatch(field) and self.values[0].fullmatch(ours or "")
                    and self.values[1].fullmatch(theirs or ""))


def fields(written: str, container: str, bundle: Bundle) -> dict[str, str]:
    """What PROBE wrote as {section/key: value}, without what has to differ: ids, serials, paths."""
    own = {os.readlink(f"/proc/self/ns/{name}"): "the host's" for name in os.listdir("/proc/self/ns")}
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


def assert_only(found: dict[str, tuple[str | None, str | None]], accepted: list[Accepted]) -> None:
    """Nothing but the accepted differences, and all of those that always are."""
    unknown = {field: values for field, values in found.items()
               if not any(difference.covers(field, *values) for difference in accepted)}
    assert not unknown, "\n".join(f"{field}:\n   ours {ours!r}\n   runc's {theirs!r}"
                                  for field, (ours, theirs) in unknown.items())
    for difference in accepted:
        if difference.always:
            assert any(difference.covers(field, *values) for field, values in found.items()), difference.reason
