# SPDX-License-Identifier: Apache-2.0
"""linux.seccomp: what a profile means, and the filter it becomes (config-linux.md, Seccomp; seccomp(2)).

The parent plans and compiles before it forks; the process does one system call, as late as its
privileges allow.  Compiling is left to libseccomp, its result kept in a cache (seccomp_cache.py), so
that the second start loads no library.

What config-linux.md leaves open is as in runc: a rule that says what the default says anyway is
skipped, several conditions on one argument are rules of their own (one of them suffices), a name
that libseccomp doesn't know is passed over, and calls newer than the newest one that the profile
names fail with ENOSYS, so that programs fall back to older calls (`newer_calls`).
"""

from __future__ import annotations

import os
from _struct import pack

from . import seccomp_cache as cache
from .errors import ConfigError
from .linux import seccomp as k
from .spec.load import dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .libseccomp import Library
    from .spec.types import Seccomp

ACTIONS = {
    "SCMP_ACT_KILL": k.RET_KILL_THREAD, "SCMP_ACT_KILL_THREAD": k.RET_KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": k.RET_KILL_PROCESS, "SCMP_ACT_TRAP": k.RET_TRAP, "SCMP_ACT_ERRNO": k.RET_ERRNO,
    "SCMP_ACT_TRACE": k.RET_TRACE, "SCMP_ACT_ALLOW": k.RET_ALLOW, "SCMP_ACT_LOG": k.RET_LOG,
    "SCMP_ACT_NOTIFY": k.RET_USER_NOTIF,
}
#: enum scmp_compare.
OPERATORS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": k.FLAG_TSYNC, "SECCOMP_FILTER_FLAG_LOG": k.FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": k.FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": k.FLAG_WAIT_KILLABLE_RECV,
}

#: What of a profile the program depends on.
_COMPILED = ("defaultAction", "defaultErrnoRet", "architectures", "syscalls")
#: What the init surely calls after it has loaded a filter with a listener, before execve: see init.py.
_FOR_AGENTS = ("write", "read", "close", "openat", "rt_sigaction", "rt_sigprocmask")
_EPERM = 1
_ENOSYS = 38
_WITH_ERRNO = (k.RET_ERRNO, k.RET_TRACE)
_DENYING = (k.RET_KILL_THREAD, k.RET_KILL_PROCESS, k.RET_TRAP, k.RET_ERRNO)
_DATA = 0xFFFF

_X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64, which the kernel has for x32 programs too
_X32 = 0x4000003E  # libseccomp's own, to tell them apart
_X32_BIT = 0x40000000  # in the number of a call made by an x32 program
_S390 = (0x00000016, 0x80000016)


class Rule:
    """`action` for the call `number` when all `conditions` (argument, operator, value, second value) hold."""

    __slots__ = ("action", "conditions", "name", "number", "pointer")

    def __init__(self, pointer: str, name: str, number: int, action: int,
                 conditions: list[tuple[int, int, int, int]]) -> None:
        self.pointer = pointer
        self.name = name
        self.number = number
        self.action = action
        self.conditions = conditions


class Filter:
    """The filter of linux.seccomp; `prepare` compiles it, `load` puts the calling thread under it.

    `listens` says that some calls are left to an agent; `warnings` are (level, text) for a report;
    `by_user` that an ordinary user's runtime will fetch the listener.
    """

    __slots__ = ("by_user", "flags", "lines", "listens", "metadata", "path", "profile", "program", "warnings")

    def __init__(self, profile: Seccomp) -> None:
        """Raises ConfigError."""
        self.profile = profile
        self.path = profile.get("listenerPath") or ""
        self.metadata = profile.get("listenerMetadata") or ""
        self.listens = any(rule["action"] == "SCMP_ACT_NOTIFY" and rule["names"]
                           for rule in profile.get("syscalls") or ())
        self.by_user = os.geteuid() != 0
        self.program = b""
        self.warnings: list[tuple[str, str]] = []
        self.flags = self._flags()
        self._require("execve", "by which the program is started")
        for name in _FOR_AGENTS if self.listens else ():
            self._require(name, "which the runtime needs once the agent has the filter's listener")
        count = sum(len(rule["names"]) for rule in profile.get("syscalls") or ())
        self.lines = [("/linux/seccomp", f"seccomp: {profile['defaultAction']}, but for {count} calls")]
        if self.listens:
            self.lines.append(("/linux/seccomp/listenerPath", f"seccomp: the agent at {self.path} answers for some"))

    def _flags(self) -> int:
        names = self.profile.get("flags")
        if names is None:
            # No flags at all (an empty list is some) mean the quickest, as with runc: the mitigation of
            # Speculative Store Bypass that a filter switches on otherwise is dear (prctl(2), PR_SPEC_STORE_BYPASS).
            flags = k.FLAG_SPEC_ALLOW if k.flag_known(k.FLAG_SPEC_ALLOW) else 0
        else:
            flags = 0
            for index, name in enumerate(names):
                if not k.flag_known(FLAGS[name]):
                    raise ConfigError(f"/linux/seccomp/flags/{index}", f"this kernel does not know {name}")
                flags |= FLAGS[name]
        # There is one thread only, and the kernel refuses this together with a listener.
        flags &= ~k.FLAG_TSYNC
        if self.listens:
            if not k.action_known(k.RET_USER_NOTIF) or not k.flag_known(k.FLAG_NEW_LISTENER):
                raise ConfigError("/linux/seccomp", "this kernel does not know SCMP_ACT_NOTIFY",
                                  hint="needs Linux 5.0")
            return flags | k.FLAG_NEW_LISTENER
        return flags & ~k.FLAG_WAIT_KILLABLE_RECV

    def _require(self, name: str, why: str) -> None:
        """Refuse a profile that surely forbids what has to follow: the kernel would not say why."""
        action = self.profile["defaultAction"]
        for rule in self.profile.get("syscalls") or ():
            if name in rule["names"]:
                if rule.get("args"):
                    return
                action = rule["action"]
                break
        if ACTIONS[action] in _DENYING:
            raise ConfigError("/linux/seccomp", f"{action} for {name}, {why}", hint=f"allow {name}")

    def prepare(self) -> None:
        """Compile, or find the result of having compiled before.  Raises PyruncError."""
        wanted = {name: self.profile.get(name) for name in _COMPILED}
        key = cache.key(dump(wanted).encode("utf-8", "surrogatepass"))
        directory = cache.open_directory()
        try:
            found = cache.read(directory, key) if directory >= 0 else None
            if found is None:
                from .libseccomp import Library

                library = Library()
                found = cache.Entry(library.version_text, library.path, *translate(self.profile, library))
                if directory >= 0:
                    cache.write(directory, key, found)
        finally:
            if directory >= 0:
                os.close(directory)
        self.program = found.program
        self.warnings = [(str(level), str(text)) for level, text in found.warnings]

    def load(self) -> int:
        """Filter the calling thread; the listener's descriptor, -1 if there is none.  Raises OSError."""
        fd = k.set_filter(self.program, self.flags)
        return fd if self.listens else -1


def translate(profile: Seccomp, library: Library) -> tuple[bytes, list[tuple[str, str]]]:
    """The program for the profile, and what is to be told of it.  Raises ConfigError."""
    told: list[tuple[str, str]] = []
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    architectures = _architectures(profile, library)
    rules = _rules(profile, default, library, told)
    names = [name for entry in profile.get("syscalls") or () for name in entry["names"]]
    program = library.compile(default, architectures, rules, len(names))
    # A tracer or a log is not hindered, and who asked for ENOSYS has it.
    if default & ~_DATA in _DENYING and default != k.RET_ERRNO | _ENOSYS:
        program = newer_calls(_newest(architectures, names, library, told)) + program
    if len(program) > k.MAX_INSTRUCTIONS * k.INSTRUCTION:
        raise ConfigError("/linux/seccomp/syscalls", f"the filter has {len(program) // k.INSTRUCTION} "
                          f"instructions; the kernel takes {k.MAX_INSTRUCTIONS}")
    return program, told


def _action(name: str, number: int | None) -> int:
    action = ACTIONS[name]
    return action | (_EPERM if number is None else number) & _DATA if action in _WITH_ERRNO else action


def _architectures(profile: Seccomp, library: Library) -> list[tuple[str, int]]:
    found = []
    for index, name in enumerate(profile.get("architectures") or ()):
        pointer = f"/linux/seccomp/architectures/{index}"
        token = library.architecture(name.removeprefix("SCMP_ARCH_").lower())
        if not token:
            raise ConfigError(pointer, f"libseccomp {library.version_text} does not know {name}")
        found.append((pointer, token))
    return found


def _rules(profile: Seccomp, default: int, library: Library, told: list[tuple[str, str]]) -> list[Rule]:
    rules = []
    for index, entry in enumerate(profile.get("syscalls") or ()):
        action = _action(entry["action"], entry.get("errnoRet"))
        if action == default:
            continue
        conditions = [(arg["index"], OPERATORS[arg["op"]], arg["value"], arg.get("valueTwo") or 0)
                      for arg in entry.get("args") or ()]
        arguments = [condition[0] for condition in conditions]
        apart = len(set(arguments)) < len(arguments)
        for place, name in enumerate(entry["names"]):
            pointer = f"/linux/seccomp/syscalls/{index}/names/{place}"
            number = library.number(name)
            if number is None:
                # Profiles name calls that come with newer kernels.  Not to allow one is harmless; not to
                # forbid one should be known.
                level = "warning" if action & ~_DATA in _DENYING else "debug"
                told.append((level, f'{pointer}: libseccomp {library.version_text} knows no call "{name}": ignored'))
            elif apart:
                rules += [Rule(pointer, name, number, action, [condition]) for condition in conditions]
            else:
                rules.append(Rule(pointer, name, number, action, conditions))
    return rules


def _newest(architectures: list[tuple[str, int]], names: list[str], library: Library,
            told: list[tuple[str, str]]) -> dict[int, int]:
    """The highest number of a call that the profile names, by each architecture's token.

    Of the machine's own where it names none, as runc does since 1.1.13.
    """
    newest = {}
    named: list[tuple[str | None, int]] = [*architectures]
    for pointer, token in named or [(None, library.native)]:
        highest = max((library.number(name, token) or 0 for name in names), default=0)
        if highest > 0:
            newest[token] = highest
        elif pointer is not None:
            told.append(("warning", f"{pointer}: the profile names no call of this architecture"))
    return newest


def newer_calls(newest: dict[int, int]) -> bytes:
    """The beginning of a program: ENOSYS for calls above the newest one, by architecture; else on to what follows.

    A C library tries a new call first and falls back to an old one on ENOSYS, but not on EPERM.  x32 programs
    share x86_64's token; their calls have a bit set, and a limit of their own.
    """
    program = b""
    limits: dict[int, list[tuple[int, int]]] = {}
    for token, highest in newest.items():
        x32 = token == _X32
        limits.setdefault(_X86_64 if x32 else token, []).append((_X32_BIT if x32 else 0, highest))
    for token, entries in limits.items():
        section = pack("=HBBI", 0x20, 0, 0, 0)  # A = data.nr
        if token in _S390:
            # Calls the kernel doesn't know arrive there as number 0, which was setup(2) once.
            section += pack("=HBBI", 0x15, 0, 1, 0) + _return_enosys()
        for bit, highest in entries:
            check = pack("=HBBI", 0x25, 0, 1, highest) + _return_enosys()  # A > highest: return
            if token == _X86_64:
                # A & bit: skip the check when it is the other kind's.
                check = pack("=HBBI", 0x45, 0 if bit else 2, 2 if bit else 0, _X32_BIT) + check
            section += check
        # A = data.arch; another one: skip the section.
        program += pack("=HBBI", 0x20, 0, 0, 4) + pack("=HBBI", 0x15, 0, len(section) // k.INSTRUCTION, token) + section
    return program


def _return_enosys() -> bytes:
    return pack("=HBBI", 0x06, 0, 0, k.RET_ERRNO | _ENOSYS)
