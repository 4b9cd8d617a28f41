# SPDX-License-Identifier: Apache-2.0
"""checkpoint and restore, where criu works; the proof is a counter that goes on counting."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import COUNTER, Counter, checkpoint, is_gone, restore, start
from container_cgroup import ContainerCgroup, resources
from support import Bundle, Host, Runtime, wait_for

from pyrunc.cgroup_mounts import KeptOptions

pytestmark = pytest.mark.vm


def test_a_counter_goes_on_counting(runtime: Runtime, bundle: Bundle, host: Host, images: Path,
                                    tmp_path: Path) -> None:
    """runc-checkpoint(8), runc-restore(8): what was in memory is there again, in a container of the same id."""
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    before = runtime.state(container)
    checkpoint(runtime, container, images)
    assert is_gone(runtime, container)
    stopped = counter.check()
    assert (images / "descriptors.json").exists() and (images / "dump.log").exists()

    restore(runtime, bundle, container, images, "--pid-file", str(tmp_path / "pid"))
    assert counter.reach() > stopped
    after = runtime.state(container)
    assert after["status"] == "running" and after["pid"] == int((tmp_path / "pid").read_text()) != before["pid"]
    assert {**before, "pid": 0, "created": ""} == {**after, "pid": 0, "created": ""}
    inside = runtime("exec", container, "cat", "/proc/1/comm")
    assert inside.lines == ["sh"], inside
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    assert runtime("delete", container).code == 0


def test_leave_running_and_restore_into_another_id(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    checkpoint(runtime, container, images, "--leave-running")
    assert runtime.state(container)["status"] == "running"
    counter.reach()
    assert runtime("delete", "--force", container).code == 0
    last = counter.check()
    counter.path.unlink()
    other = runtime.new_id()
    restore(runtime, bundle, other, images, "--manage-cgroups-mode", "ignore")
    wait_for(lambda: len(counter.numbers()) >= 3, "the other to count", 60)
    first = counter.numbers()[0]
    assert 1 < first <= last  # from where the checkpoint was, not from where the first one ended
    assert runtime.state(other)["status"] == "running"
    assert Path(f"/proc/{runtime.state(other)['pid']}/cgroup").read_text().rstrip().endswith(f"/{other}")


def test_pre_dump_and_parent(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """criu.org/Iterative_migration: memory first, and then what has changed since."""
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    checkpoint(runtime, container, tmp_path / "first", "--pre-dump")
    assert runtime.state(container)["status"] == "running"
    counter.reach()
    refused = runtime("restore", "-d", "--bundle", bundle.path, "--image-path", tmp_path / "first", runtime.new_id())
    assert refused.code == 1 and "one of --pre-dump can't be restored" in refused.err
    wrong = runtime("checkpoint", "--image-path", images, "--parent-path", "../nothing", container)
    assert wrong.code == 1 and "--parent-path ../nothing: there is no such directory" in wrong.err
    counter.reach()
    checkpoint(runtime, container, images, "--parent-path", "../first")
    assert (images / "parent").is_symlink()
    restore(runtime, bundle, container, images)
    counter.reach()


def test_in_the_foreground(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """restore without --detach waits, exits as the container does, and deletes it; so does a run that it ends."""
    counter = Counter(bundle)
    bundle.args(COUNTER).save()
    container = runtime.new_id()
    first = subprocess.Popen(runtime.command("run", "--bundle", bundle.path, container), stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    counter.reach()
    checkpoint(runtime, container, images)
    _, said = first.communicate(timeout=60)
    assert (first.returncode, said) == (137, b"")
    second = subprocess.Popen(runtime.command("restore", "--image-path", images, "--bundle", bundle.path, container),
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    counter.reach()
    assert runtime.state(container)["status"] == "running"
    assert runtime("kill", container, "KILL").code == 0
    _, said = second.communicate(timeout=60)
    assert (second.returncode, said) == (137, b"")
    assert is_gone(runtime, container)


def layout(pid: int, masked: set[str]) -> list[tuple[str, str, str]]:
    """Mount point, type and options of every mount; a mask is a null device, whichever file system that is of."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    rows = []
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split()
        kind = ("", "") if fields[4] in masked else (right.split()[0], ",".join(sorted(fields[5].split(","))))
        rows.append((fields[4], *kind))
    return sorted(rows)


def test_mounts(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """Directories and files from outside, through a link of the image too, masks, and what is read-only."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("from outside")
    (bundle.rootfs / "real").mkdir()
    (bundle.rootfs / "link").symlink_to("real")
    bundle.mount(outside, "/data", options=["rbind", "rw"])
    bundle.mount(outside / "file", "/etc/one", options=["bind", "ro"])
    bundle.mount(outside, "/link/below", options=["bind"])
    bundle.mount(outside, "/dev/shm/deep", options=["bind"])
    counter = Counter(bundle)
    container = start(runtime, bundle, "echo kept >/dev/shm/tmpfs; " + COUNTER)
    counter.reach()
    masked = {path for path in bundle.linux["maskedPaths"] if os.path.isfile(path)}
    before = layout(runtime.state(container)["pid"], masked)
    assert masked and {"/data", "/etc/one", "/real/below", "/dev/shm/deep", *masked} <= {row[0] for row in before}
    checkpoint(runtime, container, images)
    # Mount points that create has made in the image, and somebody has removed since.
    (bundle.rootfs / "data").rmdir()
    restore(runtime, bundle, container, images)
    counter.reach()
    assert layout(runtime.state(container)["pid"], masked) == before
    result = runtime("exec", container, "sh", "-c",
                     "cat /data/file /etc/one /link/below/file /dev/shm/deep/file /dev/shm/tmpfs; echo new >/data/new; "
                     f"echo >/etc/one; cat {' '.join(masked)}; echo >/proc/sys/kernel/hostname")
    assert result.out == "from outside" * 4 + "kept\n", result
    assert len([line for line in result.errors if "Read-only file system" in line]) == 2, result
    assert (outside / "new").read_text() == "new\n"


@pytest.mark.parametrize("reverse", [False, True], ids=["pyrunc then runc", "runc then pyrunc"])
def test_images_are_interchangeable(runtime: Runtime, make_runtime: Callable[[str], Runtime], bundle: Bundle,
                                    host: Host, images: Path, tmp_path: Path, reverse: bool) -> None:
    """What one writes the other restores: binds, masks, pipes."""
    (tmp_path / "outside").mkdir()
    bundle.mount(tmp_path / "outside", "/data", options=["bind", "rw"])
    bundle.process["args"] = ["sh", "-c", COUNTER]
    bundle.save()
    counter = Counter(bundle)
    first, second = runtime, make_runtime("runc")
    if reverse:
        first, second = second, first
    container = first.new_id()
    begun = subprocess.run(first.command("run", "--detach", "--bundle", bundle.path, container),
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    assert begun.returncode == 0
    counter.reach()
    with KeptOptions():  # runc's criu takes the hierarchy's options away
        checkpoint(first, container, images)
        second.ids.append(container)
        done = subprocess.run(second.command("restore", "--detach", "--image-path", images, "--bundle", bundle.path,
                                             container), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, done
    counter.reach()
    assert second.state(container)["status"] == "running"
    second.clean_up()


def test_hooks(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """As with runc: prestart and createRuntime run on restore, in the restored namespaces, and none of the others."""
    log = tmp_path / "hooks"

    def hook(kind: str) -> list[dict[str, object]]:
        script = f'echo {kind} $(cat | sed \'s/.*"pid": *\\([0-9]*\\).*/\\1/\') >>{log}'
        return [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]

    bundle.config["hooks"] = {kind: hook(kind) for kind in ("prestart", "createRuntime", "poststart", "poststop")}
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    checkpoint(runtime, container, images)
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["prestart", "createRuntime", "poststart",
                                                                          "poststop"]
    log.unlink()
    restore(runtime, bundle, container, images)
    pid = runtime.state(container)["pid"]
    assert log.read_text().splitlines() == [f"prestart {pid}", f"createRuntime {pid}"]
    counter.reach()
    checkpoint(runtime, container, images)
    bundle.config["hooks"]["createRuntime"] = [{"path": "/bin/false"}]
    bundle.save()
    last = counter.check()
    log.unlink()
    failed = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, container, timeout=120)
    assert failed.code == 1 and "/hooks/createRuntime/0" in failed.err, failed
    assert is_gone(runtime, container) and counter.check() == last
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["prestart", "poststop"]
    del bundle.config["hooks"]
    bundle.save()
    restore(runtime, bundle, container, images)
    assert counter.reach() > last


def test_limits(runtime: Runtime, bundle: Bundle, host: Host, images: Path) -> None:
    """Those of config.json hold in the restored container, and its device rules."""
    resources(bundle, pids={"limit": 50}, memory={"limit": 64 << 20})
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    checkpoint(runtime, container, images)
    resources(bundle, pids={"limit": 60}, memory={"limit": 48 << 20}).save()
    restore(runtime, bundle, container, images)
    cgroup = ContainerCgroup(runtime.state(container)["pid"])
    assert cgroup.file("pids/pids.max", "pids.max").read_text() == "60\n"
    assert cgroup.file("memory/memory.limit_in_bytes", "memory.max").read_text() == f"{48 << 20}\n"
    denied = runtime("exec", container, "sh", "-c", "mknod /kmsg c 1 11; cat /kmsg")
    assert "Operation not permitted" in denied.err, denied
    counter.reach()


def test_as_containerd_calls_it(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """Its stock shim pauses first, and resumes afterwards; it writes -no-subreaper."""
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    json_log = ("--log", str(tmp_path / "log.json"), "--log-format", "json")
    work = str(tmp_path / "work")
    for options in (("--leave-running",), ()):
        assert runtime("pause", container).code == 0
        done = runtime(*json_log, "checkpoint", "--image-path", images, "--work-path", work, "--file-locks", *options,
                       container, timeout=120)
        assert done.code == 0, done
        runtime("resume", container)
        if options:
            counter.reach()
    assert is_gone(runtime, container)
    last = counter.check()
    pid_file = tmp_path / "init.pid"
    runtime.ids.append(container)
    done = runtime(*json_log, "restore", "--image-path", images, "--work-path", work, "--detach", "--pid-file",
                   str(pid_file), "-no-subreaper", "--bundle", bundle.path, container, timeout=120)
    assert done.code == 0, done
    assert int(pid_file.read_text()) == runtime.state(container)["pid"]
    assert counter.reach() > last
    assert (tmp_path / "work" / "restore.log").exists()


def test_as_podman_calls_it(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """With no PATH in the environment, and an option twice."""
    probe = runtime("checkpoint", "--help", env={})
    assert probe.code == 0 and "--image-path" in probe.out
    counter = Counter(bundle)
    container = start(runtime, bundle)
    counter.reach()
    done = runtime("checkpoint", "--image-path", images, "--work-path", tmp_path, "--leave-running", "--leave-running",
                   container, env={}, timeout=120)
    assert done.code == 0, done
    counter.reach()
    assert runtime("delete", "--force", container).code == 0
    runtime.ids.append(container)
    done = runtime("restore", "--bundle", bundle.path, "--pid-file", tmp_path / "pid", "--detach", "--image-path",
                   images, "--work-path", tmp_path, container, env={}, timeout=120)
    assert done.code == 0, done
    wait_for(lambda: runtime.state(container)["status"] == "running", "it to run")


def test_what_cannot_be(runtime: Runtime, bundle: Bundle, host: Host, images: Path, tmp_path: Path) -> None:
    """One clear line, exit 1; a container that could not be written down runs on."""
    counter = Counter(bundle)
    container = runtime.create(bundle.args(COUNTER))
    early = runtime("checkpoint", "--image-path", images, container)
    assert early.code == 1 and "Container cannot be checkpointed in created state" in early.err
    assert runtime("start", container).code == 0
    counter.reach()
    checkpoint(runtime, container, images, "--leave-running")
    taken = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, container)
    assert taken.code == 1 and "container with given ID already exists" in taken.err
    assert runtime("kill", container, "KILL").code == 0
    runtime.wait(container)
    late = runtime("checkpoint", "--image-path", images, container)
    assert late.code == 1 and "Container cannot be checkpointed in stopped state" in late.err
    assert runtime("delete", container).code == 0

    (images / "pagemap-1.img").unlink()
    broken = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, container, timeout=120)
    assert broken.code == 1 and len(broken.errors) == 1, broken
    assert "criu can't restore the container: Error (" in broken.err and str(images / "restore.log") in broken.err
    assert is_gone(runtime, container)
