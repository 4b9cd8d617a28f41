# SPDX-License-Identifier: Apache-2.0
"""An ordinary user's containers and networks: pasta, slirp4netns, and what is said when there is neither."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from netlab import OUTSIDE_4, ROUTER_4, Lab, Unanswered
from ordinary import CGROUPS, UID, User
from support import wait_for

SCRIPT = """#!/bin/sh
until ip route | grep -q default; do sleep 0.05; done
(echo; sleep 1) | timeout 2 nc OUTSIDE 7000  # Debian's pasta takes half a connection's end amiss
echo
mkdir /www
echo hello from inside >/www/index.html
exec httpd -f -p 80 -h /www
"""


#: udev gives the device to everybody; a machine without has it for root alone.
CGROUPS["tun"] = "mount -t tmpfs tun /dev/net; mknod -m 666 /dev/net/tun c 10 200"


class Networked(User):
    """A user on the lab's router."""

    lab: Lab

    def within(self, script: str, **options: Any) -> Any:
        with self.lab.router.inside():
            return self.run(script, **options)


@pytest.fixture
def user(netlab: Lab, template: tuple[Path, dict[str, Any]], tmp_path: Path) -> Networked:
    user = Networked(tmp_path / "home", cgroups="tun")
    user.lab = netlab
    bundle = user.home / "b"
    bundle.mkdir()
    shutil.copytree(template[0] / "rootfs", bundle / "rootfs", symlinks=True)
    script = bundle / "rootfs/bin/script"
    script.write_text(SCRIPT.replace("OUTSIDE", OUTSIDE_4))
    script.chmod(0o755)
    assert user.run("cd b; $P spec --rootless").code == 0
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(terminal=False, args=["/bin/script"])
    config["root"]["readonly"] = False
    (bundle / "config.json").write_text(json.dumps(config))
    return user


def programs() -> list[str]:
    """The processes of such a kind that are the user's."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{entry}").st_uid == UID and \
                    Path(f"/proc/{entry}/comm").read_text().startswith(("pasta", "slirp", "passt")):
                found.append(entry)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_out_and_in(user: Networked, netlab: Lab, program: str) -> None:
    """The outside is reached with the host's address, a published port leads in; all ends with the container."""
    netlab.outside.listen(7000)
    done = user.within(f"cd b; $P net setup --net {program} -p 8080:80; $P run -d web >/mnt/log 2>&1 </dev/null")
    assert done.code == 0, (done, (user.home / "log").read_text())
    wait_for(lambda: (user.home / "log").read_text().count("\n") > 0, "the outside's answer")
    assert (user.home / "log").read_text().split()[:2] == ["outside", ROUTER_4]

    def said() -> bytes:
        try:
            with netlab.outside.connect(ROUTER_4, 8080) as connection:
                connection.socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
                return b"".join(iter(lambda: connection.socket.recv(1000), b""))
        except (Unanswered, OSError):
            return b""

    wait_for(lambda: said().endswith(b"hello from inside\n"), "the published port")
    assert programs() != []
    assert user.within("$P delete -f web").code == 0
    wait_for(lambda: programs() == [], "the process to end")


@pytest.mark.parametrize(("words", "said"), (
    (("--net", "slirp4netns"), "an ordinary user's network needs slirp4netns, which is not installed (install the "
                               "package passt or slirp4netns)"),
    ((), "an ordinary user's network needs pasta or slirp4netns, which is not installed (install the package passt or "
         "slirp4netns)"),
    (("--net", "web"), "bridges and CNI's plugins take root (an ordinary user has --net pasta, or slirp4netns)"),
))
def test_what_an_ordinary_user_cannot_have(user: Networked, words: tuple[str, ...], said: str) -> None:
    """One clear line, and the bundle is as it was."""
    before = (user.home / "b/config.json").read_text()
    CGROUPS["tun-none"] = "for name in pasta slirp4netns; do mount --bind /dev/null /usr/bin/$name; done"
    user.cgroups = "tun-none"
    done = user.within(f"cd b; $P net setup {' '.join(words)}")
    assert (done.code, done.err) == (1, f"pyrunc: net setup: {said}\n")
    assert (user.home / "b/config.json").read_text() == before
