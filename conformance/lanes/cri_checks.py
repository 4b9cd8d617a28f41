# SPDX-License-Identifier: Apache-2.0
"""Pods and containers as a kubelet has them made, by a runtime handler."""

from __future__ import annotations

import socket

from conformance import snippets
from conformance.checks import Table, wait_for
from conformance.lanes.base import MEMORY, QUOTA
from conformance.lanes.cri import EXITED, NAMESPACE_NODE, POD, RUNNING, UNCONFINED, CriLane, Message, decode, text
from conformance.lanes.engine_options import fetched
from conformance.sandbox import SUB_IDS

TABLE: Table[CriLane] = Table()
NEWER: Table[CriLane] = Table()  # what containerd 1 doesn't know
check = TABLE.check


@check("CRI: a pod, its container's output and exit code", "hello from pod, 3", short=True)
def _(lane: CriLane) -> str:
    with lane.cri.pod() as pod:
        container = pod.container("sh", "-c", "echo hello from $(hostname | tr -d 0-9); exit 3")
        code = container.wait()
        return f"{container.log()}, {code}"


@check("CRI: the handler, and the default of a node (docs/integrations.md), are one runtime", "the same")
def _(lane: CriLane) -> str:
    def runtime() -> object:
        with lane.cri.pod() as pod:
            return lane.runtime_of(pod)

    named, lane.cri.handler = runtime(), ""
    try:
        default = runtime()
    finally:
        lane.cri.handler = snippets.handler()
    return "the same" if named == default else f"{named}, {default}"


@check("CRI: exec", "4 out of it", short=True)
def _(lane: CriLane) -> str:
    with lane.cri.pod() as pod:
        code, out = pod.container().exec("sh", "-c", "echo out of it; exit 4")
        return f"{code} {out}"


@check("CRI: containers of a pod share its network and IPC", "shared: net ipc uts; not: pid mnt")
def _(lane: CriLane) -> str:
    kinds = ("net", "ipc", "uts", "pid", "mnt")
    script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
    with lane.cri.pod({1: {2: 1}}) as pod:
        one, two = (pod.container(security={3: {2: 1}}).sh(script).split() for _ in range(2))
    pairs = list(zip(kinds, one, two, strict=True))
    return (f"shared: {' '.join(kind for kind, a, b in pairs if a == b)}; "
            f"not: {' '.join(kind for kind, a, b in pairs if a != b)}")


@check("CRI: a pod's address, two pods talk", "hello over the bridge")
def _(lane: CriLane) -> str:
    with lane.cri.pod() as one, lane.cri.pod() as two:
        server = one.container("sh", "-c", "echo hello over the bridge >/index.html; httpd -f -p 80 -h /")
        address = server.sh("ip -4 -o addr show eth0 | awk '{print $4}' | cut -d / -f 1")
        fetch = f"for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://{address}/ && exit; sleep 0.2; done"
        return two.container().sh(fetch)


@check("CRI: pods in a network of pyrunc-cni, as docs/integrations.md has it",
       "10.77.0.2; a pod: hello over the bridge; outside: hello over the bridge; then 0 attached, 0 devices",
       short=True)
def _(lane: CriLane) -> str:
    link, store = snippets.blocks("pyrunc-cni")[1], lane.scratch / "pyrunc-net"
    own = str(snippets.plugin(lane.runtime))
    lane.must("sh", "-ec", link.replace(f"{snippets.DIRECTORY}/pyrunc-cni", own)
              .replace("/opt/cni/bin", str(lane.place / "plugins")))
    file = lane.place / "cni/10-pods.conflist"

    file.write_text(snippets.network(store))
    wait_for(lambda: lane.uses("pods"), "the networks to be read again")
    try:
        with lane.cri.pod(ports=[{2: 80, 3: 8080}]) as one, lane.cri.pod() as two:
            address = one.address()
            one.container("sh", "-c", "echo hello over the bridge >/index.html; httpd -f -p 80 -h /")
            fetch = f"for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://{address}/ && exit; sleep 0.2; done"
            seen = f"{address}; a pod: {two.container().sh(fetch)}; outside: {fetched(f'http://{lane.node}:8080/')}"
    finally:
        file.unlink()
    wait_for(lambda: not lane.uses("pods"), "the network to be forgotten")
    attached = list((store / "attachments").iterdir())
    devices = [name for _, name in socket.if_nameindex() if name.startswith("pyv")]
    return f"{seen}; then {len(attached)} attached, {len(devices)} devices"


@check("CRI: a pod on the node's network", "the lane's")
def _(lane: CriLane) -> str:
    import os

    with lane.cri.pod({1: {1: NAMESPACE_NODE}}) as pod:
        seen = pod.container(security={3: {1: NAMESPACE_NODE}}).sh("readlink /proc/self/ns/net")
    return "the lane's" if seen == os.readlink("/proc/self/ns/net") else seen


@check("CRI: limits, then an update of them", "67108864 50000, then 100663296", short=True)
def _(lane: CriLane) -> str:
    with lane.cri.pod() as pod:
        container = pod.container(resources={1: 100000, 2: 50000, 4: 64 << 20})
        first = f"{container.sh(MEMORY)} {container.sh(QUOTA)}"
        lane.cri.call("UpdateContainerResources", {1: container.id, 2: {4: 96 << 20}})
        return f"{first}, then {container.sh(MEMORY)}"


@check("CRI: user, groups, read-only root, no new privileges, capabilities", "1000 1000 77|ro|1|0000000000000000")
def _(lane: CriLane) -> str:
    with lane.cri.pod() as pod:
        container = pod.container(security={1: {2: ["ALL"]}, 5: {1: 1000}, 12: {1: 1000}, 7: 1, 8: [77], 11: 1})
        return container.sh("echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | grep 77)\\|"
                            "$(touch /tmp/x 2>/dev/null || echo ro)\\|"
                            "$(grep NoNewPrivs /proc/self/status | cut -f 2)\\|"
                            "$(grep CapEff /proc/self/status | cut -f 2)")


@check("CRI: privileged", "mounted")
def _(lane: CriLane) -> str:
    with lane.cri.pod({6: 1}) as pod:
        return pod.container(security={2: 1}).sh("mkdir /m && mount -t tmpfs tmpfs /m && echo mounted")


@check("CRI: seccomp RuntimeDefault and Unconfined", "2 0", short=True)
def _(lane: CriLane) -> str:
    script = "grep Seccomp: /proc/self/status | cut -f 2"
    with lane.cri.pod() as pod:
        return " ".join(pod.container(security={15: profile}).sh(script) for profile in ({}, {1: UNCONFINED}))


@check("CRI: environment and a read-only mount", "b from outside ro")
def _(lane: CriLane) -> str:
    where = lane.directory()
    (where / "a").write_text("from outside")
    with lane.cri.pod() as pod:
        container = pod.container(environment={"A": "b"}, mounts=[{1: "/v", 2: str(where), 3: 1}])
        return container.sh("echo $A $(cat /v/a) $(touch /v/x 2>/dev/null || echo ro)")


@check("CRI: stats", "CPU and memory")
def _(lane: CriLane) -> str:
    with lane.cri.pod() as pod:
        container = pod.container("sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000")

        def used() -> bool:
            stats = decode(lane.cri.call("ContainerStats", {1: container.id})[1][0])
            return all(int(decode(decode(stats[number][0])[2][0]).get(1, [0])[0]) > 0 for number in (2, 3))

        wait_for(used, "figures")
        return "CPU and memory"


@check("CRI: stop", "running, then exited 137", short=True)
def _(lane: CriLane) -> str:
    with lane.cri.pod() as pod:
        container = pod.container("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
        first = "running" if container.state() == RUNNING else "not running"
        lane.cri.call("StopContainer", {1: container.id, 2: 1})
        state = "exited" if container.state() == EXITED else "not exited"
        return f"{first}, then {state} {container.wait()}"


@check("CRI: out of memory", "137 OOMKilled")
def _(lane: CriLane) -> str:
    with lane.cri.pod() as pod:
        container = pod.container("sh", "-c", "sleep 1; tail /dev/zero", resources={4: 32 << 20})
        code = container.wait()
        return f"{code} {container.status()[10][0].decode()}"


@check("CRI: a program that isn't there", "no such file or directory")
def _(lane: CriLane) -> str:
    from conformance.errors import Failed

    with lane.cri.pod() as pod:
        try:
            pod.container("no-such-program")
        except Failed as error:
            words = str(error).lower().replace("executable file not found", "no such file or directory")
            return "no such file or directory" if "no such file or directory" in words else words
        return "started"


def handlers(lane: CriLane) -> dict[str, tuple[bool, bool]]:
    """By name: whether it has mounts that are read-only all the way down, and user namespaces for pods."""
    found = {}
    for item in lane.cri.call("Status", {}).get(3, []):
        handler = decode(item)
        features = decode(handler[2][0]) if 2 in handler else {}
        found[text(handler, 1)] = (1 in features, 2 in features)
    return found


@NEWER.check("CRI: what the handler says it can do", "recursively read-only mounts, user namespaces")
def _(lane: CriLane) -> str:
    told = handlers(lane)[snippets.NAME]
    names = ("recursively read-only mounts", "user namespaces")
    return ", ".join(name for name, there in zip(names, told, strict=True) if there) or "nothing"


@NEWER.check("CRI: a pod in a user namespace; its image's and a volume's files are its root's",
                    f"0 {SUB_IDS} 65536, image 0, volume 0, made 0, through /dev/stdout; outside 0")
def _(lane: CriLane) -> str:
    where = lane.directory(0o777)
    (where / "a").touch()
    ids = [{1: SUB_IDS, 2: 0, 3: 65536}]
    security: Message = {5: {1: POD, 2: ids, 3: ids}}
    volume: Message = {1: "/v", 2: str(where), 6: ids, 7: ids}
    with lane.cri.pod({1: security}) as pod:
        container = pod.container(security={3: security}, mounts=[volume])
        seen = container.sh("touch /v/made /made; echo $(cat /proc/self/uid_map), image $(stat -c %u /bin/busybox),"
                            " volume $(stat -c %u /v/a), made $(stat -c %u /made), through /dev/stdout >/dev/stdout")
    return f"{seen}; outside {(where / 'made').stat().st_uid}"


@NEWER.check("CRI: a mount that is read-only all the way down", "read-only, read-only")
def _(lane: CriLane) -> str:
    where = lane.directory()
    (where / "below").mkdir()
    lane.must("mount", "-t", "tmpfs", "below", str(where / "below"))
    try:
        with lane.cri.pod() as pod:
            container = pod.container(mounts=[{1: "/v", 2: str(where), 3: 1, 8: 1}])
            tried = [container.sh(f"touch {place}/x 2>/dev/null && echo written || echo read-only")
                     for place in ("/v", "/v/below")]
            return ", ".join(tried)
    finally:
        lane.must("umount", str(where / "below"))
