# SPDX-License-Identifier: Apache-2.0
"""Networks and attachments on disk.

    NET/networks/NAME.json      a network, as it was made
    NET/attachments/CONTAINER/NETWORK@INTERFACE.json    a container's place in a network, when all of it is there
    NET/working.json            the attachment that is being made or undone by whoever holds the lock
    NET/leases/NAME.4, .6       which addresses of the network are taken (ipam.py)
    NET/hosts/                  files that containers have as /etc/hosts (hosts.py)
    NET/lock                    held by whoever changes anything of all this, or the kernel's side of it

A file is written aside and renamed: whoever dies meanwhile leaves the old one or the new one.  An attachment is
working.json before anything is done for it, and is renamed when all is done; before it is undone it is renamed back.
So whoever takes the lock and finds a working.json knows that its writer died, and what to undo (attachments.py).
Networks are synced to disk; attachments are not, since namespaces don't outlive a crash of the machine.
"""

from __future__ import annotations

import fcntl
import os
import time

from pyrunc.errors import BundleError, NetworkError, UsageError, kernel_error
from pyrunc.spec.load import dump, parse

from .model import Attachment, Network, check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VARIABLE = "PYRUNC_NET_ROOT"
LOCK_TIMEOUT = 60.0  # seconds: a node may start hundreds of containers at once
_LOCK_POLL = 0.005
_WORKING = "working.json"
_OWNER, _MAX_COMMENT = "made by pyrunc from ", 127  # nft(8) shows no longer one
_DIRECTORIES = ("networks", "attachments", "leases", "hosts")


def default_path() -> str:
    """$PYRUNC_NET_ROOT; else /var/lib/pyrunc/net, or a place of an ordinary user's own."""
    given = os.environ.get(VARIABLE, "")
    if given:
        return os.path.abspath(given)
    if os.geteuid() == 0:
        return "/var/lib/pyrunc/net"
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.environ.get("HOME") or "/", ".local/share")
    return os.path.join(home, "pyrunc/net")


class Lock:
    """The store's lock, for a `with`; one process may hold it once."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> Lock:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(self._fd)
                    raise NetworkError("another command works on the networks",
                                       hint=f"waited {LOCK_TIMEOUT:g} s for {self._path}") from None
                time.sleep(_LOCK_POLL)

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        self._fd = -1


class Store:
    """What is known of networks below `path`, which is made if it isn't there.  Raises KernelError."""

    __slots__ = ("path",)

    def __init__(self, path: str = "") -> None:
        self.path = os.path.abspath(path) if path else default_path()
        try:
            # Nobody else looks in (CVE-2024-25621).
            for name in _DIRECTORIES:
                directory = f"{self.path}/{name}"
                if not os.path.isdir(directory):
                    from pyrunc.paths import make_private  # of no use where it is all there, which is most often

                    make_private(directory)
                    os.chmod(self.path, 0o700)
        except OSError as error:
            raise kernel_error(f"the networks' directory {self.path}", error, syscall="mkdir",
                               hint="--net-root names another place") from None

    @property
    def owner(self) -> str:
        """What the tables of rules have as their comment: which store they are made from."""
        most = _MAX_COMMENT - len(_OWNER)
        path = os.fsencode(os.path.realpath(self.path))
        return _OWNER + os.fsdecode(path if len(path) <= most else b"..." + path[3 - most:])

    @staticmethod
    def path_of(owner: str) -> str:
        """The store's path that a comment tells; of a long one the end."""
        return owner.removeprefix(_OWNER)

    def locked(self) -> Lock:
        return Lock(f"{self.path}/lock")

    # Networks

    def networks(self) -> list[Network]:
        """All of them, by name."""
        found = []
        for name in sorted(os.listdir(f"{self.path}/networks")):
            if name.endswith(".json") and not name.startswith("."):
                try:
                    found.append(self.network(name[:-5]))
                except NetworkError:
                    if os.path.exists(f"{self.path}/networks/{name}"):  # else it was removed just now
                        raise
        return found

    def has_network(self, name: str) -> bool:
        return os.path.exists(f"{self.path}/networks/{check_name(name)}.json")

    def network(self, name: str) -> Network:
        """Raises NetworkError when there is none of that name."""
        path = f"{self.path}/networks/{check_name(name)}.json"
        data = _read(path)
        if data is None:
            raise NetworkError(f"no network {name}", hint=self._near(name))
        try:
            return Network.from_data(parse(data, path))
        except (KeyError, TypeError, ValueError, BundleError, UsageError):
            raise NetworkError(f"{path} does not describe a network",
                               hint=f"remove it, and make {name} anew with `pyrunc net create`") from None

    def _near(self, name: str) -> str:
        from difflib import get_close_matches

        known = [entry[:-5] for entry in os.listdir(f"{self.path}/networks") if entry.endswith(".json")]
        found = get_close_matches(name, known, 1)
        return f"did you mean {found[0]}?" if found else f"`pyrunc net create {name}` makes it"

    def save_network(self, network: Network) -> None:
        _write(f"{self.path}/networks", f"{network.name}.json", network.to_data(), sync=True)

    def forget_network(self, name: str) -> None:
        for path in (f"networks/{name}.json", f"leases/{name}.4", f"leases/{name}.6"):
            try:
                os.unlink(f"{self.path}/{path}")
            except FileNotFoundError:
                pass

    # Attachments

    def inhabitants(self) -> dict[str, int]:
        """How many attachments each network has, if any."""
        found: dict[str, int] = {}
        for key in self.filed():
            network = key.partition("/")[2].partition("@")[0]
            found[network] = found.get(network, 0) + 1
        return found

    def filed(self, container: str = "") -> list[str]:
        """What all attachments are filed under, or those of a container: CONTAINER/NETWORK@INTERFACE."""
        base = f"{self.path}/attachments"
        found = []
        for name in [container] if container else sorted(os.listdir(base)):
            try:
                found += [f"{name}/{entry[:-5]}" for entry in sorted(os.listdir(f"{base}/{name}"))
                          if entry.endswith(".json")]
            except FileNotFoundError:  # a container without, or one whose last has just gone
                pass
        return found

    def attachments(self, *, network: str = "", container: str = "") -> list[Attachment]:
        """Those of the network, and of the container, where given; those whose record is damaged have no addresses."""
        found = []
        for key in self.filed(container):
            if not network or key.partition("/")[2].startswith(f"{network}@"):
                attachment = self.attachment(key)
                if attachment is not None:
                    found.append(attachment)
        return found

    def attachment(self, key: str) -> Attachment | None:
        path = f"{self.path}/attachments/{key}.json"
        data = _read(path)
        if data is None:
            return None
        try:
            return Attachment.from_data(parse(data, path))
        except (KeyError, TypeError, ValueError, BundleError, UsageError):
            container, _, rest = key.partition("/")  # a crash of the machine: its name is left
            network, _, interface = rest.partition("@")
            return Attachment(container, network, interface=interface)

    # What is being worked on

    def begin(self, attachment: Attachment) -> None:
        """Nothing has been done for it yet."""
        _write(self.path, _WORKING, attachment.to_data())

    def finish(self, attachment: Attachment) -> None:
        """All has been done: it is there."""
        _write(self.path, _WORKING, attachment.to_data())
        os.makedirs(f"{self.path}/attachments/{attachment.container}", 0o700, exist_ok=True)
        os.rename(f"{self.path}/{_WORKING}", f"{self.path}/attachments/{attachment.key}.json")

    def update(self, attachment: Attachment) -> None:
        """What is known of one that is there has changed."""
        directory, _, name = attachment.key.partition("/")
        _write(f"{self.path}/attachments/{directory}", f"{name}.json", attachment.to_data())

    def begin_undoing(self, attachment: Attachment) -> None:
        os.rename(f"{self.path}/attachments/{attachment.key}.json", f"{self.path}/{_WORKING}")

    def finish_undoing(self, attachment: Attachment) -> None:
        try:
            os.rmdir(f"{self.path}/attachments/{attachment.container}")
        except OSError:  # it was never made, or there are others in it
            pass
        for name in (f".{_WORKING}", _WORKING):  # a half-written one first: the other tells of it
            try:
                os.unlink(f"{self.path}/{name}")
            except FileNotFoundError:
                pass

    def interrupted(self) -> Attachment | None:
        """What somebody worked on who died."""
        path = f"{self.path}/{_WORKING}"
        data = _read(path)
        if data is None:
            path = f"{self.path}/.{_WORKING}"  # half-written, by who has died before anything was done
        else:
            try:
                return Attachment.from_data(parse(data, path))
            except (KeyError, TypeError, ValueError, BundleError, UsageError):  # the machine crashed, and it is empty
                pass
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        return None


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.read(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)


def _write(directory: str, name: str, data: dict[str, Any], *, sync: bool = False) -> None:
    """Write aside and rename; the lock is held, so the name aside is ours."""
    aside = f"{directory}/.{name}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, dump(data).encode())
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(aside, f"{directory}/{name}")
    if sync:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
