# SPDX-License-Identifier: Apache-2.0
"""A file system that behaves as the kernel's resctrl does (resctrl.rst), for processors that have none.

`python resctrl.py DIRECTORY` mounts it there and serves it, by the FUSE protocol (linux/fuse.h), until it
is unmounted.  Two L3 caches with eight ways, bandwidth in steps of 10 %, three control groups in all.
"""

from __future__ import annotations

import os
import stat
import sys
from errno import EBUSY, EINVAL, ENOENT, ENOSPC, ENOSYS, ENOTDIR, EPERM
from errno import EEXIST as _EEXIST
from struct import pack, unpack_from

CLOSIDS = 3
FORGET, INTERRUPT, BATCH_FORGET = 2, 36, 42
DIRECT_IO = 1


class Node:
    """A file or a directory; files have what they say, and perhaps what takes a write."""

    def __init__(self, number: int, mode: int) -> None:
        self.number = number
        self.mode = mode
        self.children: dict[str, Node] = {}
        self.text = ""


class Refused(Exception):
    """The errno of an answer."""


class Resctrl:
    """The tree."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.counter = 0
        self.top = self.group(Node(self.number(), stat.S_IFDIR | 0o755), default=True)
        info = self.directory(self.top, "info")
        self.status = self.file(info, "last_cmd_status", "ok\n", 0o444)
        l3 = self.directory(info, "L3")
        for name, text in (("cbm_mask", "ff"), ("min_cbm_bits", "1"), ("num_closids", str(CLOSIDS))):
            self.file(l3, name, text + "\n", 0o444)
        bandwidth = self.directory(info, "MB")
        for name, text in (("bandwidth_gran", "10"), ("delay_linear", "1"), ("min_bandwidth", "10"),
                           ("num_closids", str(CLOSIDS))):
            self.file(bandwidth, name, text + "\n", 0o444)
        monitoring = self.directory(info, "L3_MON")
        self.file(monitoring, "mon_features", "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n", 0o444)

    def number(self) -> int:
        self.counter += 1
        return self.counter

    def add(self, parent: Node, name: str, mode: int) -> Node:
        node = parent.children[name] = Node(self.number(), mode)
        self.nodes[node.number] = node
        return node

    def directory(self, parent: Node, name: str) -> Node:
        return self.add(parent, name, stat.S_IFDIR | 0o755)

    def file(self, parent: Node, name: str, text: str, mode: int = 0o644) -> Node:
        node = self.add(parent, name, stat.S_IFREG | mode)
        node.text = text
        return node

    def group(self, node: Node, *, default: bool = False, control: bool = True) -> Node:
        """Fill a directory as the kernel fills a new group."""
        self.nodes[node.number] = node
        self.file(node, "tasks", "")
        data = self.directory(node, "mon_data")
        for cache in range(2):
            domain = self.directory(data, f"mon_L3_0{cache}")
            for name, value in (("llc_occupancy", 1000), ("mbm_total_bytes", 2000), ("mbm_local_bytes", 3000)):
                self.file(domain, name, f"{value + node.number}\n", 0o444)
        if control:
            self.file(node, "schemata", "    MB:0= 100;1= 100\n    L3:0=ff;1=ff\n")
            self.directory(node, "mon_groups")
        return node

    def parent_of(self, node: Node) -> Node:
        return next(other for other in self.nodes.values() if node in other.children.values())

    # What the kernel does on a write, a mkdir, a rmdir

    def mkdir(self, parent: Node, name: str) -> Node:
        if name in parent.children:
            raise Refused(_EEXIST)
        if parent is self.top:
            if sum("mon_groups" in node.children for node in self.top.children.values()) >= CLOSIDS - 1:
                self.say("Out of CLOSIDs")
                raise Refused(ENOSPC)
            return self.group(self.directory(parent, name))
        if any(parent is group.children.get("mon_groups") for group in [self.top, *self.top.children.values()]):
            return self.group(self.directory(parent, name), control=False)
        raise Refused(EPERM)

    def rmdir(self, parent: Node, name: str) -> None:
        node = parent.children.get(name)
        if node is None:
            raise Refused(ENOENT)
        if "tasks" not in node.children:
            raise Refused(EPERM)
        up = self.top if parent is self.top else self.parent_of(parent)
        up.children["tasks"].text += node.children["tasks"].text
        del parent.children[name]

    def write(self, node: Node, text: str) -> None:
        parent = self.parent_of(node)
        if node is parent.children.get("tasks"):
            for line in text.split():
                if not os.path.isdir(f"/proc/{line}"):
                    raise Refused(3)  # ESRCH
                for other in list(self.nodes.values()):
                    tasks = other.children.get("tasks")
                    # In one control group at a time; in one of its monitoring groups and in itself.
                    if tasks and other not in (parent, self._control(parent)):
                        tasks.text = "".join(x + "\n" for x in tasks.text.split() if x != line)
                if line not in node.text.split():
                    node.text += line + "\n"
        elif node is parent.children.get("schemata"):
            new = dict(line.strip().split(":") for line in node.text.splitlines())
            for line in text.splitlines():
                resource, _, rest = line.partition(":")
                if resource not in new:
                    self.say(f"Unknown or unsupported resource name '{resource}'")
                    raise Refused(EINVAL)
                values = dict(part.split("=") for part in new[resource].split(";"))
                for part in rest.split(";"):
                    domain, _, value = part.partition("=")
                    values[domain] = self.check(resource, value)
                new[resource] = ";".join(f"{domain}={value}" for domain, value in values.items())
            node.text = "".join(f"    {name}:{value}\n" for name, value in new.items())
        else:
            raise Refused(EPERM)
        self.status.text = "ok\n"

    def _control(self, group: Node) -> Node | None:
        return self.parent_of(self.parent_of(group)) if "schemata" not in group.children else None

    def check(self, resource: str, text: str) -> str:
        if resource == "MB":
            value = int(text)
            if not 10 <= value <= 100:
                self.say(f"MB value {value} out of range [10,100]")
                raise Refused(EINVAL)
            return f" {-(-value // 10) * 10}"
        mask = int(text, 16)
        if not 0 < mask <= 0xff:
            self.say(f"Mask {mask:x} out of range")
            raise Refused(EINVAL)
        return f"{mask:x}"

    def say(self, text: str) -> None:
        self.status.text = text + "\n"

    # The protocol

    def attributes(self, node: Node) -> bytes:
        size = len(node.text)
        links = 2 if stat.S_ISDIR(node.mode) else 1
        return pack("=6Q10I", node.number, size, 0, 0, 0, 0, 0, 0, 0, node.mode, links, 0, 0, 0, 4096, 0)

    def entry(self, node: Node) -> bytes:
        return pack("=4Q2I", node.number, 0, 0, 0, 0, 0) + self.attributes(node)

    def answer(self, opcode: int, node: Node, body: bytes) -> bytes:
        if opcode == 1:  # LOOKUP
            name = body.rstrip(b"\0").decode()
            if name not in node.children:
                raise Refused(ENOENT)
            return self.entry(node.children[name])
        if opcode in (3, 4):  # GETATTR, SETATTR
            return pack("=QII", 0, 0, 0) + self.attributes(node)
        if opcode == 9:  # MKDIR
            return self.entry(self.mkdir(node, body[8:].rstrip(b"\0").decode()))
        if opcode == 11:  # RMDIR
            self.rmdir(node, body.rstrip(b"\0").decode())
            return b""
        if opcode in (14, 27):  # OPEN, OPENDIR
            return pack("=QII", 0, DIRECT_IO if opcode == 14 else 0, 0)
        if opcode == 15:  # READ
            _, offset, size = unpack_from("=QQI", body)
            if node in [other.children.get("tasks") for other in self.nodes.values()]:  # the dead leave
                node.text = "".join(line + "\n" for line in node.text.split() if os.path.isdir(f"/proc/{line}"))
            return node.text.encode()[offset:offset + size]
        if opcode == 16:  # WRITE
            _, _, size = unpack_from("=QQI", body)
            self.write(node, body[40:40 + size].decode())
            return pack("=II", size, 0)
        if opcode == 28:  # READDIR
            _, offset, size = unpack_from("=QQI", body)
            return self.entries(node, offset, size)
        if opcode == 17:  # STATFS
            return bytes(80)
        if opcode in (18, 25, 29, 38):  # RELEASE, FLUSH, RELEASEDIR, DESTROY
            return b""
        raise Refused(ENOSYS)

    def entries(self, node: Node, offset: int, size: int) -> bytes:
        if not stat.S_ISDIR(node.mode):
            raise Refused(ENOTDIR)
        data = b""
        for index, (name, child) in list(enumerate(node.children.items(), 1))[offset:]:
            raw = name.encode()
            record = pack("=QQII", child.number, index, len(raw), child.mode >> 12) + raw
            record += bytes(-len(record) % 8)
            if len(data) + len(record) > size:
                break
            data += record
        return data

    def serve(self, fd: int) -> None:
        while True:
            try:
                request = os.read(fd, 1 << 18)
            except OSError as error:
                if error.errno == ENOENT:  # interrupted while queued
                    continue
                return  # ENODEV: unmounted
            _, opcode, unique, number = unpack_from("=IIQQ", request)
            body = request[40:]
            if opcode in (FORGET, INTERRUPT, BATCH_FORGET):
                continue
            try:
                if opcode == 26:  # INIT
                    out = pack("=IIIIHHIIHHI7I", 7, 31, 0, 0, 8, 6, 4096, 1, 0, 0, 0, *[0] * 7)
                else:
                    out = self.answer(opcode, self.nodes[number], body)
                error_number = 0
            except Refused as refused:
                out, error_number = b"", refused.args[0]
            except (ValueError, StopIteration):
                out, error_number = b"", EINVAL
            except KeyError:
                out, error_number = b"", EBUSY
            os.write(fd, pack("=IiQ", 16 + len(out), -error_number, unique) + out)


def main(directory: str) -> None:
    from ctypes import CDLL, get_errno

    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other"
    if CDLL(None, use_errno=True).mount(b"resctrl", directory.encode(), b"fuse.resctrl", 0, options.encode()):
        sys.exit(os.strerror(get_errno()))
    print("ready", flush=True)
    Resctrl().serve(fd)


if __name__ == "__main__":
    main(sys.argv[1])
