# SPDX-License-Identifier: Apache-2.0
"""The `pyrunc` command: launcher/pyrunc.c, its shell twin, and the sealing of both.

Each test runs in a prefix of its own, whose `pyrunc.cli` is a stub that prints what it sees: the
entry is tested here, not the commands.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
MODES = ("launcher", "wrapper", "launcher-without-libpython")

STUB = '''
import sys, os, fcntl

def main(argv, released=None):
    exe = os.open("/proc/self/exe", os.O_RDONLY)
    try:
        seals = fcntl.fcntl(exe, fcntl.F_GET_SEALS)
    except OSError:
        seals = 0
    os.close(exe)
    import json, ctypes
    open_files = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            open_files.append(os.readlink("/proc/self/fd/" + fd))
        except OSError:
            pass
    print(json.dumps({
        "argv": argv,
        "seals": seals,
        "exe": os.readlink("/proc/self/exe"),
        "executable": sys.executable,
        "flags": {name: int(getattr(sys.flags, name)) for name in
                  ("isolated", "no_site", "safe_path", "ignore_environment", "utf8_mode", "no_user_site",
                   "dont_write_bytecode")},
        "path": sys.path,
        "open": open_files,
        "files": {name: getattr(m, "__file__", None) for name, m in list(sys.modules.items())},
        "encodings": [sys.stdout.encoding, sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()],
    }))
    return 7
'''


def python_of_the_system() -> str:
    """The interpreter that the tests' own environment was made from."""
    return os.path.realpath(sys.executable)


@pytest.fixture(scope="session")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The command in each form that it can be installed in."""
    out = tmp_path_factory.mktemp("launcher")
    subprocess.run([sys.executable, "setup.py", "-q", "build_scripts", "--build-dir", out / "bin"],
                   cwd=ROOT, check=True)
    broken = out / "broken"
    nowhere = {"PYRUNC_LIBDIR": "/nonexistent", "PYRUNC_LIBPYTHON": "libpython-gone.so", "PYRUNC_PREFIX": "/usr",
               "PYRUNC_STDLIB": "/nonexistent", "PYRUNC_DYNLOAD": "/nonexistent", "PYRUNC_PYTHON": "/nonexistent",
               "PYRUNC_MAGIC": "none"}
    subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", f"-I{sysconfig.get_path('include')}",
                    *(f'-D{name}="{value}"' for name, value in nowhere.items()),
                    ROOT / "launcher/pyrunc.c", "-o", broken, "-ldl"], check=True)
    return {"launcher": out / "bin/pyrunc", "wrapper": ROOT / "launcher/pyrunc.sh",
            "launcher-without-libpython": broken}


@pytest.fixture(params=MODES)
def command(request: pytest.FixtureRequest, binaries: dict[str, Path], tmp_path: Path) -> Path:
    """PREFIX/bin/pyrunc with a package whose command line is the stub."""
    return install(tmp_path / "prefix", binaries[request.param])


@pytest.fixture
def launcher(binaries: dict[str, Path], tmp_path: Path) -> Path:
    return install(tmp_path / "prefix", binaries["launcher"])


def install(prefix: Path, binary: Path) -> Path:
    package = prefix / "lib" / PYTHON / "site-packages" / "pyrunc"
    (package / "cli").mkdir(parents=True)
    for name in ("__main__.py", "_seal.py", "errors.py"):
        shutil.copy(ROOT / "pyrunc" / name, package)
    (package / "__init__.py").touch()
    (package / "cli" / "__init__.py").write_text(STUB)
    (prefix / "bin").mkdir()
    # What the fallbacks look for first; as in a venv.
    (prefix / "bin" / PYTHON).symlink_to(python_of_the_system())
    command = prefix / "bin" / "pyrunc"
    shutil.copy(binary, command)
    command.chmod(0o755)
    return command


def facts(*argv: object, **options: object) -> dict[str, object]:
    result = subprocess.run([os.fspath(a) if isinstance(a, Path) else a for a in argv],  # type: ignore[misc]
                            capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert (result.returncode, result.stderr) == (7, ""), result
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_interpreter_is_isolated(command: Path) -> None:
    seen = facts(command, "state", "x")
    assert set(seen["flags"].values()) == {1}, seen["flags"]
    assert seen["encodings"] == ["utf-8", "utf-8", "surrogateescape"]
    assert seen["argv"] == ["state", "x"]
    # The package's directory is the last: nothing in it can shadow the standard library.
    assert seen["path"][-1] == str(command.parent.parent / "lib" / PYTHON / "site-packages")
    assert not any("site-packages" in entry for entry in seen["path"][:-1])


@pytest.mark.parametrize(("name", "script"), [
    ("containerd-shim-pyrunc-v1", "pyrunc_shim/__main__.py"), ("pyrunc-cni", "pyrunc/net/cni_plugin.py")])
def test_by_another_name_it_is_another_program(command: Path, name: str, script: str) -> None:
    """One program under three names, also through a link of any name, as plugins are put where runtimes look."""
    path = command.parent.parent / "lib" / PYTHON / "site-packages" / script
    path.parent.mkdir(exist_ok=True)
    (path.parent / "__init__.py").touch()
    path.write_text("import os\n\ndef entry(launched=0):\n    os.write(1, __file__.encode())\n    os._exit(7)\n\n"
                    "if __name__ == '__main__':\n    entry()\n")
    other = command.with_name(name)
    shutil.copy(command, other)
    link = command.parent.parent / "link"
    link.symlink_to(other)
    for called in (other, link):
        done = subprocess.run([called], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (7, str(path), "")


@pytest.mark.parametrize("name", ["create", "run", "exec", "restore"])
def test_commands_that_enter_containers_run_from_a_sealed_copy(command: Path, name: str) -> None:
    """CVE-2019-5736: what a container finds as /proc/PID/exe is not the host's file."""
    seen = facts(command, "--root", "/x", name, "x")
    assert seen["seals"] & ALL_SEALS == ALL_SEALS
    assert seen["exe"] == "/memfd:pyrunc (deleted)"
    assert not [name for name in seen["open"] if "memfd" in name], "the copy's descriptor leaked"
    assert seen["argv"] == ["--root", "/x", name, "x"]


def test_other_commands_are_not_copied(command: Path) -> None:
    """The control: the seal of the test above does not come from elsewhere."""
    assert "memfd" not in facts(command, "--root=/x", "--debug", "state", "create")["exe"]


@pytest.mark.parametrize(("argv", "sealed"), [
    (["--root", "create", "state"], False),
    (["--log", "state", "create"], True),
    (["--rootless", "true", "kill", "x"], False),
    (["--unknown", "state"], True),
    (["-x", "state"], True),
    (["some-new-command"], True),
    (["net", "attach", "x", "y"], False),
    (["--version"], False),
    ([], False),
    (["--root"], False),
])
def test_which_command_lines_are_sealed(command: Path, argv: list[str], sealed: bool) -> None:
    assert ("memfd" in facts(command, *argv)["exe"]) is sealed


def test_both_tables_of_commands_are_equal() -> None:
    from pyrunc import _seal

    source = (ROOT / "launcher/pyrunc.c").read_text()
    for table, values in (("value_options", _seal.VALUE_OPTIONS), ("plain_options", _seal.PLAIN_OPTIONS),
                          ("outside_commands", _seal.OUTSIDE_COMMANDS)):
        body = re.search(rf"{table}\[\] = \{{(.*?)\}};", source, re.S)
        assert body and tuple(re.findall(r'"([^"]+)"', body[1])) == values


def test_arguments_pass_unchanged(command: Path) -> None:
    words = ["state", "", "é", "a b", "\udcff\udcfe", "*", "--", "-I"]
    for name in ("state", "create"):
        words[0] = name
        assert facts(command, *words)["argv"] == words


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A directory full of modules that Python likes to find; each tells when it is imported."""
    place = tmp_path / "hostile"
    for name in ("json", "ctypes", "os", "sitecustomize", "usercustomize", "pyrunc", "encodings/__init__",
                 "_json", "fcntl", "errno", "site", f"lib/{PYTHON}/encodings/__init__", f"lib/{PYTHON}/os"):
        file = place / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"import sys; sys.stderr.write('HOSTILE {name}\\n')\n")
    (place / "pyvenv.cfg").write_text(f"home = {place}\n")
    for name in ("readlink", "python3", PYTHON, "dirname", "uname"):
        (place / name).write_text("#!/bin/sh\necho HOSTILE >&2\n")
        (place / name).chmod(0o755)
    return place


@pytest.mark.parametrize("name", ["state", "create"])
def test_nothing_comes_from_the_working_directory_or_the_environment(
    command: Path, hostile: Path, name: str
) -> None:
    environment = {
        "PYTHONPATH": str(hostile), "PYTHONHOME": str(hostile), "PYTHONSTARTUP": f"{hostile}/os.py",
        "PYTHONPLATLIBDIR": str(hostile), "PYTHONUSERBASE": str(hostile), "HOME": str(hostile),
        "PYTHONPYCACHEPREFIX": str(hostile), "PYTHONEXECUTABLE": f"{hostile}/python3", "VIRTUAL_ENV": str(hostile),
        "PYTHONINSPECT": "1", "PYTHONUTF8": "0", "LC_ALL": "C", "__PYVENV_LAUNCHER__": f"{hostile}/python3",
        "PATH": f"{hostile}:/usr/bin:/bin",
    }  # fmt: skip
    seen = facts(command, name, "x", cwd=hostile, env=environment)
    assert not [file for file in seen["files"].values() if file and file.startswith(str(hostile))]
    assert set(seen["flags"].values()) == {1}


def test_control_python_itself_falls_for_it(hostile: Path) -> None:
    result = subprocess.run([python_of_the_system(), "-c", "import json"], cwd=hostile,
                            env={"PYTHONPATH": str(hostile)}, capture_output=True, text=True)
    assert "HOSTILE" in result.stderr


def test_without_an_environment_or_arguments(command: Path) -> None:
    assert facts(command, env={})["argv"] == []


def test_found_through_a_symlink_a_relative_path_and_path(command: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "runc").symlink_to(command)
    for name in ("state", "create"):
        facts(elsewhere / "runc", name)
        facts("./pyrunc", name, cwd=command.parent)
        facts("pyrunc", name, env={"PATH": f"{command.parent}:/usr/bin:/bin"})


@pytest.mark.parametrize("name", ["state", "create"])
def test_argv0_is_not_believed(command: Path, tmp_path: Path, name: str) -> None:
    """Whoever runs us says what he likes in argv[0]; it must not lead to another package."""
    forged = tmp_path / "forged"
    package = forged / "lib" / PYTHON / "site-packages" / "pyrunc"
    package.mkdir(parents=True)
    for module in ("__init__.py", "__main__.py", "cli.py"):
        (package / module).write_text("import sys; sys.exit('HOSTILE')\n")
    seen = facts(f"{forged}/bin/pyrunc", name, executable=str(command))
    assert seen["path"][-1].startswith(str(command.parent.parent))


def in_namespaces(script: str, command: Path, *argv: str) -> list[str]:
    """The command, in pid and mount namespaces of its own, after `script`."""
    return ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "sh", "-ec", f'{script}\nexec "$0" "$@"',
            str(command), *argv]


def test_an_unlinked_copy_serves_where_memfds_may_not_run(command: Path) -> None:
    """vm.memfd_noexec=2 (Documentation/admin-guide/sysctl/vm.rst) belongs to the pid namespace."""
    seen = facts(*in_namespaces("echo 2 >/proc/sys/vm/memfd_noexec", command, "create", "x"))
    assert re.fullmatch(r"/(run|dev/shm|tmp)/#\d+ \(deleted\)", seen["exe"]), seen["exe"]
    assert not [name for name in seen["open"] if "#" in name]


def test_no_copy_can_run_is_an_error_with_a_remedy(command: Path) -> None:
    script = """
        echo 2 >/proc/sys/vm/memfd_noexec
        mount --bind "${0%/bin/pyrunc}" /mnt
        for place in /run /dev/shm /tmp; do mount -t tmpfs -o noexec none $place; done
        shift 0; set -- "$@"; exec /mnt/bin/pyrunc "$@"
    """
    result = subprocess.run(in_namespaces(script, command, "create", "x"), capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("pyrunc: cannot run from a sealed copy")
    assert "vm.memfd_noexec=0" in result.stderr
    # The control: what needs no seal still runs.
    facts(*in_namespaces(script, command, "state", "x"))


def test_a_copy_larger_than_files_may_be_is_an_error_with_a_remedy(command: Path) -> None:
    """And no death by SIGXFSZ, of which the caller would be told nothing (setrlimit(2), RLIMIT_FSIZE)."""
    limited = ["prlimit", "--fsize=4096"]
    result = subprocess.run([*limited, command, "create", "x"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("pyrunc: cannot run from a sealed copy")
    assert "ulimit -f" in result.stderr and "memfd_noexec" not in result.stderr
    facts(*limited, command, "state", "x")


def test_package_missing(launcher: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "bin" / "pyrunc"
    lonely.parent.mkdir()
    shutil.copy(launcher, lonely)
    result = subprocess.run([lonely, "state"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (
        1, f"pyrunc: the pyrunc package is not beside {lonely} (reinstall pyrunc)\n")


def test_replaced_while_starting(launcher: Path, tmp_path: Path) -> None:
    """An upgrade renames a new file over ours: /proc/self/exe then reads `... (deleted)`."""
    script = 'exec 3<"$0"; cp "$0" "$0.new"; mv "$0.new" "$0"; exec /proc/self/fd/3 create x'
    assert facts("sh", "-c", script, str(launcher))["seals"] & ALL_SEALS == ALL_SEALS


def test_output_that_cannot_be_written_is_an_error(command: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run([command, "state"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.stderr == "pyrunc: <stdout>: No space left on device\n"
    assert result.returncode == 7


def test_run_as_a_module(launcher: Path) -> None:
    """`python -m pyrunc` makes itself isolated and sealed, though python had its say before that."""
    place = launcher.parent.parent / "lib" / PYTHON / "site-packages"
    seen = facts(python_of_the_system(), "-m", "pyrunc", "create", "x", cwd="/",
                 env={"PYTHONPATH": str(place)})
    assert set(seen["flags"].values()) == {1}
    assert seen["seals"] & ALL_SEALS == ALL_SEALS


def test_files_beside_the_launcher_do_not_lead_it_elsewhere(launcher: Path, hostile: Path) -> None:
    """A venv's pyvenv.cfg, an embedded distribution's ._pth: no path is computed from them."""
    for name in ("bin/pyvenv.cfg", "pyvenv.cfg", "bin/pyrunc._pth", "bin/pybuilddir.txt"):
        (launcher.parent.parent / name).write_text(f"home = {hostile}\n" if "cfg" in name else f"{hostile}\n")
    seen = facts(launcher, "state", "x")
    assert str(hostile) not in seen["path"]
    assert set(seen["flags"].values()) == {1}
