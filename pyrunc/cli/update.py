# SPDX-License-Identifier: Apache-2.0
"""pyrunc update ID: change a container's limits, all that are given or none."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

_SIZE = "a number, with k, m, g, t or p if you like; -1 is no limit"
#: Each option, the member of linux.resources that it sets, and how its value reads.
_MEMBERS = (
    (Option("blkio-weight", kind="text", metavar="N", help="I/O weight, 10 to 1000"), "blockIO/weight", "unsigned"),
    (Option("cpu-period", kind="text", metavar="US", help="CPU period, in microseconds"), "cpu/period", "unsigned"),
    (Option("cpu-quota", kind="text", metavar="US", help="CPU time in a period, in microseconds; -1 is no limit"),
     "cpu/quota", "signed"),
    (Option("cpu-burst", kind="text", metavar="US", help="CPU time that may be saved up, in microseconds"),
     "cpu/burst", "unsigned"),
    (Option("cpu-share", kind="text", metavar="N", help="CPU shares"), "cpu/shares", "unsigned"),
    (Option("cpu-rt-period", kind="text", metavar="US", help="realtime period, in microseconds"),
     "cpu/realtimePeriod", "unsigned"),
    (Option("cpu-rt-runtime", kind="text", metavar="US", help="realtime CPU time in a period, in microseconds"),
     "cpu/realtimeRuntime", "signed"),
    (Option("cpuset-cpus", kind="text", metavar="LIST", help="CPUs to run on"), "cpu/cpus", "text"),
    (Option("cpuset-mems", kind="text", metavar="LIST", help="memory nodes to use"), "cpu/mems", "text"),
    (Option("cpu-idle", kind="text", metavar="0|1", help="run only when nobody else wants the CPU"), "cpu/idle",
     "signed"),
    (Option("memory", kind="text", metavar="SIZE", help="memory limit: " + _SIZE), "memory/limit", "size"),
    (Option("memory-reservation", kind="text", metavar="SIZE", help="memory that is kept for it"),
     "memory/reservation", "size"),
    (Option("memory-swap", kind="text", metavar="SIZE", help="limit of memory and swap together"), "memory/swap",
     "size"),
    (Option("pids-limit", kind="text", metavar="N", help="how many processes; -1 is no limit"), "pids/limit",
     "signed"),
    (Option("kernel-memory", kind="text", hidden=True, help="obsolete"), "memory/kernel", "size"),
    (Option("kernel-memory-tcp", kind="text", hidden=True, help="obsolete"), "memory/kernelTCP", "size"),
)
OPTIONS = (
    Option("resources", "r", kind="text", metavar="FILE", help="read linux.resources as JSON from FILE, - is stdin; "
                                                               "the other options are ignored then"),
    *(option for option, _, _ in _MEMBERS),
    Option("l3-cache-schema", kind="text", metavar="SCHEMA", help="Intel RDT: share of the L3 caches, L3:0=ff;1=c0"),
    Option("mem-bw-schema", kind="text", metavar="SCHEMA", help="Intel RDT: memory bandwidth, MB:0=20;1=70"),
)
ARGUMENTS = (Argument("container-id"),)
_UNITS = " kmgtp"
_INT64 = 1 << 63


def run(args: Args, context: Context) -> int:
    from pyrunc.lifecycle import Container

    schemas = {member: args[option] for option, member in (("l3-cache-schema", "l3CacheSchema"),
                                                           ("mem-bw-schema", "memBwSchema")) if args[option]}
    if schemas:
        from pyrunc.rdt import check_available
        from pyrunc.spec.check_linux import check_intel_rdt

        check_available(schemas)
        check_intel_rdt(schemas)  # type: ignore[arg-type]
    container = Container.load(args["container-id"], context.root, context.log)
    container.update(_read(args["resources"]) if args["resources"] else given(args),
                     schemas or None)  # type: ignore[arg-type]
    return 0


def given(args: Args) -> Any:
    """linux.resources with what the options give.  Raises UsageError."""
    resources: dict[str, dict[str, Any]] = {}
    for option, place, kind in _MEMBERS:
        text = args[option.name]
        if text:
            section, member = place.split("/")
            resources.setdefault(section, {})[member] = text if kind == "text" else _number(option.name, text, kind)
    return resources


def _number(name: str, text: str, kind: str) -> int:
    if kind == "size":
        value = -1 if text == "-1" else size(text)
    else:
        digits = text[1:] if text[0] in ("+-" if kind == "signed" else "") else text
        # int() takes more than Go's parser: other scripts' digits, underscores, blanks.
        value = int(text) if digits.isascii() and digits.isdecimal() and len(digits) < 30 else None
    top = 2 * _INT64 if kind == "unsigned" else _INT64
    if value is None or not -_INT64 <= value < top:
        what = {"size": "a size such as 512m", "signed": "a number"}.get(kind, "a number that is not negative")
        raise UsageError(f'invalid value for {name}: "{text}" is not {what}')
    return value


def size(text: str) -> int | None:
    """Bytes, as Docker's units (RAMInBytes) write them: 512m, 1.5g, 64 KiB, 1000; None if they aren't."""
    number = text.rstrip("bBiIkKmMgGtTpP")
    unit = text[len(number):].lower()
    number = number.removesuffix(" ")
    digits = number.replace(".", "", 1)
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 30 and number[0] != "."):
        return None
    prefix = unit[:1] if unit[:1] in _UNITS[1:] and unit else ""
    if unit[len(prefix):] not in ("", "b", *(["ib"] if prefix else [])):
        return None
    whole, _, fraction = number.partition(".")
    scale: int = 1024 ** (_UNITS.index(prefix) if prefix else 0)
    return int(whole) * scale + (int(fraction) * scale // 10 ** len(fraction) if fraction else 0)


def _read(path: str) -> Any:
    """The JSON of a file, or of stdin."""
    import os

    from pyrunc.errors import errno_text
    from pyrunc.spec.load import MAX_BYTES, parse

    try:
        fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", closefd=path != "-") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--resources {path}: {errno_text(error.errno or 0)}") from None
    return parse(data, "stdin" if path == "-" else path, drop_null=True)
