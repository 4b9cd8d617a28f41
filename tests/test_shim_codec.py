# SPDX-License-Identifier: Apache-2.0
"""The shim's messages: generated from their .proto files, and on the wire what protobuf's own library makes of them."""

from __future__ import annotations

import importlib.util
import itertools
import random
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as TheirDecodeError
from google.protobuf.message import Message as TheirMessage
from grpc_tools import protoc
from pyrunc_shim import codec, messages, metrics_v1, metrics_v2
from pyrunc_shim.codec import DecodeError, Message

TREE = Path(__file__).resolve().parent.parent
PACKAGE = TREE / "shims" / "pyrunc_shim"
SEED = 8


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_messages", TREE / "tools" / "generate_messages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def classes(module: ModuleType) -> dict[str, type[Message]]:
    return {name: cls for name, cls in vars(module).items()
            if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message}


OURS = {(module.__name__, name): cls for module in (messages, metrics_v1, metrics_v2)
        for name, cls in classes(module).items()}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """protobuf's own classes, from the same .proto files."""
    out = tmp_path_factory.mktemp("protos") / "set"
    files = sorted(str(path) for path in (PACKAGE / "proto").glob("*.proto"))
    # Packages are ours to choose: containerd's differ by version, and no name is on the wire.
    place = out.parent / "proto"
    place.mkdir()
    for file in files:
        module = {"metrics_v1": "v1", "metrics_v2": "v2"}.get(Path(file).stem, "shim")
        lines = Path(file).read_text().splitlines()
        (place / Path(file).name).write_text("\n".join(
            f"package {module};" if line.startswith("package ") else line for line in lines))
    made = protoc.main(["protoc", f"--proto_path={place}", f"--descriptor_set_out={out}", "--include_imports",
                        *(str(place / Path(file).name) for file in files)])
    assert made == 0
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        pool.Add(file)
    packages = {messages.__name__: "shim", metrics_v1.__name__: "v1", metrics_v2.__name__: "v2"}
    return {(module, name): message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{packages[module]}.{name}")) for module, name in OURS}


def test_the_classes_are_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python tools/generate_messages.py` mends it."""
    monkeypatch.setattr("sys.argv", ["generate_messages.py", str(tmp_path)])
    generator().main()
    assert {path.name for path in tmp_path.iterdir()} == {"messages.py", "metrics_v1.py", "metrics_v2.py"}
    for path in tmp_path.iterdir():
        assert (PACKAGE / path.name).read_text() == path.read_text(), path.name


@pytest.mark.parametrize("line", ["  oneof which {", "  optional string a = 1;", "  map<string, int32> m = 1;",
                                  "  Missing m = 1;", "  fixed64 a = 1;"])
def test_what_the_generator_does_not_know_is_an_error(line: str) -> None:
    """A rule of a .proto file that were dropped in silence would be bytes that nobody can read."""
    close = "}" if "{" in line else ""
    with pytest.raises((ValueError, AssertionError, KeyError)):
        generator().Module().add(f'syntax = "proto3";\nmessage M {{\n{line}\n{close}}}\n')


NUMBERS = {codec.INT32: (0, 1, -1, 127, 128, 2**31 - 1, -(2**31)), codec.UINT32: (0, 1, 127, 128, 2**32 - 1),
           codec.INT64: (0, 1, -1, 2**63 - 1, -(2**63)), codec.UINT64: (0, 1, 16383, 16384, 2**64 - 1)}


def value(kind: int, cls: type[Message], random_: random.Random, depth: int) -> Any:
    if kind == codec.STRING:
        return random_.choice(["", "a", "/päth/☃", "x" * 200, "\0"])
    if kind == codec.BYTES:
        return random_.choice([b"", b"\0\xff", b"y" * 300])
    if kind == codec.BOOL:
        return random_.choice([False, True])
    if kind == codec.DOUBLE:
        return random_.choice([0.0, 1.5, -2e300, float("inf")])
    if kind == codec.MESSAGE:
        return filled(cls, random_, depth + 1)
    return random_.choice(NUMBERS[kind])


def filled(cls: type[Message], random_: random.Random, depth: int = 0) -> Message:
    """A message with random members."""
    message = cls()
    for name, kind, repeated, inner in cls.FIELDS.values():
        if random_.random() < 0.3:
            continue
        if kind == codec.MAP:
            setattr(message, name, {random_.choice("abc"): random_.choice(["", "v"]) for _ in range(2)})
        elif repeated:
            setattr(message, name, [value(kind, inner, random_, depth) for _ in range(random_.randrange(4))])
        else:
            setattr(message, name, value(kind, inner, random_, depth))
    return message


def as_plain(message: Any) -> Any:
    """A message, ours or theirs, as nested values; absent and empty differ for a message's member alone."""
    if isinstance(message, Message):
        plain = {}
        for name, kind, repeated, _ in message.FIELDS.values():
            item = getattr(message, name)
            if kind == codec.MESSAGE and not repeated:
                plain[name] = None if item is None else as_plain(item)
            elif repeated:
                plain[name] = [as_plain(entry) for entry in item]
            else:
                plain[name] = dict(sorted(item.items())) if kind == codec.MAP else item
        return plain
    if isinstance(message, TheirMessage):
        plain = {}
        for field in message.DESCRIPTOR.fields:
            item = getattr(message, field.name)
            if field.is_repeated:
                is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
                plain[field.name] = dict(sorted(item.items())) if is_map else [as_plain(entry) for entry in item]
            elif field.message_type is not None:
                plain[field.name] = as_plain(item) if message.HasField(field.name) else None
            else:
                plain[field.name] = item
        return plain
    return message


@pytest.mark.parametrize("key", OURS, ids=lambda key: f"{key[0].rpartition('.')[2]}.{key[1]}")
def test_on_the_wire_as_protobuf_has_it(key: tuple[str, str], theirs: dict[tuple[str, str], Any]) -> None:
    """Byte for byte what protobuf writes (but for the order of a map), and read back as it was."""
    random_ = random.Random(SEED)
    for _ in range(20):
        message = filled(OURS[key], random_)
        data = message.encode()
        parsed = theirs[key].FromString(data)
        assert as_plain(parsed) == as_plain(message)
        assert len(data) == parsed.ByteSize()
        if all(kind != codec.MAP for _, kind, _, _ in OURS[key].FIELDS.values()):
            assert parsed.SerializeToString(deterministic=True) == data
        assert OURS[key].decode(data) == message
        assert OURS[key].decode(parsed.SerializeToString()) == message


def test_a_damaged_message_is_refused_as_protobuf_refuses_it(theirs: dict[tuple[str, str], Any]) -> None:
    """Cut, with bytes changed, or made up: whatever one of the two reads, the other reads as the same."""
    random_ = random.Random(SEED)
    refused = read = 0
    keys = sorted(OURS)
    for _ in range(2000):
        key = random_.choice(keys)
        data = bytearray(filled(OURS[key], random_).encode())
        for _ in range(random_.randrange(1, 4)):
            if data and random_.random() < 0.6:
                data[random_.randrange(len(data))] = random_.randrange(256)
            elif data:
                del data[random_.randrange(len(data)):]
            else:
                data += random_.randbytes(4)
        try:
            expected = as_plain(theirs[key].FromString(bytes(data)))
        except TheirDecodeError:
            refused += 1
            with pytest.raises(DecodeError):
                OURS[key].decode(bytes(data))
        else:
            read += 1
            assert repr(as_plain(OURS[key].decode(bytes(data)))) == repr(expected), (key, bytes(data))
    assert refused > 100 and read > 100  # the control: both happen


def test_fields_that_come_twice_and_unknown_ones() -> None:
    """encoding, Last One Wins and Unknown Fields: of a message's two halves one is made."""
    first = messages.DeleteResponse(pid=1, exited_at=messages.Timestamp(seconds=5)).encode()
    second = messages.DeleteResponse(pid=2, exited_at=messages.Timestamp(nanos=7)).encode()
    unknown = bytes([0xF8, 0x07, 1]) + bytes([0xFB, 0x07, 0x08, 1, 0xFC, 0x07])  # a number, and a group, of field 127
    both = messages.DeleteResponse.decode(first + unknown + second)
    assert both == messages.DeleteResponse(pid=2, exited_at=messages.Timestamp(seconds=5, nanos=7))


@pytest.mark.parametrize("data", [
    b"\x08", b"\x08" + b"\xff" * 10 + b"\x01", b"\x0a\x05abc", b"\x00\x01", b"\x0a\x01\xff", b"\x0f\x01",
    b"\x13" * 200,
], ids=["cut", "eleven bytes", "cut string", "field 0", "no UTF-8", "wire type 7", "endless groups"])
def test_malformed(data: bytes) -> None:
    with pytest.raises(DecodeError):
        messages.StateRequest.decode(data)


def test_numbers_out_of_range_are_not_written() -> None:
    """What would come out as another number."""
    for number, field in itertools.product((-1, 2**32), ("pid",)):
        with pytest.raises(ValueError, match="out of range"):
            messages.StartResponse(**{field: number}).encode()
    assert messages.StartResponse(pid=2**32 - 1).encode() == b"\x08" + b"\xff" * 4 + b"\x0f"
    assert metrics_v2.PSIData(avg10=0.5).encode() == b"\x09" + struct.pack("<d", 0.5)
