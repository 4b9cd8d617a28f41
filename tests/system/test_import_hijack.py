# SPDX-License-Identifier: Apache-2.0
"""Nothing is imported from the working directory, the bundle or PYTHONPATH: root runs us on others' bundles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import Bundle, Host, Runtime

#: What a Python loads before anything else, what we import, what we import only to explain a mistake.
PLANTED = ("json", "ctypes", "sitecustomize", "usercustomize", "site", "_json", "re", "os", "io", "codecs", "abc",
           "stat", "posixpath", "errno", "fcntl", "select", "time", "difflib", "pwd", "gc", "jsonschema", "typing",
           "signal", "prctl", "subprocess")
PACKAGES = ("pyrunc", "pyrunc/cli", "pyrunc/spec", "pyrunc/linux", "encodings", "collections", "importlib")

COMMANDS: dict[str, tuple[str, ...]] = {
    "version": ("--version",), "help": ("--help",), "features": ("features",), "spec": ("spec",), "list": ("list",),
    "explain": ("explain",), "run": ("run", "{id}"), "create": ("create", "{id}"), "state": ("state", "{id}"),
    "start": ("start", "{id}"), "kill": ("kill", "{id}", "KILL"), "delete": ("delete", "--force", "{id}"),
    "an unknown command": ("crate",), "an unknown signal": ("kill", "{id}", "KIL"),
    "no such container": ("state", "no"),
}


def plant(place: Path, marks: Path) -> None:
    """A module of each name that leaves a mark when it is executed."""
    for name in PLANTED:
        _write(place / f"{name}.py", marks, name)
    for name in PACKAGES:
        (place / name).mkdir(parents=True)
        _write(place / name / "__init__.py", marks, name)
    _write(place / "pyrunc" / "errors.py", marks, "pyrunc.errors")
    _write(place / "pyrunc" / "__main__.py", marks, "pyrunc.__main__")
    (place / "python311._pth").write_text(f"{place}\nimport site\n")
    (place / "pyvenv.cfg").write_text(f"home = {place}\ninclude-system-site-packages = true\n")
    (place / "evil.pth").write_text(f"import os; os.mkdir({str(marks / 'pth')!r})\n")


def _write(path: Path, marks: Path, name: str) -> None:
    # As little as can be: nothing may be importable yet when this runs.
    path.write_text(f"import posix\ntry:\n posix.mkdir({str(marks / name)!r})\nexcept OSError:\n pass\n")


def _environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(place), "PYTHONHOME": str(place), "PYTHONSTARTUP": str(place / "os.py"),
            "PYTHONUSERBASE": str(place), "PYTHONPLATLIBDIR": str(place), "PYTHONINSPECT": "1", "HOME": str(place),
            "PYTHONPYCACHEPREFIX": str(place), "PYTHONBREAKPOINT": "os.abort", "PYTHONWARNINGS": "error::os.Evil"}


@pytest.mark.parametrize("where", ["cwd", "PYTHONPATH", "both"])
def test_nothing_planted_is_imported(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path, where: str) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    plant(bundle.path, marks)
    bundle.args("true").save()
    cwd = bundle.path if where != "PYTHONPATH" else tmp_path
    env = _environment(bundle.path) if where != "cwd" else dict(os.environ)
    container = runtime.new_id()
    for name, words in COMMANDS.items():
        words = tuple(container if word == "{id}" else word for word in words)
        if name in ("run", "create", "explain"):
            words = (words[0], "--bundle", str(bundle.path), *words[1:])
        done = runtime(*words, cwd=cwd, env=env)
        assert os.listdir(marks) == [], name
        expected = 1 if name in ("an unknown command", "an unknown signal", "no such container") else 0
        if name == "spec" and where != "PYTHONPATH":
            expected = 1  # there is a config.json
        if name == "kill":  # `true` may be over
            continue
        assert done.code == expected, (name, done)


@pytest.mark.parametrize("where", ["cwd", "PYTHONPATH"])
def test_the_control(bundle: Bundle, tmp_path: Path, where: str) -> None:
    """A python that isn't isolated falls for the same files."""
    marks = tmp_path / "marks"
    marks.mkdir()
    plant(bundle.path, marks)
    for name in ("encodings", "importlib", "collections"):  # with these it would not even start
        (bundle.path / name / "__init__.py").unlink()
        (bundle.path / name).rmdir()
    env = dict(os.environ)
    if where == "PYTHONPATH":
        env["PYTHONPATH"] = str(bundle.path)
    subprocess.run([sys.executable, "-c", "import json, pyrunc, ctypes"], cwd=bundle.path if where == "cwd" else "/",
                   env=env, check=True)
    assert {"json", "pyrunc", "ctypes"} <= set(os.listdir(marks))
    if where == "PYTHONPATH":
        assert "sitecustomize" in os.listdir(marks)


def test_a_mistake_is_explained_without_them(runtime: Runtime, bundle: Bundle, host: Host, tmp_path: Path) -> None:
    """The way of an error loads most: json, jsonschema, difflib."""
    marks = tmp_path / "marks"
    marks.mkdir()
    plant(bundle.path, marks)
    bundle.process["terminal"] = "no"
    bundle.save()
    for text in (None, '{"a": 1, "a": 2}', "{"):
        if text is not None:
            (bundle.path / "config.json").write_text(text)
        done = runtime("create", "some", cwd=bundle.path, env=_environment(bundle.path))
        assert done.code == 1 and len(done.errors) == 1, done
        assert os.listdir(marks) == []
