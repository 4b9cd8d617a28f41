# SPDX-License-Identifier: Apache-2.0
"""config.md, Linux mount options: each of the table becomes what the kernel takes; the rest is data."""

from __future__ import annotations

import pytest

from pyrunc.errors import ConfigError
from pyrunc.mountopts import KNOWN_OPTIONS, MountOptions, parse

# Values of linux/mount.h, written out: a typing mistake in the constants must show.
RDONLY, NOSUID, NODEV, NOEXEC, NOATIME, STRICTATIME, NODIRATIME, NOSYMFOLLOW = 1, 2, 4, 8, 0x10, 0x20, 0x80, 0x200000
ATIME = 0x70
MS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "nosymfollow": 0x100, "noatime": 0x400, "nodiratime": 0x800,
      "relatime": 1 << 21, "strictatime": 1 << 24, "sync": 0x10, "dirsync": 0x80, "mand": 0x40, "silent": 0x8000,
      "iversion": 1 << 23, "lazytime": 1 << 25}

ATTRIBUTES = {
    "ro": (RDONLY, 0), "rw": (0, RDONLY),
    "nosuid": (NOSUID, 0), "suid": (0, NOSUID),
    "nodev": (NODEV, 0), "dev": (0, NODEV),
    "noexec": (NOEXEC, 0), "exec": (0, NOEXEC),
    "nodiratime": (NODIRATIME, 0), "diratime": (0, NODIRATIME),
    "nosymfollow": (NOSYMFOLLOW, 0), "symfollow": (0, NOSYMFOLLOW),
    "noatime": (NOATIME, ATIME), "relatime": (0, ATIME), "strictatime": (STRICTATIME, ATIME),
    "nostrictatime": (0, ATIME),
}

#: Those of config.md's table (runtime-spec 1.3.0).
SPEC_TABLE = """
    async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec
    noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime
    relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate
    rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid
    symfollow sync tmpcopyup unbindable idmap ridmap rnodev
"""


def of(*options: str) -> MountOptions:
    return parse(list(options), "/mounts/0")


def test_every_option_of_the_table_is_known() -> None:
    assert [name for name in SPEC_TABLE.split() if name not in KNOWN_OPTIONS] == []
    for name in SPEC_TABLE.split():
        assert of(name).data == [], f"{name} would be handed to the file system"


@pytest.mark.parametrize(("name", "bits"), ATTRIBUTES.items(), ids=str)
def test_an_attribute(name: str, bits: tuple[int, int]) -> None:
    options = of(name)
    assert (options.set, options.clear) == bits
    assert (options.recursive_set, options.recursive_clear) == (0, 0)


@pytest.mark.parametrize(("name", "bits"), ATTRIBUTES.items(), ids=str)
def test_its_recursive_form(name: str, bits: tuple[int, int]) -> None:
    """config.md: the r-forms are applied to the whole tree, with mount_setattr(2) and AT_RECURSIVE."""
    options = of("r" + name)
    assert (options.recursive_set, options.recursive_clear) == bits
    assert (options.set, options.clear) == (0, 0)


@pytest.mark.parametrize("name", ["atime", "norelatime"])
def test_the_default_access_times_need_no_bits_of_their_own(name: str) -> None:
    options = of(name)
    assert options.set == 0 and options.clear in (0, ATIME)
    assert of(name).old_flags() in (0, MS["relatime"])


@pytest.mark.parametrize(("off", "on"), [
    ("rw", "ro"), ("suid", "nosuid"), ("dev", "nodev"), ("exec", "noexec"), ("diratime", "nodiratime"),
    ("symfollow", "nosymfollow"),
])
def test_the_later_of_two_opposites_wins(off: str, on: str) -> None:
    bit = ATTRIBUTES[on][0]
    last_on, last_off = of(off, on), of(on, off)
    assert (last_on.set, last_on.clear) == (bit, 0)
    assert (last_off.set, last_off.clear) == (0, bit)
    recursive = of("r" + on, "r" + off)
    assert (recursive.recursive_set, recursive.recursive_clear) == (0, bit)


def test_the_last_access_time_mode_wins() -> None:
    """They are one field: MOUNT_ATTR__ATIME is cleared and one value set, or the kernel says EINVAL."""
    for last, value in (("noatime", NOATIME), ("relatime", 0), ("strictatime", STRICTATIME)):
        options = of("noatime", "strictatime", "relatime", last)
        assert options.set & ATIME == value
        assert options.clear & ATIME == ATIME & ~value or options.clear & ATIME == ATIME


def test_other_attributes_stay_when_one_is_cleared() -> None:
    options = of("ro", "nosuid", "nodev", "noexec", "dev")
    assert (options.set, options.clear) == (RDONLY | NOSUID | NOEXEC, NODEV)
    assert options.read_only and not of("ro", "rw").read_only


@pytest.mark.parametrize(("name", "flag", "old"), [
    ("sync", ["sync"], MS["sync"]), ("dirsync", ["dirsync"], MS["dirsync"]), ("mand", ["mand"], MS["mand"]),
    ("lazytime", ["lazytime"], MS["lazytime"]), ("iversion", ["iversion"], MS["iversion"]),
    ("silent", ["silent"], MS["silent"]), ("async", ["async"], 0), ("nomand", ["nomand"], 0),
    ("nolazytime", ["nolazytime"], 0), ("noiversion", [], 0), ("loud", [], 0), ("defaults", [], 0),
])
def test_a_superblock_flag(name: str, flag: list[str], old: int) -> None:
    options = of(name)
    assert options.superblock == flag
    assert options.old_flags() == old
    assert (options.set, options.clear) == (0, 0)


@pytest.mark.parametrize(("name", "flag"), [("unbindable", 1 << 17), ("private", 1 << 18), ("slave", 1 << 19),
                                            ("shared", 1 << 20)])
def test_propagation(name: str, flag: int) -> None:
    assert of(name).propagation == [(flag, False)]
    assert of("r" + name).propagation == [(flag, True)]
    assert of("slave", "rshared").propagation == [(1 << 19, False), (1 << 20, True)]  # in order: both are applied


def test_ways_of_mounting() -> None:
    assert (of("bind").bind, of("bind").recursive) == (True, False)
    assert (of("rbind").bind, of("rbind").recursive) == (True, True)
    assert of("bind", "rbind").recursive and of("rbind", "bind").recursive
    assert of("remount").remount and not of("ro").remount
    assert of("tmpcopyup").tmpcopyup and not of("ro").tmpcopyup
    assert (of("idmap").idmap, of("ridmap").idmap, of("ro").idmap) == ("idmap", "ridmap", "")


def test_what_nobody_knows_is_data_for_the_file_system() -> None:
    options = of("mode=755", "ro", "size=64k", "newinstance", "context=a=b", "gid=", "")
    assert options.data == [("mode", "755"), ("size", "64k"), ("newinstance", None), ("context", "a=b"), ("gid", "")]
    assert options.data_string() == "mode=755,size=64k,newinstance,context=a=b,gid="
    assert of("ro").data_string() is None
    assert of("RO").data == [("RO", None)]  # names are exact


def test_the_last_value_of_data_counts() -> None:
    assert of("mode=700", "mode=755").data_value("mode") == "755"
    assert of("size=1").data_value("mode") is None


def test_a_name_is_needed() -> None:
    with pytest.raises(ConfigError) as caught:
        of("ro", "=x")
    assert caught.value.pointer == "/mounts/0/options/1"


def test_for_mount_2_the_attributes_are_flags() -> None:
    options = of("ro", "nosuid", "nodev", "noexec", "nodiratime", "nosymfollow", "noatime", "sync")
    assert options.old_flags() == sum(MS[name] for name in options.names)
    assert of("relatime").old_flags() == MS["relatime"]
    assert of("strictatime").old_flags() == MS["strictatime"]
    assert of().old_flags() == 0


def test_names_are_kept_in_order() -> None:
    assert of("rw", "x=1", "bind").names == ["rw", "x=1", "bind"]
