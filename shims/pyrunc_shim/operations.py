# SPDX-License-Identifier: Apache-2.0
"""What the workers do: the runtime's operations, each in a process of its own.

They get plain values, and return what can be JSON.
"""

from __future__ import annotations

import os

from pyrunc.errors import ContainerNotFound
from pyrunc.lifecycle import Container
from pyrunc.log import Log
from pyrunc.options import CreateOptions, ExecOptions
from pyrunc.spec.load import load_process, parse

from . import rootfs, worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .messages import CheckpointOptions, Mount, Options

debugging = False


def report(level: str, message: str) -> None:
    """A line of the shim's log; it is a fifo of containerd's, and a full one loses lines rather than time."""
    if level == "debug" and not debugging:
        return
    try:
        os.write(worker.log_fd, Log().line(level, message).encode("utf-8", "backslashreplace"))
    except OSError:
        pass


def create(container_id: str, bundle: str, root: str, mounts: list[Mount], options: Options,
           console: int) -> dict[str, Any]:
    """Mount the root, create the container: its init's pid."""
    rootfs.mount(bundle, mounts)
    try:
        container = Container.create(bundle, container_id, root, CreateOptions(
            pid_file=f"{bundle}/init.pid", pivot=not options.no_pivot_root, keyring=not options.no_new_keyring,
            cgroup_manager=_cgroup_manager(options), console_fd=console), report)
    except BaseException:
        rootfs.unmount(bundle)
        raise
    return {"pid": container.pid, "own_pids": bool((container.data or {}).get("pid_namespace", True))}


def _cgroup_manager(options: Options) -> str:
    return "systemd" if options.systemd_cgroup else "cgroupfs"


def mount(bundle: str, mounts: list[Mount]) -> None:
    """Mount the root of a container that will be restored."""
    rootfs.mount(bundle, mounts)


def restore_container(container_id: str, bundle: str, root: str, images: str, options: Options,
                      console: int) -> dict[str, Any]:
    """Create the container from a checkpoint, where its processes go on: its init's pid."""
    from pyrunc import restore

    container = restore.restore(bundle, container_id, root, CreateOptions(
        pid_file=f"{bundle}/init.pid", cgroup_manager=_cgroup_manager(options), console_fd=console),
        restore.RestoreOptions(image_path=images, work_path=options.criu_work_path), report)
    return {"pid": container.pid, "own_pids": bool((container.data or {}).get("pid_namespace", True))}


def checkpoint(container_id: str, root: str, bundle: str, images: str, options: CheckpointOptions) -> None:
    """Write the container to files; it goes on unless the options say that it exits."""
    from pyrunc import checkpoint as checkpoints

    work = options.work_path or f"{bundle}/criu-work"
    with Container.load(container_id, root, report) as container:
        checkpoints.checkpoint(container, checkpoints.CheckpointOptions(
            image_path=images or options.image_path, work_path=work, parent_path=options.parent_path,
            leave_running=not options.exit, tcp_established=options.open_tcp, shell_job=options.terminal,
            ext_unix_sk=options.external_unix_sockets, file_locks=options.file_locks,
            cgroups_mode=options.cgroups_mode, empty_ns=options.empty_namespaces))
    if not options.work_path:
        remove_tree(work)


def remove_tree(path: str) -> None:
    """A directory of criu's, flat: its log and its statistics."""
    try:
        for name in os.listdir(path):
            os.unlink(f"{path}/{name}")
        os.rmdir(path)
    except OSError:
        pass  # a log more in the bundle, which goes as a whole


def start(container_id: str, root: str) -> None:
    """Run the container's program."""
    Container.load(container_id, root, report).start()


def start_exec(container_id: str, root: str, spec: bytes, terminal: bool, pid_file: str,
               console: int) -> dict[str, Any]:
    """Run another process in the container: its pid."""
    from pyrunc import execution

    process = load_process(spec, "the process")
    process["terminal"] = terminal
    with Container.load(container_id, root, report) as container:
        return {"pid": execution.start(container, process,
                                       ExecOptions(pid_file=pid_file, console_fd=console))}


def kill(container_id: str, root: str, number: int, everyone: bool) -> None:
    """Signal the init, or everybody."""
    Container.load(container_id, root, report).kill(number, everyone)


def pause(container_id: str, root: str) -> None:
    Container.load(container_id, root, report).pause()


def resume(container_id: str, root: str) -> None:
    Container.load(container_id, root, report).resume()


def update(container_id: str, root: str, resources: bytes) -> None:
    """Change the container's limits: `resources` is linux.resources as JSON."""
    Container.load(container_id, root, report).update(parse(resources, "the resources", drop_null=True))


def delete(container_id: str, root: str, bundle: str, force: bool) -> None:
    """Delete the container, if it is there, and unmount its root."""
    try:
        Container.load(container_id, root, report).delete(force)
    except ContainerNotFound:
        pass  # a failed start has deleted it
    rootfs.unmount(bundle)
