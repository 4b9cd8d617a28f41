# SPDX-License-Identifier: Apache-2.0
"""The shim's program as the versions of containerd run it: start, delete, -info, -v, and the options."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyrunc_shim import messages as m
from pyrunc_shim import options, starting, ttrpc
from pyrunc_shim.arguments import Arguments
from pyrunc_shim.ttrpc import RpcError
from shim_client import NAMESPACE, SHIM, Shim, program
from support import wait_for

from pyrunc import __version__
from pyrunc.errors import PyruncError, UsageError

from .test_shim import Box, box, events, gone

__all__ = ["box", "events"]


def test_its_version_and_what_it_can_do() -> None:
    """-v, and -info, from which kubelet learns of id-mapped and recursively read-only mounts."""
    for flag in ("-v", "--version"):
        done = subprocess.run([SHIM, flag], capture_output=True, text=True, check=True)
        assert done.stdout == f"containerd-shim-pyrunc-v1:\n  Version:  {__version__}\n"
    wanted = m.Any(type_url="containerd.runc.v1.Options", value=m.Options(root="/r").encode())
    told = subprocess.run([SHIM, "-info"], input=wanted.encode(), capture_output=True, check=True)
    info = m.RuntimeInfo.decode(told.stdout)
    assert info.name == "io.containerd.pyrunc.v1" and info.options == wanted
    assert info.version == m.RuntimeVersion(version=__version__)
    assert info.features is not None and info.features.type_url.endswith("runtime-spec/1/features/Features")
    features = json.loads(info.features.value)
    assert features["linux"]["mountExtensions"]["idmap"]["enabled"] is True
    assert "rro" in features["mountOptions"]


@pytest.mark.parametrize(("words", "text"), [
    (["-id", "x", "start"], "shim namespace cannot be empty"),
    (["-namespace", "n", "start"], "shim id cannot be empty"),
    (["-namespace", "n", "-id", "x", "begin"], "unknown action 'begin'"),
    (["-namespace", "n", "-id", "x"], "unknown action ''"),
    (["-nosuch"], "flag provided but not defined: -nosuch"),
    (["-id"], "flag needs an argument: -id"),
])
def test_a_command_line_that_is_wrong(words: list[str], text: str, tmp_path: Path) -> None:
    """The words become containerd's error."""
    done = subprocess.run([SHIM, *words], cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and done.stdout == ""
    assert text in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_flags_as_go_takes_them() -> None:
    arguments = Arguments(["-namespace", "n", "--id=x", "-debug", "-address=", "-publish-binary", "/p", "start", "-id"])
    assert (arguments["namespace"], arguments["id"], arguments["address"]) == ("n", "x", "")
    assert (arguments.action, arguments.switches) == ("start", {"debug"})
    assert "debug" not in Arguments(["-debug=false", "start"]).switches


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with room for a socket's name in a path of 106."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


def test_the_parameters_of_containerd_2_3(box: Box, short_path: Path) -> None:
    """BootstrapParams on stdin: where events go, and where the socket is; an older one's Any isn't taken for them."""
    bundle = box.make_bundle("c1").args("true")
    bundle.save()
    sockets = short_path / "s"
    params = m.BootstrapParams(instance_id="c1", namespace=NAMESPACE, containerd_version="2.3.4",
                               containerd_ttrpc_address=str(box.events.path), socket_dir=str(sockets))
    shim = box.launch("c1", bundle.path, params.encode())
    assert shim.address.startswith(f"unix://{sockets}/")
    assert sockets.stat().st_mode & 0o777 == 0o700
    shim.create("c1", bundle.path, box.root)
    shim.start("c1")
    assert shim.wait("c1") == 0
    box.events.wait("c1", "exit")
    other = box.make_bundle("c2").args("true")
    other.save()
    wrong = m.BootstrapParams(instance_id="another", namespace=NAMESPACE, socket_dir=str(sockets))
    assert not box.launch("c2", other.path, wrong.encode()).address.startswith(f"unix://{sockets}/")


def test_start_returns_when_the_shim_serves_and_holds_no_pipe(box: Box) -> None:
    """containerd reads stdout and stderr until nobody has them open: `run` above would hang otherwise."""
    bundle = box.make_bundle("c1").args("true")
    bundle.save()
    shim = box.launch("c1", bundle.path)
    pid = shim.pid()
    assert os.getpgid(pid) == pid and os.getsid(pid) == os.getsid(0)  # whose session is containerd's
    for fd in (0, 1):
        assert os.readlink(f"/proc/{pid}/fd/{fd}") == "/dev/null"
    seals = Path(os.readlink(f"/proc/{pid}/exe")).name
    assert seals.startswith("memfd:")  # a container sees its init's program (CVE-2019-5736)
    again = program(bundle.path, "c1", box.events, "start")
    assert again.stdout.decode() == shim.address
    other = Shim(again.stdout.decode())
    assert other.pid() == pid
    other.close()


def test_a_socket_whose_shim_is_dead_is_taken_over(box: Box) -> None:
    bundle = box.make_bundle("c1").args("true")
    bundle.save()
    shim = box.launch("c1", bundle.path)
    pid = shim.pid()
    os.kill(pid, 9)
    wait_for(lambda: gone(pid), "the shim to be dead")  # until then the kernel takes connections for it
    again = box.launch("c1", bundle.path)
    assert again.address == shim.address and again.pid() != pid


def test_options_in_toml(tmp_path: Path) -> None:
    """What containerd 1.6's CRI gives a runtime it doesn't know: the path of a file, or the file."""
    file = tmp_path / "options.toml"
    file.write_text('Root = "/r"\nSystemdCgroup = true\nNoPivotRoot = true\n')

    def given(**members: object) -> m.Any:
        return m.Any(type_url="runtimeoptions.v1.Options", value=m.RuntimeOptions(**members).encode())

    expected = m.Options(root="/r", systemd_cgroup=True, no_pivot_root=True)
    assert options.decode(given(config_path=str(file))) == expected
    assert options.decode(given(config_body=file.read_bytes())) == expected
    assert options.decode(None) == options.decode(m.Any(type_url="of.another", value=b"\xff")) == m.Options()
    for body, text in ((b"Nosuch = 1", "there is no option Nosuch"), (b"Root = 1", "Root can't be 1"),
                       (b"[", "the runtime's options: ")):
        with pytest.raises(UsageError, match=text):
            options.decode(given(config_body=body))
    with pytest.raises(PyruncError, match="no such file"):
        options.decode(given(config_path="/nonexistent"))


def test_options_that_are_wrong_are_an_error_of_create(box: Box) -> None:
    bundle = box.make_bundle("c1").args("true")
    bundle.save()
    shim = box.launch("c1", bundle.path)
    wrong = m.Any(type_url="runtimeoptions.v1.Options", value=m.RuntimeOptions(config_body=b"Nosuch = 1").encode())
    with pytest.raises(RpcError, match="there is no option Nosuch") as caught:
        shim.call("Create", m.CreateTaskRequest(id="c1", bundle=str(bundle.path), options=wrong), m.CreateTaskResponse)
    assert caught.value.code == ttrpc.INVALID_ARGUMENT


class Launcher:
    """The shim's program alone, without the package: it can do what needs no interpreter, and no more."""

    def __init__(self, place: Path, short: Path) -> None:
        self.short = short
        self.program = place / "bin" / SHIM.name
        self.program.parent.mkdir()
        shutil.copy(SHIM, self.program)
        self.bundle = place / "bundle"
        (self.bundle / "rootfs").mkdir(parents=True)
        self.root = place / "state"
        (self.bundle / "options.json").write_text(json.dumps({"root": str(self.root), "systemd_cgroup": False},
                                                             separators=(",", ":")))
        (self.bundle / "init.pid").write_text("300")

    def delete(self, *words: str, cwd: Path | None = None) -> m.DeleteResponse | None:
        """The answer, if it needed no Python."""
        words = words or ("-namespace", NAMESPACE, "-address", "/a", "-publish-binary", "/b", "-id", "c1", "-bundle",
                          str(self.bundle), "delete")
        done = subprocess.run([self.program, *words], cwd=cwd or "/", stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:
            assert b"the pyrunc package is not beside" in done.stderr and not done.stdout
            return None
        assert not done.stderr
        return m.DeleteResponse.decode(done.stdout)


@pytest.fixture
def launcher(tmp_path: Path, short_path: Path) -> Launcher:
    if SHIM.read_bytes()[:4] != b"\x7fELF":
        pytest.skip("the launcher is a script here")
    return Launcher(tmp_path, short_path)


def test_delete_without_an_interpreter(launcher: Launcher) -> None:
    """Where nothing is left of the container, and containerd asks all the same."""
    for text, pid in (("300", 300), ("", 0), (None, 0)):
        (launcher.bundle / "init.pid").unlink(missing_ok=True)
        if text is not None:
            (launcher.bundle / "init.pid").write_text(text)
        answer = launcher.delete()
        assert answer is not None and (answer.pid, answer.exit_status) == (pid, 137)
        assert answer.exited_at is not None and abs(answer.exited_at.seconds - time.time()) < 60
    assert launcher.delete("-debug", "--namespace", NAMESPACE, "-id", "c1", "delete", cwd=launcher.bundle) is not None
    (launcher.bundle / "options.json").unlink()
    (launcher.bundle / "address").write_text("unix:///nonexistent/socket")
    assert launcher.delete() is not None
    shutil.rmtree(launcher.bundle)
    answer = launcher.delete()
    assert answer is not None and answer.pid == 0


def test_delete_unmounts_the_root_without_an_interpreter(launcher: Launcher) -> None:
    rootfs = launcher.bundle / "rootfs"
    for _ in range(2):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", rootfs], check=True)
    assert launcher.delete() is not None
    assert not os.path.ismount(rootfs)


def dead_socket(launcher: Launcher) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(launcher.short / "s"))
    listener.close()
    (launcher.bundle / "address").write_text(f"unix://{launcher.short}/s")


def state(launcher: Launcher) -> None:
    (launcher.root / NAMESPACE / "c1").mkdir(parents=True)


@pytest.mark.parametrize("change", [
    state,
    dead_socket,
    lambda launcher: launcher.root.write_text("a file"),
    lambda launcher: (launcher.bundle / "init.pid").write_text("3e2"),
    lambda launcher: (launcher.bundle / "address").write_text("vsock://1:2"),
    lambda launcher: (launcher.bundle / "options.json").write_text("{}"),
    lambda launcher: (launcher.bundle / "options.json").write_text('{"root":"/\\u0061","systemd_cgroup":false}'),
    lambda launcher: (launcher.bundle / "options.json").write_text('{"root":"' + "/x" * 4096),
])
def test_a_delete_that_is_left_to_python(launcher: Launcher, change: Callable[[Launcher], object]) -> None:
    """Something of the container is there, or may be."""
    assert launcher.delete() is not None  # the control
    change(launcher)
    assert launcher.delete() is None


@pytest.mark.parametrize("words", [
    ("-id", "c1", "delete"), ("-namespace", "n", "delete"), ("-namespace", "n", "-id", "..", "delete"),
    ("-namespace", "n/../m", "-id", "c1", "delete"), ("-namespace", "n", "-id", "c1", "-nosuch", "x", "delete"),
    ("-namespace", "n", "-id", "c1", "-bundle"), ("-namespace=n", "-id", "c1", "delete"), ("-v",), (),
])
def test_a_command_line_that_is_left_to_python(launcher: Launcher, words: tuple[str, ...]) -> None:
    assert launcher.delete(*(words or ("-namespace", "n", "-id", "c1"))) is None


def test_launcher_and_package_agree_on_where_the_state_is() -> None:
    text = (Path(__file__).parents[2] / "launcher" / "shim.c").read_text()
    assert re.findall(r'#define STATE_ROOT "(.*)"', text) == [options.STATE_ROOT]


def test_a_path_too_long_for_a_socket() -> None:
    with pytest.raises(UsageError, match="is longer than 106"):
        starting.socket_path("/" + "d" * 60, "a", "n", "g")
    paths = {starting.socket_path("/s", *words) for words in (("a", "n", "g"), ("a", "n", "h"), ("a", "o", "g"),
                                                            ("b", "n", "g"))}
    assert len(paths) == 4
