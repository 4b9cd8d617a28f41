# SPDX-License-Identifier: Apache-2.0
"""Places where somebody else may write, too: what is put there in advance isn't used, written to, or believed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import Attack
from checkpoints import compile_program
from support import Bundle, Host, Runtime

NOBODY = 65534
#: What is there is opened, whatever it is.
CARELESS_PID_FILE = """
import os
from pyrunc import handover
def write_pid_file(path, pid):
    if path:
        head, _, name = path.rpartition("/")
        fd = os.open(f"{head}/.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
        os.write(fd, str(pid).encode())
        os.rename(f"{head}/.{name}", path)
handover.write_pid_file = write_pid_file
"""
CARELESS_STATE = """
import os
from pyrunc.state import StateDir
StateDir._open = classmethod(lambda cls, root, name: cls(root, name, os.open(f"{root}/{name}", os.O_DIRECTORY)))
"""
CARELESS_DIRECTORIES = """
import os
from pyrunc import paths
paths.make_private = lambda path: os.makedirs(path, 0o700, exist_ok=True)
"""
CARELESS_IMAGES = """
from pyrunc import checkpoint
checkpoint.check_files = lambda *_: None
"""


@pytest.mark.attack("pid files", "where the pid file is to be, another user has put a link, a fifo or a file of his")
@pytest.mark.parametrize("trap", ["link", "hard link", "his file", "fifo"])
def test_a_pid_file_is_our_own(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, tmp_path: Path,
                               weakened: Callable[[str], Runtime], trap: str) -> None:
    """It is written by another name first (runc's), and renamed: that name is what anybody can guess."""
    victim = tmp_path / "victim"

    def falls(program: Runtime) -> bool:
        place = tmp_path / "everybodys"
        place.mkdir(mode=0o777)
        place.chmod(0o1777)
        victim.write_text("of the host")
        guess = place / ".pid"
        if trap == "link":
            guess.symlink_to(victim)
        elif trap == "hard link":
            guess.hardlink_to(victim)
        elif trap == "his file":
            guess.write_text("")
            guess.chmod(0o666)
            os.chown(guess, NOBODY, NOBODY)
        else:
            os.mkfifo(guess)
            os.chown(guess, NOBODY, NOBODY)
        container = program.create(bundle.args("true"), "--pid-file", str(place / "pid"))
        found = (place / "pid").lstat()
        told = (place / "pid").read_text() if stat.S_ISREG(found.st_mode) else ""
        fell = victim.read_text() != "of the host" or found.st_uid != 0 or told != str(program.state(container)["pid"])
        assert program("delete", "--force", container).code == 0
        shutil.rmtree(place)
        return fell

    attack.on(runtime, falls(runtime))
    if trap != "fifo":  # which it would wait at
        attack.on("pyrunc that writes to what is there", falls(weakened(CARELESS_PID_FILE)))
    else:
        attack.on("a shell", subprocess.run(["timeout", "1", "sh", "-c", f"mkfifo {tmp_path}/f; echo 1 >{tmp_path}/f"],
                                            check=False).returncode == 124)


def test_a_bundle_is_not_written_through_links(tmp_path: Path) -> None:
    """`net setup` writes config.json aside first, in a directory that may be somebody else's."""
    from pyrunc.net import bundles

    victim = tmp_path / "victim"
    victim.write_text("of the host")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / ".config.json").symlink_to(victim)
    bundles._write(str(tmp_path), {"hostname": "web"})
    assert victim.read_text() == "of the host" and not (tmp_path / "config.json").is_symlink()
    assert json.loads((tmp_path / "config.json").read_text()) == {"hostname": "web"}


@pytest.mark.attack("state directories", "where --root is somebody else's: a container there that has hooks")
def test_the_state_of_another_user_is_not_believed(runtime: Runtime, host: Host, attack: Attack, tmp_path: Path,
                                                   weakened: Callable[[str], Runtime]) -> None:
    """A poststop hook would be run as who deletes it."""
    proof = tmp_path / "proof"

    def planted(owner: int, name: str) -> Path:
        root = tmp_path / name
        place = root / "planted"
        place.mkdir(parents=True)
        (place / "state.json").write_text(json.dumps({
            "version": 1, "id": "planted", "pid": 0, "start_time": 0, "bundle": "/", "rootfs": "/", "cgroup": None,
            "creator": {"pid": 0, "start_time": 1}}))
        (place / "config.json").write_text(json.dumps({
            "ociVersion": "1.0.0", "root": {"path": "/"},
            "hooks": {"poststop": [{"path": "/bin/touch", "args": ["touch", str(proof)]}]}}))
        for path in (root, place):
            os.chown(path, owner, owner)
        return root

    def falls(program: Runtime, owner: int, name: str) -> bool:
        program.root = planted(owner, f"{name}-{owner}")
        if owner and program is runtime:
            assert f"uid {owner}" in program("start", "planted").err
        for words in (["state", "planted"], ["delete", "planted"], ["delete", "--force", "planted"]):
            result = program(*words)
            if owner and program is runtime:
                assert result.code == 1 and f"uid {owner}" in result.err and len(result.errors) == 1, result
        fell = proof.exists()
        proof.unlink(missing_ok=True)
        return fell

    assert falls(runtime, 0, "pyrunc")  # the control: one's own hooks are run
    attack.on(runtime, falls(runtime, NOBODY, "pyrunc"))
    listed = runtime("list")
    assert listed.code == 0 and "planted" not in listed.out and f"uid {NOBODY}" in listed.err, listed
    attack.on("pyrunc that doesn't look whose they are", falls(weakened(CARELESS_STATE), NOBODY, "weakened"))


@pytest.mark.attack("state directories", "with a umask of 0 anybody may write to a directory above those of --root")
def test_directories_above_the_state_are_private(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                                 weakened: Callable[[str], Runtime], tmp_path: Path) -> None:
    """Whoever may write there may exchange what is below for his own."""
    def writable(program: Runtime, name: str) -> bool:
        root = tmp_path / name / "above" / "root"
        subprocess.run([program.path, "--root", str(root), "run", "--bundle", str(bundle.args("true").save()), name],
                       stdin=subprocess.DEVNULL, check=True)
        return any(path.stat().st_mode & 0o022 for path in (root, root.parent, root.parent.parent))

    before = os.umask(0)
    try:
        attack.on(runtime, writable(runtime, "one"))
        attack.on("pyrunc with os.makedirs", writable(weakened(CARELESS_DIRECTORIES), "two"))
    finally:
        os.umask(before)


@pytest.mark.attack("CVE-2026-53489's kind", "a checkpoint in which criu's log is a link to a file of the host's")
@pytest.mark.parametrize("where", ["--image-path", "--work-path"])
def test_a_checkpoint_without_links(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, tmp_path: Path,
                                    weakened: Callable[[str], Runtime], where: str) -> None:
    """criu opens what it writes by name, and follows links: the file would be written over."""
    bundle.save()
    images, work, victim = tmp_path / "images", tmp_path / "work", tmp_path / "victim"
    images.mkdir()
    work.mkdir()
    (images / "descriptors.json").write_text('["/dev/null", "/dev/null", "/dev/null"]')
    ((images if where == "--image-path" else work) / "restore.log").symlink_to(victim)
    options = ["--work-path", work] if where == "--work-path" else []

    def falls(program: Runtime) -> tuple[bool, str]:
        victim.write_text("of the host")
        result = program("restore", "--detach", "--image-path", images, *options, "--bundle", bundle.path,
                         program.new_id())
        assert result.code == 1, result  # there are no images
        return victim.read_text() != "of the host", result.err

    fell, said = falls(runtime)
    attack.on(runtime, fell)
    assert f"{where} {images if where == '--image-path' else work}: restore.log is a link" in said
    attack.on("pyrunc that doesn't look", falls(weakened(CARELESS_IMAGES))[0])


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_checkpoint_is_not_written_through_links(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path,
                                                   kind: str) -> None:
    """The same for one that is to be made; a link `parent` is criu's own."""
    container = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", container).code == 0
    images = tmp_path / "images"
    images.mkdir()
    (images / "parent").symlink_to("../nothing")
    if kind == "link":
        (images / "pstree.img").symlink_to(tmp_path / "victim")
    else:
        os.mkfifo(images / "pstree.img")
    result = runtime("checkpoint", "--image-path", images, container)
    assert result.code == 1 and "pstree.img is " in result.err and len(result.errors) == 1, result
    assert not (tmp_path / "victim").exists() and runtime.state(container)["status"] == "running"


@pytest.mark.attack("names in /tmp (CVE-2020-5291's kind)", "another user has made the directory in /tmp where it is "
                                                            "noted what carries an ordinary user's packets")
@pytest.mark.parametrize("trap", ["directory", "link"])
def test_a_record_in_tmp_is_ours(attack: Attack, host: Host, trap: str) -> None:
    """It is opened to be written, and the process it names is ended; only without XDG_RUNTIME_DIR."""
    base = f"/tmp/pyrunc-net-{NOBODY}"
    plant = f"mkdir -p {base}/pyrunc-net" if trap == "directory" else f"mkdir {base}; ln -s /mnt {base}/pyrunc-net"
    script = f"""mount -t tmpfs -o mode=1777 t /tmp; mount -t tmpfs t /mnt; {plant}
        chown -Rh {NOBODY} {base} /mnt; chown 1 {base}; chmod 777 {base}
        exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups "$PYTHON" -I -c "$CODE"
        """
    site = next(path for path in sys.path if path.endswith("site-packages"))

    def falls(find: str) -> bool:
        code = f"{find}; open(record('web'), 'w').write('x'); print('written')"
        done = subprocess.run(["unshare", "-m", "--propagation", "private", "sh", "-ec", script], text=True,
                              capture_output=True, check=False,
                              env={"PATH": os.environ["PATH"], "PYTHON": sys.executable, "CODE": code})
        assert done.returncode == 0 or "UsageError" in done.stderr, done
        return "written" in done.stdout

    ours = f"import sys; sys.path.append('{site}'); from pyrunc.net.rootless import _record as record"
    attack.on("pyrunc", falls(ours))
    attack.on("a program that trusts the name", falls(
        "import os; record = lambda name: f'/tmp/pyrunc-net-{os.geteuid()}/pyrunc-net/{name}'"))


#: Makes the session keyring by that name and lets everybody do everything with it; ends at the end of its stdin.
KEYRING = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
os.setgid(65534)
os.setuid(65534)
key = libc.syscall({keyctl}, 1, sys.argv[1].encode())
assert key > 0 and libc.syscall({keyctl}, 5, key, int(sys.argv[2], 16)) == 0, ctypes.get_errno()
print("made", flush=True)
sys.stdin.read()
"""
#: Says whose session keyring it has.
WHOSE = """
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void)
{
    char text[256] = "";
    if (syscall(SYS_keyctl, 6, -3, text, sizeof text - 1) < 0)
        return puts("hidden"), 0;
    return puts(text), 0;
}
"""
ANYBODYS_KEYRING = """
from pyrunc import process
process._is_our_key = lambda key: True
"""


@pytest.mark.attack("keyrings", "another user has made a session keyring by the container's name, which it joins")
@pytest.mark.parametrize("permissions", ["3f3f3f3f", "3f3f0008"], ids=["all", "search only"])
def test_a_keyring_is_the_containers_own(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, runc: Runtime,
                                         weakened: Callable[[str], Runtime], permissions: str) -> None:
    """keyctl(2), KEYCTL_JOIN_SESSION_KEYRING: who made it can read the keys that programs in the container keep."""
    compile_program(WHOSE, bundle.rootfs / "bin" / "whose")
    number = {"x86_64": 250, "aarch64": 219}[os.uname().machine]

    def joined(program: Runtime, how: str) -> bool:
        container = program.new_id()
        words = [sys.executable, "-c", KEYRING.format(keyctl=number), f"_ses.{container}", permissions]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin is not None and other.stdout is not None
            assert other.stdout.readline() == "made\n"
            if how == "run":
                result = program("run", "--bundle", bundle.args("whose").save(), container)
            else:
                program.create(bundle.args("sleep", "100"), container_id=container)
                assert program("start", container).code == 0
                result = program("exec", container, "whose")
                assert program("delete", "--force", container).code == 0
            other.stdin.close()
        assert result.code == 0 and result.out, result
        return "keyring;0;" not in result.out

    for how in ("run", "exec"):
        attack.on(runtime, joined(runtime, how))
    attack.on(runc, joined(runc, "run"))
    attack.on("pyrunc that joins whichever there is", joined(weakened(ANYBODYS_KEYRING), "run"))
