# SPDX-License-Identifier: Apache-2.0
"""How far a transfer has come: bars on a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from typing import Self


class Progress:
    """Nothing is shown; what the others show is the same interface.  Thread-safe."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def start(self, digest: str, size: int, label: str = "") -> None:
        """A blob of `size` bytes begins."""

    def advance(self, digest: str, count: int) -> None:
        """`count` more bytes of it have come."""

    def done(self, digest: str, what: str) -> None:
        """It is through: `what` says how."""

    def say(self, text: str) -> None:
        """One line."""


@final
class Lines(Progress):
    """A line for each thing that happens, on stderr."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def done(self, digest: str, what: str) -> None:
        self.say(f"{short(digest)}: {what}")

    def say(self, text: str) -> None:
        with self._lock:
            print(text, file=sys.stderr, flush=True)


@final
class Bars(Progress):
    """A bar for each blob (rich), on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[state]}"), console=Console(stderr=True), transient=False)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, digest: str, size: int, label: str = "") -> None:
        if digest not in self._tasks:
            self._tasks[digest] = self._bars.add_task(label or short(digest), total=max(size, 1), state="")

    def advance(self, digest: str, count: int) -> None:
        if digest in self._tasks:
            self._bars.advance(self._tasks[digest], count)

    def done(self, digest: str, what: str) -> None:
        if digest in self._tasks:
            task = self._tasks[digest]
            total = next(item.total for item in self._bars.tasks if item.id == task)
            self._bars.update(task, completed=total, state=what)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)


def choose(quiet: bool) -> Progress:
    """Bars where somebody looks, lines where not, nothing when that was asked for."""
    if quiet:
        return Progress()
    if sys.stderr.isatty():
        try:
            return Bars()
        except ImportError:
            pass
    return Lines()


def short(digest: str) -> str:
    """The first 12 digits."""
    return digest.partition(":")[2][:12]


def human(size: float) -> str:
    """`1.2 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
