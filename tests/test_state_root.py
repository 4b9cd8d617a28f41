# SPDX-License-Identifier: Apache-2.0
"""Where state is kept unless --root says so: an ordinary user's own place, also behind a user namespace."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASK = "from pyrunc.state import default_root; print(default_root())"
MAPPED = ["unshare", "--user", "--map-root-user"]


@pytest.mark.parametrize(("before", "environment", "expected"), [
    (MAPPED, {"XDG_RUNTIME_DIR": "/run/user/7", "USER": "alice"}, "/run/user/7/pyrunc"),
    (MAPPED, {"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/pyrunc"),
    (MAPPED, {"XDG_RUNTIME_DIR": "/run/user/7", "USER": "root"}, "/run/pyrunc"),
    (MAPPED, {}, "/run/pyrunc"),
    ([], {"XDG_RUNTIME_DIR": "/run/user/7", "USER": "alice"}, "/run/pyrunc"),
    (["setpriv", "--reuid", "61234", "--clear-groups"], {"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/pyrunc"),
], ids=["podman's user", "no name", "root of a container", "no directory", "root", "ordinary user"])
def test_where(before: list[str], environment: dict[str, str], expected: str) -> None:
    """Rootless Podman and Buildah call the runtime as uid 0 of a user namespace, which can't write to /run."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; {ASK}"
    done = subprocess.run([*before, "/usr/bin/python3", "-I", "-S", "-c", code], env={"PATH": "/usr/bin:/bin",
                                                                                      **environment},
                          capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == expected, done.stderr
