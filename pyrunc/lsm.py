# SPDX-License-Identifier: Apache-2.0
"""AppArmor profiles and SELinux labels (config.md, Linux Process; config-linux.md, Mount Label).

Both are told to the kernel below /proc/self/attr before execve and take effect with it.  What is
written goes through the host's procfs, opened before the fork and verified, since a container's could
lead anywhere (CVE-2019-16884, CVE-2025-52881), and while the process is still root: a file of a
process that is not dumpable belongs to root.
"""

from __future__ import annotations

import errno
import os

from .errors import ConfigError, KernelError, UsageError, kernel_error
from .linux.fs import SELINUX_MAGIC, statfs_type
from .rootfs import openat2_proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

CONTEXT_TYPE = "run.oci.mount_context_type"  # crun's
CONTEXT_OPTIONS = ("context", "fscontext", "defcontext", "rootcontext")

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUXFS = ("/sys/fs/selinux", "/selinux")
_UNLABELLED = ("", "kernel")  # /proc/self/attr/current before a policy was loaded
_UNCONFINED = "unconfined"
_LONGEST = 1 << 16

#: File systems that have labels of their own, or where mqueue's way is another (see mounts.py).
_NOT_BY_CONTEXT = frozenset(("proc", "sysfs", "mqueue", "cgroup", "cgroup2"))


def apparmor_enabled() -> bool:
    """Whether this kernel confines programs by AppArmor."""
    return _read(_APPARMOR).startswith("Y")


def selinux_enabled() -> bool:
    """Whether this kernel has an SELinux policy loaded."""
    for place in _SELINUXFS:
        try:
            if statfs_type(place) == SELINUX_MAGIC:
                return _read("/proc/self/attr/current").rstrip("\0\n") not in _UNLABELLED
        except OSError:
            continue
    return False


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def current(proc: int, pid: int) -> str:
    """What confines that process now: an AppArmor profile or an SELinux label, "" in a kernel without either.

    `proc` is the host's procfs.
    """
    for path in ("attr/apparmor/current", "attr/current"):  # the second is the first module's, whichever that is
        try:
            fd = openat2_proc(proc, f"{pid}/{path}", os.O_RDONLY)
        except OSError:
            continue
        try:
            found = os.read(fd, _LONGEST).decode("utf-8", "surrogateescape").rstrip("\0\n")
        except OSError:
            continue  # EINVAL: the module is there and off
        finally:
            os.close(fd)
        if found:
            return found.partition(" (")[0]  # AppArmor's mode
    return ""


class Labels:
    """The AppArmor profile and the SELinux label that a process will run with; "" for none."""

    __slots__ = ("apparmor", "selinux")

    def __init__(self, process: Mapping[str, Any]) -> None:
        """Raises ConfigError where the kernel lacks what is asked for."""
        self.apparmor = str(process.get("apparmorProfile") or "")
        self.selinux = str(process.get("selinuxLabel") or "")
        if self.apparmor and not apparmor_enabled():
            if self.apparmor != _UNCONFINED:
                raise ConfigError("/process/apparmorProfile", f"the profile {self.apparmor} is specified in "
                                  "config, but AppArmor is disabled or not supported", hint=f"see {_APPARMOR}")
            self.apparmor = ""
        if self.selinux:
            _need_selinux("/process/selinuxLabel", self.selinux)

    def lines(self) -> list[tuple[str, str]]:
        """What is done, for `explain`."""
        found = []
        if self.apparmor:
            found.append(("/process/apparmorProfile", f"AppArmor profile {self.apparmor}"))
        if self.selinux:
            found.append(("/process/selinuxLabel", f"SELinux label {self.selinux}"))
        return found

    def apply(self, proc_self: int) -> None:
        """Have the next execve of this process change to them.  Raises KernelError.

        `proc_self` is the process's own directory in the host's procfs.
        """
        if self.apparmor:
            try:
                try:
                    # With several modules in a kernel attr/exec is the first one's (Linux 5.1).
                    _write(proc_self, "attr/apparmor/exec", f"exec {self.apparmor}")
                except _NoAttribute:
                    _write(proc_self, "attr/exec", f"exec {self.apparmor}")
            except OSError as error:
                hint = {
                    errno.ENOENT: "it is not loaded: apparmor_parser --replace FILE loads it",
                    errno.EACCES: "the runtime's own profile does not let it change to this one",
                    errno.EINVAL: "not the name of a profile",
                }.get(error.errno or 0, "")
                raise kernel_error(f"apply the AppArmor profile {self.apparmor}", error, syscall="write",
                                   pointer="/process/apparmorProfile", hint=hint) from None
        if self.selinux:
            try:
                _write(proc_self, "attr/exec", self.selinux)
            except OSError as error:
                raise _selinux_error(f"set the SELinux label {self.selinux}", error) from None

    def label_keys(self, proc: int, *, on: bool) -> None:
        """Have keys (and keyrings) made from now on labelled as the process will be, or as they were before.

        Raises KernelError.  `proc` is the host's procfs.
        """
        if not self.selinux:
            return
        try:
            proc_self = os.open("self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
            try:
                _write(proc_self, "attr/keycreate", self.selinux if on else "\n")
            finally:
                os.close(proc_self)
        except OSError as error:
            raise _selinux_error(f"set the SELinux label {self.selinux} of keys", error) from None


class _NoAttribute(Exception):
    """There is no such file below attr/: which is ENOENT, as is the answer that there is no such profile."""


def _write(proc_self: int, path: str, text: str) -> None:
    try:
        fd = openat2_proc(proc_self, path, os.O_WRONLY)
    except FileNotFoundError as error:
        if path == "attr/exec":
            raise
        raise _NoAttribute from error
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)


def _selinux_error(what: str, error: OSError) -> KernelError:
    hint = "the policy knows no such label" if error.errno == errno.EINVAL else ""
    if error.errno == errno.EACCES:
        hint = "the policy does not let the runtime set it"
    return kernel_error(what, error, syscall="write", pointer="/process/selinuxLabel", hint=hint)


def check_mount_context(context: str, option: str) -> None:
    """Raises UsageError if mounts can't have that label here."""
    if not selinux_enabled():
        raise UsageError(f"{option} {context}: SELinux is disabled or not supported")
    if not _is_known(context):
        raise UsageError(f"{option} {context}: the policy that is loaded knows no such label")
    if '"' in context or "\n" in context:
        raise UsageError(f"{option} {context}: holds a quote or a newline")


def _need_selinux(pointer: str, label: str) -> None:
    if not selinux_enabled():
        # runc's words.
        raise ConfigError(pointer, "selinux label is specified in config, but selinux is disabled or not supported")
    if not _is_known(label):
        raise ConfigError(pointer, f"the policy that is loaded knows no label {label}")


def _is_known(label: str) -> bool:
    for place in _SELINUXFS:
        try:
            fd = os.open(f"{place}/context", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, label.encode("utf-8", "surrogateescape"))  # only asks
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
    return True


def mount_label(linux: Mapping[str, Any]) -> str:
    """linux.mountLabel, "" for none.  Raises ConfigError where the kernel can't have it."""
    label = str(linux.get("mountLabel") or "")
    if label:
        _need_selinux("/linux/mountLabel", label)
        if '"' in label or "\n" in label:
            raise ConfigError("/linux/mountLabel", "holds a quote or a newline")
    return label


def takes_context(fstype: str) -> bool:
    """Whether a new mount of this type is labelled by the option `context`, or another of CONTEXT_OPTIONS."""
    return fstype not in _NOT_BY_CONTEXT


def context_option(annotations: Mapping[str, str]) -> str:
    """By which option of mount(8) new mounts get their label.  Raises ConfigError.

    Podman asks for `rootcontext` where an init runs in the container: it can give its files other labels then.
    """
    wanted = annotations.get(CONTEXT_TYPE, CONTEXT_OPTIONS[0])
    if wanted not in CONTEXT_OPTIONS:
        raise ConfigError(f"/annotations/{CONTEXT_TYPE}", f"{wanted!a} is not one of {', '.join(CONTEXT_OPTIONS)}")
    return wanted
