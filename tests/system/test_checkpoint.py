# SPDX-License-Identifier: Apache-2.0
"""checkpoint and restore where criu may not work: arguments, errors, and a container that is none the worse for it.

That a checkpoint comes back is proven in tests/vm/test_checkpoint_vm.py; here too, if this kernel's criu can.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime, wait_for

from pyrunc.criu import VERSION, encode

COUNTER = "i=0; while :; do i=$((i+1)); echo $i >>/count; sleep 0.1; done"


def numbers(bundle: Bundle) -> list[int]:
    path = bundle.rootfs / "count"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def goes_on(bundle: Bundle) -> None:
    before = len(numbers(bundle))
    wait_for(lambda: len(numbers(bundle)) > before + 2, "the counter to go on")
    counted = numbers(bundle)
    assert counted == list(range(1, len(counted) + 1))


@pytest.fixture
def counting(runtime: Runtime, bundle: Bundle, host: Host) -> str:
    container = runtime.create(bundle.args(COUNTER))
    assert runtime("start", container).code == 0
    goes_on(bundle)
    return container


def test_a_checkpoint_or_a_clear_error(runtime: Runtime, bundle: Bundle, counting: str, tmp_path: Path) -> None:
    """What `criu check` says decides which.  After an error the container runs as before."""
    images = tmp_path / "images"
    works = subprocess.run(["criu", "check"], capture_output=True, timeout=120).returncode == 0
    result = runtime("checkpoint", "--image-path", images, counting, timeout=120)
    if works:
        assert result.code == 0, result
        stopped = len(numbers(bundle))
        result = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, counting, timeout=120)
        assert result.code == 0, result
        goes_on(bundle)
        assert len(numbers(bundle)) > stopped
    else:
        assert result.code == 1 and len(result.errors) == 1, result
        assert f"checkpoint {counting}: criu " in result.err and "Error (" in result.err
        assert f"(criu's log: {images}/dump.log)" in result.err
        assert (images / "dump.log").exists()
    assert runtime.state(counting)["status"] == "running"
    goes_on(bundle)


def test_without_criu(runtime: Runtime, bundle: Bundle, counting: str, tmp_path: Path) -> None:
    """One line with the remedy; the images' directory isn't even made."""
    images = tmp_path / "images"
    nowhere = tmp_path / "criu"
    words = runtime.command("--criu", nowhere, "checkpoint", "--image-path", images, counting)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"pyrunc: checkpoint {counting}: --criu {nowhere}: no such program\n")
    assert not images.exists()
    goes_on(bundle)


def test_wrong_states(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    container = runtime.create(bundle.args("true"))
    result = runtime("checkpoint", "--image-path", tmp_path / "images", container)
    assert (result.code, result.errors) == (1, [f"pyrunc: checkpoint {container}: "
                                               "Container cannot be checkpointed in created state"])
    assert runtime("start", container).code == 0
    runtime.wait(container)
    result = runtime("checkpoint", "--image-path", tmp_path / "images", container)
    assert result.code == 1 and "Container cannot be checkpointed in stopped state" in result.err
    result = runtime("checkpoint", "nobody")
    assert (result.code, result.errors) == (1, ["pyrunc: checkpoint nobody: container does not exist"])


@pytest.mark.parametrize(("options", "message"), [
    (("--manage-cgroups-mode", "hard"), "--manage-cgroups-mode hard: is soft, full, strict or ignore"),
    (("--empty-ns", "uts"), "--empty-ns uts: only a network namespace can be left empty"),
    (("--parent-path", "/somewhere"), "--parent-path must be relative"),
    (("--page-server", "nowhere"), "--page-server nowhere: is not ADDRESS:PORT"),
    (("--status-fd", "x"), '--status-fd takes a number, not "x"'),
    (("--image-path",), "--image-path needs a value"),
], ids=lambda value: value[0] if isinstance(value, tuple) else "")
def test_wrong_options(runtime: Runtime, options: tuple[str, ...], message: str) -> None:
    words = ("checkpoint", "web", *options)
    result = runtime(*words)
    assert result.code == 1 and len(result.errors) == 1 and message in result.err, result


def test_restore_of_nothing(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """A directory that holds no checkpoint is told before anything is made."""
    bundle.save()
    container = runtime.new_id()
    (tmp_path / "empty").mkdir()
    for images, why in ((tmp_path / "nothing", "ENOENT"), (tmp_path / "empty", "ENOENT"),
                        (bundle.path / "config.json", "ENOTDIR")):
        result = runtime("restore", "--image-path", images, "--bundle", bundle.path, container)
        assert result.code == 1 and len(result.errors) == 1, result
        assert f"--image-path {images}: no checkpoint: " in result.err and why in result.err
    assert runtime("state", container).code == 1


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", "[", "link", "fifo"])
def test_restore_of_a_doctored_checkpoint(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                          content: str) -> None:
    """Images may have come from elsewhere (CVE-2026-53489): no link is followed, nothing hangs, nothing is left."""
    bundle.save()
    descriptors = tmp_path / "descriptors.json"
    if content == "link":
        (tmp_path / "real").write_text("[]")
        descriptors.symlink_to("real")
    elif content == "fifo":
        os.mkfifo(descriptors)
    else:
        descriptors.write_text(content)
    container = runtime.new_id()
    result = runtime("restore", "--image-path", tmp_path, "--bundle", bundle.path, container)
    assert result.code == 1 and len(result.errors) == 1 and str(tmp_path) in result.err, result
    assert runtime("state", container).code == 1


@pytest.mark.parametrize(("options", "message"), [
    (("--lsm-profile", "web"), "--lsm-profile web: is not TYPE:NAME (TYPE is apparmor or selinux)"),
    (("--lsm-profile", "apparmor:"), "--lsm-profile apparmor:: is not TYPE:NAME"),
    (("--lsm-profile", "smack:web"), "--lsm-profile smack:web: is not TYPE:NAME"),
    ((), "the container's descriptor 0 was a terminal that wasn't its own (--shell-job gives it yours)"),
    (("--shell-job",), "--shell-job: descriptor 0 is no terminal, and the container's was one"),
], ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_restore_of_what_cannot_be_given(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                         options: tuple[str, ...], message: str) -> None:
    """Before anything is made: a wrong profile, a terminal that the images are without."""
    bundle.save()
    (tmp_path / "descriptors.json").write_text('["tty[8800:17]","tty[8800:17]","/dev/null"]')
    container = runtime.new_id()
    result = runtime("restore", "--image-path", tmp_path, "--bundle", bundle.path, *options, container)
    assert result.code == 1 and len(result.errors) == 1 and message in result.err, result
    assert list(runtime.root.iterdir()) == []


OLD = f"""#!/usr/bin/python3
import socket, sys
connection = socket.socket(fileno=int(sys.argv[2]))
connection.recv(65536)
connection.send({encode([(1, VERSION), (2, True), (10, ((1, 3), (2, 15)))])!r})
"""


@pytest.mark.parametrize("option", [("--lsm-profile", "apparmor:web"),
                                    ("--lsm-mount-context", "system_u:object_r:container_file_t:s0")],
                         ids=lambda option: option[0])
def test_restore_with_a_criu_that_is_too_old(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                             option: tuple[str, str]) -> None:
    """Before 3.16 it took another profile's place, or knew nothing of the context."""
    bundle.save()
    (tmp_path / "descriptors.json").write_text("[]")
    (tmp_path / "criu").write_text(OLD)
    (tmp_path / "criu").chmod(0o755)
    container = runtime.new_id()
    result = runtime("--criu", tmp_path / "criu", "restore", "--image-path", tmp_path, "--bundle", bundle.path, *option,
                     container)
    assert result.code == 1 and result.errors == [
        f"pyrunc: restore {container}: --lsm-profile and --lsm-mount-context need criu 3.16 or later, and this is 3.15"]
    assert list(runtime.root.iterdir()) == []


def test_restore_that_fails_leaves_nothing(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """Images that criu can't use, or a criu that can't: one line, with the end of its log; the id is free again."""
    bundle.save()
    (tmp_path / "descriptors.json").write_text('["/dev/null","/dev/null","/dev/null"]')
    container = runtime.new_id()
    result = runtime("restore", "--image-path", tmp_path, "--bundle", bundle.path, container, timeout=120)
    assert result.code == 1 and len(result.errors) == 1, result
    assert f"restore {container}: criu can't restore the container: Error (" in result.err
    assert f"(criu's log: {tmp_path}/restore.log)" in result.err
    assert runtime("state", container).code == 1
    assert list(runtime.root.iterdir()) == []


def test_a_terminal_needs_somebody_to_take_it(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    bundle.process["terminal"] = True
    bundle.save()
    (tmp_path / "descriptors.json").write_text("[]")
    container = runtime.new_id()
    result = runtime("restore", "--detach", "--image-path", tmp_path, "--bundle", bundle.path, container)
    assert result.code == 1 and "cannot allocate tty if runc will detach without setting console socket" in result.err
    assert runtime("state", container).code == 1


@pytest.mark.parametrize("command", ["checkpoint", "restore"])
def test_podmans_probe(runtime: Runtime, command: str) -> None:
    """Podman asks `checkpoint --help` whether a runtime can do it."""
    result = runtime(command, "--help")
    assert result.code == 0 and "--tcp-established" in result.out and "--image-path" in result.out
