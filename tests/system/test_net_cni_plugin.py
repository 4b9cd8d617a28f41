# SPDX-License-Identifier: Apache-2.0
"""pyrunc-cni, a plugin of CNI 1.1.0: called as the specification's Section 2 says, and driven by `pyrunc net cni`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from netlab import OUTSIDE_4, OUTSIDE_6, ROUTER_4, ROUTER_6, Lab, Node
from support import PYRUNC, Result

PLUGIN = str(Path(PYRUNC).with_name("pyrunc-cni"))
VERSIONS = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
SUBNETS = ["10.77.0.0/24", "fd77::/64"]


class Plugin:
    """The program on the lab's router, and one network's configuration."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.config: dict[str, Any] = {"cniVersion": "1.1.0", "name": "pods", "type": "pyrunc-cni",
                                       "dataDir": str(lab.net_root), "subnets": SUBNETS}

    def do(self, command: str, container: str = "", netns: str = "", *, ifname: str = "eth0", args: str = "",
           stdin: str | None = None, **members: Any) -> Result:
        environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": netns,
                       "CNI_IFNAME": ifname if container else "", "CNI_ARGS": args, "CNI_PATH": "/nowhere"}
        text = json.dumps({**self.config, **members}) if stdin is None else stdin
        return self.lab.router.do(PLUGIN, stdin=text, env={"PATH": os.environ["PATH"], **environment})

    def __call__(self, command: str, *words: str, **options: Any) -> Any:
        done = self.do(command, *words, **options)
        assert done.code == 0, done
        return json.loads(done.out) if done.out else None

    def error(self, command: str, *words: str, **options: Any) -> tuple[int, str, str]:
        """The code, the message and the details of a failure, which goes to stdout."""
        done = self.do(command, *words, **options)
        assert done.code == 1, done
        said = json.loads(done.out)
        assert set(said) <= {"cniVersion", "code", "msg", "details"}
        return said["code"], said["msg"], said.get("details", "")

    def left(self) -> dict[str, Any]:
        base = self.lab.net_root / "attachments"
        return {**self.lab.router.look(), "files": sorted(str(path.relative_to(base)) for path in base.glob("*/*"))}


@pytest.fixture
def plugin(netlab: Lab) -> Plugin:
    return Plugin(netlab)


def carries(lab: Lab, inner: Node, port: int = 0) -> None:
    """Out through NAT, and in by the published port, in both families."""
    for family, outside, router in ((4, OUTSIDE_4, ROUTER_4), (6, OUTSIDE_6, ROUTER_6)):
        lab.outside.listen(7000, family=family)
        assert inner.ask(outside, 7000).source == router
        if port:
            inner.listen(80, family=family)
            assert lab.outside.ask(router, port).name == inner.name


def test_add_check_del(plugin: Plugin, netlab: Lab) -> None:
    """ADD: the interface, the result and its traffic; CHECK is content; DEL takes all away, and may be repeated."""
    inner = netlab.container()
    with_first = plugin("ADD", "first", netlab.container().path)  # the bridge and the tables come with it
    before = plugin.left()
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "TCP"}, {"hostPort": 0, "containerPort": 9}]
    result = plugin("ADD", "c1", inner.path, runtimeConfig={"portMappings": ports})
    host, container = netlab.router.links(), inner.links()["eth0"]
    bridge, veth, eth0 = result["interfaces"]
    assert bridge["name"] == host[veth["name"]]["master"] and bridge["mac"] == host[bridge["name"]]["address"]
    assert (veth["mac"], eth0) == (host[veth["name"]]["address"],
                                   {"name": "eth0", "mac": container["address"], "sandbox": inner.path})
    assert inner.addresses("eth0") == [ip["address"] for ip in result["ips"]]
    assert [(ip["interface"], ip["gateway"]) for ip in result["ips"]] == [(2, "10.77.0.1"), (2, "fd77::1")]
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.77.0.1"}, {"dst": "::/0", "gw": "fd77::1"}]
    assert result["cniVersion"] == "1.1.0" and result["ips"] != with_first["ips"]
    carries(netlab, inner, 8080)
    plugin("CHECK", "c1", inner.path, prevResult=result)
    assert plugin.do("DEL", "c1", inner.path, prevResult=result) .out == ""
    assert "eth0" not in inner.links()
    assert plugin.left() == before
    plugin("DEL", "c1", inner.path)  # no prevResult, nothing there
    plugin("DEL", "c1")  # no namespace either
    plugin("DEL", "never", "/nowhere")


def test_ports_as_containerd_writes_them(plugin: Plugin, netlab: Lab) -> None:
    """Its PortMapping has HostPort where the conventions say hostPort: Go's decoder takes either, and so do others."""
    inner = netlab.container()
    plugin("ADD", "c1", inner.path, runtimeConfig={"portMappings": [
        {"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]})
    carries(netlab, inner, 8080)
    plugin("DEL", "c1", inner.path)


def test_a_namespace_that_has_gone(plugin: Plugin, netlab: Lab) -> None:
    """DEL without CNI_NETNS gives the address back."""
    inner = netlab.container()
    result = plugin("ADD", "c1", inner.path, runtimeConfig={"ips": ["10.77.0.9/24"]})
    assert result["ips"][0]["address"] == "10.77.0.9/24"
    inner.vanish()
    plugin("DEL", "c1")
    assert plugin("ADD", "c2", netlab.container().path, args="IgnoreUnknown=1;IP=10.77.0.9")["ips"][0] == {
        "address": "10.77.0.9/24", "interface": 2, "gateway": "10.77.0.1"}


@pytest.mark.parametrize("version", VERSIONS)
def test_results_of_all_versions(plugin: Plugin, netlab: Lab, version: str) -> None:
    """Before 1.0.0 an address has its family beside it; before 1.1.0 an interface has no mtu."""
    plugin.config["cniVersion"] = version
    inner = netlab.container()
    result = plugin("ADD", "c1", inner.path)
    assert result["cniVersion"] == version
    assert [ip.get("version") for ip in result["ips"]] == (["4", "6"] if version < "1" else [None, None])
    assert {"mtu" in each for each in result["interfaces"][:2]} == {version >= "1.1.0"}
    if version >= "0.4.0":
        plugin("CHECK", "c1", inner.path, prevResult=result)
    else:
        assert plugin.error("CHECK", "c1", inner.path)[:2] == (1, f"version {version} of CNI has no CHECK")
    if version < "1.1.0":
        assert plugin.error("GC")[0] == plugin.error("STATUS")[0] == 1
    plugin("DEL", "c1", inner.path, prevResult=result)


def test_version(plugin: Plugin) -> None:
    assert plugin("VERSION", stdin='{"cniVersion": "0.4.0"}') == {"cniVersion": "0.4.0", "supportedVersions": VERSIONS}
    assert plugin("VERSION", stdin="")["supportedVersions"] == VERSIONS
    about = plugin.do("")
    assert (about.code, about.out) == (0, "") and about.err.startswith("pyrunc-cni: ")


BREAK = {
    "device": ("ip link delete eth0", "the device eth0 is missing in the container"),
    "down": ("ip link set eth0 down", "the device eth0 is down"),
    "mac": ("ip link set eth0 address 02:00:00:00:00:01", "the device eth0 has the MAC address 02:00:00:00:00:01"),
    "address": ("ip address delete 10.77.0.2/24 dev eth0", "the device eth0 has lost 10.77.0.2/24"),
    "route": ("ip route delete default", "the default route by 10.77.0.1 is missing"),
}


@pytest.mark.parametrize("what", BREAK)
def test_check_finds_what_is_broken_inside(plugin: Plugin, netlab: Lab, what: str) -> None:
    command, said = BREAK[what]
    inner = netlab.container()
    result = plugin("ADD", "c1", inner.path)
    plugin("CHECK", "c1", inner.path, prevResult=result)
    inner.run(*command.split())
    code, message, details = plugin.error("CHECK", "c1", inner.path, prevResult=result)
    assert code == 100 and "c1 is not as it was made" in message and said in details


def test_check_finds_what_is_broken_on_the_host(plugin: Plugin, netlab: Lab) -> None:
    """The rules as well; `net reload` mends what it can."""
    inner = netlab.container()
    ports = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}]}
    result = plugin("ADD", "c1", inner.path, runtimeConfig=ports)
    veth = result["interfaces"][1]["name"]
    before = netlab.router.ruleset()
    for command, said in ((f"ip link set {veth} nomaster", f"{veth} is not at the bridge"),
                          ("nft flush ruleset", "its rules are missing")):
        plugin("CHECK", "c1", inner.path, prevResult=result, runtimeConfig=ports)
        assert netlab.router.ruleset() == before  # looking has changed nothing
        netlab.router.run(*command.split())
        assert said in plugin.error("CHECK", "c1", inner.path, prevResult=result, runtimeConfig=ports)[2]
        netlab.router.run("ip", "link", "set", veth, "master", result["interfaces"][0]["name"])
    netlab.pyrunc("net", "reload")
    plugin("CHECK", "c1", inner.path, prevResult=result, runtimeConfig=ports)


def test_a_later_plugin_may_change_the_mac(plugin: Plugin, netlab: Lab) -> None:
    """CHECK: the plugin must consult the prevResult, and allow for what was changed after it."""
    inner = netlab.container()
    result = plugin("ADD", "c1", inner.path)
    inner.ip("link set eth0 address 02:00:00:00:00:01")
    result["interfaces"][2]["mac"] = "02:00:00:00:00:01"
    plugin("CHECK", "c1", inner.path, prevResult=result)


def test_gc_keeps_what_is_valid(plugin: Plugin, netlab: Lab) -> None:
    """cni.dev/valid-attachments: all other attachments of the network go, and none of another network."""
    nodes = {name: netlab.container() for name in ("c1", "c2", "c3")}
    for name, node in nodes.items():
        plugin("ADD", name, node.path)
    plugin("ADD", "c1", nodes["c1"].path, ifname="eth1")
    plugin("ADD", "c1", nodes["c1"].path, ifname="net1", name="other", subnets=["10.78.0.0/24"])
    plugin("GC", **{"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"},
                                                  {"containerID": "c3", "ifname": "eth0"}]})
    assert plugin.left()["files"] == ["c1/other@net1.json", "c1/pods@eth0.json", "c3/pods@eth0.json"]
    assert plugin.error("GC")[:2] == (7, "/cni.dev~1valid-attachments: is no list of objects")


def test_status_when_no_address_is_left(plugin: Plugin, netlab: Lab) -> None:
    """STATUS: 50 where an ADD couldn't be served, and only there."""
    plugin.config["subnets"] = ["10.77.0.0/30"]
    plugin("STATUS")
    node = netlab.container()
    plugin("ADD", "c1", node.path)
    code, message, details = plugin.error("STATUS")
    assert (code, message) == (50, "pods takes no container") and "no address of 10.77.0.0/30 is free" in details
    assert plugin.error("ADD", "c2", netlab.container().path)[0] == 100
    plugin("DEL", "c1", node.path)
    plugin("STATUS")


def test_after_another_plugin(plugin: Plugin, netlab: Lab) -> None:
    """ADD with a prevResult passes on what it has, and the indices of its own follow."""
    inner = netlab.container()
    before = {"cniVersion": "1.1.0", "interfaces": [{"name": "net9", "sandbox": inner.path}],
              "ips": [{"address": "10.1.0.5/24", "interface": 0}], "routes": [{"dst": "10.1.0.0/24"}],
              "dns": {"nameservers": ["10.1.0.1"]}}
    result = plugin("ADD", "c1", inner.path, prevResult=before)
    assert [each["name"] for each in result["interfaces"]][::3] == ["net9", "eth0"]
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]][:2] == [("10.1.0.5/24", 0), ("10.77.0.2/24", 3)]
    assert result["routes"][0] == {"dst": "10.1.0.0/24"} and result["dns"] == before["dns"]


def test_what_the_runtime_asks_for(plugin: Plugin, netlab: Lab) -> None:
    inner = netlab.container()
    result = plugin("ADD", "c1", inner.path, runtimeConfig={
        "mac": "02:00:00:00:00:77", "ips": ["10.77.0.50", "fd77::50/64"], "aliases": {"pods": ["web", "db"]},
        "dns": {"servers": ["10.77.0.1"], "searches": ["pods.local"], "options": ["ndots:2"]}})
    assert inner.links()["eth0"]["address"] == "02:00:00:00:00:77"
    assert inner.addresses("eth0") == ["10.77.0.50/24", "fd77::50/64"]
    assert result["dns"] == {"nameservers": ["10.77.0.1"], "search": ["pods.local"], "options": ["ndots:2"]}
    names = (netlab.net_root / "hosts/net-pods").read_text()
    assert "10.77.0.50\tweb db c1\n" in names


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "too old": ({"cniVersion": "0.2.0"}, 1, "version '0.2.0' of CNI is not spoken here"),
    "no version": ({"cniVersion": None}, 6, "cniVersion is None, not a text"),
    "unknown field": ({"vlan": 7}, 2, "the field 'vlan' is not supported; it is 7"),
    "ipam": ({"ipam": {"type": "dhcp"}}, 2, "the field 'ipam' is not supported"),
    "no masquerading": ({"ipMasq": False}, 2, "the field 'ipMasq' is not supported when it is false"),
    "a type": ({"mtu": "1500"}, 7, "/mtu: '1500' is no int"),
    "a name": ({"name": "../x"}, 7, "/name: '../x' is no name of a network"),
    "a subnet": ({"subnets": ["10.77.0.1/24"]}, 7, "10.77.0.1/24 has bits of a host in it"),
    "no subnet": ({"subnets": [{}]}, 7, "/subnets: [{}] is no list of texts"),
    "no gateway": ({"gateways": [["10.77.0.1"]]}, 7, "/gateways: [['10.77.0.1']] is no list of texts"),
    "a domain": ({"name": "other", "dns": {"search": ["a", True]}}, 7, "/dns/search: ['a', True] is no list of texts"),
    "a domain of the runtime's": ({"name": "other", "runtimeConfig": {"dns": {"searches": "a"}}}, 7,
                                  "/dns/search: 'a' is no list of texts"),
    "another subnet": ({"subnets": ["10.99.0.0/24"]}, 7, "/subnets: the network pods is there"),
    "a port": ({"runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 1}]}}, 7, "70000 is no port"),
    "a mac": ({"runtimeConfig": {"mac": "01:00:00:00:00:00"}}, 7, "is a group's MAC address"),
    "a result": ({"prevResult": {"cniVersion": "1.0.0", "ips": [{}]}}, 6, "/ips/0/address is None"),
    "a network that isn't there": ({"network": "nowhere"}, 100, "no network nowhere"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_configurations(plugin: Plugin, netlab: Lab, what: str) -> None:
    """The reserved codes of Section 5; nothing has changed."""
    members, code, said = WRONG[what]
    plugin("ADD", "first", netlab.container().path)
    before = plugin.left()
    found = plugin.error("ADD", "c1", netlab.container().path, **members)
    assert found[0] == code and said in found[1], found
    assert plugin.left() == before


def test_wrong_calls(plugin: Plugin, netlab: Lab) -> None:
    """Code 4 names the variables; 3 tells the runtime that there is nothing to clean up; 6 is for what is no JSON."""
    code, message, _ = plugin.error("ADD", "a/b", "")
    assert code == 4 and "CNI_CONTAINERID='a/b', CNI_NETNS=''" in message
    assert plugin.error("ADD", "c1", netlab.router.path, ifname="a/b")[0] == 4
    assert plugin.error("FROB", "c1", netlab.router.path)[:2] == (4, "CNI_COMMAND is 'FROB'")
    assert plugin.error("ADD", "c1", "/nowhere")[0] == 3
    assert plugin.error("ADD", "c1", netlab.router.path, stdin="{")[0] == 6
    assert plugin.error("CHECK", "c1", netlab.router.path)[:2] == (7, "CHECK takes a prevResult")
    assert plugin.error("ADD", "c1", netlab.router.path)[1] == "the container is in the host's own network namespace"
    assert netlab.router.links().keys() == {"out"}


def test_the_interface_is_there_already(plugin: Plugin, netlab: Lab) -> None:
    """ADD: if an interface of the requested name exists the plugin MUST return an error."""
    inner = netlab.container()
    plugin("ADD", "c1", inner.path)
    code, message, _ = plugin.error("ADD", "c2", inner.path)
    assert code == 100 and "has a network device eth0 already" in message
    assert inner.addresses("eth0") == ["10.77.0.2/24", "fd77::2/64"]


def test_below_our_own_runtime_side(plugin: Plugin, netlab: Lab, tmp_path: Path) -> None:
    """A conflist of pyrunc-cni and Debian's tuning, run by `pyrunc net cni` in the version both speak."""
    path = tmp_path / "pods.conflist"
    own = {**plugin.config, "capabilities": {"portMappings": True}}
    path.write_text(json.dumps({"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.1.0"], "name": own.pop("name"),
                                "plugins": [own, {"type": "tuning", "sysctl": {"net.core.somaxconn": "77"}}]}))
    inner = netlab.container()
    cni = ("net", "cni", "--cache", tmp_path / "cache", "--plugins", Path(PLUGIN).parent, "--plugins", "/usr/lib/cni")
    result = json.loads(netlab.pyrunc(*cni, "add", path, "c1", "--netns", inner.path, "-p", "8080:80"))
    assert result["cniVersion"] == "1.0.0"
    assert inner.sysctl("core.somaxconn") == "77"
    carries(netlab, inner, 8080)
    netlab.pyrunc(*cni, "check", path, "c1")
    netlab.pyrunc(*cni, "del", path, "c1")
    assert plugin.left()["files"] == [] and "eth0" not in inner.links()
