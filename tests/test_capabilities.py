# SPDX-License-Identifier: Apache-2.0
"""process.capabilities: granted, warned about, applied (config.md, Linux Process)."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from pyrunc import capabilities
from pyrunc.capabilities import NAMES, CapabilitySets, from_config, parse_set
from pyrunc.linux import process as kernel

EVERY = (1 << (capabilities.last_cap() + 1)) - 1
CHOWN, KILL, SETPCAP, NET_RAW = (
    1 << NAMES.index("CAP_" + name) for name in ("CHOWN", "KILL", "SETPCAP", "NET_RAW"))


def in_child(function: Callable[[], str]) -> str:
    """What `function` returns in a process of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = function()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return text


def status_masks() -> list[int]:
    """CapInh, CapPrm, CapEff, CapBnd, CapAmb as proc(5) shows them."""
    with open("/proc/self/status") as status:
        return [int(line.split()[1], 16) for line in status if line.startswith("Cap")]


def test_the_table_is_complete_for_this_kernel() -> None:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        assert capabilities.last_cap() == int(file.read())
    assert len(NAMES) == 41 and NAMES[0] == "CAP_CHOWN" and NAMES[40] == "CAP_CHECKPOINT_RESTORE"
    assert (NAMES[21], NAMES[37], NAMES[39]) == ("CAP_SYS_ADMIN", "CAP_AUDIT_READ", "CAP_BPF")
    assert capabilities.known() == list(NAMES[: capabilities.last_cap() + 1])


def test_last_cap_without_procfs(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = capabilities.last_cap()
    monkeypatch.setattr(capabilities, "_last_cap", -1)

    def no_procfs(*_: object, **__: object) -> int:
        raise FileNotFoundError(2, "no procfs")

    monkeypatch.setattr(os, "open", no_procfs)
    assert capabilities.last_cap() == expected


def test_parse_set() -> None:
    assert parse_set(["CAP_CHOWN", "CAP_KILL", "CAP_CHOWN"]) == (CHOWN | KILL, [])
    # Names are exact, as runc's are.
    names = ["CAP_CHOWN", "cap_kill", "KILL", "CAP_X", "CAP_X"]
    assert parse_set(names) == (CHOWN, ["cap_kill", "KILL", "CAP_X"])


def test_a_name_the_kernel_does_not_know_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "_last_cap", 37)  # Linux 5.7
    assert parse_set(["CAP_AUDIT_READ", "CAP_BPF"]) == (1 << 37, ["CAP_BPF"])


def test_without_capabilities_all_sets_are_empty() -> None:
    assert from_config(None, EVERY, EVERY) == (CapabilitySets(), [])
    assert from_config({}, EVERY, EVERY) == (CapabilitySets(), [])


def test_all_five_sets() -> None:
    every = {name: ["CAP_CHOWN", "CAP_KILL"] for name in CapabilitySets.__slots__}
    mask = CHOWN | KILL
    assert from_config(every, EVERY, EVERY) == (CapabilitySets(mask, mask, mask, mask, mask), [])


def test_unknown_is_a_warning_that_names_set_and_capability() -> None:
    sets, warnings = from_config({"bounding": ["CAP_CHOWN", "CAP_TEST"]}, EVERY, EVERY)
    assert sets == CapabilitySets(bounding=CHOWN)
    assert warnings == ["/process/capabilities/bounding: 'CAP_TEST' is unknown to this kernel: ignored"]


def test_what_the_runtime_lacks_is_a_warning_for_each_set() -> None:
    both = ["CAP_CHOWN", "CAP_KILL"]
    config = {"bounding": both, "permitted": both, "effective": ["CAP_KILL"]}
    sets, warnings = from_config(config, EVERY & ~KILL, EVERY & ~KILL)
    assert sets == CapabilitySets(permitted=CHOWN, bounding=CHOWN)
    assert [warning.split(": ")[0] for warning in warnings] == [
        f"/process/capabilities/{name}" for name in ("bounding", "permitted", "effective")]
    assert all("CAP_KILL can't be granted" in warning for warning in warnings)


def test_one_warning_names_all_of_a_set() -> None:
    many = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"]
    config = {"bounding": many, "permitted": many, "effective": many, "ambient": many}
    _, warnings = from_config(config, EVERY, EVERY, uid=1000)
    assert warnings == ["/process/capabilities/ambient: CAP_CHOWN, CAP_KILL, CAP_SETUID can't be granted "
                        "(not both permitted and inheritable): ignored"]


def test_root_is_not_warned_of_ambient_ones_that_are_not_inheritable() -> None:
    """Buildah asks for a dozen of them at every RUN step, `runc spec` for three; what isn't permitted is told."""
    config = {"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]}
    assert from_config(config, EVERY, EVERY, uid=0) == (CapabilitySets(bounding=KILL, permitted=KILL), [])
    config["ambient"] = ["CAP_CHOWN", "CAP_KILL"]
    _, warnings = from_config(config, EVERY, EVERY, uid=0)
    assert warnings == ["/process/capabilities/ambient: CAP_CHOWN can't be granted (not permitted): ignored"]


@pytest.mark.parametrize(("config", "culprit"), [
    ({"effective": ["CAP_KILL"]}, "effective"),
    ({"inheritable": ["CAP_KILL"]}, "inheritable"),
    ({"bounding": ["CAP_KILL"], "permitted": ["CAP_KILL"], "ambient": ["CAP_KILL"]}, "ambient"),
    ({"bounding": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}, "ambient"),
])
def test_what_the_kernel_would_refuse_is_dropped(config: dict[str, list[str]], culprit: str) -> None:
    sets, warnings = from_config(config, EVERY, EVERY)
    assert getattr(sets, culprit) == 0
    assert len(warnings) == 1 and warnings[0].startswith(f"/process/capabilities/{culprit}: CAP_KILL ")


def test_inheritable_beyond_permitted_needs_setpcap() -> None:
    config = {"bounding": ["CAP_KILL"], "inheritable": ["CAP_KILL"]}
    assert from_config(config, SETPCAP, EVERY)[0].inheritable == KILL
    assert from_config(config, CHOWN, EVERY)[0].inheritable == 0


def test_current_agrees_with_procfs() -> None:
    now = capabilities.current()
    assert status_masks() == [now.inheritable, now.permitted, now.effective, now.bounding, now.ambient]


def test_applied_as_root() -> None:
    def child() -> str:
        sets = CapabilitySets(CHOWN, CHOWN | KILL, CHOWN | NET_RAW, CHOWN | KILL | NET_RAW, CHOWN)
        capabilities.apply_bounding(sets.bounding)
        capabilities.apply(sets)
        assert capabilities.current() == sets
        return repr(status_masks())

    assert in_child(child) == repr([CHOWN | NET_RAW, CHOWN | KILL, CHOWN, CHOWN | KILL | NET_RAW, CHOWN])


def test_applied_after_setuid() -> None:
    """setuid(2) has emptied the effective set: CAP_SETPCAP has to come back for the inheritable set."""
    def child() -> str:
        sets = CapabilitySets(KILL, KILL, KILL | CHOWN, KILL | CHOWN, KILL)
        capabilities.apply_bounding(sets.bounding)
        kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
        os.setresuid(1000, 1000, 1000)
        capabilities.apply(sets)
        return repr(status_masks())

    assert in_child(child) == repr([KILL | CHOWN, KILL, KILL, KILL | CHOWN, KILL])


def test_ambient_of_before_is_cleared() -> None:
    def child() -> str:
        capabilities.apply(CapabilitySets(EVERY & status_masks()[1], status_masks()[1], KILL, 0, KILL))
        capabilities.apply(CapabilitySets(0, KILL, KILL))
        return hex(status_masks()[4])

    assert in_child(child) == "0x0"


def test_bounding_set_already_small_needs_no_privilege() -> None:
    def child() -> str:
        capabilities.apply_bounding(KILL)
        capabilities.apply(CapabilitySets(bounding=KILL))
        capabilities.apply_bounding(KILL)  # the control is below: one more to drop
        return hex(status_masks()[3])

    assert in_child(child) == hex(KILL)


def test_bounding_without_setpcap_says_what_failed() -> None:
    def child() -> str:
        capabilities.apply(CapabilitySets())
        capabilities.apply_bounding(0)
        return "dropped"

    assert in_child(child) == ("KernelError: /process/capabilities/bounding: drop CAP_CHOWN from the "
                               "bounding set: prctl: operation not permitted (EPERM)")
