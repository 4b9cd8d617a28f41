# SPDX-License-Identifier: Apache-2.0
"""What a runtime in Python has to fear besides: code found by a path that somebody else fills.

Nothing is imported from the working directory, the bundle or PYTHONPATH: root runs us on others' bundles.
Nothing is imported, opened or loaded by its path once the process is in the container.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import Attack
from support import Bundle, Host, Result, Runtime

#: What a Python loads before anything else, what we import, what we import only to explain a mistake.
PLANTED = ("json", "ctypes", "sitecustomize", "usercustomize", "site", "_json", "re", "os", "io", "codecs", "abc",
           "stat", "posixpath", "errno", "fcntl", "select", "time", "difflib", "pwd", "gc", "jsonschema", "typing",
           "signal", "prctl", "subprocess")
PACKAGES = ("pyrunc", "pyrunc/cli", "pyrunc/spec", "pyrunc/linux", "encodings", "collections", "importlib")

COMMANDS: dict[str, tuple[str, ...]] = {
    "version": ("--version",), "help": ("--help",), "features": ("features",), "spec": ("spec",), "list": ("list",),
    "explain": ("explain",), "run": ("run", "{id}"), "create": ("create", "{id}"), "state": ("state", "{id}"),
    "start": ("start", "{id}"), "exec": ("exec", "{id}", "true"),
    "kill": ("kill", "{id}", "KILL"), "delete": ("delete", "--force", "{id}"),
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


@pytest.mark.attack("Python: imports", "a module in the bundle, the working directory or the environment's paths "
                                       "runs as root")
@pytest.mark.parametrize("where", ["cwd", "PYTHONPATH", "both"])
def test_nothing_planted_is_imported(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack, tmp_path: Path,
                                     where: str) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    plant(bundle.path, marks)
    cwd = bundle.path if where != "PYTHONPATH" else tmp_path
    env = _environment(bundle.path) if where != "cwd" else dict(os.environ)
    container = runtime.new_id()
    for name, words in COMMANDS.items():
        words = tuple(container if word == "{id}" else word for word in words)
        if name in ("run", "create", "explain"):
            words = (words[0], "--bundle", str(bundle.path), *words[1:])
        bundle.args(*(("sleep", "100") if name == "create" else ("true",))).save()
        done = runtime(*words, cwd=cwd, env=env)
        attack.on(runtime, bool(os.listdir(marks)))
        assert os.listdir(marks) == [], name
        expected = 1 if name in ("an unknown command", "an unknown signal", "no such container") else 0
        if name == "spec" and where != "PYTHONPATH":
            expected = 1  # there is a config.json
        assert done.code == expected, (name, done)
    for name in ("encodings", "importlib", "collections"):  # with these a python that isn't isolated would not start
        (bundle.path / name / "__init__.py").unlink()
        (bundle.path / name).rmdir()
    env = dict(os.environ)
    if where == "PYTHONPATH":
        env["PYTHONPATH"] = str(bundle.path)
    subprocess.run([sys.executable, "-c", "import json, pyrunc, ctypes"], env=env, check=True,
                   cwd=bundle.path if where != "PYTHONPATH" else "/")
    attack.on("a python that isn't isolated", {"json", "pyrunc", "ctypes"} <= set(os.listdir(marks)))
    assert where != "PYTHONPATH" or "sitecustomize" in os.listdir(marks)


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


IMPORTING = """
from pyrunc.process import ProcessPlan
plain = ProcessPlan.find_program
def find(self):
    import plistlib
    return plain(self)
ProcessPlan.find_program = find
"""
_CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)")


def opened_inside(trace: str) -> list[str]:
    """The paths that processes opened, executed or looked for by name once they had entered the container's root."""
    lines = trace.splitlines()
    inside: set[str] = set()
    found: list[str] = []
    while True:  # a child that was born inside may be seen before its birth is
        before = set(inside)
        now = set(inside)
        found = []
        for line in lines:
            match = _CALL.match(line)
            if not match:
                continue
            pid, call = match.groups()
            if call == "pivot_root" or (call == "setns" and "CLONE_NEWNS" in line):
                now.add(pid)
            elif call in ("clone", "clone3") and pid in now and (child := re.search(r"= (\d+)$", line)):
                inside.add(child.group(1))
                now.add(child.group(1))
            elif pid in now:
                if path := re.search(r'(?:AT_FDCWD, |\(|-1, )"([^"]*)"', line):
                    found.append(path.group(1))
                if call == "execve" and line.endswith("= 0"):  # on a line of its own where others came between
                    now.discard(pid)  # the container's program
        if inside == before:
            return found


@pytest.mark.attack("Python: imports inside", "code is loaded from the container's root after it was entered")
@pytest.mark.parametrize("case", ["works", "no program", "no directory", "too many limits", "no user"])
def test_nothing_is_loaded_inside(runtime: Runtime, bundle: Bundle, host: Host, attack: Attack,
                                  weakened: Callable[[str], Runtime], tmp_path: Path, case: str) -> None:
    """Every open by path, on the ways of errors too: the program and its place, /, and nothing of Python's."""
    process = bundle.process
    trace = tmp_path / "trace"
    sleeper = runtime.create(bundle.args("sleep", "100"))
    assert runtime("start", sleeper).code == 0
    options: list[str] = []
    program = "/bin/true"
    match case:
        case "no program":
            program = "/bin/nothing"
        case "no directory":
            options = ["--cwd", "/etc/passwd"]
            process["cwd"] = "/etc/passwd"
        case "too many limits":
            process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 2**60, "hard": 2**60}]
        case "no user":
            options = ["-u", "4294967294"]
            process["user"] = {"uid": 4294967294, "gid": 4294967294}
    process["args"] = [program]
    bundle.save()

    def traced(victim: Runtime, *words: str | Path) -> tuple[Result, list[str]]:
        done = subprocess.run(["strace", "-f", "-o", trace, "-e", "trace=/^(open|openat|openat2|execve|pivot_root|"
                               "setns|clone|clone3|stat|newfstatat|access|faccessat2?|readlink|readlinkat)$",
                               *victim.command(*words)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        return Result(done.returncode, done.stdout, done.stderr), opened_inside(trace.read_text(errors="replace"))

    for words in (("run", "--bundle", bundle.path, runtime.new_id()), ("exec", *options, sleeper, program)):
        result, paths = traced(runtime, *words)
        # More files than the kernel allows are refused, but exec has limits of its own.
        works = case in ("works", "no user") or (case == "too many limits" and words[0] == "exec")
        assert (result.code == 0) == works, result
        assert paths or case in ("too many limits", "no directory"), trace.read_text()[-2000:]  # that it sees them
        strange = [path for path in paths if path not in ("/", ".", "", program, "/etc/passwd")
                   and not re.match(r"(etc|dev|proc|sys|fd)(/|$)", path)]
        attack.on(runtime, any("python" in path or path.endswith((".py", ".pyc", ".so")) for path in strange))
        assert strange == [], words
    victim = weakened(IMPORTING)
    victim.root = runtime.root
    _, paths = traced(victim, "exec", sleeper, "/bin/true")
    attack.on("pyrunc that imports inside", any("python" in path for path in paths))
