# SPDX-License-Identifier: Apache-2.0
"""Which kernel parameters a container may set, and where they lie below /proc/sys.

A parameter that is not kept per namespace belongs to the host, so setting it is refused.
"""

from __future__ import annotations

from pyrunc.errors import ConfigError, reference_token

#: ipc_namespaces(7): System V IPC and POSIX message queues.
_IPC = frozenset((
    "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax",
    "kernel/shmmni", "kernel/shm_rmid_forced",
))


def sysctl_path(name: str) -> str:
    """The path below /proc/sys of the parameter `name`; "" where it is none.

    sysctl(8): whichever of "." and "/" comes first separates, and the other one stands for it
    within a part: both net.ipv4.conf.eth0/1.forwarding and net/ipv4/conf/eth0.1/forwarding.
    """
    dot, slash = name.find("."), name.find("/")
    if dot >= 0 and (slash < 0 or dot < slash):
        name = name.translate({ord("."): "/", ord("/"): "."})
    for part in name.split("/"):
        if part in ("", ".", "..") or "\0" in part or "\n" in part:
            return ""
    return name


def check_sysctls(sysctls: dict[str, str], namespaces: dict[str, str]) -> None:
    """config-linux.md, Sysctl: each parameter has its namespace among the container's."""
    for name in sysctls:
        pointer = "/linux/sysctl/" + reference_token(name)
        path = sysctl_path(name)
        if not path:
            raise ConfigError(pointer, "is not the name of a kernel parameter")
        if path == "kernel/hostname":
            raise ConfigError(pointer, "conflicts with /hostname", hint="set /hostname instead")
        wanted = namespace_of(path)
        if not wanted:
            raise ConfigError(pointer, "is not kept per namespace: it would change the host's")
        if wanted not in namespaces:
            raise ConfigError(pointer, f"needs {_article(wanted)} namespace in /linux/namespaces, "
                              "or it would change the host's")


def namespace_of(path: str) -> str:
    """The kind of namespace that the parameter at `path` is kept in, "" for none."""
    if path in _IPC or path.startswith("fs/mqueue/"):
        return "ipc"
    if path.startswith("net/"):
        return "network"
    if path.startswith("user/"):  # how many namespaces and the like there may be in one (namespaces(7))
        return "user"
    return "uts" if path == "kernel/domainname" else ""


def _article(kind: str) -> str:
    return ("an " if kind[0] == "i" else "a ") + kind
