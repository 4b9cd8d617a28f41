# SPDX-License-Identifier: Apache-2.0
"""Write docs/man/pyrunc.8, docs/man/pyrunc-image.8 and docs/completion/pyrunc.bash from the command line's own tables.

    python tools/generate_man.py            write them
    python tools/generate_man.py --check    exit 1 if they are not what would be written

What stands in the tables (pyrunc/cli) is not said again here; only what a table can't hold is.
man-pages(7), groff_man(7), bash(1) "Programmable Completion".
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

from pyrunc._version import OCI_VERSION, __version__  # noqa: E402
from pyrunc.cli import COMMANDS, GLOBAL_OPTIONS  # noqa: E402
from pyrunc.cli.image import SUBCOMMANDS  # noqa: E402
from pyrunc.cli.options import HELP, Argument, Option  # noqa: E402
from pyrunc.signals import signal_name  # noqa: E402

MAN = HERE / "docs" / "man" / "pyrunc.8"
IMAGE_MAN = HERE / "docs" / "man" / "pyrunc-image.8"
COMPLETION = HERE / "docs" / "completion" / "pyrunc.bash"

DESCRIPTION = f"""\
pyrunc runs containers as the OCI runtime specification {OCI_VERSION} describes them. It takes a bundle, a directory
with a config.json and a root file system, and does what config.json says. Its commands, options, exit codes and log
lines are those of runc(8), so that what calls runc can call pyrunc.

Options may be written --name=value, --name value or -name value, before or after a command's arguments; -- ends them.
Global options come before the command."""

NOTES = {
    "create": "When it returns, everything that can fail has been tried: the program was found and may be executed. "
              "The init waits for start as a child of the nearest subreaper.",
    "start": "Returns when the program has been executed and the poststart hooks have run. A program that can't be "
             "executed and a hook that fails are errors; the container is then stopped and deleted.",
    "exec": "The process gets what config.json gives the container's own, but for what options or a whole process "
            "of its own say otherwise; the words after the container's id are its arguments. It joins the namespaces "
            "and the cgroup of the container. 255 is exec's own failure.",
    "state": "The status is creating, created, running, paused or stopped.",
    "kill": "The signal is a name with or without SIG, RTMIN+n, or a number; SIGTERM by default.",
    "delete": "A container that is not stopped is refused without --force, one that is only created as well.",
    "run": "A terminal is relayed when config.json asks for one. With --detach it returns after start.",
    "explain": "Each line is a step: the place in config.json (a JSON pointer) and what is done. It needs no "
               "privilege. pyrunc --debug create logs the same lines.",
    "image": "Its own commands are in pyrunc-image(8).",
    "spec": "An existing config.json is never overwritten.",
    "features": "The document is described in the specification's features.md.",
    "list": "As a table, as JSON, or ids only.",
    "events": "Stats are printed every interval, or once with --stats; a container that runs out of memory is told "
              "when it does. A duration is written as 5s, 300ms or 1m30s. It ends when the container has stopped.",
    "pause": "It must be running or created. Its status is paused then.",
    "resume": "It must be paused.",
    "ps": "The options go to ps(1), -ef by default; its table needs a column PID. As JSON it is a list of process ids.",
    "update": "What is left out stays as it is. If a value is rejected, none is changed. Device rules can't be.",
}

IMAGE_DESCRIPTION = """\
Images are fetched from registries that speak the OCI distribution specification, kept in a store, unpacked into
bundles, and made of them again. A bundle is what pyrunc(8), runc(8) and crun(1) run.

A NAME is [REGISTRY/]REPOSITORY[:TAG][@DIGEST]; without a registry it is Docker Hub's, without a tag or digest latest is
meant. In the store a digest, or the beginning of one, will do as well.

Everything that comes from a registry is verified by its digest, and layers by what they hold unpacked as well."""

IMAGE_NOTES = {
    "pull": "It prints the digest of the manifest. Of an index it takes the image for this machine. What an earlier "
            "pull left unfinished is used. Mirrors and insecure registries are those of containers-registries.conf(5) "
            "or of containerd's hosts.toml; proxies those of the environment.",
    "ls": "With a name only that repository's.",
    "inspect": "With --remote the manifest or index as the registry has it.",
    "history": "The last step comes first.",
    "push": "To where its name says, or to the destination. What the registry has, or another repository of it, is not "
            "sent again.",
    "run": "It is pulled if it isn't in the store, and gets a bundle in the store, a network of its own with the "
           "loopback device alone, and docker's capabilities. The container is one as any: pyrunc exec, kill and "
           "delete take its name, and the bundle goes with it. Without -i its stdin is empty. What a detached one "
           "writes is in the bundle's log.",
    "diff": "A is added, C changed, D deleted; a directory is changed when its time is.",
    "commit": "A running container is paused meanwhile. With SOURCE_DATE_EPOCH in the environment the same changes "
              "make the same image.",
    "import": "The archive may be compressed with gzip, zstd, xz or bzip2; - is stdin, an http or https address is "
              "fetched.",
    "export": "Mounts of a running container are not in it.",
    "save": "An image without a tag has no name in a docker-archive.",
    "load": "The names in the archive are given to the images, as docker load does.",
    "tag": "If another image has the new name, it loses it.",
    "untag": "The image itself is removed by prune when it has no other name.",
    "rm": "An image with several names is removed with the last of them. Nothing is removed that bundles or mounts "
          "need.",
    "prune": "With --all images that have a name but no bundle or mount go, too.",
    "login": "The credentials are kept in docker's config.json (REGISTRY_AUTH_FILE and DOCKER_CONFIG name another), or "
             "by the credential helper that it names.",
    "logout": "Without a registry, of Docker Hub.",
    "unpack": "The directory must not be there, or be empty. config.json is made of the image's configuration and the "
              "options.",
    "mount": "With a bundle alone its rootfs is mounted again, as after a restart of the machine.",
    "umount": "A bundle stays, with what was changed in it; --rm removes it.",
}
IMAGE_FILES = (
    ("/var/lib/pyrunc/images", "The store; $XDG_DATA_HOME/pyrunc/images for an ordinary user. Its directory oci is an "
                               "OCI image layout."),
    ("~/.docker/config.json", "Credentials."),
    ("/etc/containers/registries.conf, /etc/containerd/certs.d/HOST/hosts.toml", "Mirrors, insecure registries."),
    ("/etc/containers/certs.d/HOST, /etc/docker/certs.d/HOST", "Certificates of authorities (*.crt) and the client's "
                                                               "(*.cert, *.key)."),
)

EXIT_STATUS = """\
run without --detach exits as the container's program did, with 128 and the signal's number if a signal ended it.
All other commands exit with 0, or with 1 after an error, which is told in one line on stderr and in the log."""

FILES = (
    ("/run/pyrunc/ID", "What is known of the container ID: state.json, a copy of its config.json, and exec.fifo while "
                       "it waits for start. $XDG_RUNTIME_DIR/pyrunc/ID for an ordinary user; see --root."),
    ("config.json", "In the bundle: what the container is to be."),
)


def escape(text: str) -> str:
    """`text` as roff shows it literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def left(option: Option) -> str:
    """`--bundle DIR, -b DIR`, the names bold and the value in italics."""
    value = f" \\fI{escape(option.metavar or 'VALUE')}\\fR" if option.takes_value else ""
    words = [f"\\fB{escape('--' + option.name)}\\fR{value}"]
    if option.short:
        words.append(f"\\fB{escape('-' + option.short)}\\fR{value}")
    return ", ".join(words)


def option_lines(options: Iterable[Option]) -> list[str]:
    lines = []
    for option in options:
        if option.hidden:
            continue
        default = f" (default: {option.default})" if option.default else ""
        lines += [".TP", left(option), escape(option.help[:1].upper() + option.help[1:] + default + ".")]
    return lines


def paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for index, paragraph in enumerate(text.split("\n\n")):
        lines += ([".PP"] if index else []) + [escape(paragraph)]
    return lines


def tables(command: str) -> tuple[tuple[Option, ...], tuple[Argument, ...]]:
    """A command's options and arguments."""
    module = import_module(f"pyrunc.cli.{command.replace(' ', '_')}")
    return module.OPTIONS, module.ARGUMENTS


def command_lines(command: str, summary: str, note: str) -> list[str]:
    """The section of a command."""
    options, arguments = tables(command)
    words = [f"\\fI{escape(a.name)}\\fR" if a.required else f"[\\fI{escape(a.name)}\\fR]" for a in arguments]
    shown = ["[\\fIoptions\\fR]"] if any(not option.hidden for option in options) else []
    return [f'.SS "pyrunc {command}{"".join(" " + word for word in [*shown, *words])}"',
            escape(summary[:1].upper() + summary[1:] + "."), escape(note), *option_lines(options)]


def image_man() -> str:
    """The manual page of the image commands."""
    lines = [
        '.\\" SPDX-License-Identifier: Apache-2.0',
        '.\\" Generated by tools/generate_man.py; do not edit.',
        f'.TH PYRUNC-IMAGE 8 "" "pyrunc {__version__}" "System Administration"',
        ".SH NAME", "pyrunc-image \\- images: from a registry to a bundle, and back",
        ".SH SYNOPSIS", ".B pyrunc image", "\\fICOMMAND\\fR [\\fIoptions\\fR] [\\fIarguments\\fR]",
        ".SH DESCRIPTION", *paragraphs(IMAGE_DESCRIPTION), ".SH COMMANDS", escape("Each takes --help, -h as well."),
    ]
    for command, summary in SUBCOMMANDS.items():
        lines += command_lines(f"image {command}", summary, IMAGE_NOTES[command])
    lines += [".SH FILES"]
    for name, text in IMAGE_FILES:
        lines += [".TP", f"\\fI{escape(name)}\\fR", escape(text)]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR pyrunc (8),", ".BR skopeo (1),", ".BR umoci (1)", ""])


def man() -> str:
    """The manual page."""
    lines = [
        '.\\" SPDX-License-Identifier: Apache-2.0',
        '.\\" Generated by tools/generate_man.py; do not edit.',
        f'.TH PYRUNC 8 "" "pyrunc {__version__}" "System Administration"',
        ".SH NAME", "pyrunc \\- run containers as the OCI runtime specification describes them",
        ".SH SYNOPSIS", ".B pyrunc", "[\\fIglobal options\\fR] \\fICOMMAND\\fR [\\fIoptions\\fR] [\\fIarguments\\fR]",
        ".SH DESCRIPTION", *paragraphs(DESCRIPTION),
        ".SH GLOBAL OPTIONS", *option_lines((*GLOBAL_OPTIONS, HELP)),
        ".SH COMMANDS",
        escape("Each takes --help, -h as well; pyrunc help COMMAND shows the same."),
    ]
    for command, summary in COMMANDS.items():
        lines += command_lines(command, summary, NOTES[command])
    lines += [".SH EXIT STATUS", *paragraphs(EXIT_STATUS), ".SH FILES"]
    for name, text in FILES:
        lines += [".TP", f"\\fI{escape(name)}\\fR", escape(text)]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR runc (8),", ".BR crun (1),", ".BR namespaces (7),",
                      ".BR cgroups (7),", ".BR capabilities (7)", ""])


def _values(option: Option) -> str:
    """What completes the option's value: words, or a compgen action in angle brackets."""
    if "|" in option.metavar:
        return option.metavar.replace("|", " ")
    return {"DIR": "<directory>", "FILE": "<file>", "SOCKET": "<file>"}.get(option.metavar, "")


def _names(options: Iterable[Option]) -> str:
    return " ".join(f"--{option.name}" for option in options if not option.hidden)


def _case(options: Iterable[Option]) -> list[str]:
    """Lines of a shell `case`: an option with a value -> what completes it."""
    lines = []
    for option in options:
        if option.takes_value:
            names = [f"--{option.name}"] + ([f"-{option.short}"] if option.short else [])
            lines.append(f'\t\t{"|".join(names)}) values="{_values(option)}"; return 0 ;;')
    return lines


def completion() -> str:
    """The bash completion."""
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# Generated by tools/generate_man.py; do not edit.  Source it, or install it as completions/pyrunc.",
        "",
        "# Sets `values` to what completes the value of option $2 of command $1 (empty: the global ones).",
        "_pyrunc_values() {", "\tcase $1 in", "\t'') case $2 in", *_case(GLOBAL_OPTIONS), "\t\tesac ;;",
    ]
    every = (*COMMANDS, *(f"image {command}" for command in SUBCOMMANDS))
    for command in every:
        cases = _case(tables(command)[0])
        if cases:
            lines += [f"\t{command.replace(' ', '_')}) case $2 in", *cases, "\t\tesac ;;"]
    lines += ["\tesac", "\treturn 1", "}", "",
              "# Sets `options`, and `arguments` to what each argument of command $1 is.",
              "_pyrunc_words() {", "\tcase $1 in"]
    for command in every:
        options, arguments = tables(command)
        lines.append(f'\t{command.replace(" ", "_")}) options="{_names((*options, HELP))}" '
                     f'arguments="{" ".join(argument.name for argument in arguments)}" ;;')
    lines += ['\thelp) options="" arguments=command ;;', "\tesac", "}", ""]
    signals = " ".join(signal_name(number).removeprefix("SIG") for number in range(1, 32))
    return "\n".join(lines) + f'''
_pyrunc() {{
	local current=$2 command="" options="{_names((*GLOBAL_OPTIONS, HELP))}" arguments="" values=""
	local word previous="" count=0 index root=()
	for ((index = 1; index < COMP_CWORD; index++)); do
		word=${{COMP_WORDS[index]}}
		if [[ $word == "=" ]]; then
			continue
		elif [[ -n $previous ]]; then
			[[ $previous == --root ]] && root=(--root "$word")
			previous=""
		elif [[ $word == -* ]]; then
			_pyrunc_values "$command" "$word" && previous=$word
			values=""
		elif [[ -z $command ]]; then
			command=$word options=""
			_pyrunc_words "$command"
		elif [[ $command == image ]]; then
			command=image_$word options=""
			_pyrunc_words "$command"
		else
			((count++))
		fi
	done
	[[ $current == "=" ]] && current=""
	if [[ -n $previous ]]; then
		_pyrunc_values "$command" "$previous"
	elif [[ $current == -* ]]; then
		values=$options
	elif [[ -z $command ]]; then
		values="{" ".join((*COMMANDS, "help"))}"
	else
		arguments=($arguments)
		case ${{arguments[count]-}} in
		container-id) values=$(pyrunc "${{root[@]}}" list --quiet 2>/dev/null) ;;
		signal) values="{signals}" ;;
		command) values="{" ".join(COMMANDS)}" ;;
		subcommand) values="{" ".join(SUBCOMMANDS)}" ;;
		name) [[ $command == image_* ]] && values=$(pyrunc image ls --format names 2>/dev/null) ;;
		directory) values="<directory>" ;;
		file) values="<file>" ;;
		esac
	fi
	case $values in
	"<directory>") mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
	"<file>") mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
	*) mapfile -t COMPREPLY < <(compgen -W "$values" -- "$current") ;;
	esac
}}
complete -o filenames -F _pyrunc pyrunc
'''


def main(words: list[str]) -> int:
    stale = 0
    for path, text in ((MAN, man()), (IMAGE_MAN, image_man()), (COMPLETION, completion())):
        if "--check" not in words:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path.relative_to(HERE)} is out of date: run tools/generate_man.py", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
