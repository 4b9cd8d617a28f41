# SPDX-License-Identifier: Apache-2.0
"""Reading and writing JSON strictly, and config.json with it.

The `json` module costs more to import than Python itself takes to start (it pulls in `re` and
`enum`), so the C scanner and encoder inside it are used directly; where a Python has none, `json`
serves.  RFC 8259 leaves open what a duplicate key means and how deep a value may nest: here the
first is refused, since two programs could read such a file differently, and the second limited.
"""

from __future__ import annotations

from pyrunc.errors import BundleError, ConfigError

try:
    import _json

    HAVE_C: bool = True
except ImportError:  # not CPython
    HAVE_C = False

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from pyrunc.spec.types import Config, Process

#: A config.json is some ten kilobytes; the largest seccomp profiles make it a few hundred.
MAX_BYTES = 4 * 1024 * 1024
#: The deepest value of a config.json lies at 7.
MAX_DEPTH = 64
#: Python's own limit for int(), which a process may have lifted; int() is quadratic.
MAX_DIGITS = 4300

WHITESPACE = " \t\n\r"


class _Refused(Exception):
    """What the scanner's hooks raise: `what` is wrong with `token`, at a place they aren't told."""

    def __init__(self, what: str, token: str) -> None:
        self.what = what
        self.token = token


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise _Refused("duplicate key", "")
    return value


def _object_without_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Go's decoder takes null for absent, and clients written in Go write it.
    value = _object(pairs)
    if None in value.values():
        return {key: item for key, item in value.items() if item is not None}
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _Refused("a number of too many digits", text)
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if value - value != 0.0:
        raise _Refused("a number out of range", text)
    return value


def _constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is not JSON", text)


class _Context:
    """The settings the C scanner reads from what is normally a json.JSONDecoder."""

    __slots__ = ("object_pairs_hook",)
    strict = True
    object_hook = None
    array_hook = None
    # staticmethod: the scanner fetches them from the instance
    parse_int = staticmethod(_integer)
    parse_float = staticmethod(_number)
    parse_constant = staticmethod(_constant)

    def __init__(self, object_pairs_hook: Callable[[list[tuple[str, Any]]], dict[str, Any]]) -> None:
        self.object_pairs_hook = object_pairs_hook


def _scan(context: _Context, text: str, start: int) -> tuple[Any, int]:
    """The value that starts at `start` and where it ends."""
    if HAVE_C:
        try:
            return _json.make_scanner(context)(text, start)  # type: ignore[arg-type]
        except SystemError:
            # The scanner looks for the class of its error among the modules loaded, and fails so
            # where `json` is not; what follows loads it.
            pass
    from json import JSONDecoder

    return JSONDecoder(object_pairs_hook=context.object_pairs_hook, parse_int=_integer,
                       parse_float=_number, parse_constant=_constant).raw_decode(text, start)


def parse(data: bytes, name: str, *, drop_null: bool = False) -> Any:
    """The value of the JSON text `data`, of the file called `name` in errors (BundleError).

    With `drop_null` a member that is null is left out, as if it were absent.
    """
    text = _decode(data, name)
    context = _Context(_object_without_nulls if drop_null else _object)
    try:
        value, end = _scan(context, text, _skip(text, 0))
    except StopIteration as stop:
        raise _invalid(name, text, stop.value, _unexpected(text, stop.value)) from None
    except RecursionError:
        raise _too_deep(name) from None
    except _Refused as refused:
        from pyrunc.spec.locate import locate

        position, what = locate(text, refused.what, refused.token)
        raise _invalid(name, text, position, what) from None
    except ValueError as error:  # json.JSONDecodeError
        raise _invalid(name, text, getattr(error, "pos", 0), _wording(error)) from None
    end = _skip(text, end)
    if end != len(text):
        raise _invalid(name, text, end, "something follows the end of the value")
    if not _shallow(value):
        raise _too_deep(name)
    return value


def load_config(data: bytes, name: str = "config.json") -> Config:
    """The checked configuration that the text `data` holds.

    Raises BundleError where it is not JSON, ConfigError with a pointer where it is not a valid
    configuration.  Members that are null are absent from the result.
    """
    from pyrunc.spec._validator import validate
    from pyrunc.spec.check import check

    config: Config = parse(data, name, drop_null=True)
    if not validate(config):
        from pyrunc.spec.explain import explain

        raise explain(config)
    if b"\\u" in data:
        _refuse_surrogates(config)
    check(config)
    return config


def load_own_config(data: bytes) -> Config:
    """The configuration that a container was created with, out of its state directory.

    It was checked then, and nobody but its owner can write there.  Raises BundleError where it is not JSON.
    """
    config: Config = parse(data, "config.json", drop_null=True)
    if not isinstance(config, dict):
        raise BundleError("config.json in the state directory is not an object")
    return config


def load_process(data: bytes, name: str) -> Process:
    """The checked process that the text `data` holds, for exec; raises and leaves out as load_config does."""
    from pyrunc.spec._validator import is_process
    from pyrunc.spec.check import check_process

    process: Process = parse(data, name, drop_null=True)
    if not is_process(process):
        from pyrunc.spec.explain import explain

        # As a part of a configuration, so that the pointers are the spec's.
        raise explain({"ociVersion": "1.0.0", "root": {"path": "rootfs"}, "process": process})
    if b"\\u" in data:
        _refuse_surrogates({"process": process})
    check_process(process)
    return process


def dump(value: Any) -> str:
    """`value` as JSON on one line, in ASCII (so that any file name survives)."""
    if not HAVE_C:
        from json import dumps

        return dumps(value, separators=(",", ":"))
    encode = _json.make_encoder(None, _unserialisable, _json.encode_basestring_ascii, None,
                                ":", ",", False, False, False)
    return "".join(encode(value, 0))


def dump_pretty(value: Any, indent: int = 2) -> str:
    """`value` as JSON on many lines, laid out as Go's json.MarshalIndent does."""
    return _pretty(value, " " * indent, "\n")


def _pretty(value: Any, step: str, newline: str) -> str:
    inner = newline + step
    if isinstance(value, dict) and value:
        members = [f"{dump(str(key))}: {_pretty(item, step, inner)}" for key, item in value.items()]
        return "{" + inner + ("," + inner).join(members) + newline + "}"
    if isinstance(value, list | tuple) and value:
        items = [_pretty(item, step, inner) for item in value]
        return "[" + inner + ("," + inner).join(items) + newline + "]"
    return dump(value)


def _unserialisable(value: object) -> NoReturn:
    raise TypeError(f"a {type(value).__name__} can't be written as JSON")


def _decode(data: bytes, name: str) -> str:
    if len(data) > MAX_BYTES:
        raise BundleError(f"{name}: larger than {MAX_BYTES} bytes")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BundleError(f"{name}: invalid JSON: encoded as UTF-16", hint="save it as UTF-8")
    if data[:3] == b"\xef\xbb\xbf":
        raise BundleError(f"{name}: invalid JSON: starts with a byte order mark",
                          hint="save it as UTF-8 without one")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        good = data[:error.start].decode("utf-8")
        raise _invalid(name, good, len(good), f"the byte 0x{data[error.start]:02x} is not UTF-8") from None


def _skip(text: str, position: int) -> int:
    """The first position from `position` on that holds no white space."""
    while position < len(text) and text[position] in WHITESPACE:
        position += 1
    return position


def _shallow(value: Any) -> bool:
    """Whether `value` nests no deeper than MAX_DEPTH; level by level, for it may nest deep."""
    level = [value] if type(value) in (dict, list) else []
    for _ in range(MAX_DEPTH):
        level = [item for container in level
                 for item in (container.values() if type(container) is dict else container)
                 if type(item) is dict or type(item) is list]
        if not level:
            return True
    return False


def _refuse_surrogates(config: Any) -> None:
    """Refuse half a UTF-16 pair: as a path it would turn into a byte the text never showed."""
    todo: list[tuple[str, Any]] = [("", config)]
    while todo:
        pointer, value = todo.pop()
        if isinstance(value, dict):
            todo += [(f"{pointer}/{key}", item) for key, item in value.items()]
            todo += [(pointer, key) for key in value]
        elif isinstance(value, list):
            todo += [(f"{pointer}/{index}", item) for index, item in enumerate(value)]
        elif isinstance(value, str) and not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                half = f"\\u{ord(value[error.start]):04x}"
                raise ConfigError(pointer.encode("ascii", "backslashreplace").decode(),
                                  f"{half} is half a surrogate pair, which no text can hold") from None


def _too_deep(name: str) -> BundleError:
    return BundleError(f"{name}: nested deeper than {MAX_DEPTH} levels")


def _invalid(name: str, text: str, position: int, what: str) -> BundleError:
    line = text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    byte = len(text[:position].encode("utf-8"))
    return BundleError(f"{name}: invalid JSON at line {line} column {column} (byte {byte}): {what}")


def _unexpected(text: str, position: int) -> str:
    if position >= len(text):
        return "the text ends where a value is expected" if text.strip(WHITESPACE) else "the file is empty"
    return f"expected a value, found {text[position]!a}"


def _wording(error: ValueError) -> str:
    """The scanner's message (`Expecting ',' delimiter`) in this house's words."""
    message = str(getattr(error, "msg", error)).removesuffix(" at").removesuffix(" starting")
    return "expected" + message[9:] if message.startswith("Expecting") else message[:1].lower() + message[1:]
