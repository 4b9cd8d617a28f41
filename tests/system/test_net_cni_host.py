# SPDX-License-Identifier: Apache-2.0
"""`pyrunc net cni`: Debian's CNI plugins, run as the specification's Section 3 has it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from netlab import OUTSIDE_4, OUTSIDE_6, ROUTER_4, ROUTER_6, Lab
from support import PYRUNC, Bundle, Result, Runtime, wait_for

PLUGINS = "/usr/lib/cni"
#: Writes down what it is given, and does what its configuration says.
FAKE = """#!/bin/sh
set -e
input=$(cat)
[ "$CNI_COMMAND" = VERSION ] && { echo '{"cniVersion": "1.1.0", "supportedVersions": %(versions)s}'; exit; }
printf '{"command": "%%s", "id": "%%s", "netns": "%%s", "ifname": "%%s", "args": "%%s", "path": "%%s", ' \\
    "$CNI_COMMAND" "$CNI_CONTAINERID" "$CNI_NETNS" "$CNI_IFNAME" "$CNI_ARGS" "$CNI_PATH" >>%(log)s
printf '"input": %%s}\\n' "$input" >>%(log)s
if [ -e %(log)s.fail-$CNI_COMMAND ]; then cat %(log)s.fail-$CNI_COMMAND; exit 1; fi
[ "$CNI_COMMAND" != ADD ] || cat %(log)s.result
"""
RESULT = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
          "ips": [{"address": "10.5.0.2/24", "interface": 0, "gateway": "10.5.0.1"}], "dns": {}}


class Fake:
    """Plugins that only write down how they are called."""

    def __init__(self, place: Path) -> None:
        self.place = place / "plugins"
        self.place.mkdir()
        self.log = place / "calls"

    def make(self, *names: str, versions: tuple[str, ...] = ("0.3.1", "0.4.0", "1.0.0"),
             result: dict[str, Any] | None = None) -> None:
        for name in names:
            path = self.place / name
            path.write_text(FAKE % {"log": f"{self.log}-{name}", "versions": json.dumps(versions)})
            path.chmod(0o755)
            Path(f"{self.log}-{name}.result").write_text(json.dumps(result or RESULT))

    def fail(self, name: str, command: str, said: str) -> None:
        Path(f"{self.log}-{name}.fail-{command}").write_text(said)

    def mend(self, name: str, command: str) -> None:
        Path(f"{self.log}-{name}.fail-{command}").unlink()

    def calls(self, name: str) -> list[dict[str, Any]]:
        path = Path(f"{self.log}-{name}")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def commands(self, name: str) -> list[str]:
        return [call["command"] for call in self.calls(name)]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


class Cni:
    """`pyrunc net cni` on the lab's router, with a configuration."""

    def __init__(self, lab: Lab, place: Path) -> None:
        self.lab = lab
        self.place = place
        self.cache = place / "cache"
        self.plugins = PLUGINS

    def write(self, name: str = "lab", *plugins: dict[str, Any], **members: Any) -> Path:
        path = self.place / f"{name}.conflist"
        path.write_text(json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": plugins, **members}))
        return path

    def do(self, action: str, *words: str | Path, **options: Any) -> Result:
        return self.lab.do("net", "cni", action, "--cache", self.cache, "--plugins", self.plugins, *words, **options)

    def __call__(self, action: str, *words: str | Path) -> str:
        done = self.do(action, *words)
        assert done.code == 0, done
        return done.out

    def cached(self) -> list[str]:
        return sorted(os.listdir(self.cache)) if self.cache.exists() else []


@pytest.fixture
def cni(netlab: Lab, tmp_path: Path) -> Cni:
    return Cni(netlab, tmp_path)


def bridge(place: Path, **more: Any) -> dict[str, Any]:
    return {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True,
            "ipam": {"type": "host-local", "dataDir": str(place / "leases"),
                     "ranges": [[{"subnet": "10.66.0.0/24"}], [{"subnet": "fd66::/64"}]],
                     "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}, **more}


PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


# Debian's plugins

def test_bridge_and_portmap_carry_traffic(cni: Cni, netlab: Lab, tmp_path: Path) -> None:
    """ADD of bridge and portmap: out through NAT, in through a published port, both families; DEL leaves nothing."""
    path = cni.write("lab", bridge(tmp_path), PORTMAP)
    inner = netlab.container()
    before = sorted(netlab.router.links())
    result = json.loads(cni("add", path, "c1", "--netns", inner.path, "--publish", "8080:80"))
    addresses = [ip["address"] for ip in result["ips"]]
    assert inner.addresses("eth0") == addresses and len(addresses) == 2
    for family, outside, router in ((4, OUTSIDE_4, ROUTER_4), (6, OUTSIDE_6, ROUTER_6)):
        netlab.outside.listen(7000, family=family)
        wait_for(lambda: not inner.hears_nothing(outside, 7000), "duplicate addresses to be ruled out")  # noqa: B023
        assert inner.ask(outside, 7000).source == router
        inner.listen(80, family=family)
        assert netlab.outside.ask(router, 8080).name == inner.name
        assert netlab.outside.hears_nothing(router, 8081)
    cni("del", path, "c1")
    assert sorted(netlab.router.links()) == sorted([*before, "cni0"])  # the plugin keeps its bridge
    assert netlab.outside.hears_nothing(ROUTER_4, 8080)
    assert [name for name in os.listdir(tmp_path / "leases" / "lab") if name[0].isdigit()] == []
    assert cni.cached() == []


def test_check_finds_what_is_missing(cni: Cni, netlab: Lab, tmp_path: Path) -> None:
    path = cni.write("lab", bridge(tmp_path))  # without portmap, whose CHECK in 1.1.1 wants both families' rules alike
    inner = netlab.container()
    cni("add", path, "c1", "--netns", inner.path)
    cni("check", path, "c1")
    inner.ip("link delete eth0")
    broken = cni.do("check", path, "c1")
    assert broken.code == 1 and "plugin bridge (CHECK)" in broken.err, broken
    cni("del", path, "c1")


def test_a_container_by_its_name(cni: Cni, netlab: Lab, tmp_path: Path, runtime: Runtime, bundle: Bundle) -> None:
    """Without --netns it is the pyrunc container's namespace; here it asks a server outside by itself."""
    path = cni.write("lab", bridge(tmp_path))
    netlab.outside.listen(7000)
    out = tmp_path / "out"
    bundle.args(f"until ip -o -4 addr show eth0 | grep -q inet; do sleep 0.1; done; echo | nc {OUTSIDE_4} 7000")
    container = runtime.create(bundle, output=out)
    done = netlab.do("--root", runtime.root, "net", "cni", "add", "--cache", cni.cache, "--plugins", PLUGINS, path,
                     container)
    assert done.code == 0, done
    assert runtime("start", container).code == 0
    runtime.wait(container)
    assert out.read_text().split()[:2] == ["outside", ROUTER_4]
    cni("del", path, container)  # the namespace has gone
    assert cni.cached() == []


def test_the_tuning_plugins_capability(cni: Cni, netlab: Lab, tmp_path: Path) -> None:
    """Capabilities go to the plugins that declare them; the result of the chain has what the last one changed."""
    path = cni.write("lab", bridge(tmp_path), {"type": "tuning", "capabilities": {"mac": True}})
    inner = netlab.container()
    result = json.loads(cni("add", path, "c1", "--netns", inner.path, "--mac", "02:00:00:00:00:66"))
    assert inner.links()["eth0"]["address"] == "02:00:00:00:00:66"
    assert [each["mac"] for each in result["interfaces"] if each["name"] == "eth0"] == ["02:00:00:00:00:66"]
    cni("check", path, "c1")
    cni("del", path, "c1")


def test_gc_takes_away_what_has_gone(cni: Cni, netlab: Lab, tmp_path: Path) -> None:
    """DEL is run for attachments whose namespace has vanished, and only for these: their addresses come back."""
    path = cni.write("lab", bridge(tmp_path))
    gone, there = netlab.container(), netlab.container()
    for name, node in (("c1", gone), ("c2", there)):
        cni("add", path, name, "--netns", node.path)
    gone.vanish()
    wait_for(lambda: not Path(gone.path).exists(), "the namespace to go")
    assert [line.split()[1:] for line in cni("ls").splitlines()[1:]] == [
        ["c1", "eth0", "10.66.0.2/24,fd66::2/64", "gone"], ["c2", "eth0", "10.66.0.3/24,fd66::3/64", there.path]]
    cni("gc", path)
    assert [name for name in sorted(os.listdir(tmp_path / "leases" / "lab")) if name[0] in "1f"] == [
        "10.66.0.3", "fd66::3"]
    assert cni.cached() == ["lab@c2@eth0.json"]
    cni("del", path, "c2")


# What the plugins are told

def test_what_plugins_get(cni: Cni, fake: Fake, netlab: Lab) -> None:
    """Section 3, Deriving request configuration: unknown fields pass, `capabilities` doesn't, prevResult is chained."""
    fake.make("one", "two")
    cni.plugins = str(fake.place)
    path = cni.write("lab", {"type": "one", "odd": {"a": [1, 2]}, "capabilities": {"mac": True, "ips": False}},
                     {"type": "two", "capabilities": {"portMappings": True}, "args": {"cni": {}}})
    inner = netlab.container()
    cni("add", path, "c1", "--netns", inner.path, "--interface", "net1", "--arg", "K8S_POD_NAME=p", "--mac",
        "02:00:00:00:00:01", "--publish", "[fd00::1]:8000-8001:80-81/udp")
    (one,), (two,) = fake.calls("one"), fake.calls("two")
    assert {key: one[key] for key in ("command", "id", "netns", "ifname", "args", "path")} == {
        "command": "ADD", "id": "c1", "netns": inner.path, "ifname": "net1", "args": "K8S_POD_NAME=p",
        "path": str(fake.place)}
    assert one["input"] == {"cniVersion": "1.0.0", "name": "lab", "type": "one", "odd": {"a": [1, 2]},
                            "runtimeConfig": {"mac": "02:00:00:00:00:01"}}
    ports = [{"hostPort": 8000 + at, "containerPort": 80 + at, "protocol": "udp", "hostIP": "fd00::1"}
             for at in (0, 1)]
    assert two["input"] == {"cniVersion": "1.0.0", "name": "lab", "type": "two", "args": {"cni": {}},
                            "runtimeConfig": {"portMappings": ports}, "prevResult": RESULT}
    cni("check", path, "c1", "--interface", "net1")
    path.unlink()  # what is known suffices
    cni("del", "lab", "c1", "--interface", "net1")
    assert fake.commands("one") == fake.commands("two") == ["ADD", "CHECK", "DEL"]
    for name, own in (("one", one), ("two", two)):
        for call in fake.calls(name)[1:]:
            assert call["input"] == {**own["input"], "prevResult": RESULT}
    cni("del", "lab", "c1", "--interface", "net1")  # nothing to do
    assert fake.commands("one") == ["ADD", "CHECK", "DEL"]


def test_a_failing_plugin_is_quoted_and_undone(cni: Cni, fake: Fake, netlab: Lab) -> None:
    """Its message, details and code; DEL for the whole chain in reverse; then the same ADD works."""
    fake.make("one", "two")
    cni.plugins = str(fake.place)
    path = cni.write("lab", {"type": "one"}, {"type": "two"})
    inner = netlab.container()
    fake.fail("two", "ADD", '{"cniVersion": "1.0.0", "code": 11, "msg": "not now", "details": "the\\nmoon"}')
    done = cni.do("add", path, "c1", "--netns", inner.path)
    assert (done.code, done.err) == (1, "pyrunc: net cni: plugin two (ADD): not now: the moon (code 11)\n")
    assert fake.commands("one") == fake.commands("two") == ["ADD", "DEL"]
    assert fake.calls("one")[1]["input"]["prevResult"] == RESULT
    assert cni.cached() == []
    fake.fail("two", "ADD", "panic: \x1b[31moh no")
    done = cni.do("add", path, "c1", "--netns", inner.path)
    assert done.err == "pyrunc: net cni: plugin two (ADD): exit status 1: panic: \\x1b[31moh no\n"
    fake.mend("two", "ADD")
    cni("add", path, "c1", "--netns", inner.path)
    fake.fail("one", "DEL", '{"code": 5, "msg": "disk"}')
    done = cni.do("del", path, "c1")
    assert done.err == "pyrunc: net cni: plugin one (DEL): disk (code 5)\n"
    assert cni.cached() == ["lab@c1@eth0.json"]  # it can be tried again
    fake.mend("one", "DEL")
    cni("del", path, "c1")
    assert cni.cached() == []


def test_the_version_is_one_that_all_support(cni: Cni, fake: Fake, netlab: Lab) -> None:
    """cniVersions leaves a choice: the highest that all plugins support, and the results are in it."""
    old = {**RESULT, "cniVersion": "0.4.0", "ips": [{"version": "4", **RESULT["ips"][0]}]}
    fake.make("one", versions=("0.4.0", "1.0.0", "1.1.0"))
    fake.make("two", versions=("0.3.1", "0.4.0"), result=old)
    cni.plugins = str(fake.place)
    path = cni.write("lab", {"type": "one"}, {"type": "two"}, cniVersions=["0.4.0", "1.1.0", "9.9.9"])
    result = json.loads(cni("add", path, "c1", "--netns", netlab.container().path))
    assert result == old
    assert fake.calls("one")[0]["input"]["cniVersion"] == "0.4.0"
    assert fake.calls("two")[0]["input"]["prevResult"] == old  # `one` had answered in 1.0.0


def test_gc_and_status_of_1_1(cni: Cni, fake: Fake, netlab: Lab) -> None:
    fake.make("one", versions=("1.1.0",), result={**RESULT, "cniVersion": "1.1.0"})
    cni.plugins = str(fake.place)
    path = cni.write("lab", {"type": "one"}, cniVersion="1.1.0")
    cni("add", path, "c1", "--netns", netlab.container().path)
    cni("status", path)
    cni("gc", path)
    assert fake.commands("one") == ["ADD", "STATUS", "GC"]
    collected = fake.calls("one")[2]["input"]
    assert collected["cni.dev/valid-attachments"] == [{"containerID": "c1", "ifname": "eth0"}]
    fake.fail("one", "STATUS", '{"cniVersion": "1.1.0", "code": 50, "msg": "no addresses left"}')
    done = cni.do("status", path)
    assert (done.code, done.err) == (1, "pyrunc: net cni: plugin one (STATUS): no addresses left (code 50)\n")


# What is refused

BAD: dict[str, tuple[Any, str]] = {
    "no-json": ("{", "CONF"),
    "duplicate": ('{"cniVersion": "1.0.0", "name": "a", "name": "b", "plugins": [{"type": "x"}]}', "duplicate key"),
    "a-list": ([], "a network's configuration is an object"),
    "no-name": ({"cniVersion": "1.0.0", "plugins": [{"type": "x"}]}, "/name: None is no name of a network"),
    "name-path": ({"cniVersion": "1.0.0", "name": "../x", "plugins": [{"type": "x"}]}, "/name: '../x' is no name"),
    "type-path": ({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "../sh"}]},
                  "/plugins/0/type: '../sh' is no plugin's name"),
    "no-plugins": ({"cniVersion": "1.0.0", "name": "n", "plugins": []}, "/plugins: a network has at least one plugin"),
    "not-a-list": ({"cniVersion": "1.0.0", "name": "n", "plugins": {}}, "/plugins: is no list"),
    "reserved": ({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "x", "prevResult": {}}]},
                 "/plugins/0/prevResult: is written by the runtime"),
    "too-old": ({"cniVersion": "0.2.0", "name": "n", "plugins": [{"type": "x"}]},
                "/cniVersion: it supports 0.2.0 (pyrunc speaks 0.3.0"),
    "flag": ({"cniVersion": "1.0.0", "name": "n", "disableCheck": 1, "plugins": [{"type": "x"}]},
             "/disableCheck: 1 is neither true nor false"),
    "capabilities": ({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "x", "capabilities": ["mac"]}]},
                     "/plugins/0/capabilities: names are true or false there"),
    "missing": ({"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "no-such"}]},
                "the CNI plugin no-such is not installed (looked for in /usr/lib/cni)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_configurations(cni: Cni, netlab: Lab, tmp_path: Path, name: str) -> None:
    text, said = BAD[name]
    path = tmp_path / "CONF"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    done = cni.do("add", path, "c1", "--netns", netlab.router.path)
    assert done.code == 1 and said in done.err and len(done.errors) == 1, done
    assert cni.cached() == []


def test_bad_arguments(cni: Cni, fake: Fake, netlab: Lab) -> None:
    fake.make("one")
    cni.plugins = str(fake.place)
    path = cni.write("lab", {"type": "one"})
    here = netlab.container().path
    for words, said in (
        (("c/1", "--netns", here), "'c/1' is no container for CNI"),
        (("c1", "--netns", "/nowhere"), "there is no network namespace /nowhere"),
        (("c1", "--netns", here, "--interface", "a/b"), "'a/b' is no name of a network device"),
        (("c1", "--netns", here, "--publish", "80:80"), "no plugin of the network lab takes portMappings"),
        (("c1", "--netns", here, "--arg", "A"), "--arg takes KEY=VALUE"),
    ):
        done = cni.do("add", path, *words)
        assert done.code == 1 and said in done.err and len(done.errors) == 1, done
    assert fake.calls("one") == []


@pytest.mark.parametrize("result", (
    "nonsense", "[]", '{"cniVersion": "7.0.0"}', '{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1"}]}',
    '{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.1/24", "interface": 3}]}',
    '{"cniVersion": "1.0.0", "ips": {}}', '{"cniVersion": "1.0.0", "routes": [{"dst": "all"}]}'))
def test_a_result_that_is_none(cni: Cni, fake: Fake, netlab: Lab, result: str) -> None:
    """What a plugin prints is checked before it is believed, and the plugin is told to undo what it did."""
    fake.make("one")
    Path(f"{fake.log}-one.result").write_text(result)
    cni.plugins = str(fake.place)
    done = cni.do("add", cni.write("lab", {"type": "one"}), "c1", "--netns", netlab.container().path)
    assert done.code == 1 and "plugin one" in done.err, done
    assert fake.commands("one") == ["ADD", "DEL"]
    assert cni.cached() == []


def test_killed_between(cni: Cni, fake: Fake, netlab: Lab) -> None:
    """Whoever is killed in an ADD leaves enough for a DEL with the same arguments."""
    fake.make("one")
    slow = fake.place / "slow"
    slow.write_text(f"#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = DEL ] || {{ touch {fake.log}-now; sleep 100; }}\n")
    slow.chmod(0o755)
    cni.plugins = str(fake.place)
    path = cni.write("lab", {"type": "one"}, {"type": "slow"})
    inner = netlab.container()
    process = subprocess.Popen(netlab.router.command(
        PYRUNC, "net", "cni", "add", "--cache", cni.cache, "--plugins", fake.place, path, "c1", "--netns",
        inner.path), env=netlab.environment, start_new_session=True)
    wait_for(Path(f"{fake.log}-now").exists, "the second plugin to run")
    os.killpg(process.pid, 9)
    process.wait()
    cni("del", path, "c1")
    assert fake.commands("one") == ["ADD", "DEL"]
    assert cni.cached() == []


