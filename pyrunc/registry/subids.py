# SPDX-License-Identifier: Apache-2.0
"""An ordinary user's other ids, those that /etc/subuid and /etc/subgid grant it (subuid(5), user_namespaces(7)).

An image's files have many owners, and an ordinary user may give a file to none.  Inside a user namespace
that maps the granted ids it may: `enter` puts the process into one where every id is called as outside,
so that nothing but its rights has changed.  The container finds the same owners by the mappings in its
config.json.
"""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING

from pyrunc.errors import ImageError, PyruncError
from pyrunc.linux.process import CLONE_NEWUSER, unshare
from pyrunc.namespaces import find_helper, write_id_maps
from pyrunc.rootfs import open_proc

if TYPE_CHECKING:
    from collections.abc import Callable

    from .idmap import Ownership, Range

_LARGEST = 1 << 32


def granted(path: str, uid: int, own: int) -> tuple[Range, ...]:
    """The mapping that `path`, /etc/subuid or /etc/subgid, allows the user `uid`: `own` as 0, then what it is granted.

    Empty when that is nothing.  Lines that can't be read are passed over, as newuidmap(1) does.
    """
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    found: list[Range] = []
    inside = 1
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                fields = line.strip().split(":")
                if len(fields) != 3 or fields[0] not in (name, str(uid)) or not fields[0] \
                        or not all(field.isascii() and field.isdigit() and len(field) < 11 for field in fields[1:]):
                    continue
                first, size = int(fields[1]), int(fields[2])
                if size and first + size <= _LARGEST and inside + size <= _LARGEST \
                        and not any(first < start + length and start < first + size for _, start, length in found):
                    found.append((inside, first, size))
                    inside += size
    except OSError:
        return ()
    return ((0, own, 1), *found) if found else ()


def mapping() -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """The caller's, of users and of groups; empty where it has none, or nothing that sets them up."""
    if not (find_helper("newuidmap") and find_helper("newgidmap")):
        return (), ()
    uid = os.geteuid()
    uids, gids = granted("/etc/subuid", uid, uid), granted("/etc/subgid", uid, os.getegid())
    return (uids, gids) if uids and gids else ((), ())


def with_rights(ownership: Ownership, function: Callable[[], object]) -> None:
    """Call it with the right to all ids of `ownership`: in a child that enters, where that takes one.

    Raises what it raised, or from a child an ImageError with the same words.
    """
    if os.geteuid() == 0 or not ownership.uids:
        function()
        return
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            enter(ownership)
            function()
            status = 0
        except PyruncError as error:
            os.write(writer, str(error).encode(errors="replace"))
        except KeyboardInterrupt:
            os.write(writer, b"interrupted")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode(errors="replace"))
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise ImageError(text or f"the process that owns the files: exit status {status}")


def enter(ownership: Ownership) -> None:
    """Have the right to all ids of `ownership`, as an ordinary user; for root, who has it, nothing changes.

    For good, and for this process alone, which must have one thread.  Raises PyruncError.
    """
    if os.geteuid() == 0 or not ownership.uids:
        return
    same = {member: [{"containerID": host, "hostID": host, "size": size} for _, host, size in ranges]
            for member, ranges in (("uidMappings", ownership.uids), ("gidMappings", ownership.gids))}
    ready, go = os.pipe2(os.O_CLOEXEC)
    answer, tell = os.pipe2(os.O_CLOEXEC)
    us = os.getpid()
    pid = os.fork()
    if pid == 0:  # stays outside, where newuidmap has its power
        try:
            os.close(go)
            os.close(answer)
            if os.read(ready, 1):
                write_id_maps(us, open_proc(), same, "")
        except PyruncError as error:
            os.write(tell, str(error).encode(errors="replace"))
        except BaseException as error:
            os.write(tell, f"{type(error).__name__}: {error}".encode(errors="replace"))
        finally:
            os._exit(0)
    os.close(ready)
    os.close(tell)
    try:
        try:
            unshare(CLONE_NEWUSER)
        except OSError as error:
            raise ImageError(f"no user namespace for the owners of files: {os.strerror(error.errno or 0).lower()}",
                             hint="may this user make one? (user.max_user_namespaces, an AppArmor rule)") from None
        os.write(go, b"x")
        with open(answer, "rb", closefd=False) as said:
            text = said.read().decode(errors="replace")
        if text:
            raise ImageError(text)
    finally:
        os.close(go)
        os.close(answer)
        os.waitpid(pid, 0)
