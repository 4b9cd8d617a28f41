# SPDX-License-Identifier: Apache-2.0
"""linux.resources.devices: which devices may be read, written and made (config-linux.md, Allowed Device list).

The rules hold in order, the last that matches decides, for each kind of access on its own.
`effective` reduces them to what they come to; devices_bpf.py makes a program of that for v2,
`v1_writes` the writes that bring a v1 cgroup there (Documentation/admin-guide/cgroup-v1/devices.rst).
"""

from __future__ import annotations

import os

from . import cgroupfs
from .errors import ConfigError
from .limits import Write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .spec.types import Device, DeviceRule

    Key = tuple[str, int, int]

POINTER = "/linux/resources/devices"
ANY = -1

# The bits are those of BPF_DEVCG_ACC_* (linux/bpf.h).
MKNOD = 1
READ = 2
WRITE = 4
ALL = MKNOD | READ | WRITE
_BITS = {"m": MKNOD, "r": READ, "w": WRITE}
_LETTERS = ["".join(letter for letter in "rwm" if bits & _BITS[letter]) for bits in range(ALL + 1)]
_MAX = 2**32 - 1


class Rule:
    """One rule: `allow` or not the `access` bits to the devices of `type` a, b or c, `major`, `minor` (or ANY)."""

    __slots__ = ("access", "allow", "major", "minor", "pointer", "type")

    def __init__(self, allow: bool, type: str, major: int, minor: int, access: int, pointer: str = POINTER) -> None:
        self.allow = allow
        self.type = type
        self.major = major
        self.minor = minor
        self.access = access
        self.pointer = pointer

    def __repr__(self) -> str:
        return f"<{'allow' if self.allow else 'deny'} {text((self.type, self.major, self.minor), self.access)}>"

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    @property
    def key(self) -> Key:
        return self.type, self.major, self.minor

    def covers(self, other: Rule) -> bool:
        """Whether each device of `other` is one of this rule's."""
        return (self.type in ("a", other.type) and self.major in (ANY, other.major)
                and self.minor in (ANY, other.minor))

    def meets(self, other: Rule) -> bool:
        """Whether they speak about the same access to some device."""
        return bool(self.access & other.access
                    and (self.type == other.type or "a" in (self.type, other.type))
                    and (self.major == other.major or ANY in (self.major, other.major))
                    and (self.minor == other.minor or ANY in (self.minor, other.minor)))


class Rules:
    """What a list of rules comes to: `default` (allowed or not) where none of `rules` decides, the last first asked."""

    __slots__ = ("default", "rules")

    def __init__(self, default: bool, rules: Sequence[Rule] = ()) -> None:
        self.default = default
        self.rules = list(rules)

    def __repr__(self) -> str:
        return f"<{'allow' if self.default else 'deny'} all, {self.rules}>"

    @property
    def allows_all(self) -> bool:
        return self.default and not self.rules

    def add(self, rule: Rule) -> None:
        """Take `rule` in as the last one, and drop what it makes void."""
        if rule.access == ALL and rule.type == "a" and rule.major == ANY and rule.minor == ANY:
            self.default = rule.allow
            self.rules = []
            return
        kept = []
        for old in self.rules:
            if old.access & rule.access and old.allow != rule.allow and rule.covers(old):
                left = old.access & ~rule.access
                if not left:
                    continue
                old = Rule(old.allow, old.type, old.major, old.minor, left, old.pointer)
            kept.append(old)
        self.rules = kept
        for index in range(len(kept) - 1, -1, -1):
            old = kept[index]
            if old.allow != rule.allow:
                if old.meets(rule):
                    break
            elif old.covers(rule) and not rule.access & ~old.access:
                return  # it is so already
            elif old.key == rule.key:
                # Nothing between them says otherwise about these devices.
                kept[index] = Rule(old.allow, old.type, old.major, old.minor, old.access | rule.access, old.pointer)
                return
        else:
            if rule.allow == self.default:
                return
        kept.append(rule)


# What every container may do, as with runc: it is appended, so a configuration's rules can't take it
# away.  A node at one of these paths in linux.devices takes the place of the rule.
_DEFAULTS = (
    ("", "c", ANY, ANY, MKNOD),
    ("", "b", ANY, ANY, MKNOD),
    ("/dev/null", "c", 1, 3, ALL),
    ("/dev/random", "c", 1, 8, ALL),
    ("/dev/full", "c", 1, 7, ALL),
    ("/dev/tty", "c", 5, 0, ALL),
    ("/dev/zero", "c", 1, 5, ALL),
    ("/dev/urandom", "c", 1, 9, ALL),
    ("", "c", 136, ANY, ALL),  # /dev/pts/N
    ("", "c", 5, 2, ALL),  # /dev/ptmx
    ("", "c", 10, 200, ALL),  # /dev/net/tun
)


def effective(rules: Iterable[DeviceRule], nodes: Iterable[Device] = ()) -> Rules:
    """The state that `rules` of a configuration lead to, the runtime's default list after them.

    Before the first rule everything is denied.  `nodes` is linux.devices: being there doesn't make a
    device accessible (an engine gives a device for reading only by a node and a rule `r`).  Raises
    ConfigError.
    """
    result = Rules(False)
    for index, entry in enumerate(rules):
        result.add(_parse(entry, f"{POINTER}/{index}"))
    replaced = {node["path"] for node in nodes}
    for path, kind, major, minor, access in _DEFAULTS:
        if not path or path not in replaced:
            result.add(Rule(True, kind, major, minor, access))
    return result


def _parse(entry: DeviceRule, pointer: str) -> Rule:
    kind = entry.get("type", "a")
    if kind not in ("a", "b", "c"):
        raise ConfigError(f"{pointer}/type", f"{kind!a} is not a, b or c")
    access = entry.get("access", "rwm")
    bits = 0
    for letter in access:
        if letter not in _BITS:
            raise ConfigError(f"{pointer}/access", f"{access!a} has letters other than r, w and m")
        bits |= _BITS[letter]
    if not bits:
        raise ConfigError(f"{pointer}/access", "is empty", hint="leave it out for rwm")
    return Rule(bool(entry["allow"]), kind, _number(entry.get("major"), f"{pointer}/major"),
                _number(entry.get("minor"), f"{pointer}/minor"), bits, pointer)


def _number(value: int | None, pointer: str) -> int:
    if value is None:
        return ANY
    if not ANY <= value <= _MAX:
        raise ConfigError(pointer, f"{value} is no device number", hint="-1, or leaving it out, means any")
    return value


def text(key: Key, access: int) -> str:
    """A rule in the kernel's words: `c 1:* rw`."""
    kind, major, minor = key
    return f"{kind} {_star(major)}:{_star(minor)} {_LETTERS[access]}"


def _star(number: int) -> str:
    return "*" if number == ANY else str(number)


# Version 1

def current(directory: str) -> str:
    """The devices.list of a v1 cgroup, for `v1_writes`."""
    try:
        return cgroupfs.read(f"{directory}/devices.list")
    except OSError:
        return ""  # the first write will tell


def enforceable() -> bool:
    """Whether this process may restrict devices at all: not an ordinary user, nor in a user namespace.

    There the kernel itself lets no device be made, so as in runc it is no error.
    """
    if os.geteuid() != 0:
        return False
    try:
        return cgroupfs.read("/proc/self/uid_map").split() == ["0", "0", "4294967295"]
    except OSError:
        return True


def v1_writes(wanted: Rules, current_list: str) -> list[Write]:
    """The fewest writes from the devices.list a v1 cgroup has to `wanted`; none where it isn't `enforceable`.

    What both allow is allowed throughout, except where an allow-all becomes a list: the kernel has no
    single step for that.  Raises ConfigError for what v1 can't express: an exception to an exception.
    """
    if not enforceable():
        return []
    exceptions = _exceptions(wanted)
    return _transition(wanted.default, exceptions, *_parse_list(current_list))


def restore(directory: str, before: str) -> None:
    """Bring a v1 cgroup back to the devices.list it had (a deny-list isn't told by the kernel: then to allow all)."""
    default, exceptions = _parse_list(before)
    for write in _transition(default, exceptions, *_parse_list(current(directory))):
        try:
            cgroupfs.write(f"{directory}/{write.file}", write.value)
        except OSError:
            continue  # what led here is the error to tell


def _exceptions(wanted: Rules) -> dict[Key, int]:
    """The exceptions to the default, in v1's one unordered list."""
    found: dict[Key, int] = {}
    for rule in wanted.rules:
        if rule.allow == wanted.default:
            wider = next((other for other in wanted.rules if other.allow != rule.allow and other.meets(rule)), rule)
            raise ConfigError(rule.pointer, f"cgroup v1 can't except {text(rule.key, rule.access)} "
                                            f"from the wider {text(wider.key, wider.access)}",
                              hint="name the devices one by one, or use a host with cgroup v2")
        for kind in "bc" if rule.type == "a" else rule.type:
            key = kind, rule.major, rule.minor
            found[key] = found.get(key, 0) | rule.access
    if not wanted.default:
        _widen(found)
    return found


def _widen(found: dict[Key, int]) -> None:
    """v1 wants one entry to allow all of a request: reading and writing by two entries is not enough."""
    wild = [(key, access) for key, access in found.items() if ANY in key and access & (READ | WRITE)]
    for (kind, major, minor), access in wild:
        for key in found:
            if kind == key[0] and major in (ANY, key[1]) and minor in (ANY, key[2]) and found[key] & (READ | WRITE):
                found[key] |= access & (READ | WRITE)


def _parse_list(text: str) -> tuple[bool, dict[Key, int] | None]:
    """The default and the exceptions; of a deny-list the kernel shows only `a *:* rwm` (None)."""
    found: dict[Key, int] = {}
    for line in text.splitlines():
        kind, numbers, access = line.split()
        if kind == "a":
            return True, None
        major, minor = (ANY if number == "*" else int(number) for number in numbers.split(":"))
        bits = 0
        for letter in access:
            bits |= _BITS[letter]
        found[kind, major, minor] = bits
    return False, found


def _transition(default: bool, wanted: dict[Key, int] | None, was_default: bool,
                was: dict[Key, int] | None) -> list[Write]:
    writes = []
    if default or was is None or was_default:
        writes.append(_write(default, "a"))
        was = {}
    wanted = wanted or {}
    # First what is gained: a device that moves from one entry to another is never without.
    for key, access in wanted.items():
        if gained := access & ~was.get(key, 0):
            writes.append(_write(not default, text(key, gained)))
    for key, access in was.items():
        if lost := access & ~wanted.get(key, 0):
            writes.append(_write(default, text(key, lost)))
    return writes


_HINTS = {
    True: "a cgroup can't allow a device that the one above it denies",
    False: "a cgroup that has cgroups below it can't change to another default",
}


def _write(allow: bool, value: str) -> Write:
    # These files can't be read, and what takes a write back goes to the other: `restore` does it.
    hint = _HINTS[allow] if value != "a" else f"{_HINTS[True]}, and {_HINTS[False]}"
    return Write("devices", "devices.allow" if allow else "devices.deny", value, POINTER, hint=hint,
                 undo=lambda before: [])
