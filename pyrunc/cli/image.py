# SPDX-License-Identifier: Apache-2.0
"""pyrunc image COMMAND: images, from a registry to a bundle and back; a module for each sub-command."""

from __future__ import annotations

from pyrunc.cli.groups import choose
from pyrunc.cli.options import Argument, Option
from pyrunc.errors import PyruncError

TYPE_CHECKING = False
if TYPE_CHECKING:
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


def dispatch(words: list[str], context: Context) -> int:
    """Run `pyrunc image` with these words."""
    chosen = choose("image", "images: from a registry to a bundle, and back", SUBCOMMANDS, words, context)
    if isinstance(chosen, int):
        return chosen
    module, given = chosen
    import gc

    gc.enable()  # off for commands that are over in milliseconds; a transfer may take hours
    try:
        status: int = module.run(given, context)
    except KeyboardInterrupt:
        error = PyruncError("interrupted", hint="what was complete is kept, and serves the next time")
        error.exit_code = 130  # 128 + SIGINT, as of a command that the signal ends
        raise error from None
    except ModuleNotFoundError as error:
        raise PyruncError(f"the Python package {error.name} is not installed",
                          hint="`pip install pyrunc` installs it") from None
    return status
