# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml can't say: the generated validator, the extension and the launcher.

A compiler is wanted, not needed: without one (or without Python.h) the ctypes twin of the extension
and the shell twin of the launcher are installed.  CC, CFLAGS and LDFLAGS are honoured.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build import build

HERE = Path(__file__).resolve().parent
LAUNCHER = HERE / "launcher" / "pyrunc.c"
WRAPPER = HERE / "launcher" / "pyrunc.sh"
HARDENING = ["-O2", "-fPIE", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-Wall", "-Wextra"]
PROGRAMS = ("pyrunc", "containerd-shim-pyrunc-v1", "pyrunc-cni")
LINKING = ["-pie", "-Wl,-z,relro,-z,now", "-s"]  # stripped: each container gets a copy of it


def _launcher_macros() -> dict[str, str] | None:
    """Where the building interpreter keeps what the launcher loads; None without a shared libpython."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    libdir = sysconfig.get_config_var("LIBDIR") or ""
    if ".so" not in name or not os.path.exists(os.path.join(libdir, name)):
        return None
    return {
        "PYRUNC_LIBDIR": libdir,
        "PYRUNC_LIBPYTHON": name,
        "PYRUNC_STDLIB": sysconfig.get_path("stdlib"),
        "PYRUNC_DYNLOAD": sysconfig.get_config_var("DESTSHARED"),
        "PYRUNC_PYTHON": os.path.join(
            sysconfig.get_config_var("BINDIR"), f"python{sysconfig.get_python_version()}"
        ),
        "PYRUNC_PREFIX": sys.base_prefix,
        "PYRUNC_MAGIC": "".join(f"\\{byte:03o}" for byte in importlib.util.MAGIC_NUMBER),
    }


def _compile_launcher(target: Path) -> None:
    """Compile launcher/pyrunc.c to `target`; RuntimeError says why not."""
    macros = _launcher_macros()
    if macros is None:
        raise RuntimeError(f"{sys.executable} comes without a shared libpython")
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    command = [
        *shlex.split(compiler), *HARDENING, *shlex.split(os.environ.get("CFLAGS", "")),
        f"-I{sysconfig.get_path('include')}", f"-I{sysconfig.get_path('platinclude')}",
        *(f'-D{name}="{value}"' for name, value in macros.items()),
        str(LAUNCHER), "-o", str(target), *LINKING, *shlex.split(os.environ.get("LDFLAGS", "")), "-ldl",
    ]  # fmt: skip
    print(shlex.join(command))
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(str(error)) from error


class BuildGenerated(Command):
    """Generate the validator of config.json, the shim's messages and the frozen modules into the build directory."""

    description = "generate the validator of config.json, the shim's messages and the frozen modules"
    user_options: list[tuple[str, str | None, str]] = []  # noqa: RUF012 (setuptools' own interface)

    def initialize_options(self) -> None:
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        out = Path(self.build_lib or "build")
        validator, shim = out / "pyrunc" / "spec" / "_validator.py", out / "pyrunc_shim"
        validator.parent.mkdir(parents=True, exist_ok=True)
        shim.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, HERE / "tools" / "generate_validator.py", validator], check=True)
        subprocess.run([sys.executable, HERE / "tools" / "generate_messages.py", shim], check=True)
        # Without columns, which only the ^^^^ of tracebacks are made of.
        subprocess.run([sys.executable, "-X", "no_debug_ranges", HERE / "tools" / "freeze.py", out], check=True)

    def get_source_files(self) -> list[str]:
        return ["tools/generate_validator.py", "tools/generate_messages.py", "tools/freeze.py"]

    def get_outputs(self) -> list[str]:
        return []


class BuildLauncher(Command):
    """Put bin/pyrunc, the shim and the CNI plugin into the build directory: the compiled launcher, or the shell one."""

    description = "compile the pyrunc command"
    user_options = [("build-dir=", "d", "directory to put it into")]  # noqa: RUF012

    def initialize_options(self) -> None:
        self.build_dir: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_scripts", "build_dir"))

    def run(self) -> None:
        target, *others = (Path(out) for out in self.get_outputs())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            _compile_launcher(target)
        except RuntimeError as error:
            print(f"warning: the pyrunc command will be a shell script, which is slower: {error}", file=sys.stderr)
            shutil.copyfile(WRAPPER, target)
        for other in others:
            shutil.copyfile(target, other)  # the same program: it goes by its name
        for program in (target, *others):
            program.chmod(0o755)

    def get_source_files(self) -> list[str]:
        return ["launcher/pyrunc.c", "launcher/frozen.c", "launcher/shim.c", "launcher/start.c", "launcher/pyrunc.sh"]

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_dir or "build") / name) for name in PROGRAMS]


class Build(build):
    """The usual build, with what is generated after the modules it overwrites."""

    sub_commands = [*build.sub_commands, ("build_generated", None)]  # noqa: RUF012


setup(
    cmdclass={"build": Build, "build_scripts": BuildLauncher, "build_generated": BuildGenerated},
    scripts=["launcher/pyrunc.sh"],  # makes setuptools run build_scripts, which decides
    ext_modules=[
        Extension(
            "pyrunc.linux._syscall",
            ["pyrunc/linux/_syscall.c"],
            extra_compile_args=["-Wall", "-Wextra"],
            py_limited_api=True,
            optional=True,
        )
    ],
)
