# SPDX-License-Identifier: Apache-2.0
"""An ordinary user's container: `spec --rootless`, run, the whole lifecycle, nothing left."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest
from seccomp_agents import Agent
from seccomp_probe import allowing, rule
from support import PYRUNC, make_rootfs

USER = "nobody"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A bundle that belongs to an ordinary user, who can reach it."""
    user = pwd.getpwnam(USER)
    make_rootfs(tmp_path / "bundle" / "rootfs")
    (tmp_path / "run").mkdir()
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o011)
    return tmp_path


def as_user(home: Path, script: str) -> subprocess.CompletedProcess[str]:
    """`script` as the ordinary user, in the bundle; `$P` is the runtime."""
    user = pwd.getpwnam(USER)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"),
                   "P": PYRUNC}
    return subprocess.run(["setpriv", "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups",
                           "sh", "-ec", f"cd bundle; {script}"], cwd=home, env=environment, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


def prepare(program: str) -> str:
    """Shell that writes a rootless config.json whose program is `program`."""
    edit = (f"import json; c = json.load(open('config.json')); c['process']['terminal'] = False; "
            f"c['root']['readonly'] = False; "
            f"c['process']['args'] = ['sh', '-c', {program!r}]; json.dump(c, open('config.json', 'w'))")
    return f'$P spec --rootless; /usr/bin/python3 -I -c "{edit}"; '


def test_a_user_is_root_in_its_own_container(home: Path) -> None:
    result = as_user(home, prepare("id; cat /proc/self/uid_map; touch /tmp/made; hostname; wc -c < /dev/null")
                     + "$P run web")
    assert result.returncode == 0, result.stderr
    identity, mapping, hostname, null = result.stdout.splitlines()
    user = pwd.getpwnam(USER)
    assert identity.startswith("uid=0") and "gid=0" in identity
    assert mapping.split() == ["0", str(user.pw_uid), "1"]
    assert hostname == "pyrunc" and null == "0"
    # What root made inside is the user's outside.
    assert (home / "bundle/rootfs/tmp/made").stat().st_uid == user.pw_uid
    assert list((home / "run").rglob("*")) == [home / "run/pyrunc"]


def test_the_lifecycle_as_a_user(home: Path) -> None:
    result = as_user(home, prepare("exec sleep 100") + (
        "$P create web; $P state web | grep status; $P start web; $P state web | grep status; $P kill web KILL; "
        "while $P state web | grep -q running; do sleep 0.05; done; $P delete web; $P list -q; echo end"))
    assert result.returncode == 0, result.stderr
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ['"created",', '"running",', "end"]


def test_without_a_user_namespace_the_remedy_is_named(home: Path) -> None:
    result = as_user(home, "$P spec; sed -i 's/\"terminal\": true/\"terminal\": false/' config.json; $P run web")
    assert result.returncode == 1
    *warnings, line = result.stderr.splitlines()
    assert all("can't be granted" in warning for warning in warnings)  # an ordinary user has no capabilities
    assert "user namespace" in line and "EPERM" in line, line


def test_a_filter_and_an_agent(home: Path) -> None:
    """The user's runtime loads a filter, keeps it compiled where only the user can write, and fetches its listener."""
    agent = Agent(home / "run", {63: (0, 13, False)})
    try:
        agent.path.chmod(0o777)
        profile = allowing(rule("chmod fchmodat fchmodat2", errnoRet=99), rule("uname", "NOTIFY"),
                           listenerPath=str(agent.path))
        (home / "bundle/profile").write_text(json.dumps(profile))
        edit = ("import json; c = json.load(open('config.json')); c['linux']['seccomp'] = json.load(open('profile')); "
                "json.dump(c, open('config.json', 'w'))")
        program = "grep -e CapPrm -e CapEff -e Seccomp: /proc/self/status; chmod 700 /tmp; uname"
        result = as_user(home, prepare(program) + f'/usr/bin/python3 -I -c "{edit}"; $P run one 2>&1; $P run two 2>&1')
        assert result.stdout.splitlines()[3:5] == ["chmod: /tmp: Cannot assign requested address", ""], result
        assert set(agent.seen) == {63}  # and busybox, refused, prints an empty line for the system's name
        assert result.stdout.splitlines()[2] == "Seccomp:\t2"
        assert result.stdout.splitlines()[:5] == result.stdout.splitlines()[5:]
        assert [state["state"]["id"] for state in agent.states] == ["one", "two"]
    finally:
        agent.close()
    kept = home / "run/pyrunc-seccomp"
    assert (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o700, pwd.getpwnam(USER).pw_uid)
    assert len(list(kept.iterdir())) == 1
