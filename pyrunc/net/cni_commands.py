# SPDX-License-Identifier: Apache-2.0
"""What pyrunc-cni does on ADD, DEL, CHECK, GC and STATUS: attach, detach, look, tidy up."""

from __future__ import annotations

import os
import sys

from pyrunc.errors import NetworkError, PyruncError, UsageError

from . import attachments, networks
from .cni import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    INCOMPATIBLE_VERSION,
    UNAVAILABLE,
    UNKNOWN_CONTAINER,
    UNSUPPORTED_FIELD,
    CniError,
    check_result,
    is_interface,
    is_name,
    key_of,
    parse_args,
    result_as,
)
from .cni_check import available, check, describe
from .model import Publish, Subnet, check_address, check_mac
from .store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .model import Attachment, Network

#: What describes a network, by the type it has to be of; the rest is the protocol's.
_NETWORK: dict[str, type] = {"driver": str, "subnets": list, "gateways": list, "mtu": int, "internal": bool,
                             "isolate": bool, "parent": str, "mode": str}
_PLUGIN: dict[str, type] = {**_NETWORK, "network": str, "dataDir": str, "ipMasq": bool, "dns": dict}
_PROTOCOL = {"cniVersion", "name", "type", "args", "runtimeConfig", "prevResult", "capabilities"}
_FROM_0_4, _FROM_1_1 = (0, 4), (1, 1)


def run(command: str, config: dict[str, Any], version: str) -> dict[str, Any] | None:
    """Carry the command out: what is to be printed, if anything.  Raises PyruncError."""
    since = {"ADD": (), "DEL": (), "CHECK": _FROM_0_4, "GC": _FROM_1_1, "STATUS": _FROM_1_1}.get(command)
    if since is None:
        raise CniError(BAD_ENVIRONMENT, f"CNI_COMMAND is {command!a}", "ADD, DEL, CHECK, GC, STATUS or VERSION")
    if key_of(version) < since:
        raise CniError(INCOMPATIBLE_VERSION, f"version {version} of CNI has no {command}")
    call = Call(config, version)
    if command in ("GC", "STATUS"):
        (call.collect if command == "GC" else call.status)()
        return None
    call.read_environment(command)
    if command == "ADD":
        return call.add()
    (call.delete if command == "DEL" else call.check)()
    return None


class Call:
    """One call: the configuration, checked, and the attachment that the environment names."""

    def __init__(self, config: dict[str, Any], version: str) -> None:
        self.config = config
        self.version = version
        self.container = self.netns = self.ifname = ""
        self.args: dict[str, str] = {}
        self.previous = None if config.get("prevResult") is None else \
            check_result(config["prevResult"], "prevResult")
        if not is_name(config.get("name")):
            raise CniError(BAD_CONFIG, f"/name: {config.get('name')!a} is no name of a network")
        for key, value in config.items():
            kind = _PLUGIN.get(key)
            if kind is None and key not in _PROTOCOL and not key.startswith("cni.dev/"):
                raise CniError(UNSUPPORTED_FIELD, f"the field {key!a} is not supported; it is {value!a}"[:500],
                               "addresses come from `subnets`, not from a plugin" if key == "ipam" else "")
            if kind is not None and type(value) is not kind:
                raise CniError(BAD_CONFIG, f"/{key}: {value!a} is no {kind.__name__}"[:500])
            if kind is list:
                _check_texts(key, value)
        if config.get("ipMasq") is False and not config.get("internal"):
            raise CniError(UNSUPPORTED_FIELD, "the field 'ipMasq' is not supported when it is false",
                           "what leaves a network is masqueraded; `internal` keeps it in")
        self.runtime = config.get("runtimeConfig") or {}
        self.name = str(config.get("network") or config["name"])
        self.store = Store(config.get("dataDir") or "")

    def read_environment(self, command: str) -> None:
        """Raises CniError with the names of variables that are missing or wrong."""
        values = {name: os.environ.get(f"CNI_{name}", "") for name in ("CONTAINERID", "NETNS", "IFNAME", "ARGS")}
        wrong = [f"CNI_{name}={values[name]!a}" for name, good in (
            ("CONTAINERID", is_name(values["CONTAINERID"])), ("IFNAME", is_interface(values["IFNAME"])),
            ("NETNS", values["NETNS"] or command == "DEL")) if not good]
        if wrong:
            raise CniError(BAD_ENVIRONMENT, f"{command} can't do with {', '.join(wrong)}")
        self.container, self.netns, self.ifname = values["CONTAINERID"], values["NETNS"], values["IFNAME"]
        self.args = parse_args(values["ARGS"])

    # The network

    def network(self) -> Network:
        """The network that the configuration means; made, if it isn't there.  Raises PyruncError."""
        described = {key: self.config[key] for key in _NETWORK if key in self.config}
        if not self.store.has_network(self.name):
            if self.config.get("network") and self.name != networks.DEFAULT:
                return self.store.network(self.name)  # raises: somebody else was to make it
            try:
                return networks.create(self.store, self.name, dns=self.dns().get("nameservers", ()),
                                       search=self.dns().get("search", ()), **described)
            except NetworkError:
                if not self.store.has_network(self.name):
                    raise
        network = self.store.network(self.name)
        known = network.to_data()
        known["subnets"] = [item["subnet"] for item in known["subnets"]]
        known["gateways"] = [gateway for gateway in network.gateways if gateway]
        for key, value in described.items():
            wanted = sorted(str(Subnet.parse(each)) for each in value) if key == "subnets" else \
                sorted(check_address(each) for each in value) if key == "gateways" else value
            has = sorted(known[key]) if isinstance(wanted, list) else known[key]
            if wanted != has:
                raise CniError(BAD_CONFIG, f"/{key}: the network {self.name} is there, with {has!a} and not {value!a}",
                               f"`pyrunc net rm {self.name}` removes it")
        return network

    def dns(self) -> dict[str, Any]:
        """As the result has it: what the runtime says, else the configuration."""
        given = self.runtime.get("dns") if isinstance(self.runtime, dict) else None
        if isinstance(given, dict) and any(given.values()):
            given = _lower(given)
            named = {"nameservers": given.get("servers"), "search": given.get("searches"),
                     "options": given.get("options")}
            found = {key: value for key, value in named.items() if value}
        else:
            found = dict(self.config.get("dns") or {})
        for key in ("nameservers", "search", "options"):
            _check_texts(f"dns/{key}", found.get(key) or [])
        return found

    # Commands

    def add(self) -> dict[str, Any]:
        network = self.network()
        try:
            made = attachments.attach(
                self.store, network.name, container=self.container, netns=self.netns, ip=self._ips(),
                mac=self._mac(), publish=self._ports(), aliases=self._aliases(), ifname=self.ifname, warn=_warn)
        except UsageError as error:
            raise CniError(BAD_CONFIG, error.message, error.hint) from None
        return result_as(self._result(network, made), self.version)

    def delete(self) -> None:
        """No harm in what isn't there: not the container, not the network."""
        if is_name(self.name):
            attachments.detach(self.store, self.name, container=self.container, ifname=self.ifname, warn=_warn)

    def check(self) -> None:
        """Whether the attachment is as ADD made it, and as prevResult says.  Raises CniError."""
        if self.previous is None:
            raise CniError(BAD_CONFIG, "CHECK takes a prevResult")
        attachment = self.store.attachment(f"{self.container}/{self.name}@{self.ifname}")
        if attachment is None:
            raise CniError(UNKNOWN_CONTAINER, f"{self.container} has no {self.ifname} in the network {self.name}")
        told = {str(ip["address"]) for ip in self.previous.get("ips") or ()}
        missing = [address for address in attachment.addresses if address not in told]
        if missing:
            raise CniError(BAD_CONFIG, f"prevResult lacks {', '.join(missing)}, which {self.container} was given")
        macs = [str(each.get("mac") or "") for each in self.previous.get("interfaces") or ()
                if each["name"] == self.ifname and each.get("sandbox")]
        check(self.store, self.network(), attachment, self.netns, macs[0] if macs else "")

    def collect(self) -> None:
        """Undo all attachments of the network but the valid ones; go on after a failure, and tell them all."""
        valid = self.config.get("cni.dev/valid-attachments")
        if not isinstance(valid, list) or not all(isinstance(each, dict) for each in valid):
            raise CniError(BAD_CONFIG, "/cni.dev~1valid-attachments: is no list of objects")
        kept = {(str(each.get("containerID")), str(each.get("ifname"))) for each in valid}
        failures = []
        for attachment in self.store.attachments(network=self.name):
            if (attachment.container, attachment.interface) not in kept:
                try:
                    attachments.detach(self.store, self.name, container=attachment.container,
                                       ifname=attachment.interface, warn=_warn)
                except PyruncError as error:
                    failures.append(f"{attachment.container}: {error}")
        if failures:
            raise CniError(UNAVAILABLE, "not everything could be tidied up", "; ".join(failures))

    def status(self) -> None:
        """Whether an ADD could work.  Raises CniError."""
        try:
            available(self.store, self.network())
        except CniError:
            raise
        except PyruncError as error:
            raise CniError(UNAVAILABLE, f"{self.name} takes no container", str(error)) from None

    # What ADD is told

    def _given(self, name: str) -> Any:
        """A capability's argument, else what `args` has under that name; the deprecated CNI_ARGS come last."""
        if isinstance(self.runtime, dict) and self.runtime.get(name):
            return self.runtime[name]
        args = self.config.get("args")
        inner = args.get("cni") if isinstance(args, dict) else None
        return inner.get(name) if isinstance(inner, dict) else None

    def _ips(self) -> list[str]:
        """A mask says nothing: it is the subnet's."""
        given = self._given("ips") or [each for each in self.args.get("IP", "").split(",") if each]
        if not isinstance(given, list):
            raise CniError(BAD_CONFIG, f"ips: {given!a} is no list")
        return [check_address(str(each).partition("/")[0]) for each in given]

    def _mac(self) -> str:
        given = self._given("mac") or self.args.get("MAC", "")
        return check_mac(str(given)) if given else ""

    def _aliases(self) -> list[str]:
        """A list; Podman has a list for each network."""
        given = self._given("aliases") or []
        if isinstance(given, dict):
            given = given.get(self.config["name"]) or []
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise CniError(BAD_CONFIG, f"aliases: {given!a} is no list of names")
        return given

    def _ports(self) -> list[Publish]:
        given = self._given("portMappings") or []
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            raise CniError(BAD_CONFIG, f"portMappings: {given!a} is no list of objects")
        found = []
        for each in map(_lower, given):
            numbers = [each.get("hostport", 0), each.get("containerport")]
            if not all(type(number) is int for number in numbers):
                raise CniError(BAD_CONFIG, f"portMappings: {each!a} has no numbers for ports")
            if numbers[0]:  # a pod's port that isn't the host's
                found.append(Publish(str(each.get("hostip") or ""), numbers[0], numbers[1],
                                     str(each.get("protocol") or "tcp").lower()).check())
        return found

    # What it answers

    def _result(self, network: Network, made: Attachment) -> dict[str, Any]:
        """What was made, after what a plugin before had made."""
        before = self.previous or {}
        interfaces = list(before.get("interfaces") or ())
        if made.host_interface:
            interfaces += describe(network, made)
        interfaces.append({"name": made.interface, "mac": made.mac, "sandbox": self.netns,
                           **({"mtu": network.mtu} if network.mtu else {})})
        ips = [{"address": address, "interface": len(interfaces) - 1,
                **({"gateway": gateway} if (gateway := network.gateway(6 if ":" in address else 4)) else {})}
               for address in made.addresses]
        routes = [{"dst": "::/0" if ":" in gateway else "0.0.0.0/0", "gw": gateway} for gateway in made.gateways]
        dns = self.dns() or before.get("dns") or {}
        return {"interfaces": interfaces, "ips": [*(before.get("ips") or ()), *ips],
                "routes": [*(before.get("routes") or ()), *routes], **({"dns": dns} if dns else {})}


def _check_texts(key: str, values: Any) -> None:
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise CniError(BAD_CONFIG, f"/{key}: {values!a} is no list of texts"[:500])


def _lower(given: dict[str, Any]) -> dict[str, Any]:
    """With the names in lower case: containerd writes HostPort, and relies on Go's reading it as hostPort."""
    return {name.lower(): value for name, value in given.items()}


def _warn(text: str) -> None:
    sys.stderr.write(f"pyrunc-cni: warning: {text}\n")


