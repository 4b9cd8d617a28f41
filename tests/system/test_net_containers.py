# SPDX-License-Identifier: Apache-2.0
"""Containers of pyrunc, runc and crun in a network: by their id, or by their namespace."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from netlab import OUTSIDE_4, OUTSIDE_6, ROUTER_4, ROUTER_6, Lab
from netting import ip
from support import PYRUNC, Bundle, Runtime, wait_for

SERVE = "nc -ll -p 80 -e echo I am {} & while :; do sleep 1; done"


class Started:
    """A container that answers on port 80, and can ask."""

    def __init__(self, lab: Lab, runtime: Runtime, container: str) -> None:
        self.lab = lab
        self.runtime = runtime
        self.id = container
        self.pid = runtime.state(container)["pid"]
        self.node = lab.of_process(self.pid, container)
        # `start` returns with the shell's execve; nc comes later (proc_net_tcp: port 80, listening).
        wait_for(lambda: any(":0050 " in line and " 0A " in line for name in ("tcp", "tcp6")
                             for line in Path(f"/proc/{self.pid}/net/{name}").read_text().splitlines()), "nc")

    def get(self, address: str, port: int) -> str:
        done = self.runtime("exec", self.id, "sh", "-c", f"nc -w 5 {address} {port} </dev/null")
        return done.out.strip()


def alone_on_v1(path: str, wrapper: Path) -> str:
    """crun 1.8 refuses hybrid cgroups: the path of a program that runs it where there is only v1."""
    wrapper.write_text("#!/bin/sh\nexec unshare --mount --propagation private sh -c "
                       f"'umount /sys/fs/cgroup/unified && exec {path} \"$@\"' crun \"$@\"\n")
    wrapper.chmod(0o755)
    return str(wrapper)


@pytest.fixture(params=["pyrunc", "runc", "crun"])
def start(request: pytest.FixtureRequest, netlab: Lab, make_bundle: Callable[[str], Bundle], tmp_path: Path
          ) -> Iterator[Callable[[str], Started]]:
    """A function that starts a container of the runtime."""
    path = PYRUNC if request.param == "pyrunc" else shutil.which(request.param)
    assert path
    if request.param == "crun" and Path("/sys/fs/cgroup/unified").exists():
        path = alone_on_v1(path, tmp_path / "crun")
    (tmp_path / "state").mkdir()
    runtime = Runtime(path, tmp_path / "state")

    def run(name: str) -> Started:
        bundle = make_bundle(name).args(SERVE.format(name))
        bundle.without("cgroup")
        bundle.config["ociVersion"] = "1.0.2"  # crun 1.8 knows no later one
        container = runtime.create(bundle, container_id=name)
        assert runtime("start", container).code == 0
        return Started(netlab, runtime, container)

    yield run
    runtime.clean_up()


def test_the_example(netlab: Lab, start: Callable[[str], Started]) -> None:
    """Two containers on a bridge: each other, the outside, a published port; IPv4 and IPv6; then all is gone."""
    one, two = start("one"), start("two")
    by_id = one.runtime.name == "pyrunc"

    def attach(container: Started, *words: str) -> dict[str, object]:
        where = () if by_id else ("--netns", f"/proc/{container.pid}/ns/net")
        root = ("--root", container.runtime.root) if by_id else ()
        made: dict[str, object] = json.loads(netlab.pyrunc(*root, "net", "attach", container.id, "web", *where, *words,
                                                           "--format", "json"))
        return made

    netlab.pyrunc("net", "create", "web", "--ipv6")
    first = attach(one, "-p", "8080:80")
    second = attach(two)
    for family, outside, router in ((4, OUTSIDE_4, ROUTER_4), (6, OUTSIDE_6, ROUTER_6)):
        wait_for(lambda family=family: two.get(ip(first, family), 80) == "I am one", "the neighbour's answer")
        assert one.get(ip(second, family), 80) == "I am two"
        assert two.get(router, 8080) == "I am one" and one.get(router, 8080) == "I am one"
        server = netlab.outside.listen(80, family=family)
        wait_for(lambda router=router: netlab.outside.do("busybox", "nc", "-w", "5", router, "8080", stdin="").out
                 == "I am one\n", "the answer to outside")
        assert one.node.ask(outside, 80).source == router
        server.close()
    assert netlab.router.do("busybox", "nc", "-w", "5", "127.0.0.1", "8080", stdin="").out == "I am one\n"
    one.node.close()
    two.node.close()
    one.runtime.clean_up()
    wait_for(lambda: not {name for name in netlab.router.links() if name.startswith("pyv")}, "the devices to be gone")
    assert netlab.pyrunc("net", "prune", "--all").splitlines() == ["one/web@eth0", "two/web@eth0", "web"]
    assert netlab.router.ruleset() == [] and netlab.router.links().keys() == {"out"}


def test_a_container_that_has_stopped(netlab: Lab, make_bundle: Callable[[str], Bundle], runtime: Runtime) -> None:
    netlab.pyrunc("net", "create", "web")
    container = runtime.create(make_bundle("gone").args("true"))
    assert runtime("start", container).code == 0
    runtime.wait(container)
    done = netlab.do("--root", runtime.root, "net", "attach", container, "web")
    assert (done.code, done.err) == (
        1, "pyrunc: net attach: the container is stopped: it has no network namespace\n")
    unknown = netlab.do("--root", runtime.root, "net", "attach", "nobody", "web")
    assert unknown.err == ("pyrunc: net attach: container nobody does not exist "
                           "(--netns PATH names the network namespace of another runtime's)\n")


def test_the_documents_commands(netlab: Lab) -> None:
    """docs/net.md: what can be run as it stands is run, in a row."""
    text = (Path(__file__).parents[2] / "docs" / "net.md").read_text()
    (script,) = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    done = netlab.router.do("unshare", "--mount", "--propagation", "private", "sh", "-ec",
                            f"mount -t tmpfs none /run; mkdir /run/netns; {script}",
                            env={**netlab.environment, "PATH": f"{Path(PYRUNC).parent}:/usr/sbin:/usr/bin:/sbin:/bin"})
    assert (done.code, done.err) == (0, "")
    assert done.lines[0] == "shop" and done.lines[1] == "10.20.0.2/24" and done.lines[-1] == "shop"
    (inspected,) = json.loads("\n".join(done.lines[5:-1]))
    assert [container["container"] for container in inspected["containers"]] == ["db", "web"]
    assert netlab.router.links().keys() == {"out"} and netlab.router.ruleset() == []
