# SPDX-License-Identifier: Apache-2.0
"""Archives that are odd, though no tool refuses them: unpacked they are what umoci and podman make of them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import registries
from registries import Images, Registry, run
from tarmaker import archive, base256, directory, file, gnu_long, hardlink, header, pad, pax, symlink

from .test_image_pull import differences, tree

LONG = "l" * 90
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)  # linux/capability.h: cap_net_raw=ep

#: What a case puts into each layer; each in a directory of its own, named after it.
CASES: dict[str, list[bytes]] = {
    "pax-names": [pax({b"path": f"pax-names/{LONG * 2}".encode()}) + file("short", b"1")
                  + pax({b"path": "pax-names/\u00fcml\u00e4ut \u2603".encode()}) + file("short", b"2")
                  + pax({b"linkpath": f"{LONG * 2}".encode()}) + symlink("pax-names/link", "short")],
    "gnu-names": [gnu_long(b"L", f"gnu-names/{LONG * 2}".encode())
                  + file("cut", b"1", magic=b"ustar  \0")
                  + gnu_long(b"K", (LONG * 2).encode()) + symlink("gnu-names/link", "cut", magic=b"ustar  \0")],
    "prefix": [header(f"{LONG}/", b"5", mode=0o755, mtime=5, prefix=b"prefix")
               + header("name", size=1, prefix=f"prefix/{LONG}".encode()) + pad(b"1")],
    "bytes": [file(b"bytes/new\nline", b"1") + file(b"bytes/back\\slash", b"2") + file(b"bytes/ space ", b"3")
              + file(b"bytes/\xff\xfe", b"4") + file(b"bytes/-rf", b"5")],
    "slashes": [directory("./slashes/dot/") + file("./slashes/dot/file", b"1") + directory("slashes//double//")
                + file("slashes//double//file", b"2") + file("/slashes/absolute", b"3")],
    "numbers": [header("numbers/ids", size=1, uid=base256(300000, 8), gid=base256(400000, 8)) + pad(b"1")
                + header("numbers/time", size=1, mtime=base256(1 << 32, 12)) + pad(b"1")
                + pax({b"uid": b"500000", b"gid": b"600000"}) + file("numbers/pax", b"1")],
    "times": [pax({b"mtime": b"1234567890.123456789"}) + file("times/nano", b"1")
              + pax({b"mtime": b"1234567890.5"}) + directory("times/dir/")
              + pax({b"mtime": b"1234567891.25"}) + symlink("times/link", "nano")],
    "hard-links": [file("hard-links/a", b"the same") + hardlink("hard-links/b", "hard-links/a")
                   + hardlink("hard-links/c", "hard-links/b") + symlink("hard-links/s", "a")
                   + hardlink("hard-links/s2", "hard-links/s"),
                   file("hard-links/b", b"another")],
    "links-below": [file("links-below/a", b"1"), hardlink("links-below/b", "links-below/a")],
    "modes": [file("modes/setuid", b"1", mode=0o4755, uid=7) + file("modes/setgid", b"1", mode=0o2755, gid=8)
              + directory("modes/sticky/", mode=0o1777) + directory("modes/closed/", mode=0o500)
              + file("modes/closed/file", b"1", mode=0) + directory("modes/setgid-dir/", mode=0o2775, gid=9)
              + directory("modes/setgid-dir/below/") + file("modes/setgid-dir/file", b"1")],
    "nodes": [header("nodes/null", b"3", major=1, minor=3, mode=0o666, uid=5) + header("nodes/disk", b"4", major=7)
              + header("nodes/fifo", b"6", mode=0o640)],
    "xattrs": [pax({b"SCHILY.xattr.user.note": b"kept", b"SCHILY.xattr.security.capability": CAPABILITY})
               + file("xattrs/file", b"1", mode=0o755, uid=3)
               + pax({b"SCHILY.xattr.user.on": b"a directory"}) + directory("xattrs/dir/")],
    "twice": [file("twice/file", b"first") + file("twice/file", b"second", mode=0o600)
              + directory("twice/dir/") + file("twice/dir/file", b"1") + directory("twice/dir/", mode=0o711)
              + symlink("twice/link", "file") + file("twice/link", b"no link any more")],
    "kinds": [file("kinds/to-dir", b"1") + directory("kinds/to-file/") + file("kinds/to-file/below", b"1")
              + symlink("kinds/to-node", "nowhere") + header("kinds/to-link", b"6"),
              directory("kinds/to-dir/") + file("kinds/to-dir/in", b"2") + file("kinds/to-file", b"2")
              + header("kinds/to-node", b"3", major=1, minor=5) + symlink("kinds/to-link", "to-dir")],
    "whiteouts": [directory("whiteouts/a/") + file("whiteouts/a/gone", b"1") + file("whiteouts/a/stays", b"1")
                  + directory("whiteouts/b/") + file("whiteouts/b/old", b"1") + directory("whiteouts/c/")
                  + file("whiteouts/c/old", b"1") + file("whiteouts/.dot", b"1"),
                  directory("whiteouts/a/", mtime=5) + file("whiteouts/a/.wh.gone") + file("whiteouts/.wh.b")
                  + directory("whiteouts/c/") + file("whiteouts/c/.wh..wh..opq") + file("whiteouts/c/new", b"2")
                  + file("whiteouts/..wh.x", b"2")
                  + file("whiteouts/.wh.never-there"),
                  directory("whiteouts/b/", mode=0o700) + file("whiteouts/b/again", b"3")],
    "old": [header("old/regular", b"\0", size=1, magic=b"\0" * 8) + pad(b"1")
            + header("old/directory/", b"\0", mode=0o755, magic=b"\0" * 8)],
    "empty": [b"", b"", b"", b""],
}


def sparse(path: Path) -> bytes:
    """What GNU tar makes of a file with holes: GNU.sparse 1.0 in PAX records."""
    (path / "sparse").mkdir()
    with open(path / "sparse/holes", "wb") as stream:
        for offset in (1 << 20, 5 << 20, 9 << 20):
            stream.seek(offset)
            stream.write(b"data")
        stream.truncate(12 << 20)
    os.utime(path / "sparse/holes", (1, 1))
    run("tar", "--blocking-factor=1", "--sparse", "--format=posix", "--pax-option=delete=atime,delete=ctime",
        "-cf", path / "sparse.tar", "-C", path, "sparse/holes")
    data = (path / "sparse.tar").read_bytes()
    assert b"GNU.sparse.major=1" in data and len(data) < 1 << 20
    return data[:-1024]  # without its end


def make_layout(path: Path, layers: list[bytes]) -> Path:
    """An OCI layout with the image `odd`."""
    layout = path / "layout"
    (layout / "blobs/sha256").mkdir(parents=True)

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        (layout / "blobs/sha256" / name).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{name}", "size": len(data)}

    config = {"architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux", "config": {},
              "rootfs": {"type": "layers",
                         "diff_ids": ["sha256:" + hashlib.sha256(each).hexdigest() for each in layers]}}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": blob(json.dumps(config).encode(), "config.v1+json"),
                "layers": [blob(gzip.compress(each, 1, mtime=0), "layer.v1.tar+gzip") for each in layers]}
    named = {**blob(json.dumps(manifest).encode(), "manifest.v1+json"),
             "annotations": {"org.opencontainers.image.ref.name": "odd"}}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return layout


def make_layers(path: Path, but: tuple[str, ...] = ()) -> list[bytes]:
    """All cases in one image, but for those."""
    cases = {name: steps for name, steps in CASES.items() if name not in but}
    layers = [[directory(f"{name}/", mtime=1000) for name in cases] + [directory("sparse/", mtime=1000), sparse(path)]]
    layers += [[] for _ in range(max(map(len, cases.values())) - 1)]
    for name, steps in cases.items():
        for number, step in enumerate(steps):
            layers[number].append(step)
            if number:  # a directory that something was put into has the time of its entry, if there is one
                layers[number].append(directory(f"{name}/", mtime=2000 + number))
    return [archive(*members) for members in layers]


def test_as_umoci_does(images: Images, tmp_path: Path) -> None:
    """Content, owners, modes, times, links, nodes, xattrs."""
    layout = make_layout(tmp_path, make_layers(tmp_path))
    run("skopeo", "copy", f"oci:{layout}:odd", f"oci-archive:{tmp_path}/odd.tar:odd:1")
    images.ok("load", "-i", tmp_path / "odd.tar")
    images.ok("unpack", "odd:1", tmp_path / "ours")
    ours = tree(tmp_path / "ours/rootfs")
    assert {path.partition("/")[0] for path in ours} == {*CASES, "sparse"} and len(ours) > 75
    run("umoci", "unpack", "--image", f"{layout}:odd", tmp_path / "umoci")
    assert differences(ours, tree(tmp_path / "umoci/rootfs")) == {}


def test_as_podman_does(registry: Registry, images: Images, tmp_path: Path) -> None:
    """The same, as layers that overlayfs merges; podman takes no path twice in a layer, nor a link to a lower one."""
    layout = make_layout(tmp_path, make_layers(tmp_path, but=("twice", "links-below")))
    name = f"{registry.host}/test/odd:1"
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:odd", f"docker://{name}")
    images.ok("unpack", "--backend", "overlay", name, tmp_path / "ours")
    try:
        ours = tree(tmp_path / "ours/rootfs")
    finally:
        images.ok("umount", "--rm", tmp_path / "ours")
    assert len(ours) > 70
    podman = registries.Podman()
    try:
        podman("pull", "--tls-verify=false", name)
        assert differences(ours, tree(Path(podman("image", "mount", name).stdout.strip()))) == {}
    finally:
        podman.close()
