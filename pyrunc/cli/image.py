# SPDX-License-Identifier: Apache-2.0
"""pyrunc image COMMAND: images, from a registry to a bundle and back; a module for each sub-command."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option, parse, usage
from pyrunc.errors import PyruncError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from pyrunc.cli import Context

SUBCOMMANDS = {
    "pull": "fetch an image from a registry",
    "ls": "list the images in the store",
    "inspect": "print what is known of an image, as JSON",
    "history": "print how an image was made, layer by layer",
    "push": "send an image to a registry",
    "run": "run a command in a new container of an image",
    "diff": "print what a container has changed of its image",
    "commit": "make an image of what a container has changed",
    "import": "make an image of a root file system in a tar archive",
    "export": "write a container's root file system as a tar archive",
    "save": "write images to an archive",
    "load": "read images from an archive",
    "tag": "give an image another name",
    "untag": "take a name away from an image",
    "rm": "remove images",
    "prune": "remove what no name leads to, and what was left half-done",
    "login": "keep the credentials for a registry",
    "logout": "forget the credentials for a registry",
    "unpack": "make a bundle of an image",
    "mount": "mount an image's root read-only, or a bundle's again",
    "umount": "take such a mount away",
}
OPTIONS: tuple[Option, ...] = ()
ARGUMENTS = (Argument("subcommand"),)


def load(name: str) -> ModuleType:
    """The module of a sub-command."""
    return __import__(f"pyrunc.cli.image_{name}", fromlist=("run",))


def dispatch(words: list[str], context: Context) -> int:
    """Run `pyrunc image` with these words."""
    args, rest = parse(words, OPTIONS, None, "image")
    if args.flag("help") or not rest or rest[0] == "help":
        if rest[1:]:
            rest = [rest[1], "--help"]
        else:
            print(_help(), end="")
            return 0 if args.flag("help") or rest else 1
    name = rest[0]
    if name not in SUBCOMMANDS:
        from difflib import get_close_matches

        found = get_close_matches(name, SUBCOMMANDS, 1)
        raise UsageError(f'unknown command "image {name}"',
                         hint=f"did you mean image {found[0]}?" if found else "pyrunc image --help")
    module = load(name)
    given, _ = parse(rest[1:], module.OPTIONS, module.ARGUMENTS, f"image {name}")
    context.command = f"image {name}"
    if given.flag("help"):
        print(usage(f"image {name}", SUBCOMMANDS[name], module.OPTIONS, module.ARGUMENTS), end="")
        return 0
    import gc

    gc.enable()  # off for commands that are over in milliseconds; a transfer may take hours
    try:
        status: int = module.run(given, context)
    except KeyboardInterrupt:
        raise PyruncError("interrupted", hint="what was complete is kept, and serves the next time") from None
    except ModuleNotFoundError as error:
        raise PyruncError(f"the Python package {error.name} is not installed",
                          hint="`pip install pyrunc` installs it") from None
    return status


def _help() -> str:
    lines = ["usage: pyrunc image COMMAND [options] [arguments]", "", "images: from a registry to a bundle, and back",
             "", "commands:"]
    lines += [f"  {name:<10}{text}" for name, text in SUBCOMMANDS.items()]
    return "\n".join([*lines, "", "pyrunc image COMMAND --help shows a command's options.", ""])
