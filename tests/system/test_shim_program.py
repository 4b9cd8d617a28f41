# SPDX-License-Identifier: Apache-2.0
"""The shim's program as the versions of containerd run it: start, delete, -info, -v, and the options."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyrunc_shim import manage, options, ttrpc
from pyrunc_shim import messages as m
from pyrunc_shim.manage import Arguments
from pyrunc_shim.ttrpc import RpcError
from shim_client import NAMESPACE, SHIM, Shim, program

from pyrunc import __version__
from pyrunc.errors import PyruncError, UsageError

from .test_shim import Box, box, events

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
    assert os.getpgid(pid) == pid == os.getsid(pid)
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


def test_a_path_too_long_for_a_socket() -> None:
    with pytest.raises(UsageError, match="is longer than 106"):
        manage.socket_path("/" + "d" * 60, "a", "n", "g")
    paths = {manage.socket_path("/s", *words) for words in (("a", "n", "g"), ("a", "n", "h"), ("a", "o", "g"),
                                                            ("b", "n", "g"))}
    assert len(paths) == 4
