# SPDX-License-Identifier: Apache-2.0
"""Write the manual pages, one a command, and the shells' completions from the command line's own tables.

    python tools/generate_man.py            write them
    python tools/generate_man.py --check    exit 1 if they are not what would be written

What stands in the tables (pyrunc/cli) is not said again here; only what a table can't hold is.
man-pages(7), groff_man(7); the completions are in completions.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

from pyrunc._version import OCI_VERSION, __version__  # noqa: E402
from pyrunc.cli import COMMANDS, GLOBAL_OPTIONS  # noqa: E402
from pyrunc.cli.options import HELP, Option  # noqa: E402
from tools import completions  # noqa: E402
from tools.completions import GROUPS, tables  # noqa: E402

MAN = HERE / "docs" / "man"
COMPLETION = HERE / "docs" / "completion"

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
    "checkpoint": "It must be running or paused. Unless it is left running it has ended then and is deleted, so that "
                  "restore can take its id. criu does it, and its log is dump.log.",
    "restore": "With the bundle that the container had, and the same options. The hooks prestart and createRuntime "
               "run, limits are those of config.json. In the foreground it waits, relays a terminal and exits as run "
               "does. criu's log is restore.log.",
    "state": "The status is creating, created, running, paused or stopped.",
    "kill": "The signal is a name with or without SIG, RTMIN+n, or a number; SIGTERM by default.",
    "delete": "A container that is not stopped is refused without --force, one that is only created as well.",
    "run": "A terminal is relayed when config.json asks for one, and signals are passed on. When the program has "
           "ended the container is deleted, but for --keep. With --detach it returns after start.",
    "explain": "Each line is a step: the place in config.json (a JSON pointer) and what is done. It needs no "
               "privilege. pyrunc --debug create logs the same lines.",
    "image": "Its own commands are in pyrunc-image(8).",
    "net": "Its own commands are in pyrunc-net(8).",
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
           "writes is in the bundle's log. It exits as the command did, or with 127 if there is no such command, 126 "
           "if it can't be executed, 125 after another error.",
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
NET_DESCRIPTION = """\
A network is a bridge of the host with a range of addresses (or macvlan or ipvlan devices on one of the host's devices).
A container in it has a device, an address and a name that the others know it by; it reaches the outside with the host's
address, and is reached by the ports that are published for it. Networks can't reach each other.

The container may be of any runtime: pyrunc's go by their id, others by a network namespace. The network default is made
when it is first used.

Rules are in the tables inet pyrunc and bridge pyrunc of nftables."""

NET_NOTES = {
    "create": "It prints the name. The bridge itself is made when the first container comes.",
    "ls": "An open network is one that others can reach.",
    "inspect": "With the containers in it, their addresses and published ports.",
    "rm": "A network that containers are in is refused without --force. Those that have gone don't count.",
    "prune": "It prints what it has removed. Addresses of containers that have gone are free again.",
    "attach": "It prints the addresses. With --netns the container's name may be left out: it is then the "
              "namespace's. A port without one of the host gets one that is free. An error undoes everything.",
    "detach": "All of it is undone. No harm if it has been before, or if the container has gone.",
    "port": "As docker port does.",
    "setup": "It writes the hooks createRuntime and poststop into config.json, a network namespace if there is none, "
             "and mounts of /etc/hosts, /etc/resolv.conf and /etc/hostname where the bundle has none of its own. Given "
             "again it replaces what it wrote.",
    "hook": "The container's state is read from stdin, as a runtime gives it to a hook.",
    "cni": "ACTION is add, del, check, ls, gc or status. NETWORK is the path of a configuration (.conflist or .conf) "
           "or the name of a network in /etc/cni/net.d. The result of an add is kept, and the configuration as it "
           "was, so that del and check need only the names. A capability that no plugin declares is an error.",
    "reload": "For who has flushed the ruleset. Connections go on.",
}
NET_FILES = (
    ("/var/lib/pyrunc/net", "What is known of networks, addresses and containers; $XDG_DATA_HOME/pyrunc/net for an "
                            "ordinary user."),
)
NET_ENVIRONMENT = {"PYRUNC_NET_ROOT": "Another place for what is known of networks; --net-root comes before it."}

IMAGE_FILES = (
    ("/var/lib/pyrunc/images", "The store; $XDG_DATA_HOME/pyrunc/images for an ordinary user. Its directory oci is an "
                               "OCI image layout."),
    ("~/.docker/config.json", "Credentials."),
    ("/etc/containers/registries.conf, /etc/containerd/certs.d/HOST/hosts.toml", "Mirrors, insecure registries."),
    ("/etc/containers/certs.d/HOST, /etc/docker/certs.d/HOST", "Certificates of authorities (*.crt) and the client's "
                                                               "(*.cert, *.key)."),
)

EXIT_STATUS = """\
run and exec without --detach exit as the program did, with 128 and the signal's number if a signal ended it. All other
commands exit with 0, or with 1 after an error, which is told in one line on stderr and in the log; exec with 255."""
ENDS = {
    "run": "Without --detach that of the program, or 128 and the number of the signal that ended it; 1 after an error.",
    "exec": "Without --detach that of the program, or 128 and the number of the signal that ended it; 255 when it is "
            "exec that has failed.",
}

ENVIRONMENT = {
    "NOTIFY_SOCKET": "A service manager's socket (sd_notify(3)). The container gets one of its own, /run/notify/"
                     "notify.sock, and what its program says there of its state is passed on. start and run --detach "
                     "return when it is ready, or has ended.",
    "LISTEN_FDS": "How many descriptors, from 3 on, are sockets to listen on (sd_listen_fds(3)), if LISTEN_PID is "
                  "pyrunc's own. They are passed to the program, with LISTEN_FDNAMES.",
}
READ_BY = {"create": ("NOTIFY_SOCKET", "LISTEN_FDS"), "run": ("NOTIFY_SOCKET", "LISTEN_FDS"),
           "start": ("NOTIFY_SOCKET",)}

EXAMPLES = {
    "create": ("pyrunc create --bundle /srv/web --pid-file /run/web.pid web",),
    "run": ("pyrunc run --bundle /srv/web web", "pyrunc run --detach --bundle /srv/web web"),
    "exec": ("pyrunc exec web ps -ef", "pyrunc exec -t -u 1000:1000 --cwd /srv -e DEBUG=1 web sh",
             "pyrunc exec --process process.json web"),
    "kill": ("pyrunc kill web", "pyrunc kill web HUP"),
    "update": ("pyrunc update --memory 256M --cpu-quota 50000 web", "pyrunc update --resources resources.json web"),
    "events": ("pyrunc events --stats web",),
    "ps": ("pyrunc ps web", "pyrunc ps web -o pid,rss,args"),
    "list": ("pyrunc list", "pyrunc list --quiet"),
}

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


def synopsis(command: str) -> str:
    """` [options] container-id`: what follows the command's name."""
    options, arguments = tables(command)
    words = [f"\\fI{escape(a.name)}\\fR" if a.required else f"[\\fI{escape(a.name)}\\fR{' ...' if a.rest else ''}]"
             for a in arguments]
    shown = ["[\\fIoptions\\fR]"] if any(not option.hidden for option in options) else []
    return "".join(" " + word for word in [*shown, *words])


def command_lines(command: str, summary: str, note: str) -> list[str]:
    """The section of a command in a page of several."""
    return [f'.SS "pyrunc {command}{synopsis(command)}"', sentence(summary), escape(note),
            *option_lines(tables(command)[0])]


def sentence(text: str) -> str:
    return escape(text[:1].upper() + text[1:] + ".")


def head(name: str, summary: str) -> list[str]:
    """The beginning of every page."""
    return [
        '.\\" SPDX-License-Identifier: Apache-2.0',
        '.\\" Generated by tools/generate_man.py; do not edit.',
        f'.TH {name.upper()} 8 "" "pyrunc {__version__}" "System Administration"',
        ".SH NAME", f"{name} \\- {escape(summary)}",
    ]


def tagged(entries: Iterable[tuple[str, str]]) -> list[str]:
    return [line for name, text in entries for line in (".TP", f"\\fI{escape(name)}\\fR", escape(text))]


def command_man(command: str) -> str:
    """The page of one command."""
    options = tables(command)[0]
    lines = [
        *head(f"pyrunc-{command}", COMMANDS[command]),
        ".SH SYNOPSIS", f".B pyrunc {command}", synopsis(command).strip(),
        ".SH DESCRIPTION", sentence(COMMANDS[command]), escape(NOTES[command]),
        ".SH OPTIONS", *option_lines((*options, HELP)), ".PP", escape("Global options are in pyrunc(8)."),
    ]
    if command in READ_BY:
        lines += [".SH ENVIRONMENT", *tagged((name, ENVIRONMENT[name]) for name in READ_BY[command])]
    lines += [".SH EXIT STATUS", escape(ENDS.get(command, "0, or 1 after an error."))]
    if command in EXAMPLES:
        lines += [".SH EXAMPLES", ".EX", *(escape(line) for line in EXAMPLES[command]), ".EE"]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR pyrunc (8)", ""])


def group_man(group: str, description: str, notes: dict[str, str], end: list[str]) -> str:
    """The page of commands that are one subject."""
    lines = [
        *head(f"pyrunc-{group}", COMMANDS[group]),
        ".SH SYNOPSIS", f".B pyrunc {group}", "\\fICOMMAND\\fR [\\fIoptions\\fR] [\\fIarguments\\fR]",
        ".SH DESCRIPTION", *paragraphs(description), ".SH COMMANDS", escape("Each takes --help, -h as well."),
    ]
    for command, summary in GROUPS[group].items():
        lines += command_lines(f"{group} {command}", summary, notes[command])
    return "\n".join([*lines, *end, ""])


def image_man() -> str:
    return group_man("image", IMAGE_DESCRIPTION, IMAGE_NOTES, [
        ".SH FILES", *tagged(IMAGE_FILES), ".SH SEE ALSO", ".BR pyrunc (8),", ".BR skopeo (1),", ".BR umoci (1)"])


def net_man() -> str:
    return group_man("net", NET_DESCRIPTION, NET_NOTES, [
        ".SH ENVIRONMENT", *tagged(NET_ENVIRONMENT.items()), ".SH FILES", *tagged(NET_FILES),
        ".SH SEE ALSO", ".BR pyrunc (8),", ".BR nft (8),", ".BR ip\\-netns (8)"])


def main_man() -> str:
    """The page of the command itself."""
    lines = [
        *head("pyrunc", "run containers as the OCI runtime specification describes them"),
        ".SH SYNOPSIS", ".B pyrunc", "[\\fIglobal options\\fR] \\fICOMMAND\\fR [\\fIoptions\\fR] [\\fIarguments\\fR]",
        ".SH DESCRIPTION", *paragraphs(DESCRIPTION),
        ".SH GLOBAL OPTIONS", *option_lines((*GLOBAL_OPTIONS, HELP)),
        ".SH COMMANDS",
        escape("Each has a page of its own; pyrunc help COMMAND shows its options."),
    ]
    for command, summary in COMMANDS.items():
        lines += [".TP", f".BR {escape('pyrunc-' + command)} (8)", sentence(summary)]
    lines += [".SH ENVIRONMENT", *tagged(ENVIRONMENT.items()),
              ".SH EXIT STATUS", *paragraphs(EXIT_STATUS), ".SH FILES", *tagged(FILES)]
    return "\n".join([*lines, ".SH SEE ALSO", ".BR runc (8),", ".BR crun (1),", ".BR namespaces (7),",
                      ".BR cgroups (7),", ".BR capabilities (7)", ""])


def documents() -> dict[Path, str]:
    """What is generated, by its place."""
    pages = {MAN / f"pyrunc-{command}.8": command_man(command) for command in COMMANDS if command not in GROUPS}
    return {
        MAN / "pyrunc.8": main_man(), **pages, MAN / "pyrunc-image.8": image_man(),
        MAN / "pyrunc-net.8": net_man(),
        COMPLETION / "pyrunc.bash": completions.bash(), COMPLETION / "_pyrunc": completions.zsh(),
        COMPLETION / "pyrunc.fish": completions.fish(),
    }


def main(words: list[str]) -> int:
    stale = 0
    wanted = documents()
    for path in [*MAN.iterdir(), *COMPLETION.iterdir()]:
        if path not in wanted:
            print(f"{path.relative_to(HERE)} belongs to no command: remove it", file=sys.stderr)
            stale = 1
    for path, text in wanted.items():
        if "--check" not in words:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path.relative_to(HERE)} is out of date: run tools/generate_man.py", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
