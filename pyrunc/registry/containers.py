# SPDX-License-Identifier: Apache-2.0
"""Containers of `image run`: a bundle in the store, and a container of the same name below the state root.

Whoever runs one holds the flock on its bundle.  A poststop hook removes the bundle with the container,
whichever way it is deleted; what a crash leaves behind goes with `prune`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import select
import sys
from typing import TYPE_CHECKING, Any, final

from pyrunc.__main__ import command_line
from pyrunc.errors import ContainerExists, ContainerNotFound, ImageError, PyruncError, from_data
from pyrunc.foreground import run as run_in_foreground
from pyrunc.lifecycle import Container
from pyrunc.options import CreateOptions
from pyrunc.spec.load import dump_pretty

from . import overlay, subids, trees, unpack, uses
from .store import Store

if TYPE_CHECKING:
    from pyrunc.lifecycle import Report
    from pyrunc.net.bundles import Wish

    from .conversion import Overrides
    from .store import Image
    from .unpack import Unpacker

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", re.A)
_POLL = 10  # milliseconds


def directory(store: Store) -> str:
    return os.path.join(store.path, "containers")


def find(store: Store, text: str, state_root: str) -> str:
    """The bundle that `text` means: a directory, a container of `image run`, or any container made of an image."""
    if "/" in text or text in (".", ".."):
        return os.path.abspath(text)
    if _NAME.fullmatch(text):
        path = os.path.join(directory(store), text)
        if os.path.exists(f"{path}/{uses.RECORD}"):
            return path
        try:
            with Container.load(text, state_root) as container:
                return str(container.state()["bundle"])
        except (ContainerNotFound, PyruncError):
            pass
    if os.path.isdir(text):
        return os.path.abspath(text)
    raise ImageError(f"{text}: neither a container nor a bundle", hint="`pyrunc list` shows containers")


@final
class Running:
    """One `image run`."""

    def __init__(self, unpacker: Unpacker, image: Image, *, name: str, state_root: str, keep: bool, report: Report,
                 cgroup_manager: str = "cgroupfs", rootless: bool | None = None) -> None:
        self.unpacker = unpacker
        self.store = unpacker.store
        self.image = image
        self.name = name or secrets.token_hex(6)
        self.state_root = state_root
        self.keep = keep
        self.report = report
        self.cgroup_manager = cgroup_manager
        self.rootless = rootless
        self.wish: Wish | None = None  # its networks
        self.host_network = False
        if not _NAME.fullmatch(self.name):
            raise ImageError(f"{self.name[:80]!a} is not a name for a container",
                             hint="letters, digits, _ . and -, at most 63")
        self.bundle = os.path.join(directory(self.store), self.name)
        self._lock = -1

    def prepare(self, overrides: Overrides) -> None:
        """Make the bundle.  Raises ContainerExists when the name is taken."""
        os.makedirs(directory(self.store), 0o700, exist_ok=True)
        if os.path.exists(f"{self.bundle}/{uses.RECORD}") or self._exists():
            raise ContainerExists(self.name)
        backend = "overlay" if overlay.usable() and not self.unpacker.ownership.uids else "copy"
        overrides.hostname = overrides.hostname or self.name[:63]
        subids.with_rights(self.unpacker.ownership, lambda: self.unpacker.bundle(
            self.image, self.bundle, overrides, backend=backend, kind="container", state_root=self.state_root))
        self._lock = os.open(self.bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            self._complete(overrides.hostname)
        except BaseException:
            self.remove()
            raise

    def _exists(self) -> bool:
        try:
            Container.load(self.name, self.state_root).close()
        except ContainerNotFound:
            return False
        return True

    def _complete(self, hostname: str) -> None:
        """The files every container gets of its own, and the hook that removes the bundle."""
        # A network has a file of its hosts.
        names = ["hostname"] if self.wish is not None and self.wish.networks else ["hostname", "hosts"]
        for name, text in (("hostname", f"{hostname}\n"),
                           ("hosts", f"127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost\n")):
            with open(f"{self.bundle}/{name}", "w") as file:
                file.write(text)
        path = f"{self.bundle}/config.json"
        with open(path) as file:
            config = json.load(file)
        taken = {mount["destination"] for mount in config["mounts"]}
        for name in names:
            if f"/etc/{name}" not in taken:
                config["mounts"].append({"destination": f"/etc/{name}", "type": "bind", "source": name,
                                         "options": ["rbind", "rprivate"]})
        env = config["process"]["env"]
        if not any(entry.startswith("HOSTNAME=") for entry in env):
            env.append(f"HOSTNAME={hostname}")
        words = command_line("image", "umount", "--rm", self.bundle)
        config["hooks"] = {"poststop": [{"path": words[0], "env": [], "timeout": 60, "args": words}]}
        if self.host_network:
            config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"]
                                             if each["type"] != "network"]
        with open(path, "w") as file:
            file.write(dump_pretty(config) + "\n")
        if self.wish is not None:
            from pyrunc.net import bundles

            bundles.set_up(self.bundle, self.wish)

    def remove(self) -> None:
        """The bundle goes, if it is still there."""
        if os.path.exists(self.bundle):
            subids.with_rights(self.unpacker.ownership, lambda: unpack.remove_bundle(self.store, self.bundle))
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def foreground(self) -> int:
        """Run it and wait; its exit status."""
        if not self.keep:
            self._without_hook()
        try:
            status = run_in_foreground(
                self.bundle, self.name, self.state_root, self._options, detach=False, keep=self.keep, subreaper=True,
                console_socket="", notify_socket="", report=self.report)
        except BaseException:
            if not self._exists():
                self.remove()
            raise
        if not self.keep:
            self.remove()
        return status

    def _without_hook(self) -> None:
        """Who waits for the container removes the bundle without another process."""
        path = f"{self.bundle}/config.json"
        with open(path) as file:
            config = json.load(file)
        config["hooks"]["poststop"] = [hook for hook in config["hooks"]["poststop"] if "umount" not in hook["args"]]
        with open(path, "w") as file:
            file.write(dump_pretty(config) + "\n")

    def _options(self, console_fd: int) -> CreateOptions:
        return CreateOptions(console_fd=console_fd, cgroup_manager=self.cgroup_manager, rootless=self.rootless)

    def background(self) -> None:
        """Run it in a process of its own, its output in the bundle's `log`; returns when the program runs.

        Raises the PyruncError that kept it from running.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            os.close(reader)
            self._monitor(writer)
        os.close(writer)
        poller = select.poll()
        poller.register(reader, select.POLLIN)
        try:
            while not poller.poll(_POLL):
                if self._started():
                    return
            said = os.read(reader, 65536)
            if said:
                raise from_data(json.loads(said))
        finally:
            os.close(reader)

    def _started(self) -> bool:
        try:
            with Container.load(self.name, self.state_root) as container:
                return container.status() in ("running", "paused")
        except PyruncError:
            return False

    def _monitor(self, writer: int) -> None:
        """The process behind a detached container: it waits for it, and cleans up."""
        status = 1
        try:
            os.setsid()
            os.chdir("/")
            # Never at its end: on a terminal that would be the user's ^D.
            idle, held = os.pipe()
            log = os.open(f"{self.bundle}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            terminal = self._has_terminal()
            os.dup2(idle if terminal else os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.set_inheritable(held, False)
            status = self.foreground()
        except PyruncError as error:
            os.write(writer, json.dumps(error.to_data()).encode())
        except BaseException as error:
            os.write(writer, json.dumps(ImageError(f"{type(error).__name__}: {error}").to_data()).encode())
        finally:
            os._exit(status)

    def _has_terminal(self) -> bool:
        with open(f"{self.bundle}/config.json") as file:
            return bool(json.load(file)["process"]["terminal"])


def collect(store: Store, report: Report) -> list[str]:
    """Remove the bundles of containers that are gone: what a crash has left; their names.

    A container that is only stopped is there, and keeps its bundle.
    """
    removed: list[str] = []
    base = directory(store)
    try:
        names = sorted(os.listdir(base))
    except FileNotFoundError:
        return removed
    for name in names:
        path = os.path.join(base, name)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _known(path):
                overlay.unmount(f"{path}/rootfs")
                trees.remove(path)
                uses.forget(store, path)
                removed.append(name)
        except BlockingIOError:
            continue  # it runs
        except PyruncError as error:
            report("warning", f"{path}: {error}")
        finally:
            os.close(fd)
    return removed


def _known(path: str) -> bool:
    """Whether the runtime still has the container of the bundle."""
    try:
        record: dict[str, Any] = unpack.load_record(path)
        with Container.load(os.path.basename(path), str(record["state_root"])):
            return True
    except (KeyError, ImageError, ContainerNotFound):
        return False
