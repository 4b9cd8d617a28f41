# SPDX-License-Identifier: Apache-2.0
"""What a kubelet passes on between kubectl and a runtime service: exec and attach, over a WebSocket.

A frame's first byte is the channel (k8s.io/kubelet, v4.channel.k8s.io): 0 to 2 are those of the program, 3 tells
how it has ended, 4 takes sizes of the terminal.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from types import TracebackType
from urllib.parse import urlsplit

from conformance.errors import Failed

STDIN, STDOUT, STDERR, END, SIZE = range(5)
_BINARY, _CLOSE = 2, 8


class Stream:
    """A connection to the address that Exec or Attach has answered with."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.shown = {STDOUT: b"", STDERR: b"", END: b""}
        self._rest = b""
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80))
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                             f"Origin: http://{parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
                             "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n".encode())
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        if b" 101 " not in head.splitlines()[0]:
            raise Failed(f"no WebSocket: {head.decode(errors='replace')}")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._socket.close()

    def write(self, text: str) -> None:
        self._send(STDIN, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        self._send(SIZE, json.dumps({"Width": columns, "Height": rows}).encode())

    def until(self, wanted: str) -> str:
        """All of standard output when it has that text.  Raises Failed when the connection ends without."""
        while wanted not in self.text():
            if not self._frame():
                raise Failed(f"the stream ended after {self.text()!r} and {self.shown[STDERR]!r}")
        return self.text()

    def end(self) -> int:
        """The exit code, when the program has ended.  Raises Failed with the service's words."""
        while self._frame():
            pass
        status = json.loads(self.shown[END] or b"{}")
        if status.get("status") == "Success":
            return 0
        for cause in status.get("details", {}).get("causes", ()):
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        raise Failed(status.get("message") or f"no word of its end: {self.shown[END]!r}")

    def text(self, channel: int = STDOUT) -> str:
        return self.shown[channel].decode(errors="replace").replace("\r\n", "\n")

    def _send(self, channel: int, data: bytes) -> None:
        data = bytes([channel]) + data
        size = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack(">BH", 0x80 | 126, len(data))
        self._socket.sendall(bytes([0x80 | _BINARY]) + size + bytes(4) + data)  # masked, with zeros

    def _frame(self) -> bool:
        """Take one frame; False when there is none any more."""
        try:
            first, size = self._take(2)
            if size & 0x7F == 126:
                size = struct.unpack(">H", self._take(2))[0]
            elif size & 0x7F == 127:
                size = struct.unpack(">Q", self._take(8))[0]
            data = self._take(size)
        except (EOFError, ConnectionResetError):
            return False
        if first & 0xF == _CLOSE:
            return False
        if first & 0xF == _BINARY and data and data[0] in self.shown:
            self.shown[data[0]] += data[1:]
        return True

    def _take(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._more()
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _more(self) -> None:
        piece = self._socket.recv(65536)
        if not piece:
            raise EOFError
        self._rest += piece
