# SPDX-License-Identifier: Apache-2.0
"""bpf(2), as far as device programs of control groups need it (linux/bpf.h)."""

from __future__ import annotations

from _struct import pack, unpack_from

from .syscall import address, call

PROG_LOAD = 5
PROG_ATTACH = 8
PROG_DETACH = 9
PROG_GET_FD_BY_ID = 13
OBJ_GET_INFO_BY_FD = 15
PROG_QUERY = 16

PROG_TYPE_CGROUP_DEVICE = 15
CGROUP_DEVICE = 6  # enum bpf_attach_type

F_ALLOW_MULTI = 2
F_REPLACE = 4

_MAX_PROGRAMS = 64  # the kernel's limit for one cgroup


def load_device_program(instructions: bytes, license: str, name: str, log: bytearray | None = None) -> int:
    """Load a BPF_PROG_TYPE_CGROUP_DEVICE program; its descriptor, close-on-exec.

    The verifier writes into `log`, and reports ENOSPC when that is too small.
    """
    words = license.encode() + b"\0"
    where, size, level = (address(log), len(log), 1) if log else (0, 0, 0)
    attr = pack("=IIQQIIQII16sII", PROG_TYPE_CGROUP_DEVICE, len(instructions) // 8, address(instructions),
                address(words), level, size, where, 0, 0, name.encode()[:15], 0, CGROUP_DEVICE)
    return call("bpf", PROG_LOAD, attr, len(attr))


def attach(cgroup: int, program: int, flags: int, replaced: int = 0) -> None:
    """Attach `program` to the cgroup directory `cgroup` (in place of `replaced`, with F_REPLACE, Linux 5.6)."""
    # Kernels before 5.6 refuse a longer attr that isn't zero at the end.
    attr = pack("=IIIII", cgroup, program, CGROUP_DEVICE, flags, replaced)
    call("bpf", PROG_ATTACH, attr, len(attr))


def detach(cgroup: int, program: int) -> None:
    """Take `program` off the cgroup."""
    attr = pack("=III", cgroup, program, CGROUP_DEVICE)
    call("bpf", PROG_DETACH, attr, len(attr))


def attached(cgroup: int) -> list[int]:
    """The ids of the device programs attached to this very cgroup."""
    ids = bytearray(4 * _MAX_PROGRAMS)
    # All 64 bytes of the structure: since Linux 6.17 the kernel writes to its last field, however
    # short the one it was given.
    attr = bytearray(pack("=IIIIQIIQQQQ", cgroup, CGROUP_DEVICE, 0, 0, address(ids), _MAX_PROGRAMS, 0, 0, 0, 0, 0))
    call("bpf", PROG_QUERY, attr, len(attr))
    (count,) = unpack_from("=I", attr, 24)
    return list(unpack_from(f"={count}I", ids))


def program_by_id(number: int) -> int:
    """A descriptor of the program of that id, close-on-exec."""
    attr = pack("=III", number, 0, 0)
    return call("bpf", PROG_GET_FD_BY_ID, attr, len(attr))


def program_name(program: int) -> str:
    """The name that it was loaded with."""
    info = bytearray(80)  # struct bpf_prog_info up to its name
    attr = pack("=IIQ", program, len(info), address(info))
    call("bpf", OBJ_GET_INFO_BY_FD, attr, len(attr))
    return bytes(info[64:]).split(b"\0", 1)[0].decode("ascii", "replace")
