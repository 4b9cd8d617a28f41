# SPDX-License-Identifier: Apache-2.0
"""A seccomp profile compiled by libseccomp, through ctypes (seccomp_init(3) and its neighbours).

Imported only when the compiled program isn't in the cache: see seccomp.py, which says what a profile means.
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import POINTER, c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p

from .errors import ConfigError, PyruncError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .seccomp import Rule

_SONAME = "libseccomp.so.2"
_MINIMUM = (2, 4, 0)

ARCHITECTURES = (
    "x86", "x86_64", "x32", "arm", "aarch64", "loongarch64", "m68k", "mips", "mips64", "mips64n32", "mipsel",
    "mipsel64", "mipsel64n32", "ppc", "ppc64", "ppc64le", "s390", "s390x", "sh", "sheb", "parisc", "parisc64",
    "riscv64",
)

_FLTATR_CTL_NNP = 3
_FLTATR_CTL_OPTIMIZE = 8
_NR_ERROR = -1  # __NR_SCMP_ERROR

#: With more rules than this a tree of comparisons is quicker than a list (libseccomp 2.5); with none, 2.5.4 fails.
_TREE = 32


class _Version(ctypes.Structure):
    """struct scmp_version."""

    _fields_ = [("major", c_uint), ("minor", c_uint), ("micro", c_uint)]


class _Condition(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = [("arg", c_uint), ("op", c_int), ("a", c_uint64), ("b", c_uint64)]


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_SONAME, use_errno=True)
    except OSError:
        raise PyruncError(f"{_SONAME} is not installed: a seccomp profile can't be compiled", pointer="/linux/seccomp",
                          hint="install libseccomp (Debian: apt-get install libseccomp2)") from None
    for name, result, *arguments in (
        ("seccomp_version", POINTER(_Version)),
        ("seccomp_init", c_void_p, c_uint32),
        ("seccomp_release", None, c_void_p),
        ("seccomp_arch_resolve_name", c_uint32, c_char_p),
        ("seccomp_arch_native", c_uint32),
        ("seccomp_arch_add", c_int, c_void_p, c_uint32),
        ("seccomp_attr_set", c_int, c_void_p, c_int, c_uint32),
        ("seccomp_syscall_resolve_name", c_int, c_char_p),
        ("seccomp_syscall_resolve_name_arch", c_int, c_uint32, c_char_p),
        ("seccomp_rule_add_array", c_int, c_void_p, c_uint32, c_int, c_uint, POINTER(_Condition)),
        ("seccomp_export_bpf", c_int, c_void_p, c_int),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = tuple(arguments)
    return library


class Library:
    """libseccomp, loaded.  Raises PyruncError where there is none, or one that is too old."""

    def __init__(self) -> None:
        self._c = _load()
        found = self._c.seccomp_version().contents
        self.version = (int(found.major), int(found.minor), int(found.micro))
        if self.version < _MINIMUM:
            raise PyruncError(f"libseccomp {self.version_text} is too old", pointer="/linux/seccomp",
                              hint=f"pyrunc needs {'.'.join(map(str, _MINIMUM))}")

    @property
    def version_text(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def path(self) -> str:
        """The file it was loaded from, as far as the kernel tells."""
        try:
            with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
                for line in maps:
                    path = line.rstrip("\n").partition("/")[2]
                    if path.rpartition("/")[2].startswith("libseccomp.so."):
                        return "/" + path
        except OSError:
            pass
        return ""

    def architecture(self, name: str) -> int:
        """The token of an architecture such as x86_64 (an AUDIT_ARCH_* but for x32), 0: unknown to this version."""
        return int(self._c.seccomp_arch_resolve_name(name.encode()))

    @property
    def native(self) -> int:
        return int(self._c.seccomp_arch_native())

    def number(self, name: str, architecture: int = 0) -> int | None:
        """A call's number (negative: one of another architecture), None where the library knows no such call."""
        raw = name.encode("utf-8", "surrogatepass")
        if architecture:
            number = int(self._c.seccomp_syscall_resolve_name_arch(architecture, raw))
        else:
            number = int(self._c.seccomp_syscall_resolve_name(raw))
        return None if number == _NR_ERROR else number

    def compile(self, default: int, architectures: list[tuple[str, int]], rules: list[Rule], entries: int) -> bytes:
        """The program: `default` but for the `rules`, on the native and the (pointer, token) architectures.

        `entries` is how many calls the profile names.  Raises ConfigError with the pointer of what it refuses.
        """
        context = self._c.seccomp_init(default)
        if not context:
            raise ConfigError("/linux/seccomp/defaultAction", "libseccomp or the kernel does not know this action")
        try:
            for pointer, token in architectures:
                result = self._c.seccomp_arch_add(context, token)
                if result == -errno.EDOM:
                    raise ConfigError(pointer, f"libseccomp {self.version_text} can't have an architecture of the "
                                      "other byte order in this machine's filter")
                self._check(result, pointer, "add the architecture", errno.EEXIST)
            self._check(self._c.seccomp_attr_set(context, _FLTATR_CTL_NNP, 0), "/linux/seccomp", "prepare the filter")
            if entries > _TREE:
                self._c.seccomp_attr_set(context, _FLTATR_CTL_OPTIMIZE, 2)  # libseccomp before 2.5 has none: a list
            for rule in rules:
                conditions = (_Condition * len(rule.conditions))(*(_Condition(*parts) for parts in rule.conditions))
                result = self._c.seccomp_rule_add_array(context, rule.action, rule.number, len(conditions), conditions)
                self._check(result, rule.pointer, f"the rule for {rule.name}")
            return self._export(context)
        finally:
            self._c.seccomp_release(context)

    @staticmethod
    def _check(result: int, pointer: str, what: str, ignored: int = 0) -> None:
        if result < 0 and -result != ignored:
            hint = {
                errno.EINVAL: "libseccomp refuses it",
                errno.EACCES: "libseccomp refuses it: it is the same as the default action",
                errno.EEXIST: "another rule says otherwise of the same call",
                errno.EOPNOTSUPP: "the kernel does not know this action",
                errno.EDOM: "its arguments can't be filtered on one of the architectures",
            }.get(-result, "")
            raise ConfigError(pointer, what, errno=-result, hint=hint)

    def _export(self, context: int) -> bytes:
        fd = os.memfd_create("pyrunc-seccomp", os.MFD_CLOEXEC)
        try:
            self._check(self._c.seccomp_export_bpf(context, fd), "/linux/seccomp", "compile the profile")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
