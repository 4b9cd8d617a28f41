# SPDX-License-Identifier: Apache-2.0
"""Log lines as runc writes them: clients parse the last one of --log for what went wrong.

text: `time="2026-01-31T12:00:00Z" level=error msg="…"`;
json: `{"level":"error","msg":"…","time":"2026-01-31T12:00:00Z"}`.
"""

from __future__ import annotations

import os
import time

from .errors import UsageError
from .spec.load import dump

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Log:
    """Where messages go: the file of --log, else stderr, where a person reads them."""

    __slots__ = ("_fd", "debugging", "format")

    def __init__(self, path: str = "", format_: str = "text", debug: bool = False) -> None:
        if format_ not in ("text", "json"):
            raise UsageError(f'unknown log format "{format_}"', hint="text or json")
        self.format = format_
        self.debugging = debug
        self._fd = -1
        if path:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
            try:
                self._fd = os.open(path, flags, 0o644)
            except OSError as error:
                raise UsageError(f"open the log {path}", errno=error.errno or 0) from None

    def __call__(self, level: str, message: str) -> None:
        if level == "debug" and not self.debugging:
            return
        plain = message if message.isprintable() else escape(message)
        if self._fd >= 0:
            self._write(self._fd, self.line(level, message))
            # runc repeats an error on stderr, where conmon and people look for it.
            if level == "error":
                self._write(2, f"pyrunc: {plain}\n")
        elif self.format == "json":
            self._write(2, self.line(level, message))
        else:
            prefix = "" if level == "error" else f"{level}: "
            self._write(2, f"pyrunc: {prefix}{plain}\n")

    def line(self, level: str, message: str) -> str:
        """One line of the configured format."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.format == "json":
            return dump({"level": level, "msg": message, "time": now}) + "\n"
        quoted = escape(message.replace("\\", "\\\\").replace('"', '\\"'))
        return f'time="{now}" level={level} msg="{quoted}"\n'

    @staticmethod
    def _write(fd: int, text: str) -> None:
        try:
            os.write(fd, text.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # nowhere left to complain


def escape(message: str) -> str:
    """Control characters as Go's %q writes them: a name from an image must not start a line or move the cursor."""
    return "".join(char if char >= " " and not "\x7f" <= char <= "\x9f" else
                   _ESCAPES.get(char) or (f"\\x{ord(char):02x}" if char < "\x80" else f"\\u{ord(char):04x}")
                   for char in message)
