# SPDX-License-Identifier: Apache-2.0
"""AppArmor profiles and SELinux labels where the kernel has neither; tests/vm has kernels that do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime

ENABLED = Path("/sys/module/apparmor/parameters/enabled")
WITHOUT = not ENABLED.exists() or not ENABLED.read_text().startswith("Y")
SELINUX = Path("/sys/fs/selinux/enforce").exists()
LABEL = "system_u:system_r:container_t:s0:c1,c2"


def test_an_apparmor_profile(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """One line with the place in config.json, whether there is no AppArmor or no such profile; nothing is left."""
    bundle.process["apparmorProfile"] = "pyrunc-nothing"
    result = runtime.run(bundle, "true")
    assert result.code == 1 and len(result.errors) == 1, result
    assert "/process/apparmorProfile: " in result.err and "pyrunc-nothing" in result.err
    assert ("AppArmor is disabled or not supported" in result.err) == WITHOUT


def test_unconfined(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """Where there is no AppArmor everything is unconfined, so that is no reason to fail."""
    bundle.process["apparmorProfile"] = "unconfined"
    assert runtime.run(bundle, "echo ran").lines == ["ran"]


@pytest.mark.parametrize(("section", "key"), [("process", "selinuxLabel"), ("linux", "mountLabel")])
def test_a_label(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle, host: Host, section: str,
                 key: str) -> None:
    """runc's words for the process's label; for a mount's, which runc leaves to mount(2), the same ones."""
    assert not SELINUX, "this machine has SELinux: tests/vm/test_selinux_vm.py is for such a kernel"
    bundle.config[section][key] = LABEL
    words = "selinux label is specified in config, but selinux is disabled or not supported"
    result = runtime.run(bundle, "true")
    assert result.code == 1 and len(result.errors) == 1, result
    assert f"/{section}/{key}: {words}" in result.err
    beside = make_runtime("runc").run(bundle, "true")
    assert beside.code == 1 and (words if key == "selinuxLabel" else "invalid argument") in beside.err


def test_exec(runtime: Runtime, bundle: Bundle, host: Host) -> None:
    """exec --apparmor and --process-label are refused the same way; the container goes on."""
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", container).code == 0
    for option, value, pointer in (("--apparmor", "pyrunc-nothing", "/process/apparmorProfile"),
                                   ("--process-label", LABEL, "/process/selinuxLabel")):
        result = runtime("exec", option, value, container, "true")
        assert result.code != 0 and len(result.errors) == 1 and f"{pointer}: " in result.err, result
    assert runtime("exec", container, "true").code == 0
