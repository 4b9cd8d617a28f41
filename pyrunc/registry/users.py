# SPDX-License-Identifier: Apache-2.0
"""Who `USER` of an image is: `user`, `uid`, and either with `:group` or `:gid` (config.md, conversion.md).

Without a group, those that the user is a member of come along, by name or by number; root's if the
image names nobody.  The group itself is among them: a setgid program changes it, and whom a file's
mode shuts out as the group must stay so (CVE-2022-36109).

Names are looked up in the image's own /etc/passwd and /etc/group, read below its root and limited in
size.  A number is that number, whatever passwd calls itself by it (CVE-2016-3697), and one that is no
id is an error, not a name (CVE-2026-46680).
"""

from __future__ import annotations

import os

from pyrunc.errors import ImageError
from pyrunc.passwd import read_database

_LARGEST = 0xFFFFFFFE  # 4294967295 means "leave it" to chown(2) and setuid(2)


def resolve(root_fd: int, text: str) -> tuple[int, int, list[int]]:
    """(uid, gid, additional gids) of the user below `root_fd`.  Raises ImageError."""
    text = text or "0"
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise ImageError(f"the user {text[:100]!a}: not USER[:GROUP]")
    uid = _number(user, text)
    gid, additional = 0, list[int]()
    for name, entry_uid, entry_gid in _passwd(root_fd):
        if (entry_uid == uid) if uid is not None else name == user:
            gid = entry_gid
            if not group:
                additional = [number for _, number, members in _groups(root_fd) if name in members]
            uid = entry_uid
            break
    if uid is None:
        raise ImageError(f"the user {user[:100]!a} is not in the image's /etc/passwd", hint="give a number, or -u")
    if group:
        number = _number(group, text)
        if number is None:
            number = next((number for name, number, _ in _groups(root_fd) if name == group), None)
        if number is None:
            raise ImageError(f"the group {group[:100]!a} is not in the image's /etc/group", hint="give a number, or -u")
        gid = number
    return uid, gid, sorted({gid, *additional})


def _number(text: str, whole: str) -> int | None:
    """The id that `text` is; None when it is a name."""
    sign = text[1:] if text[0] in "+-" else text
    if not (sign.isascii() and sign.isdigit()):
        return None
    if sign != text or len(text) > 10 or int(text) > _LARGEST or (text[0] == "0" and text != "0"):
        raise ImageError(f"the user {whole[:100]!a}: {text[:40]} is not an id",
                         hint=f"0 to {_LARGEST}, as it is written")
    return int(text)


def _lines(root_fd: int, path: str) -> list[list[str]]:
    proc_self = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        data = read_database(root_fd, proc_self, path)
    finally:
        os.close(proc_self)
    if data is None:
        return []
    return [line.split(":") for line in data.decode("utf-8", "surrogateescape").split("\n")]


def _passwd(root_fd: int) -> list[tuple[str, int, int]]:
    """(name, uid, gid) of each line that makes sense."""
    return [(fields[0], int(fields[2]), int(fields[3])) for fields in _lines(root_fd, "etc/passwd")
            if len(fields) >= 4 and fields[0] and _is_id(fields[2]) and _is_id(fields[3])]


def _groups(root_fd: int) -> list[tuple[str, int, list[str]]]:
    """(name, gid, members) of each line that makes sense."""
    return [(fields[0], int(fields[2]), fields[3].split(",")) for fields in _lines(root_fd, "etc/group")
            if len(fields) >= 4 and fields[0] and _is_id(fields[2])]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LARGEST
