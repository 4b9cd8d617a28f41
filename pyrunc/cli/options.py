# SPDX-License-Identifier: Apache-2.0
"""Command lines as runc reads them: tables of options, parsed without argparse (9 ms of CPU).

`--flag=v`, `--flag v`, `-f v`, and, as Go's flag package has it, `-flag`; bundled short flags are
not a thing there, but with the image commands, which are docker's more than runc's.  Options may
follow arguments; `--` ends them.
"""

from __future__ import annotations

from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


# What Go's strconv.ParseBool takes, as runc does.
BOOLEANS = {**dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), "true"),
            **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), "false")}


class Option:
    """`--name`, perhaps with a value: `kind` is flag, text, number, or list (a text that may be given again)."""

    __slots__ = ("default", "help", "hidden", "kind", "metavar", "name", "short")

    def __init__(self, name: str, short: str = "", *, kind: str = "flag", metavar: str = "", default: str = "",
                 help: str = "", hidden: bool = False) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.metavar = metavar
        self.default = default
        self.help = help
        self.hidden = hidden

    @property
    def takes_value(self) -> bool:
        return self.kind != "flag"


class Argument:
    """A positional argument.

    A `rest` takes all words after the ones before it, options too, and is the last; so is one of which
    there may be `many`, which leaves the options alone.
    """

    __slots__ = ("default", "help", "many", "name", "required", "rest")

    def __init__(self, name: str, *, required: bool = True, default: str = "", help: str = "",
                 rest: bool = False, many: bool = False) -> None:
        self.name = name
        self.required = required
        self.default = default
        self.help = help
        self.rest = rest
        self.many = many


class Args:
    """What a command line said: `["name"]`, `.flag("force")`, `.number("preserve-fds")`, `.lists["env"]`, `.rest`."""

    __slots__ = ("lists", "rest", "values")

    def __init__(self) -> None:
        self.lists: dict[str, list[str]] = {}
        self.values: dict[str, str] = {}
        self.rest: list[str] = []

    def __getitem__(self, name: str) -> str:
        return self.values.get(name, "")

    def flag(self, name: str) -> bool:
        return self.values.get(name) == "true"

    def number(self, name: str) -> int:
        """A non-negative decimal number.  Raises UsageError."""
        text = self.values.get(name, "") or "0"
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise UsageError(f'--{name} takes a number, not "{text}"')
        return int(text)


HELP = Option("help", "h", help="show this help")


def parse(words: list[str], options: Iterable[Option], arguments: Iterable[Argument] | None,
          command: str) -> tuple[Args, list[str]]:
    """Parse `words`; with `arguments` None, stop at the first that isn't an option and return the rest.

    Raises UsageError.
    """
    table: dict[str, Option] = {}
    args = Args()
    for option in (*options, HELP):
        table[option.name] = option
        if option.short:
            table[option.short] = option
        if option.kind == "list":
            args.lists[option.name] = []
        if option.default:
            args.values[option.name] = option.default
    positional: list[str] = []
    rest = list(words)
    arguments = None if arguments is None else list(arguments)
    own = len(arguments) - 1 if arguments and arguments[-1].rest else len(words)  # positionals before the rest
    while rest:
        if len(positional) >= own:
            # A `--` before words that look like options does no harm here, nor does its absence.
            args.rest = rest[1:] if rest[0] == "--" else rest
            break
        word = rest.pop(0)
        if word == "--":
            left = own - len(positional)
            positional += rest[:left]
            args.rest = rest[left:]
            break
        if len(word) > 1 and word.startswith("-"):
            _take(word, rest, table, args, command)
        elif arguments is None:
            return args, [word, *rest]
        else:
            positional.append(word)
    if arguments is None:
        return args, positional
    if arguments and arguments[-1].many and len(positional) > len(arguments):
        args.rest = positional[len(arguments):]
        del positional[len(arguments):]
    if not args.flag("help"):
        _place(positional, [argument for argument in arguments if not argument.rest], args, command)
    return args, []


def _take(word: str, rest: list[str], table: dict[str, Option], args: Args, command: str) -> None:
    name, equals, value = word.lstrip("-").partition("=")
    option = table.get(name)
    if option is None and command.startswith("image ") and _is_bundle(word, table):
        for letter in word[1:]:
            _take(f"-{letter}", rest, table, args, command)
        return
    if option is None or word.startswith("---"):
        raise UsageError(f"{command}: unknown option {word.partition('=')[0]}", hint=_nearest(name, table))
    if option.takes_value:
        if not equals:
            if not rest:
                raise UsageError(f"{command}: {word} needs a value")
            value = rest.pop(0)
    elif not equals:
        value = "true"
    elif value not in BOOLEANS:
        raise UsageError(f"{command}: --{option.name} is true or false, not {value!r}")
    else:
        value = BOOLEANS[value]
    args.values[option.name] = value
    if option.kind == "list":
        args.lists[option.name].append(value)


def _is_bundle(word: str, table: dict[str, Option]) -> bool:
    """Whether it is several short flags in one, as docker's users write `-it`; the last may take a value."""
    letters = word[1:]
    return len(letters) > 1 and all(letter in table for letter in letters) and \
        not any(table[letter].takes_value for letter in letters[:-1])


def _place(positional: list[str], arguments: list[Argument], args: Args, command: str) -> None:
    for argument in arguments:
        if positional:
            args.values[argument.name] = positional.pop(0)
        elif argument.required:
            raise UsageError(f"{command}: the argument <{argument.name}> is missing",
                             hint=f"pyrunc {command} --help")
        else:
            args.values[argument.name] = argument.default
    if positional:
        raise UsageError(f"{command}: unexpected argument {positional[0]!r}", hint=f"pyrunc {command} --help")


def _nearest(name: str, table: dict[str, Option]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, [key for key in table if len(key) > 1], 1)
    return f"did you mean --{found[0]}?" if found else ""


def usage(command: str, summary: str, options: Iterable[Option], arguments: Iterable[Argument]) -> str:
    """The --help of a command."""
    words = [f"<{a.name}>{'...' if a.many else ''}" if a.required else f"[{a.name}{'...' if a.rest else ''}]"
             for a in arguments]
    lines = [f"usage: pyrunc {command} [options] {' '.join(words)}".rstrip(), "", summary, "", "options:"]
    rows = []
    for option in (*options, HELP):
        if option.hidden:
            continue
        left = f"--{option.name}" + (f" {option.metavar or 'VALUE'}" if option.takes_value else "")
        if option.short:
            left += f", -{option.short}"
        rows.append((left, option.help + (f" (default: {option.default})" if option.default else "")))
    width = max(len(left) for left, _ in rows)
    lines += [f"  {left:<{width}}  {text}".rstrip() for left, text in rows]
    return "\n".join(lines) + "\n"
