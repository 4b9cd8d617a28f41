# SPDX-License-Identifier: Apache-2.0
"""The command line and the surroundings that containerd gives the shim's program."""

from __future__ import annotations

import os

from pyrunc.errors import PyruncError, UsageError

from . import options
from .codec import DecodeError
from .messages import Any, BootstrapParams, Options

SOCKETS = "/run/containerd/s"
_MAX_STDIN = 10 << 20

FLAGS = ("namespace", "address", "publish-binary", "id", "bundle", "socket")
SWITCHES = ("debug", "v", "version", "info")


class Arguments:
    """The command line, in the style of Go's flag package; `action` is start, delete or empty."""

    __slots__ = ("action", "switches", "values")

    def __init__(self, words: list[str]) -> None:
        self.values = dict.fromkeys(FLAGS, "")
        self.switches: set[str] = set()
        rest = list(words)
        while rest and rest[0].startswith("-"):
            name, equals, value = rest.pop(0).lstrip("-").partition("=")
            if name in SWITCHES:
                if value not in ("false", "0"):
                    self.switches.add(name)
            elif name in FLAGS:
                if not equals and not rest:
                    raise UsageError(f"flag needs an argument: -{name}")
                self.values[name] = value if equals else rest.pop(0)
            else:
                raise UsageError(f"flag provided but not defined: -{name}")
        self.action = rest[0] if rest else ""

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def require(self) -> None:
        """What every action needs.  Raises UsageError."""
        if not self["namespace"]:
            raise UsageError("shim namespace cannot be empty")
        if not self["id"]:
            raise UsageError("shim id cannot be empty")


def read_stdin() -> bytes:
    """What containerd wrote there."""
    data = b""
    while len(data) < _MAX_STDIN:
        piece = os.read(0, 65536)
        if not piece:
            break
        data += piece
    return data


class Surroundings:
    """Where this shim is: from the command line, the environment, and since containerd 2.3 from stdin."""

    __slots__ = ("events", "options", "sockets")

    def __init__(self, arguments: Arguments, data: bytes) -> None:
        self.events = os.environ.get("TTRPC_ADDRESS", "")
        self.sockets = SOCKETS
        wanted: Any | None = None
        try:
            params = BootstrapParams.decode(data)
        except DecodeError:
            params = BootstrapParams()
        # An Any of older versions may well decode as that too, but not to these values.
        if params.instance_id == arguments["id"] and params.namespace == arguments["namespace"]:
            self.events = params.containerd_ttrpc_address or self.events
            self.sockets = params.socket_dir or self.sockets
            for extension in params.extensions:
                if extension.value is not None and extension.value.type_url.endswith(".Options"):
                    wanted = extension.value
        else:
            try:
                wanted = Any.decode(data)
            except DecodeError:
                pass
        try:
            self.options = options.decode(wanted)
        except PyruncError:
            self.options = Options()  # Create is told them too, and says what is wrong
