# SPDX-License-Identifier: Apache-2.0
"""config-linux.md, Allowed Device list: what rules come to, in itself, as a v2 program, and as v1 writes."""

from __future__ import annotations

import re
from _struct import iter_unpack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrunc import device_rules, devices_bpf
from pyrunc.device_rules import ALL, MKNOD, READ, WRITE, Rule, Rules
from pyrunc.errors import ConfigError

BITS = {"m": MKNOD, "r": READ, "w": WRITE}


def rule(allow: bool, what: str = "", access: str | None = None) -> Any:
    """An entry of the configuration, from `c 1:3 rw`."""
    entry: dict[str, Any] = {"allow": allow}
    match = re.fullmatch(r"(\w) (\*|\d+):(\*|\d+) (\w+)", what)
    if match:
        entry.update(type=match[1], access=match[4])
        entry.update({key: int(match[n]) for key, n in (("major", 2), ("minor", 3)) if match[n] != "*"})
    if access is not None:
        entry["access"] = access
    return entry


def reduced(*entries: Any) -> Rules:
    """Without the runtime's own list."""
    rules = Rules(False)
    for index, entry in enumerate(entries):
        rules.add(device_rules._parse(entry, f"/linux/resources/devices/{index}"))
    return rules


def naive(entries: list[dict[str, Any]], kind: str, major: int, minor: int, access: int) -> bool:
    """The specification, word for word: the last rule that matches, for each kind of access."""
    for letter, bit in BITS.items():
        if not access & bit:
            continue
        verdict = False
        for entry in entries:
            if (entry.get("type", "a") in ("a", kind) and entry.get("major", -1) in (-1, major)
                    and entry.get("minor", -1) in (-1, minor) and letter in entry.get("access", "rwm")):
                verdict = entry["allow"]
        if not verdict:
            return False
    return True


def interpret(program: bytes, kind: str, major: int, minor: int, access: int) -> bool:
    """A small eBPF machine: what the kernel would answer."""
    instructions = list(iter_unpack("=BBhi", program))
    context = {0: access << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    r: list[Any] = [None] * 11
    r[1] = "context"
    at = 0
    while True:
        code, registers, offset, value = instructions[at]
        to, source = registers & 15, registers >> 4
        at += 1
        if code == 0x61:
            assert r[source] == "context"
            r[to] = context[offset]
        elif code == 0xB7:
            r[to] = value
        elif code in (0xBF, 0xBC):
            r[to] = r[source]
        elif code == 0xA4:
            r[to] ^= value & 0xFFFFFFFF
        elif code == 0x54:
            r[to] &= value & 0xFFFFFFFF
        elif code == 0x74:
            r[to] >>= value
        elif code == 0x05:
            at += offset
        elif code == 0x55:
            at += offset if r[to] != value else 0
        elif code == 0x45:
            at += offset if r[to] & value else 0
        elif code == 0x95:
            assert r[0] in (0, 1)
            return bool(r[0])
        else:
            raise AssertionError(f"opcode {code:#x}")


class V1:
    """The kernel's v1 controller (security/device_cgroup.c): a default, and exceptions without an order."""

    def __init__(self) -> None:
        self.default = True
        self.exceptions: dict[tuple[str, str], set[str]] = {}

    def write(self, allow: bool, value: str) -> None:
        if value == "a":
            self.default, self.exceptions = allow, {}
            return
        kind, numbers, access = value.split()
        held = self.exceptions.setdefault((kind, numbers), set())
        if allow != self.default:
            held |= set(access)
        else:
            held -= set(access)
        if not held:
            del self.exceptions[kind, numbers]

    def list(self) -> str:
        if self.default:
            return "a *:* rwm\n"
        return "".join(f"{kind} {numbers} {''.join(sorted(access))}\n"
                       for (kind, numbers), access in self.exceptions.items())

    def allows(self, kind: str, major: int, minor: int, access: str) -> bool:
        matching = [held for (other, numbers), held in self.exceptions.items()
                    if other == kind and numbers.split(":")[0] in ("*", str(major))
                    and numbers.split(":")[1] in ("*", str(minor))]
        if self.default:
            return not any(held & set(access) for held in matching)
        return any(set(access) <= held for held in matching)


numbers = st.sampled_from([-1, 0, 1, 2, 5000])
entry = st.fixed_dictionaries(
    {"allow": st.booleans()},
    optional={"type": st.sampled_from("abc"), "major": numbers, "minor": numbers,
              "access": st.sampled_from(["r", "w", "m", "rw", "rm", "wm", "rwm"])})
entries = st.lists(entry, max_size=8)
REQUESTS = [(kind, major, minor, access) for kind in "bc" for major in (0, 1, 3) for minor in (0, 1, 2)
            for access in range(1, ALL + 1)]


@settings(max_examples=600, deadline=None)
@given(entries)
def test_a_program_decides_as_the_last_match_does(rules: list[dict[str, Any]]) -> None:
    program = devices_bpf.program(reduced(*rules))
    for request in REQUESTS:
        assert interpret(program, *request) == naive(rules, *request), request


@settings(max_examples=400, deadline=None)
@given(entries, entries)
def test_v1_gets_there_too(before: list[dict[str, Any]], rules: list[dict[str, Any]]) -> None:
    """From any state, unless refused; and nothing that both allow is denied meanwhile."""
    kernel = V1()
    try:
        for write in device_rules.v1_writes(reduced(*before), kernel.list()):
            kernel.write(write.file == "devices.allow", write.value)
        wanted = reduced(*rules)
        writes = device_rules.v1_writes(wanted, kernel.list())
    except ConfigError as error:
        assert re.match(r"/linux/resources/devices/\d: cgroup v1 can't except", str(error))
        return
    single = [request for request in REQUESTS if request[3] in BITS.values()]
    both = [request for request in single if naive(rules, *request) and allows(kernel, request)]
    switches = kernel.default and not wanted.default  # the kernel has no single step for that
    for write in writes:
        kernel.write(write.file == "devices.allow", write.value)
        if not switches:
            assert all(allows(kernel, request) for request in both), write
    for request in single:
        assert allows(kernel, request) == naive(rules, *request), request


def allows(kernel: V1, request: tuple[str, int, int, int]) -> bool:
    kind, major, minor, access = request
    return kernel.allows(kind, major, minor, "".join(letter for letter, bit in BITS.items() if access & bit))


# Reduction

@pytest.mark.parametrize(("given_rules", "default", "left"), [
    ([], False, []),
    ([rule(True)], True, []),
    ([rule(True), rule(False)], False, []),
    ([rule(True, "c 1:3 rwm"), rule(False)], False, []),
    ([rule(True, "c 1:3 r"), rule(True, "c 1:3 w")], False, ["allow c 1:3 rw"]),
    ([rule(True, "c 1:3 rw"), rule(False, "c 1:3 w")], False, ["allow c 1:3 r"]),
    ([rule(True, "c 1:3 rw"), rule(False, "c 1:* rwm")], False, []),
    ([rule(True, "c 1:* rwm"), rule(True, "c 1:3 r")], False, ["allow c 1:* rwm"]),
    ([rule(True, "c 1:* rwm"), rule(False, "c 1:3 w")], False, ["allow c 1:* rwm", "deny c 1:3 w"]),
    ([rule(False, "c 1:3 rwm")], False, []),
    ([rule(True), rule(False, "b 8:* rwm"), rule(True, "b 8:* m")], True, ["deny b 8:* rw"]),
    ([rule(True, "a 1:3 r")], False, ["allow a 1:3 r"]),  # a with numbers is not a reset
    ([{"allow": True, "type": "c", "major": -1, "minor": -1}], False, ["allow c *:* rwm"]),
])
def test_reduced(given_rules: list[dict[str, Any]], default: bool, left: list[str]) -> None:
    rules = reduced(*given_rules)
    assert rules.default is default
    assert [repr(each).strip("<>") for each in rules.rules] == left


DEFAULT_LIST = ["c *:* m", "b *:* m", "c 1:3 rwm", "c 1:8 rwm", "c 1:7 rwm", "c 5:0 rwm", "c 1:5 rwm", "c 1:9 rwm",
                "c 136:* rwm", "c 5:2 rwm", "c 10:200 rwm"]


def test_the_default_list_follows() -> None:
    """It can't be denied; but a node at its place takes a default's place, as in runc."""
    for rules in ([], [rule(False)], [rule(True), rule(False)], [rule(False, "c 1:3 rwm")]):
        assert [repr(each) for each in device_rules.effective(rules).rules] == [
            f"<allow {each}>" for each in DEFAULT_LIST]
    node: Any = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3}
    left = device_rules.effective([rule(True, "c 1:3 r")], [node])
    assert Rule(True, "c", 1, 3, READ) in left.rules
    assert device_rules.effective([rule(True)], []).allows_all


@pytest.mark.parametrize(("bad", "text"), [
    ({"allow": True, "access": ""}, "/1/access: is empty"),
    ({"allow": True, "access": "rx"}, "/1/access: 'rx' has letters other than"),
    ({"allow": True, "type": "p"}, "/1/type: 'p' is not a, b or c"),
    ({"allow": True, "type": "c", "major": -2}, "/1/major: -2 is no device number"),
    ({"allow": True, "type": "c", "minor": 2**32}, "/1/minor: 4294967296 is no device number"),
])
def test_bad_rules(bad: Any, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        device_rules.effective([rule(True), bad])
    assert str(caught.value).startswith(f"/linux/resources/devices{text}")


# Version 1

def v1(rules: Rules, current: str) -> list[str]:
    return [f"{write.file} {write.value}" for write in device_rules.v1_writes(rules, current)]


def test_v1_of_a_new_container() -> None:
    writes = v1(device_rules.effective([rule(False)]), "a *:* rwm\n")
    assert writes == ["devices.deny a", *(f"devices.allow {each}" for each in DEFAULT_LIST)]


def test_v1_only_what_changes() -> None:
    """What is gained comes before what is lost."""
    current = "c 1:3 rwm\nc 1:5 rwm\nb 8:0 r\n"
    wanted = reduced(rule(True, "c 1:* rwm"), rule(True, "c 1:3 rwm"), rule(True, "b 8:0 rw"))
    assert v1(wanted, current) == ["devices.allow c 1:* rwm", "devices.allow b 8:0 w", "devices.deny c 1:3 rwm",
                                   "devices.deny c 1:5 rwm"]
    assert v1(reduced(rule(True, "c 1:3 rwm")), "c 1:3 rwm\n") == []
    assert v1(reduced(rule(True), rule(False, "c 1:3 w")), "a *:* rwm\n") == ["devices.allow a",
                                                                                    "devices.deny c 1:3 w"]


def test_v1_reading_by_one_rule_and_writing_by_another() -> None:
    """v1 asks for one entry that allows both."""
    assert v1(reduced(rule(True, "c 1:* r"), rule(True, "c 1:3 w")), "") == ["devices.allow c 1:* r",
                                                                                  "devices.allow c 1:3 rw"]


def test_v1_has_no_exception_to_an_exception() -> None:
    with pytest.raises(ConfigError) as caught:
        v1(reduced(rule(True, "c 1:* rwm"), rule(False, "c 1:3 w")), "")
    assert str(caught.value).startswith("/linux/resources/devices/1: cgroup v1 can't except c 1:3 w from the wider "
                                        "c 1:* rwm")


def test_a_program_of_very_many_rules() -> None:
    """No jump is longer than a rule."""
    many = reduced(*(rule(True, f"c {n % 4000}:{n} rw") for n in range(12000)[::40]))
    program = devices_bpf.program(many)
    assert interpret(program, "c", 40, 40, READ | WRITE)
    assert not interpret(program, "c", 40, 41, READ)
    assert not interpret(program, "c", 40, 40, MKNOD)
    assert max(abs(offset) for _, _, offset, _ in iter_unpack("=BBhi", program)) < 12
