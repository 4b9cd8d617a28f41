# SPDX-License-Identifier: Apache-2.0
"""What the tests of checkpoints share: a counter in a container, and the commands that have to work."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support import Bundle, Runtime, wait_for

#: Numbers in its memory, each written once: a gap or a start from 1 would show.
COUNTER = "i=0; while :; do i=$((i+1)); echo $i >>/count; sleep 0.1; done"


class Counter:
    """What a counting container has written."""

    def __init__(self, bundle: Bundle) -> None:
        self.path = bundle.rootfs / "count"

    def numbers(self) -> list[int]:
        return [int(line) for line in self.path.read_text().split()] if self.path.exists() else []

    def reach(self, more: int = 3) -> int:
        """Wait until it has counted that much further; the last number."""
        target = len(self.numbers()) + more
        wait_for(lambda: len(self.numbers()) >= target, "the counter to go on", 60)
        return self.check()

    def check(self) -> int:
        """Every number once, in order."""
        numbers = self.numbers()
        assert numbers == list(range(1, len(numbers) + 1))
        return len(numbers)


def start(runtime: Runtime, bundle: Bundle, script: str = COUNTER) -> str:
    container = runtime.create(bundle.args(script))
    result = runtime("start", container)
    assert result.code == 0, result
    return container


def checkpoint(runtime: Runtime, container: str, images: Path, *options: str, **kwargs: object) -> None:
    result = runtime("checkpoint", "--image-path", images, *options, container, timeout=120, **kwargs)
    assert result.code == 0, result


def restore(runtime: Runtime, bundle: Bundle, container: str, images: Path, *options: str, **kwargs: object) -> None:
    runtime.ids.append(container)
    result = runtime("restore", "--detach", "--image-path", images, "--bundle", bundle.path, *options, container,
                     timeout=120, **kwargs)
    assert result.code == 0, result


def is_gone(runtime: Runtime, container: str) -> bool:
    result = runtime("state", container)
    return result.code == 1 and "does not exist" in result.err


def compile_program(source: str, program: Path) -> None:
    subprocess.run(["gcc", "-static", "-x", "c", "-o", program, "-"], input=source, text=True, check=True)
