# SPDX-License-Identifier: Apache-2.0
"""What `events` tells of a container's resctrl groups, in runc's shape (resctrl.rst)."""

from __future__ import annotations

import os

from .cgroupfs import read
from .errors import kernel_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .rdt import Rdt


def stats(rdt: Rdt) -> dict[str, Any]:
    """The member intel_rdt.  Raises KernelError."""
    try:
        return _stats(rdt)
    except (OSError, ValueError) as error:
        failure = error if isinstance(error, OSError) else OSError(22, str(error))
        raise kernel_error("unable to get the container's Intel RDT stats", failure) from None


def _stats(rdt: Rdt) -> dict[str, Any]:
    info = f"{rdt.top}/info"
    found: dict[str, Any] = {}
    everything = [line.strip() for line in read(f"{rdt.top}/schemata").splitlines()]
    own = [line.strip() for line in read(f"{rdt.group}/schemata").splitlines()]
    if os.path.isdir(f"{info}/L3"):
        found["l3_cache_info"] = _some({"cbm_mask": read(f"{info}/L3/cbm_mask").strip(),
                                        **_numbers(f"{info}/L3", ("min_cbm_bits", "num_closids"))})
        found |= _some({"l3_cache_schema_root": _last(everything, "L3"), "l3_cache_schema": _last(own, "L3")})
    if os.path.isdir(f"{info}/MB"):
        found["mem_bw_info"] = _some(_numbers(f"{info}/MB", ("bandwidth_gran", "delay_linear", "min_bandwidth",
                                                             "num_closids")))
        found |= _some({"mem_bw_schema_root": _last(everything, "MB"), "mem_bw_schema": _last(own, "MB")})
    found |= _some({"schemata": own})
    try:
        features = read(f"{info}/L3_MON/mon_features").split()
    except FileNotFoundError:
        return found
    data = f"{rdt.monitoring or rdt.group}/mon_data"
    domains = [f"{data}/{name}" for name in sorted(os.listdir(data))]
    for member, names in (("mbm_stats", ("mbm_total_bytes", "mbm_local_bytes")), ("cmt_stats", ("llc_occupancy",))):
        if any(name in features for name in names):
            found[member] = [{name: int(read(f"{domain}/{name}")) if name in features else 0 for name in names}
                             for domain in domains]
    return found


def _numbers(directory: str, names: tuple[str, ...]) -> dict[str, int]:
    return {name: int(read(f"{directory}/{name}")) for name in names}


def _some(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


def _last(lines: list[str], resource: str) -> str:
    return next((line for line in reversed(lines) if resource in line), "")
