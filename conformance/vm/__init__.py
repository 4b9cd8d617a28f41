# SPDX-License-Identifier: Apache-2.0
"""Three virtual machines to run commands in, made from nothing but Debian's archive.

controllers   Debian's own kernel on a view of this machine's root file system, with every cgroup v2
              controller and a shell script as PID 1
selinux       the same with SELinux in AppArmor's place, which has no policy until a test loads one
systemd       the same kernel under a Debian of its own, with systemd as PID 1, AppArmor and D-Bus

All start from one initramfs (initramfs.py).  qemu alone is driven: what a tool such as virtme-ng
would add is a link in this machine's /lib/modules and output that goes through a console.  The CPU is
emulated, so that it works in a virtual machine, and always the same.

    python -m conformance.vm run --machine controllers -- COMMAND...
"""
