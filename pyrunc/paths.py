# SPDX-License-Identifier: Apache-2.0
"""Paths below a root that is not trusted: opened, created and walked by descriptor.

A container's image can hold any symbolic link at any place, and another process may exchange
directories while we look.  So nothing here is checked first and used later: the kernel resolves
below the root (openat2, RESOLVE_IN_ROOT), and what comes back is a descriptor.
"""

from __future__ import annotations

import os
import stat

from .linux.fs import O_PATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2

_MAX_LINKS = 40  # the kernel's own bound (path_resolution(7))


def clean(path: str) -> str:
    """`path` with `.`, `..` and double slashes resolved by text alone, relative to its root."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part and part != ".":
            parts.append(part)
    return "/".join(parts)


def unescape(text: str) -> str:
    """A path as proc_pid_mountinfo(5) has it: space, tab, newline and backslash stand as three octal digits."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def make_private(path: str) -> None:
    """Make the directory `path` and those above it that are missing, all for us alone.

    os.makedirs leaves the mode of those above to the umask, and whoever may write there may exchange what is below.
    Raises OSError.
    """
    missing = [path]
    refused: set[str] = set()
    while missing:
        try:
            os.mkdir(missing[-1], 0o700)
        except FileNotFoundError:
            above = os.path.dirname(missing[-1])
            if above in ("", missing[-1]) or missing[-1] in refused:  # what procfs says, with all above it there
                raise
            refused.add(missing[-1])
            missing.append(above)
            continue
        except FileExistsError:
            if not os.path.isdir(missing[-1]):
                raise
        missing.pop()


def create_anew(path: str, mode: int) -> int:
    """A file of ours at `path`, to be written to.  Raises OSError.

    What is there by that name goes, unopened: where others may write, too, it may be a link, a fifo, a file of theirs.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, flags, mode)


def open_in_root(root_fd: int, unsafe_path: str, flags: int = O_PATH, *, follow: bool = True) -> int:
    """Open `unsafe_path` as if `root_fd` were `/`; with `follow` False no component may be a link.

    Raises OSError (ENOENT, ELOOP, ENOTDIR, …) as openat2(2) does.
    """
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    if not follow:
        resolve |= RESOLVE_NO_SYMLINKS
    return openat2(root_fd, unsafe_path.strip("/") or ".", flags, resolve)


def _open_component(root_fd: int, parts: list[str]) -> int:
    return open_in_root(root_fd, "/".join(parts), O_PATH | os.O_DIRECTORY)


def make_directory(root_fd: int, unsafe_path: str, mode: int = 0o755, *, follow: bool = True,
                   owner: tuple[int, int] | None = None) -> int:
    """Open the directory `unsafe_path` below `root_fd`, making what is missing; an O_PATH descriptor.

    A link that points nowhere is followed within the root, and its target made, as runc does for
    `/var/run -> /run` in an image without /run.  `owner` (uid, gid) is given to directories made
    here.  Raises OSError.
    """
    try:
        return open_in_root(root_fd, unsafe_path, O_PATH | os.O_DIRECTORY, follow=follow)
    except FileNotFoundError:
        pass
    pending = [part for part in unsafe_path.split("/") if part and part != "."]
    done: list[str] = []
    links = 0
    current = os.open(".", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
    try:
        while pending:
            name = pending.pop(0)
            try:
                following = open_in_root(root_fd, "/".join([*done, name]), O_PATH | os.O_DIRECTORY, follow=follow)
            except FileNotFoundError:
                try:
                    os.mkdir(name, mode, dir_fd=current)
                    if owner is not None:
                        os.chown(name, owner[0], owner[1], dir_fd=current, follow_symlinks=False)
                except FileExistsError:
                    if not follow:
                        raise
                    links += 1
                    if links > _MAX_LINKS:
                        raise OSError(40, os.strerror(40)) from None
                    target = os.readlink(name, dir_fd=current)
                    if target.startswith("/"):
                        done = []
                    pending = [part for part in target.split("/") if part and part != "."] + pending
                    os.close(current)
                    current = _open_component(root_fd, done)
                    continue
                # Just made: a link here now is somebody else's doing.
                following = openat2(current, name, O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS)
            os.close(current)
            current = following
            done.append(name)
        return current
    except BaseException:
        os.close(current)
        raise


def make_file(root_fd: int, unsafe_path: str, mode: int = 0o755) -> int:
    """Open the file `unsafe_path` below `root_fd`, making it (and its directories) if missing.

    An O_PATH descriptor of something that is not a directory.  Raises OSError.
    """
    try:
        return open_in_root(root_fd, unsafe_path)
    except FileNotFoundError:
        pass
    for _ in range(_MAX_LINKS):
        head, _, name = unsafe_path.rstrip("/").rpartition("/")
        parent = make_directory(root_fd, head)
        try:
            try:
                made = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
                               mode, dir_fd=parent)
            except FileExistsError:
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if not stat.S_ISLNK(info.st_mode):
                    return openat2(parent, name, O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS)
                target = os.readlink(name, dir_fd=parent)
                unsafe_path = target if target.startswith("/") else f"{head}/{target}"
                continue
            os.close(made)
            return openat2(parent, name, O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS)
        finally:
            os.close(parent)
    raise OSError(40, os.strerror(40))


def is_directory(fd: int) -> bool:
    """Whether `fd` names a directory."""
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def proc_reopen(proc_self: int, fd: int, flags: int) -> int:
    """Open what the O_PATH descriptor `fd` names with `flags`, through our own `/proc/self`.

    `proc_self` was opened and verified before the container's root was entered.  Raises OSError.
    """
    return os.open(f"fd/{fd}", flags | os.O_CLOEXEC, dir_fd=proc_self)
