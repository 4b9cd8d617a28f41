# SPDX-License-Identifier: Apache-2.0
"""Commands that have commands of their own, each in a module: pyrunc.cli.GROUP_NAME."""

from __future__ import annotations

from pyrunc.cli.options import parse, usage
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from pyrunc.cli import Context
    from pyrunc.cli.options import Args


def choose(group: str, about: str, commands: dict[str, str], words: list[str],
           context: Context) -> tuple[ModuleType, Args] | int:
    """The sub-command's module and its options; an exit code where help was asked for, which is printed.

    Raises UsageError.
    """
    args, rest = parse(words, (), None, group)
    if args.flag("help") or not rest or rest[0] == "help":
        if rest[1:]:
            rest = [rest[1], "--help"]
        else:
            print(_help(group, about, commands), end="")
            return 0 if args.flag("help") or rest else 1
    name = rest[0]
    if name not in commands:
        from difflib import get_close_matches

        found = get_close_matches(name, commands, 1)
        raise UsageError(f'unknown command "{group} {name}"',
                         hint=f"did you mean {group} {found[0]}?" if found else f"pyrunc {group} --help")
    module = __import__(f"pyrunc.cli.{group}_{name}", fromlist=("run",))
    context.command = ""  # what is wrong with its words says whose they are
    given, _ = parse(rest[1:], module.OPTIONS, module.ARGUMENTS, f"{group} {name}")
    context.command = f"{group} {name}"
    if given.flag("help"):
        print(usage(f"{group} {name}", commands[name], module.OPTIONS, module.ARGUMENTS), end="")
        return 0
    return module, given


def _help(group: str, about: str, commands: dict[str, str]) -> str:
    lines = [f"usage: pyrunc {group} COMMAND [options] [arguments]", "", about, "", "commands:"]
    lines += [f"  {name:<10}{text}" for name, text in commands.items()]
    return "\n".join([*lines, "", f"pyrunc {group} COMMAND --help shows a command's options.", ""])
