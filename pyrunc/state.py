# SPDX-License-Identifier: Apache-2.0
"""A container's directory below the state root: claimed, locked, written atomically.

    ROOT/ID/            0700; its mkdir claims the id, a flock on it serialises commands
        config.json     the bundle's, as it was at create
        state.json      what must be known later; status is never in it but derived
        exec.fifo       there while the container waits for start
        oom             there when `events` watches: the last count of its kills for want of memory
        notify/         with $NOTIFY_SOCKET: the container's end of it, which it sees as /run/notify

state.json carries a version; older ones are read.  Where all that `start` has to do is to let the init go, it begins
with what the launcher has to know for that (START; launcher/start.c).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from .errors import (
    ContainerError,
    ContainerExists,
    ContainerNotFound,
    KernelError,
    PyruncError,
    UsageError,
    kernel_error,
)
from .linux.process import in_user_namespace
from .spec.load import dump, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

VERSION = 1
STATE = "state.json"
START = "start"  # in it: "PID START_TIME CGROUP", the directory that tells whether the init is frozen, or nothing
CONFIG = "config.json"
FIFO = "exec.fifo"
OOM = "oom"
TRACER = "tracer"  # exec has brought in what config.json has not: CAP_SYS_PTRACE
LOCK_TIMEOUT = 10.0  # seconds
_LOCK_POLL = 0.01
_MAX_ID = 1024
_PF_EXITING = 0x4  # include/linux/sched.h
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


def default_root() -> str:
    """/run/pyrunc, or $XDG_RUNTIME_DIR/pyrunc for an ordinary user, also where a user namespace makes it root.

    Raises UsageError where an ordinary user has but /tmp, and somebody else was there first.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() == 0 and (not runtime.startswith("/") or not _is_mapped_user()):
        return "/run/pyrunc"
    return f"{runtime}/pyrunc" if runtime.startswith("/") else own_in_tmp(f"/tmp/pyrunc-{os.geteuid()}")


def own_in_tmp(path: str) -> str:
    """`path`, a directory of ours alone: made now, for a name in /tmp is anybody's to take."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise kernel_error(f"make the directory {path}", error, syscall="mkdir") from None
    info = os.stat(path, follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise UsageError(f"{path} is not a directory of this user alone",
                         hint="set XDG_RUNTIME_DIR")
    return path


def _is_mapped_user() -> bool:
    """Whether we are uid 0 in a user namespace only, and not the root of a container (whose $USER says so)."""
    return os.environ.get("USER") != "root" and in_user_namespace()


def check_id(container_id: str) -> str:
    """`container_id`, if it is one.  Raises UsageError in runc's words."""
    if (not container_id or container_id in (".", "..") or len(container_id) > _MAX_ID
            or not _ID_CHARACTERS.issuperset(container_id)):
        raise UsageError(f"invalid container ID format: {container_id!r}",
                         hint="letters, digits and _+-. make an id")
    return container_id


def process_start(pid: int) -> int:
    """The start time of `pid` in clock ticks since boot, 0 if it is dead or a zombie (proc_pid_stat(5), 22).

    Raises KernelError where that can't be told (a full table of open files): who is taken for dead is deleted.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):  # the second: gone while we looked
        return 0
    except PermissionError:  # proc(5), hidepid: by now the number is somebody else's
        return 0
    except OSError as error:
        raise kernel_error(f"ask whether process {pid} is alive", error) from None
    # The name, in parentheses, may hold anything: count from its end.
    fields = text[text.rindex(b")") + 2:].split()
    return 0 if fields[0] in (b"Z", b"X", b"x") else int(fields[19])


def _stat(pid: int) -> list[bytes]:
    """proc_pid_stat(5) from the third field on; none when the process is gone, or nobody tells us."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError:
        return []
    return text[text.rindex(b")") + 2:].split()


def is_ending(pid: int) -> bool:
    """Whether the process is dead, or on its way: it closes its files before anybody is told of its end."""
    fields = _stat(pid)
    return bool(fields) and bool(int(fields[6]) & _PF_EXITING)


def exit_signal(pid: int) -> int:
    """The signal that `pid` is dead of, or dying of; 0 if it isn't, or nobody tells us (proc_pid_stat(5), 9 and 52)."""
    fields = _stat(pid)
    return int(fields[49]) & 0x7F if fields and int(fields[6]) & _PF_EXITING else 0


class StateDir:
    """The open directory of one container."""

    __slots__ = ("fd", "has_lock", "id", "path")

    def __init__(self, root: str, container_id: str, fd: int) -> None:
        self.id = container_id
        self.path = f"{root}/{container_id}"
        self.fd = fd
        self.has_lock = False

    @classmethod
    def claim(cls, root: str, container_id: str) -> StateDir:
        """Make the directory, locked.  Raises ContainerExists if the id is taken."""
        check_id(container_id)
        try:
            if not os.path.isdir(root):
                from .paths import make_private

                make_private(root)
                if os.path.dirname(root) == os.environ.get("XDG_RUNTIME_DIR"):
                    # Or it may be tidied away: XDG Base Directory Specification.
                    os.chmod(root, 0o1700)
        except FileExistsError:
            raise UsageError(f"--root {root} is not a directory") from None
        except OSError as error:
            raise kernel_error(f"make the state root {root}", error, syscall="mkdir") from None
        try:
            os.mkdir(f"{root}/{container_id}", 0o700)
        except FileExistsError:
            raise ContainerExists(container_id) from None
        except OSError as error:
            raise kernel_error(f"make the state directory {root}/{container_id}", error, syscall="mkdir") from None
        try:
            return cls._open(root, container_id).lock()
        except KernelError:
            try:
                os.rmdir(f"{root}/{container_id}")
            except OSError:
                pass  # the error to tell is the first one
            raise

    @classmethod
    def find(cls, root: str, container_id: str) -> StateDir:
        """Open the directory.  Raises ContainerNotFound."""
        return cls._open(root, check_id(container_id))

    @classmethod
    def _open(cls, root: str, container_id: str) -> StateDir:
        try:
            fd = os.open(f"{root}/{container_id}",
                         os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise ContainerNotFound(container_id) from None
        except OSError as error:
            raise kernel_error(f"open the state directory {root}/{container_id}", error, syscall="openat") from None
        # What is in it is signalled, removed and (hooks) executed: not at the word of somebody else, who may have
        # put it there where --root is theirs, or in a directory for everybody.
        owner = os.fstat(fd).st_uid
        if owner not in (os.geteuid(), 0):
            os.close(fd)
            raise UsageError(f"the state directory {root}/{container_id} is that of uid {owner}",
                             hint="it has to be this user's own, or root's")
        return cls(root, container_id, fd)

    def close(self) -> None:
        """Give up the directory, and with it the lock."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def lock(self, timeout: float = LOCK_TIMEOUT) -> StateDir:
        """Wait for the lock, at most `timeout` seconds.  Raises ContainerError, ContainerNotFound."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.has_lock = True
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ContainerError(f"another command works on container {self.id}",
                                         hint=f"waited {timeout:g} s for its lock") from None
                time.sleep(_LOCK_POLL)
            except OSError as error:
                raise kernel_error(f"lock {self.path}", error, syscall="flock") from None
        if self.removed():
            raise ContainerNotFound(self.id)
        return self

    def unlock(self) -> None:
        """Let others have the lock.  With a directory that was closed it has gone already."""
        if self.fd >= 0:
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        self.has_lock = False

    def locked(self) -> bool:
        """Whether another command holds the lock at this moment."""
        if self.has_lock:  # to try would give it away
            return False
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        return False

    def is_no_container(self) -> bool:
        """Whether, without a state.json, it is one that is being claimed or removed at this moment, or has been."""
        return not self.has(CONFIG) and (self.locked() or self.removed())

    def removed(self) -> bool:
        """Whether the directory is no longer the one at its path."""
        try:
            return os.stat(self.path, follow_symlinks=False).st_ino != os.fstat(self.fd).st_ino
        except FileNotFoundError:
            return True
        except OSError as error:
            raise kernel_error(f"look for {self.path}", error, syscall="stat") from None

    def read(self, name: str) -> bytes:
        """A file's contents.  Raises FileNotFoundError, KernelError."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            with open(fd, "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise kernel_error(f"read {self.path}/{name}", error) from None

    def read_state(self) -> dict[str, Any] | None:
        """state.json, None if there is none (a create that died early).  Raises PyruncError."""
        try:
            data = self.read(STATE)
        except FileNotFoundError:
            return None
        state = parse(data, f"{self.path}/{STATE}")
        if not isinstance(state, dict) or not 1 <= state.get("version", 0) <= VERSION:
            raise PyruncError(f"{self.path}/{STATE} is not of a version this pyrunc reads",
                              hint="it was made by a newer one")
        return state

    def write_state(self, state: dict[str, Any], *, durable: bool = False) -> None:
        """Replace state.json atomically; with `durable` it is on disk when this returns."""
        self.write(STATE, _encoded(state), durable=durable)

    def prepare_state(self, state: dict[str, Any]) -> None:
        """What can fail of a durable write_state for want of room; `commit` or `discard` of STATE follows."""
        self._prepare(STATE, _encoded(state), durable=True)

    def write(self, name: str, data: bytes, *, durable: bool = False) -> None:
        """Replace the file `name` atomically.  Raises KernelError."""
        self._prepare(name, data, durable=durable)
        self.commit(name, durable=durable)

    def _prepare(self, name: str, data: bytes, *, durable: bool) -> None:
        try:
            fd = os.open(_aside(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                         dir_fd=self.fd)
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                if durable:
                    os.fsync(fd)
        except OSError as error:
            self.discard(name)
            raise kernel_error(f"write {self.path}/{name}", error) from None

    def commit(self, name: str, *, durable: bool = True) -> None:
        """Have what was prepared be the file `name`.  Raises KernelError."""
        try:
            os.rename(_aside(name), name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            if durable:
                os.fsync(self.fd)
        except OSError as error:
            raise kernel_error(f"write {self.path}/{name}", error) from None

    def discard(self, name: str) -> None:
        """Take away what was prepared."""
        try:
            os.unlink(_aside(name), dir_fd=self.fd)
        except OSError:
            pass  # there is nothing, or it is written over the next time

    def tell(self, name: str, text: Callable[[], str]) -> None:
        """Write to the file `name`, in place, if there is one: somebody has it open and waits for it.

        As far as that can be done: who waits isn't worth to fail for.
        """
        try:
            fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return
        try:
            os.write(fd, text().encode())
        except OSError:
            pass
        finally:
            os.close(fd)

    def mark(self, name: str) -> None:
        """Leave an empty file of that name.  Raises KernelError."""
        try:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.fd))
        except OSError as error:
            raise kernel_error(f"make {self.path}/{name}", error, syscall="openat") from None

    def make_fifo(self) -> int:
        """Make exec.fifo; an O_PATH descriptor of it.

        Anybody may write it: the init opens it as the container's user, who may be nobody on the
        host.  Nobody but the init gets to it: the directory is 0700.
        """
        try:
            os.mkfifo(FIFO, 0o600, dir_fd=self.fd)
            fd = os.open(FIFO, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            os.chmod(FIFO, 0o622, dir_fd=self.fd)
        except OSError as error:
            raise kernel_error(f"make {self.path}/{FIFO}", error, syscall="mknodat") from None
        return fd

    def has_fifo(self) -> bool:
        return self.has(FIFO)

    def has(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise kernel_error(f"look for {self.path}/{name}", error, syscall="fstatat") from None
        return True

    def remove(self) -> None:
        """Remove the directory and what is in it; the lock ends with it.  Raises KernelError."""
        try:
            names = os.listdir(self.fd)
            for name in sorted(names, key=STATE.__eq__):  # that one last: see `is_no_container`
                try:
                    os.unlink(name, dir_fd=self.fd)
                except FileNotFoundError:
                    continue
                except IsADirectoryError:
                    self._remove_directory(name)
            os.rmdir(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise kernel_error(f"remove {self.path}", error) from None
        finally:
            self.close()

    def _remove_directory(self, name: str) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            for entry in os.listdir(fd):
                os.unlink(entry, dir_fd=fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=self.fd)


def _encoded(state: dict[str, Any]) -> bytes:
    return dump({**state, "version": VERSION}).encode("utf-8", "surrogatepass")


def _aside(name: str) -> str:
    """Where a file is written before it takes the place of the old one."""
    return f".{name}.new"


def list_ids(root: str) -> list[str]:
    """The ids that are taken below `root`, sorted."""
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise UsageError(f"--root {root} is not a directory") from None
        raise kernel_error(f"list {root}", error) from None
    return sorted(name for name in names if name not in (".", "..") and _ID_CHARACTERS.issuperset(name))
