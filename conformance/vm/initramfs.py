# SPDX-License-Identifier: Apache-2.0
"""The first file system of both machines: busybox, the modules to reach the real root, and a script.

The script mounts what the job's `shares` lists (a 9p tag and a path a line), each read-only from the
host under a tmpfs that takes the writes, and hands over to the job's `init`.
"""

from __future__ import annotations

import stat
from pathlib import Path

from conformance.vm.kernel import Kernel, read_module

BUSYBOX = Path("/bin/busybox")
JOB = "/.pyrunc-vm"  # in the guest, with what the host wrote for this run
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "9pnet_virtio", "9p", "overlay", "ext4")

INIT = f"""\
#!/bin/busybox sh
# A failure ends PID 1, and with that the machine.
set -e
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /dev /job /lower /upper /root
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r file; do insmod "/modules/$file"; done </modules/order

# The largest message that qemu's ring holds; nobody changes the host's files under the machine, so it may cache.
plan9() {{ mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=507904 "$1" "$2"; }}
plan9 job /job
. /job/machine
[ -z "$DISK" ] || mount -t ext4 "$DISK" /root
mount -t tmpfs -o size=60% upper /upper
while read -r tag path; do
	mkdir -p "/lower/$tag" "/upper/$tag/upper" "/upper/$tag/work" "/root$path"
	plan9 "$tag" "/lower/$tag"
	mount -t overlay -o "lowerdir=/lower/$tag,upperdir=/upper/$tag/upper,workdir=/upper/$tag/work" "$tag" "/root$path"
done </job/shares
mkdir -p /root{JOB}
mount -o move /job /root{JOB}
umount /dev /proc
exec switch_root /root $INIT
"""


def build(kernel: Kernel) -> bytes:
    """The archive, as the kernel's initramfs buffer format wants it."""
    archive = Archive()
    for directory in ("bin", "modules"):
        archive.add(directory, stat.S_IFDIR | 0o755)
    archive.add("bin/busybox", stat.S_IFREG | 0o755, BUSYBOX.read_bytes())
    archive.add("init", stat.S_IFREG | 0o755, INIT.encode())
    order = ""
    for path in kernel.module_files(*MODULES):
        archive.add(f"modules/{path.name}", stat.S_IFREG | 0o644, read_module(path))
        order += f"{path.name}\n"
    archive.add("modules/order", stat.S_IFREG | 0o644, order.encode())
    return archive.finish()


class Archive:
    """A cpio archive of the kind `newc`: Documentation/driver-api/early-userspace/buffer-format.rst."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.inode = 0

    def add(self, name: str, mode: int, content: bytes = b"") -> None:
        self.inode += 1
        path = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        self.data += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._align()
        self.data += content
        self._align()

    def _align(self) -> None:
        self.data += bytes(-len(self.data) % 4)

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self.data)
