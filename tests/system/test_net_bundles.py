# SPDX-License-Identifier: Apache-2.0
"""`pyrunc net setup`: the same bundle has its networks under pyrunc, runc and crun.

Two containers on a bridge reach each other and, through NAT, the outside; the outside reaches a published port.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from netlab import OUTSIDE_4, OUTSIDE_6, ROUTER_4, ROUTER_6, Lab
from support import PYRUNC, Bundle, Result, Runtime, wait_for, without_hybrid

RUNTIMES = (PYRUNC, "runc", "crun")
FAMILIES = ((4, OUTSIDE_4, ROUTER_4), (6, OUTSIDE_6, ROUTER_6))


class There(Runtime):
    """A runtime on the lab's router."""

    lab: Lab

    def command(self, *words: Any) -> list[str]:
        found = super().command(*words)
        return self.lab.router.command(*(without_hybrid(found) if self.name == "crun" else found))


@pytest.fixture
def there(netlab: Lab, make_runtime: Callable[..., Runtime]) -> Callable[[str], There]:
    def make(path: str) -> There:
        runtime = make_runtime(path, There)
        assert isinstance(runtime, There)
        runtime.lab = netlab
        return runtime

    return make


def prepare(runtime: Runtime, bundle: Bundle, script: str = "exec sleep 1000") -> Bundle:
    if runtime.name == "crun":  # 1.8 knows no later one
        bundle.config["ociVersion"] = "1.0.2"
    bundle.config["hostname"] = bundle.path.name
    bundle.linux.setdefault("sysctl", {})["net.ipv4.ip_unprivileged_port_start"] = "0"
    bundle.args(script)
    bundle.save()
    return bundle


def start(runtime: There, bundle: Bundle, name: str) -> str:
    bundle.config = json.loads((bundle.path / "config.json").read_text())
    container = runtime.create(bundle, container_id=name)
    assert runtime("start", container).code == 0
    return container


def inside(runtime: There, container: str, script: str) -> Result:
    return runtime("exec", container, "sh", "-c", script)


@pytest.mark.parametrize("path", RUNTIMES)
def test_the_documents_example(netlab: Lab, there: Callable[[str], There], make_bundle: Callable[[str], Bundle],
                               tmp_path: Path, path: str) -> None:
    """Two containers on a bridge, by name; the outside through NAT; a published port; v4 and v6; nothing is left."""
    runtime = there(path)
    netlab.pyrunc("net", "create", "web", "--subnet", "10.5.0.0/24", "--subnet", "fd05::/64", "--dns", "10.5.0.1")
    for family, outside, _ in FAMILIES:
        netlab.outside.listen(7000, family=family, name=f"outside{family}", host=outside)
    one, two = (prepare(runtime, make_bundle(name)) for name in ("one", "two"))
    netlab.pyrunc("net", "setup", "--net", "web", "--publish", "8080:80", one.path)
    netlab.pyrunc("net", "setup", "--net", "web", "--alias", "db", two.path)
    fresh = netlab.router.look()
    start(runtime, one, "one")
    start(runtime, two, "two")

    assert inside(runtime, "one", "cat /etc/resolv.conf").out == "nameserver 10.5.0.1\n"
    assert inside(runtime, "one", "cat /etc/hostname; hostname").lines == ["one", "one"]
    named = {line.split()[0]: line.split()[1:] for line in inside(runtime, "one", "cat /etc/hosts").lines}
    assert (named["10.5.0.2"], named["10.5.0.3"], named["fd05::3"]) == (["one"], ["db", "two"], ["db", "two"])
    node = {name: netlab.of_process(runtime.state(name)["pid"], name) for name in ("one", "two")}
    for family, outside, router in FAMILIES:
        node["two"].listen(90, family=family)
        node["one"].listen(80, family=family)
        neighbour, own = ("10.5.0.3", "10.5.0.2") if family == 4 else ("fd05::3", "fd05::2")
        # From the container's own programs, by name and by address.
        assert inside(runtime, "one", f"echo | nc {neighbour} 90").out.split()[:2] == ["two", own]
        assert inside(runtime, "one", f"echo | nc {outside} 7000").out.split()[:2] == [f"outside{family}", router]
        assert netlab.outside.ask(router, 8080).name == "one"
        assert node["one"].ask(router, 8080).name == "one"  # its own published port
        assert node["two"].ask(router, 8080).name == "one"
    assert inside(runtime, "one", "echo | nc db 90").out.split()[0] == "two"

    for name in ("one", "two"):
        runtime("kill", name, "KILL")
        wait_for(lambda: runtime.state(name)["status"] == "stopped", "it to stop")  # noqa: B023
        assert runtime("delete", name).code == 0
    assert not list((netlab.net_root / "attachments").glob("*/*"))
    now = netlab.router.look()
    assert [line for line in now["links"] if line not in fresh["links"]] == ["pyr-web bridge "]
    assert netlab.outside.hears_nothing(ROUTER_4, 8080)
    netlab.pyrunc("net", "rm", "web")
    assert netlab.router.look()["links"] == fresh["links"]


@pytest.mark.parametrize("path", RUNTIMES)
def test_a_hook_that_fails(netlab: Lab, there: Callable[[str], There], bundle: Bundle, path: str) -> None:
    """No address is left: create fails with the reason, and the first network has let go of the container."""
    runtime = there(path)
    for name, subnet in (("web", "10.5.0.0/24"), ("back", "10.6.0.0/30")):
        netlab.pyrunc("net", "create", name, "--subnet", subnet)
    other = netlab.container("other")
    netlab.pyrunc("net", "attach", "other", "back", "--netns", other.path)
    prepare(runtime, bundle)
    netlab.pyrunc("net", "setup", "--net", "web", "--net", "back", bundle.path)
    done = runtime("create", "--bundle", bundle.path, runtime.new_id())
    # crun says no more than that it was the hook.
    assert done.code != 0 and ("error executing hook" if path == "crun" else "no address of 10.6.0.0/30 is free") in \
        done.err, done
    assert [str(path.parent.name) for path in (netlab.net_root / "attachments").glob("*/*")] == ["other"]


def test_several_networks(netlab: Lab, there: Callable[[str], There], bundle: Bundle) -> None:
    """A device each; addresses and ports are for the first; the hosts file has both networks' names."""
    runtime = there(PYRUNC)
    for name, subnet in (("web", "10.5.0.0/24"), ("back", "10.6.0.0/24")):
        netlab.pyrunc("net", "create", name, "--subnet", subnet)
    neighbour = netlab.container("db")
    netlab.pyrunc("net", "attach", "db", "back", "--netns", neighbour.path)
    prepare(runtime, bundle)
    netlab.pyrunc("net", "setup", "--net", "web", "--net", "back", "--ip", "10.5.0.50", "--mac", "02:00:00:00:00:50",
                  bundle.path)
    container = start(runtime, bundle, runtime.new_id())
    node = netlab.of_process(runtime.state(container)["pid"], "c")
    assert node.addresses("eth0") == ["10.5.0.50/24"] and node.addresses("eth1") == ["10.6.0.3/24"]
    assert node.links()["eth0"]["address"] == "02:00:00:00:00:50"
    assert "10.6.0.2\tdb" in inside(runtime, container, "cat /etc/hosts").lines


def test_a_network_of_cni_in_hooks(netlab: Lab, there: Callable[[str], There], bundle: Bundle, tmp_path: Path) -> None:
    """`--cni`: Debian's plugins instead of ours, with a published port; gone with the container."""
    runtime = there(PYRUNC)
    conflist = tmp_path / "lab.conflist"
    conflist.write_text(json.dumps({"cniVersion": "1.0.0", "name": "lab", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True,
         "ipam": {"type": "host-local", "dataDir": str(tmp_path / "leases"), "ranges": [[{"subnet": "10.66.0.0/24"}]],
                  "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": True}}]}))
    prepare(runtime, bundle)
    netlab.pyrunc("net", "setup", "--cni", conflist, "--cache", tmp_path / "cache", "--publish", "8080:80", bundle.path)
    container = start(runtime, bundle, runtime.new_id())
    node = netlab.of_process(runtime.state(container)["pid"], "c")
    node.listen(80)
    assert netlab.outside.ask(ROUTER_4, 8080).name == "c"
    assert runtime("delete", "--force", container).code == 0
    assert [path.name for path in (tmp_path / "cache").iterdir()] == []
    assert [path.name for path in (tmp_path / "leases/lab").iterdir() if path.name[0] == "1"] == []


def test_set_up_twice_and_undone(netlab: Lab, bundle: Bundle) -> None:
    """Given again it replaces its own, and leaves others' hooks and mounts; --undo leaves the bundle as it was."""
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/true"}], "poststop": [{"path": "/bin/true"}]}
    bundle.config["hostname"] = "h"
    bundle.mount("/etc/hosts", "/etc/hosts").save()
    before = json.loads((bundle.path / "config.json").read_text())
    netlab.pyrunc("net", "create", "web", "--dns", "10.1.1.1")
    netlab.pyrunc("net", "setup", "--net", "web", bundle.path)
    first = json.loads((bundle.path / "config.json").read_text())
    netlab.pyrunc("net", "setup", "--net", "web", bundle.path)
    assert json.loads((bundle.path / "config.json").read_text()) == first
    assert [mount["destination"] for mount in first["mounts"]][-3:] == ["/etc/hosts", "/etc/resolv.conf",
                                                                        "/etc/hostname"]
    assert first["hooks"]["createRuntime"][1:] == first["hooks"]["poststop"][:1] == [{"path": "/bin/true"}]
    netlab.pyrunc("net", "setup", "--undo", bundle.path)
    assert json.loads((bundle.path / "config.json").read_text()) == before


@pytest.mark.parametrize(("words", "state", "said"), (
    (("attach",), "{}", "the state on stdin has no id"),
    (("attach",), '{"id": "a"}', "a has no process"),
    (("attach",), "nonsense", "the state on stdin"),
    (("attach",), '{"id": "a", "pid": -1}', "has a pid of -1"),
    (("later",), '{"id": "a"}', "net hook has no 'later'"),
    (("attach", "--net=nowhere"), '{"id": "a", "pid": 1}', "no network nowhere"),
    (("detach", "--net=nowhere"), '{"id": "../a"}', "'../a' is no name of a container"),
))
def test_bad_states(netlab: Lab, words: tuple[str, ...], state: str, said: str) -> None:
    done = netlab.do("net", "hook", *words, stdin=state)
    assert done.code == 1 and said in done.err and len(done.errors) == 1, done
