# SPDX-License-Identifier: Apache-2.0
"""pyrunc net COMMAND: networks for containers of any runtime; a module for each sub-command."""

from __future__ import annotations

from pyrunc.cli.groups import choose
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context

SUBCOMMANDS = {
    "create": "make a network",
    "ls": "list networks",
    "inspect": "print what is known of networks, as JSON",
    "rm": "remove networks",
    "prune": "tidy up after containers that have gone, and remove unused networks",
    "attach": "give a container a place in a network",
    "detach": "take a container out of a network",
    "port": "print which ports of the host lead to a container",
    "setup": "write into a bundle what gives its container networks, whichever runtime runs it",
    "hook": "what the hooks of setup run",
    "cni": "run an existing CNI configuration's plugins for a container",
    "reload": "make bridges and rules anew, as after a flush of the ruleset",
}
OPTIONS: tuple[Option, ...] = ()
ARGUMENTS = (Argument("subcommand"),)


def dispatch(words: list[str], context: Context) -> int:
    """Run `pyrunc net` with these words."""
    chosen = choose("net", "networks for containers of any runtime", SUBCOMMANDS, words, context)
    if isinstance(chosen, int):
        return chosen
    module, given = chosen
    status: int = module.run(given, context)
    return status
