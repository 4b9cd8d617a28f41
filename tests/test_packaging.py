# SPDX-License-Identifier: Apache-2.0
"""What is built and installed: the wheel, with and without a compiler, in every place pip puts it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODES = ("compiled", "no-compiler")


def run(*argv: str | Path, **options: object) -> str:
    result = subprocess.run([str(a) for a in argv], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert result.returncode == 0, result
    return result.stdout  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of the tree, and one built where CC is not a compiler."""
    out = tmp_path_factory.mktemp("wheels")
    source = out / "source"
    # A copy: building in the tree leaves files there.
    run("cp", "-a", *(ROOT / name for name in ("pyrunc", "shims", "launcher", "tools", "docs", "setup.py",
                                               "pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in")),
        _made(source))  # fmt: skip
    (source / "pyrunc/spec/_validator.py").unlink()  # generated, whether or not it is there
    made = {}
    for mode in MODES:
        environment = {**os.environ, **({} if mode == "compiled" else {"CC": "/nonexistent/cc"})}
        run("rm", "-rf", source / "build")
        run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
            "--wheel-dir", out / mode, source, env=environment)
        (made[mode],) = (out / mode).glob("*.whl")
    return made


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


@pytest.fixture(params=MODES)
def wheel(request: pytest.FixtureRequest, wheels: dict[str, Path]) -> Path:
    return wheels[request.param]


def install(wheel: Path, *where: str | Path) -> None:
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed",
        "--no-warn-script-location", "--disable-pip-version-check", *where, wheel)


def check(command: Path) -> None:
    """`pyrunc` answers, and its library is the one beside it."""
    from pyrunc._version import __version__

    for place in (Path("/"), command.parent.parent):
        assert __version__ in run(command, "--version", cwd=place, env={})
        assert '"ociVersionMax": "1.3.0"' in run(command, "features", cwd=place, env={})
    # Commands that enter containers go through the seal, and fail for want of a bundle.
    result = subprocess.run([command, "--root", command.parent / "state", "create", "x"], cwd="/", env={},
                            capture_output=True, text=True)
    assert result.returncode == 1 and "config.json" in result.stderr
    assert result.stderr.count("\n") == 1


def test_prefix(wheel: Path, tmp_path: Path) -> None:
    install(wheel, "--prefix", tmp_path)
    check(next(tmp_path.rglob("bin/pyrunc")))


def test_target(wheel: Path, tmp_path: Path) -> None:
    install(wheel, "--target", tmp_path)
    check(tmp_path / "bin" / "pyrunc")


def test_root_moved_afterwards(wheel: Path, tmp_path: Path) -> None:
    """As a distribution packages it: installed below a staging directory, then moved."""
    install(wheel, "--root", tmp_path / "staging", "--prefix", "/opt/pyrunc")
    (tmp_path / "staging/opt/pyrunc").rename(tmp_path / "final")
    check(next((tmp_path / "final").rglob("bin/pyrunc")))


def test_venv(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    run(sys.executable, "-m", "pip", "--python", tmp_path / "venv/bin/python", "install", "--quiet", "--no-deps",
        "--ignore-installed", "--disable-pip-version-check", wheel)
    check(tmp_path / "venv/bin/pyrunc")
    assert (tmp_path / "venv/lib" / version / "site-packages/pyrunc/lifecycle.py").exists()
    link = tmp_path / "runc"
    link.symlink_to(tmp_path / "venv/bin/pyrunc")
    check(link)


def test_contents(wheels: dict[str, Path]) -> None:
    names = {mode: set(zipfile.ZipFile(path).namelist()) for mode, path in wheels.items()}
    for mode in MODES:
        assert {"pyrunc/__main__.py", "pyrunc/py.typed", "pyrunc/spec/schema/config.json",
                "pyrunc/spec/_validator.py", "pyrunc/linux/_syscall_ctypes.py"} <= names[mode]  # fmt: skip
        assert not [name for name in names[mode] if name.endswith((".c", ".pyc")) or name.startswith("tests")]
        shared = {name.partition("/data/share/")[2] for name in names[mode] if "/data/share/" in name}
        assert {"man/man8/pyrunc.8", "man/man8/pyrunc-exec.8", "bash-completion/completions/pyrunc.bash",
                "zsh/site-functions/_pyrunc", "fish/vendor_completions.d/pyrunc.fish"} <= shared
    assert names["compiled"] - names["no-compiler"] == {"pyrunc/linux/_syscall.abi3.so"}


def test_the_command_is_a_program_or_else_a_script(wheels: dict[str, Path]) -> None:
    begins = {}
    for mode, path in wheels.items():
        archive = zipfile.ZipFile(path)
        for program in ("pyrunc", "containerd-shim-pyrunc-v1", "pyrunc-cni"):
            (script,) = (name for name in archive.namelist() if name.endswith(f"scripts/{program}"))
            begins[mode] = archive.read(script)[:4]
            assert archive.getinfo(script).external_attr >> 16 & 0o111 == 0o111
    assert begins == {"compiled": b"\x7fELF", "no-compiler": b"#!/b"}


def test_bytecode_is_compiled_on_installation(wheel: Path, tmp_path: Path) -> None:
    """A runtime that can't write beside itself (-B) would otherwise compile at each start."""
    install(wheel, "--target", tmp_path)
    sources = {path.stem for path in (tmp_path / "pyrunc").glob("*.py")}
    compiled = {path.name.split(".")[0] for path in (tmp_path / "pyrunc/__pycache__").glob("*.pyc")}
    assert sources <= compiled


def test_one_version(wheels: dict[str, Path]) -> None:
    from pyrunc._version import __version__

    assert f"pyrunc-{__version__}-" in wheels["compiled"].name
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changelog, re.M)
    assert newest and newest[1] == __version__


def test_sources_carry_the_licence() -> None:
    listed = [path for directory in ("pyrunc", "launcher", "tools", "bench", "demo", "tests")
              for path in (ROOT / directory).rglob("*") if path.suffix in (".py", ".c", ".sh", ".pyi")]
    assert len(listed) > 20
    bare = [path for path in listed if "SPDX-License-Identifier: Apache-2.0" not in path.read_text()[:200]]
    assert not bare
