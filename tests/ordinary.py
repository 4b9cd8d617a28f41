# SPDX-License-Identifier: Apache-2.0
"""An ordinary user for a test, with ids of others or none, with a cgroup delegated to it or none.

It exists in a mount namespace of its own, where /etc says so; the host's /etc is never written.
"""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from pathlib import Path

from support import PYRUNC, Result

UID = 54321
FIRST = 700000  # of the sub-ids that it may have been granted
NAME = "tester"

# What is mounted at /sys/fs/cgroup: the host's; v2 alone; v2, with a sub-tree that is the user's, who is in it.
CGROUPS = {
    "host": "",
    "v2": "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup",
    "delegated": """
        umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
        origin=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
        own=/sys/fs/cgroup/pyrunc-test-$$
        mkdir -p $own/shell
        for file in $own $own/cgroup.procs $own/cgroup.subtree_control $own/cgroup.threads \
            $own/shell $own/shell/cgroup.procs $own/shell/cgroup.subtree_control; do chown UID:UID $file; done
        echo $$ >$own/shell/cgroup.procs""",
}
# The last command's status; what a container has left in the sub-tree makes rmdir fail, and the test with it.
LEAVE = {"delegated": "echo $$ >$origin/cgroup.procs; rmdir $own/shell $own || status=99"}


HOME = "/mnt"  # where the user finds its home: pytest's directories are root's alone


class User:
    """`run` is a shell script as the user, in `home`, which is its own; `$P` is the runtime."""

    def __init__(self, home: Path, granted: int = 0, cgroups: str = "host") -> None:
        self.home = home
        self.granted = granted
        self.cgroups = cgroups
        self.id = f"t{uuid.uuid4().hex[:12]}"
        self.runtime_dir = home / "run"
        self.runtime_dir.mkdir(parents=True)
        self.runtime_dir.chmod(0o700)
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": HOME, "P": PYRUNC,
                            "XDG_RUNTIME_DIR": f"{HOME}/run", "TERM": "xterm"}

    def run(self, script: str, *, own: bool = True, timeout: float = 120) -> Result:
        """`own`: first give the user all that is in its home.

        A container called web in the script has a name of its own on the machine, and is web again in the result.
        """
        for path in (self.home, *self.home.rglob("*")) if own else ():
            os.chown(path, UID, UID, follow_symlinks=False)
        etc = self.home.parent / f"{self.home.name}-etc"
        etc.mkdir(exist_ok=True)
        (etc / "passwd").write_text(Path("/etc/passwd").read_text() + f"{NAME}:x:{UID}:{UID}::/:/bin/sh\n")
        (etc / "group").write_text(Path("/etc/group").read_text() + f"{NAME}:x:{UID}:\n")
        for name in ("subuid", "subgid"):
            (etc / name).write_text(f"{NAME}:{FIRST}:{self.granted}\n" if self.granted else "")
        steps = ["set -e", f"mount --bind {self.home} {HOME}"]
        steps += [f"touch /etc/{name}; mount --bind {etc}/{name} /etc/{name}"
                  for name in ("passwd", "group", "subuid", "subgid")]
        steps += [CGROUPS[self.cgroups].replace("UID", str(UID)), "status=0",
                  f'setpriv --reuid {UID} --regid {UID} --clear-groups sh -c "$0" || status=$?',
                  LEAVE.get(self.cgroups, ""), "exit $status"]
        script = f"cd {HOME}\n" + re.sub(r"\bweb\b", self.id, script)
        done = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-c", "\n".join(steps), script],
                              env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=timeout)
        out, err = (text.replace(self.id, "web") for text in (done.stdout, done.stderr))
        return Result(done.returncode, out, err)
