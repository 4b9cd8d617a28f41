# SPDX-License-Identifier: Apache-2.0
"""pyrunc/linux against the kernel's own headers: numbers of system calls, constants, structures.

aarch64 has the numbers of asm-generic/unistd.h (arch/arm64/include/uapi/asm/unistd.h includes it), which every
machine's headers bring along.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable
from pathlib import Path
from struct import calcsize
from types import ModuleType

import pytest

import pyrunc
from pyrunc.linux import _syscall_ctypes, fs, loopdevice, mount, netlink, nr, process

PACKAGE = Path(pyrunc.__file__).parent
#: What arm64's own header defines before it includes the generic one.
ARM64 = ("__ARCH_WANT_RENAMEAT", "__ARCH_WANT_NEW_STAT", "__ARCH_WANT_SET_GET_RLIMIT", "__ARCH_WANT_TIME32_SYSCALLS",
         "__ARCH_WANT_SYS_CLONE3", "__ARCH_WANT_MEMFD_SECRET")
UNISTD = {
    "x86_64": ["#include <asm/unistd_64.h>"],
    "aarch64": [*(f"#define {name}" for name in ARM64), "#include <asm-generic/unistd.h>"],
}
HEADERS = ("linux/mount.h", "linux/sched.h", "linux/prctl.h", "linux/keyctl.h", "linux/openat2.h", "linux/magic.h",
           "linux/fcntl.h", "linux/nsfs.h", "linux/ioprio.h", "linux/netlink.h", "linux/rtnetlink.h", "linux/if_link.h",
           "linux/if_addr.h", "linux/capability.h", "linux/loop.h")
#: As pyrunc packs them, and what the kernel calls them.
STRUCTURES = {
    "mount_attr": "=QQQQ", "open_how": "=QQQ", "sched_attr": "=IIQiIQQQII", "__user_cap_header_struct": "=Ii",
    "rlimit64": "=QQ", "nlmsghdr": "=IHHII", "ifinfomsg": "=BxHiII", "ifaddrmsg": "=BBBBi", "rtattr": "=HH",
    "loop_config": loopdevice.CONFIG,
}


def ask(tmp_path: Path, lines: Iterable[str], expressions: dict[str, str]) -> dict[str, int]:
    """What a C program finds the expressions to be; a name that the headers don't have is left out."""
    source, program = tmp_path / "ask.c", tmp_path / "ask"
    body = [f'#ifdef {name}\n{show(name, text)}\n#endif' if name == text else show(name, text)
            for name, text in expressions.items()]
    source.write_text("\n".join(["#include <stdio.h>", *lines, "int main(void) {", *body, "return 0; }"]))
    done = subprocess.run(["gcc", "-w", "-o", program, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in (line.split() for line in out.splitlines())}


def show(name: str, expression: str) -> str:
    return f'printf("{name} %lld\\n", (long long)({expression}));'


@pytest.mark.parametrize("machine", nr.TABLES)
def test_numbers_of_system_calls(tmp_path: Path, machine: str) -> None:
    names = {f"__NR_{name}": f"__NR_{name}" for name in nr.TABLES[machine]}
    found = ask(tmp_path, UNISTD[machine], names)
    assert found == {f"__NR_{name}": number for name, number in nr.TABLES[machine].items()}
    (clone,) = ask(tmp_path, UNISTD[machine], {"__NR_clone": "__NR_clone"}).values()
    assert _syscall_ctypes.NR_CLONE[machine] == clone


def test_the_tables_have_the_same_calls() -> None:
    assert set(nr.TABLES["x86_64"]) == set(nr.TABLES["aarch64"])


def test_every_call_that_is_made_has_a_number() -> None:
    made = set()
    for path in (PACKAGE / "linux").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "call":
                name = node.args[0]
                assert isinstance(name, ast.Constant), ast.dump(node)
                made.add(name.value)
    assert len(made) > 25
    assert made <= set(nr.TABLES["x86_64"])


@pytest.mark.parametrize("module", [mount, process, fs, netlink, loopdevice], ids=lambda module: module.__name__)
def test_constants(tmp_path: Path, module: ModuleType) -> None:
    """Each name that the headers define too has the headers' value."""
    ours = {name: value for name, value in vars(module).items()
            if name.isupper() and isinstance(value, int) and not name.startswith("_")}
    includes = [f"#include <{header}>" for header in HEADERS]
    found = ask(tmp_path, includes, {name: name for name in ours})
    enumerated = [name for name in ours if name.startswith(("IFLA_", "IFA_", "RTM_", "RT_SCOPE_", "LO_FLAGS_"))
                  and not name.startswith("IFA_F_") and name not in found]
    found |= ask(tmp_path, includes, {name: f"(int){name}" for name in enumerated})
    assert {name: ours[name] for name in found} == found
    assert len(found) >= {mount: 40, process: 25, fs: 10, netlink: 25, loopdevice: 5}[module]


def test_structures(tmp_path: Path) -> None:
    includes = [*(f"#include <{header}>" for header in HEADERS), "#include <linux/sched/types.h>",
                "#include <linux/resource.h>"]
    found = ask(tmp_path, includes, {name: f"sizeof(struct {name})" for name in STRUCTURES})
    assert found == {name: calcsize(form) for name, form in STRUCTURES.items()}
    # clone_args has grown: up to where we use it.
    offset = ask(tmp_path, [*includes, "#include <stddef.h>"], {"end": "offsetof(struct clone_args, cgroup) + 8"})
    assert offset == {"end": calcsize("=11Q")}
