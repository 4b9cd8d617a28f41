# SPDX-License-Identifier: Apache-2.0
"""The documents keep up with the code: what is generated, the commands they show, the names they use."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attacks import rows_of
from support import Bundle, Host, Runtime

from pyrunc.cli import COMMANDS, GLOBAL_OPTIONS, image, net
from pyrunc.cli.options import HELP, parse
from pyrunc.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MAN = ROOT / "docs" / "man"
GROUPS = {"image": image.SUBCOMMANDS, "net": net.SUBCOMMANDS}  # commands that have commands of their own
COMPLETION = ROOT / "docs" / "completion"
NOT_OURS = {".git", ".venv", "venv", "build", "dist", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache",
            ".hypothesis"}


def run(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=60, cwd=cwd)


def files() -> Iterator[Path]:
    """Every text file of the tree."""
    for directory, names, found in os.walk(ROOT):
        names[:] = [name for name in names if name not in NOT_OURS and not name.endswith(".egg-info")]
        for name in set(found) - {".git"}:  # a file in a linked work tree
            path = Path(directory) / name
            if not name.endswith((".so", ".pyc")) and b"\0" not in path.read_bytes()[:4096]:
                yield path


def test_the_generated_documents_are_up_to_date() -> None:
    done = run(sys.executable, ROOT / "tools" / "generate_man.py", "--check")
    assert (done.returncode, done.stderr) == (0, "")


def page(name: str) -> str:
    """A manual page as man(1) would show it, which it has to without a warning."""
    done = run("groff", "-man", "-ww", "-Tutf8", "-P-c", MAN / f"{name}.8")
    assert (done.returncode, done.stderr) == (0, "")
    text = re.sub(".\b", "", done.stdout)
    assert text.startswith(f"{name.upper()}(8)")
    return text


def test_the_manual_page_renders() -> None:
    text = page("pyrunc")
    for heading in ("NAME", "SYNOPSIS", "GLOBAL OPTIONS", "COMMANDS", "ENVIRONMENT", "EXIT STATUS", "FILES"):
        assert f"\n{heading}\n" in text
    for command in COMMANDS:
        assert re.search(rf"^ +pyrunc-{command}\(8\)", text, re.M), command
    for option in GLOBAL_OPTIONS:
        assert re.search(rf"^ +--{option.name}\b", text, re.M), option.name


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in GROUPS])
def test_a_commands_page_renders(command: str) -> None:
    """Every option is in it, and no other."""
    text = page(f"pyrunc-{command}")
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"):
        assert f"\n{heading}\n" in text
    options = importlib.import_module(f"pyrunc.cli.{command}").OPTIONS
    told = set(re.findall(r"^ +--([-a-z0-9]+)", text.partition("OPTIONS\n")[2].partition("EXIT STATUS\n")[0], re.M))
    assert told == {option.name for option in (*options, HELP) if not option.hidden}


@pytest.mark.parametrize("group", GROUPS)
def test_a_groups_page_renders(group: str) -> None:
    text = page(f"pyrunc-{group}")
    for command in GROUPS[group]:
        assert re.search(rf"^ +pyrunc {group} {command}\b", text, re.M), command
        for option in importlib.import_module(f"pyrunc.cli.{group}_{command}").OPTIONS:
            assert (f"--{option.name}" in text) != option.hidden


def test_fish_completes() -> None:
    def completed(line: str) -> list[str]:
        script = f"""
            function pyrunc; printf '%s\\n' web worker; end
            source {shlex.quote(str(COMPLETION / "pyrunc.fish"))}
            complete -C {shlex.quote(line)}
        """
        done = run("fish", "--no-config", "-c", script, cwd=ROOT)
        assert (done.returncode, done.stderr) == (0, "")
        # fish 4 has what holds the letters anywhere beside what begins with them.
        found = {text.partition("\t")[0] for text in done.stdout.splitlines()}
        return sorted(text for text in found if text.startswith(line.rpartition(" ")[2]))

    assert completed("pyrunc cre") == ["create"]
    assert completed("pyrunc create --pi") == ["--pid-file", "--pidfd-socket"]
    assert completed("pyrunc --log-format ") == ["json", "text"]
    assert completed("pyrunc state w") == ["web", "worker"]
    assert completed("pyrunc image pul") == ["pull"]
    assert completed("pyrunc net at") == ["attach"]


def test_zsh_completes() -> None:
    """The words that the completion hands to zsh's own functions, which are stood in for."""
    def told(*words: str) -> str:
        script = f"""
            _arguments() {{ print -l -- "$@"; [[ $1 == -C ]] && {{ state=$wanted; wanted=arguments; return 1 }} }}
            _describe() {{ print -l -- "${{(@P)2}}" }}
            words=({shlex.join(words)}) wanted={"arguments" if words else "command"}
            source {shlex.quote(str(COMPLETION / "_pyrunc"))}
        """
        done = run("zsh", "-f", "-c", script)
        assert done.stderr == ""
        return done.stdout

    commands = told()
    for command in COMMANDS:
        assert f"\n{command}:" in commands
    assert "\n--root=[" in commands
    options = told("exec")
    assert "\n*--env=[add to the environment; again for more]:NAME=VALUE:()\n" in options
    assert "\n1:container-id:_pyrunc_ids\n" in options


@pytest.mark.parametrize(("words", "expected"), [
    (["pyrunc", "cre"], ["create"]),
    (["pyrunc", "s"], ["spec", "start", "state"]),
    (["pyrunc", "--r"], ["--root", "--rootless"]),
    (["pyrunc", "--log-format", ""], ["text", "json"]),
    (["pyrunc", "--log-format", "=", "j"], ["json"]),
    (["pyrunc", "--debug", "--root", "/somewhere", "del"], ["delete"]),
    (["pyrunc", "create", "--p"], ["--pid-file", "--pidfd-socket", "--preserve-fds"]),
    (["pyrunc", "create", "--no-pivot", "--bundle", "do"], ["docs"]),
    (["pyrunc", "list", "-f", ""], ["table", "json"]),
    (["pyrunc", "kill", "web", "KI"], ["KILL"]),
    (["pyrunc", "state", "w"], ["web", "worker"]),
    (["pyrunc", "--root", "/r", "delete", "--force", ""], ["web", "worker", "--root", "/r"]),
    (["pyrunc", "start", "web", ""], []),
    (["pyrunc", "help", "ki"], ["kill"]),
    (["pyrunc", "exec", "w"], ["web", "worker"]),
    (["pyrunc", "exec", "--cap", "CAP_X", "--no"], ["--no-new-privs"]),
    (["pyrunc", "exec", "web", "--no"], []),
    (["pyrunc", "exec", "web", "ls", "-l", "pyp"], ["pyproject.toml"]),
    (["pyrunc", "image", "pu"], ["pull", "push"]),
    (["pyrunc", "net", "at"], ["attach"]),
    (["pyrunc", "net", "attach", "w"], ["web", "worker"]),
    (["pyrunc", "net", "create", "--driver", "mac"], ["macvlan"]),
], ids=" ".join)
def test_bash_completes(words: list[str], expected: list[str]) -> None:
    script = f"""
        pyrunc() {{ printf '%s\\n' web worker; [[ $1 == --root ]] && printf '%s\\n' "$1" "$2"; }}
        source {shlex.quote(str(COMPLETION / "pyrunc.bash"))}
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        _pyrunc pyrunc {shlex.quote(words[-1])} {shlex.quote(words[-2])}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = run("bash", "-euc", "set +e; " + script, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout.split() == expected


def shown_commands() -> list[tuple[str, str, bool]]:
    """(document, line, whether in running text) of each command line that calls pyrunc."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        blocks = re.findall(r"^```(?:sh|console|text|)\n(.*?)^```", text, re.M | re.S)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"^ {4}(.*)", text, re.M)
        lines = [part for line in lines for part in re.split(r" (?:#|>|\||&&) |;", line) if not part.startswith(" ")]
        named = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
        for line, inline in [*((line, False) for line in lines), *((line, True) for line in named)]:
            line = re.sub(r"^\s*[$#] ", "", line).strip()
            if re.match(r"(sudo )?pyrunc [-a-z]", line):
                found.append((document.name, line.removeprefix("sudo "), inline))
    return found


def test_every_command_shown_exists() -> None:
    """Its name, its options, and how many arguments it takes."""
    shown = shown_commands()
    assert len(shown) > 8
    for document, line, inline in shown:
        words = shlex.split(line)
        args, rest = parse(words[1:], GLOBAL_OPTIONS, None, "pyrunc")
        if not rest:
            assert any(args.flag(option.name) for option in (*GLOBAL_OPTIONS, HELP)), f"{document}: {line}"
            continue
        if rest[0] == "help":
            continue
        assert rest[0] in COMMANDS, f"{document}: {line}"
        if rest[0] in GROUPS:
            if inline and len(rest) == 1:
                continue
            assert rest[1] in GROUPS[rest[0]], f"{document}: {line}"
            rest = [f"{rest[0]} {rest[1]}", *rest[2:]]
        module = importlib.import_module(f"pyrunc.cli.{rest[0].replace(' ', '_')}")
        try:
            parse(rest[1:], module.OPTIONS, module.ARGUMENTS, rest[0])
        except UsageError as error:
            # In running text a command may be named without its id.
            assert inline and "is missing" in str(error), f"{document}: {line}: {error}"


def test_every_file_a_document_names_is_there() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
        if document.parent.name == "docs":
            for name in re.findall(r"`((?:pyrunc|tests|tools|launcher|docs)/[\w./-]+)`", document.read_text()):
                assert (ROOT / name).exists(), f"{document.name}: {name}"


def test_the_table_of_attacks_names_every_test_of_one() -> None:
    """docs/security.md: each row has its test, and each test of an attack its row."""
    marked = {}
    for path in (ROOT / "tests" / "system" / "security").glob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.attack":
                    assert isinstance(node, ast.FunctionDef)
                    marked[f"{path.name}::{node.name}"] = ast.literal_eval(mark.args[0])
    rows = rows_of(ROOT / "docs" / "security.md")
    assert {test: row for row, test in rows} == marked
    assert len(rows) == len(marked) >= 25


def test_every_known_hole_has_a_test_and_a_line() -> None:
    """Each CVE that a document names is named by a test, and the other way round."""
    def named(text: str) -> set[str]:
        return {f"CVE-{year}-{number}" for year, number in re.findall(r"(?i)\bcve[-_](\d{4})[-_](\d+)", text)}

    tested = named("\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py")))
    assert named("\n".join(document.read_text() for document in DOCUMENTS)) == tested
    assert len(tested) > 60


def test_every_name_a_document_says_of_the_library_exists() -> None:
    import pyrunc

    text = (ROOT / "docs" / "library.md").read_text()
    names = set(re.findall(r"pyrunc\.([A-Za-z]\w*)", text)) - {"json"}
    assert {"Container", "CreateOptions", "PyruncError"} <= names
    for name in names:
        assert hasattr(pyrunc, name), name


def test_the_librarys_examples_run(bundle: Bundle, runtime: Runtime, host: Host, tmp_path: Path) -> None:
    """All Python blocks of library.md, one after the other in one program, with real paths in them."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "library.md").read_text(), re.M | re.S)
    assert len(blocks) >= 5
    bundle.args("sleep", "100").save()
    code = "\n".join(blocks).replace("/path/to/bundle", str(bundle.path)).replace("/path/to/pid", str(tmp_path / "pid"))
    where = f"import pyrunc.state\npyrunc.state.default_root = lambda: {str(runtime.root)!r}\n"
    runtime.ids.append("web")
    done = run(sys.executable, "-c", where + code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "created" and int(lines[1]) > 1 and lines[2] == "no such container"
    assert lines[3] == "bundle /path/to/nothing: stat: no such file or directory (ENOENT)"
    assert sorted(lines[4:]) == ["3", "uid=1000(alice) gid=1000(alice)"]
    assert (tmp_path / "pid").read_text().isdigit()


def test_nothing_in_the_tree_is_of_one_machine() -> None:
    """No path of somebody's machine, no address of a private network."""
    patterns = [re.compile(pattern) for pattern in (
        r"(?<![\w./-])/wor" r"k/(main|shared|\.)", r"/tmp/bri" r"ef", r"(?<![\w./-])/home/(?!alice|user|linuxbrew)\w",
        r"\b19" r"2\.168\.\d", r"\bpyen" r"v\b",
    )]
    found = [f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
             for path in files() if path.name != "LICENSE"
             for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
             if any(pattern.search(line) for pattern in patterns)]
    assert found == []


def test_every_source_says_its_licence() -> None:
    missing = [str(path.relative_to(ROOT)) for path in files()
               if path.suffix in (".py", ".sh", ".c", ".bash", ".toml") and "SPDX-License-Identifier: Apache-2.0"
               not in path.read_text()[:200]]
    assert missing == []
