# SPDX-License-Identifier: Apache-2.0
"""Pulling from a real registry: the store is what other tools read, and what they unpack is what pyrunc unpacks."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import registries
from registries import Images, Registry, run
from support import wait_for

from pyrunc.errors import ImageError
from pyrunc.registry.auth import find, readable_paths


def tree(root: Path) -> dict[str, tuple[Any, ...]]:
    """All that an image says of files, by path: what mtree(5) would compare, times to the nanosecond, xattrs too."""
    found: dict[str, tuple[Any, ...]] = {}
    links: dict[int, list[str]] = {}
    for directory, names, files in os.walk(os.fsencode(root)):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            content: Any = ""
            if stat.S_ISREG(info.st_mode):
                with open(path, "rb") as stream:
                    content = hashlib.sha256(stream.read()).hexdigest()
                links.setdefault(info.st_ino, []).append(os.fsdecode(path))
            elif stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode):
                content = info.st_rdev
            xattrs = sorted((key, os.getxattr(path, key, follow_symlinks=False))
                            for key in os.listxattr(path, follow_symlinks=False)
                            if not key.startswith("trusted.overlay.") and key != "security.selinux")
            shown = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            found[shown] = (stat.filemode(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, content, xattrs)
    for group in links.values():
        for path in group if len(group) > 1 else []:
            shown = os.path.relpath(path, root)
            found[shown] = (*found[shown], sorted(os.path.relpath(other, root) for other in group))
    return found


def differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {path: (first.get(path), second.get(path)) for path in sorted({*first, *second})
            if first.get(path) != second.get(path)}


def test_pull_and_list(registry: Registry, images: Images, layout: Path) -> None:
    """The digest printed is that of the manifest; the store has its blobs and no others, verified."""
    name = f"{registry.host}/test/bb:1"
    raw = run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}").stdout
    digest = "sha256:" + hashlib.sha256(raw.encode()).hexdigest()
    assert images.ok("pull", name) == digest + "\n"
    manifest = json.loads(raw)
    assert images.blobs() == {digest, manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])}
    for blob in images.blobs():
        path = images.layout / "blobs" / blob.replace(":", "/")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    listed = json.loads(images.ok("ls", "--format", "json"))
    identity = manifest["config"]["digest"]
    assert [(item["name"], item["digest"], item["id"]) for item in listed] == [(name, digest, identity)]
    assert images.leftovers() == [] and images.unreachable() == set()
    for path in (images.store, images.store / "layers", images.layout):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_other_tools_read_the_store(registry: Registry, images: Images, tmp_path: Path) -> None:
    """image-layout.md: skopeo and umoci take it for the layout that it is."""
    name = f"{registry.host}/test/bb:1"
    images.ok("pull", name)
    run("skopeo", "copy", f"oci:{images.layout}:{name}", f"oci:{tmp_path}/copy:x")
    images.ok("tag", name, "plain:t")
    run("umoci", "unpack", "--image", f"{tmp_path}/copy:x", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/bin/busybox").exists()


@pytest.mark.parametrize("backend", ["copy", "overlay"])
def test_unpacked_as_umoci_and_podman_do(registry: Registry, images: Images, layout: Path, tmp_path: Path,
                                         backend: str) -> None:
    """Byte for byte and attribute for attribute, with whiteouts, an opaque directory, links, devices, xattrs, times."""
    name = f"{registry.host}/test/bb:1"
    images.ok("pull", name)
    bundle = tmp_path / "ours"
    images.ok("unpack", "--backend", backend, name, bundle)
    try:
        ours = tree(bundle / "rootfs")
    finally:
        if backend == "overlay":
            images.ok("umount", "--rm", bundle)
    run("umoci", "unpack", "--image", f"{layout}:bb", tmp_path / "umoci")
    theirs = tree(tmp_path / "umoci/rootfs")
    assert len(theirs) > 30 and "var/old" not in theirs
    assert differences(ours, theirs) == {}
    podman = registries.Podman()
    try:
        podman("pull", "--tls-verify=false", name)
        mounted = podman("image", "mount", name).stdout.strip()
        found = tree(Path(mounted))
        # No layer describes /var once something in it is removed: podman gives it the time of the pull.
        assert found.pop("var")[:3] == ours.pop("var")[:3]
        assert differences(ours, found) == {}
    finally:
        podman.close()


def test_debian_in_many_layers(registry: Registry, images: Images, request: pytest.FixtureRequest, tmp_path: Path,
                               long: bool) -> None:
    """A Debian minbase in twelve layers that add, change and remove: as umoci and podman have it."""
    if not long:
        pytest.skip("--long")
    debian = request.getfixturevalue("debian")
    layout, name = tmp_path / "layout", f"{registry.host}/test/debian:1"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", f"{layout}:deb")
    run("umoci", "unpack", "--image", f"{layout}:deb", tmp_path / "work")
    root = tmp_path / "work/rootfs"
    steps = [f"cp -a {debian}/. .", "rm -rf usr/share/doc usr/share/man", "setcap cap_net_raw=ep usr/bin/perl",
             "mv usr/share/locale usr/share/l2", "ln usr/bin/bash usr/bin/bash2; chown 7:8 etc/hostname",
             "rm -rf var/lib/dpkg/info; mkdir -m 750 var/lib/dpkg/info; echo 1 >var/lib/dpkg/info/x",
             "rm etc/motd; mkdir -p etc/motd; touch etc/motd/y", "truncate -s 50M sparse; mkfifo fifo",
             "for i in $(seq 500); do echo $i >srv/$i; done", "rm srv/[1-4]*; chmod 1777 srv", "rm -rf usr/share/l2",
             f"""{sys.executable} -c 'import os; os.setxattr("usr/bin/id", "user.x", b"y")'
                     touch -d @1.123456789 usr/bin/id"""]
    for step in steps:
        run("sh", "-ec", step, cwd=root)
        run("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:deb", tmp_path / "work")
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:deb", f"docker://{name}")
    images.ok("pull", name)
    assert len(json.loads(images.ok("inspect", name))["layers"]) == len(steps)
    images.ok("unpack", name, tmp_path / "copy")
    images.ok("unpack", "--backend", "overlay", name, tmp_path / "overlay")
    try:
        ours = tree(tmp_path / "copy/rootfs")
        assert differences(ours, tree(tmp_path / "overlay/rootfs")) == {}
    finally:
        images.ok("umount", "--rm", tmp_path / "overlay")
    run("umoci", "unpack", "--image", f"{layout}:deb", tmp_path / "umoci")
    assert differences(ours, tree(tmp_path / "umoci/rootfs")) == {}
    started = time.time_ns()
    podman = registries.Podman()
    try:
        podman("pull", "--tls-verify=false", name)
        # But for the times of directories that a layer only removes from: podman gives them that of the pull.
        left = {path: pair for path, pair in
                differences(ours, tree(Path(podman("image", "mount", name).stdout.strip()))).items()
                if None in pair or pair[0][0][0] != "d" or pair[1][3] < started or
                (*pair[0][:3], *pair[0][4:]) != (*pair[1][:3], *pair[1][4:])}
        assert left == {}
    finally:
        podman.close()
    assert len(ours) > 4000


def test_a_second_pull_fetches_nothing(registry: Registry, images: Images) -> None:
    name = f"{registry.host}/test/bb:1"
    images.ok("pull", name)
    before = {path: path.stat().st_mtime_ns for path in images.layout.rglob("*") if path.is_file()}
    images.ok("pull", name)
    after = {path: path.stat().st_mtime_ns for path in images.layout.rglob("*") if path.is_file()}
    before.pop(images.layout / "index.json"), after.pop(images.layout / "index.json")
    assert after == before


def test_no_such_tag_and_no_such_repository(registry: Registry, images: Images) -> None:
    result = images("pull", f"{registry.host}/test/bb:2")
    assert result.code == 1
    assert result.errors == [f"pyrunc: image pull: {registry.host}/test/bb: manifest 2: HTTP 404: manifest unknown: "
                             "manifest unknown (there is no such tag; the nearest are 1)"]
    result = images("pull", f"{registry.host}/test/none:1")
    assert result.code == 1 and "test/none: manifest 1: HTTP 404" in result.err
    assert images.blobs() == set() and images.leftovers() == []


def test_several_processes_at_once(registry: Registry, images: Images) -> None:
    """Locks: each ends with the image, what is fetched is fetched once, nothing is left over."""
    name = f"{registry.host}/test/bb:1"
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: images("pull", "--quiet", name), range(4)))
    assert [(result.code, result.err) for result in results] == [(0, "")] * 4
    assert len({result.out for result in results}) == 1
    assert images.leftovers() == [] and images.unreachable() == set()


def test_a_pull_that_waits_for_a_layer_holds_none_above_it(registry: Registry, images: Images) -> None:
    """Of two pulls at once neither may hold a layer that the other waits for, while it waits itself."""
    name = f"{registry.host}/test/bb:1"
    images.ok("pull", name)
    chain = sorted(path.name for path in (images.store / "layers").iterdir())
    base = json.loads(images.ok("inspect", "--config", name))["rootfs"]["diff_ids"][0].partition(":")[2]
    assert base in chain and len(chain) > 2
    run("rm", "-rf", images.store)
    images.ok("ls")  # makes the store
    held = images.store / "layers" / f"new-{base}"
    held.mkdir()
    lock = os.open(held, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    process = subprocess.Popen(images.command("pull", "--quiet", name), env=images.environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        def waits() -> bool:
            assert process.poll() is None, process.communicate()
            return str(held) in subprocess.run(["find", f"/proc/{process.pid}/fd", "-printf", "%l\n"],
                                               capture_output=True, text=True).stdout.splitlines()

        wait_for(waits, "the pull waits for the lowest layer")
        time.sleep(0.5)  # for what it shouldn't do meanwhile
        assert images.leftovers() == [f"new-{base}"]
        os.close(lock)
        assert process.wait(60) == 0, process.communicate()
    finally:
        process.kill()
        process.communicate()
    assert sorted(path.name for path in (images.store / "layers").iterdir()) == chain


def test_a_pull_killed_anywhere_goes_on(registry: Registry, images: Images, layout: Path, tmp_path: Path,
                                        long: bool) -> None:
    """SIGKILL at random points: the next pull ends verified, with nothing orphaned."""
    name = f"{registry.host}/test/big:1"
    big = tmp_path / "big"
    big.mkdir()
    for number in range(4):
        (big / f"f{number}").write_bytes(random.Random(number).randbytes(4 << 20))
    run("cp", "-a", layout, tmp_path / "layout")
    for number in range(3):
        run("umoci", "insert", "--image", f"{tmp_path}/layout:bb", big / f"f{number}", f"/big{number}")
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:bb", f"docker://{name}")
    started = time.monotonic()
    images.ok("pull", name)
    whole = time.monotonic() - started
    expected = images.blobs()
    generator = random.Random(7)
    partial = 0
    for round_number in range(50 if long else 6):
        run("rm", "-rf", images.store)
        process = subprocess.Popen(images.command("pull", "--quiet", name), env=images.environment,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(whole * generator.uniform(0.1, 0.95))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        partial += bool(images.store.exists() and (images.store / "partial").exists() and images.leftovers())
        images.ok("pull", "--quiet", name)
        assert images.blobs() == expected, round_number
        assert images.leftovers() == [] and images.unreachable() == set()
        for blob in expected:
            path = images.layout / "blobs" / blob.replace(":", "/")
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        images.ok("unpack", name, tmp_path / f"b{round_number}")
        run("rm", "-rf", tmp_path / f"b{round_number}")
    assert partial or not long, "it was never killed in the middle"


def test_a_damaged_partial_download_is_begun_anew(registry: Registry, images: Images) -> None:
    name = f"{registry.host}/test/bb:1"
    images.ok("pull", name)
    layer = json.loads(images.ok("inspect", name))["layers"][0]["digest"]
    run("rm", "-rf", images.store / "layers", images.layout / "blobs" / layer.replace(":", "/"))
    (images.store / "partial" / layer.replace(":", "-")).write_bytes(b"\0" * 1000)
    images.ok("pull", name)
    path = images.layout / "blobs" / layer.replace(":", "/")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert images.leftovers() == []


def test_a_damaged_blob_is_found(registry: Registry, images: Images, tmp_path: Path) -> None:
    """What is in the store is verified when it is read."""
    name = f"{registry.host}/test/bb:1"
    images.ok("pull", "--no-unpack", name)
    layer = json.loads(images.ok("inspect", name))["layers"][0]["digest"]
    path = images.layout / "blobs" / layer.replace(":", "/")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    result = images("unpack", name, tmp_path / "bundle")
    assert result.code == 1 and layer in result.err
    assert not (tmp_path / "bundle").exists()
    # The control: repaired, it unpacks.
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    images.ok("unpack", name, tmp_path / "bundle")


def test_rm_and_prune(registry: Registry, images: Images, tmp_path: Path) -> None:
    """Names count the references: blobs and layers go with the last one, and not while a bundle is made of them."""
    name = f"{registry.host}/test/bb:1"
    images.ok("pull", name)
    images.ok("tag", name, "other:x")
    assert images.ok("rm", name) == f"untagged: {name}\n"
    assert len(images.blobs()) == 6
    bundle = tmp_path / "bundle"
    images.ok("unpack", "--backend", "overlay", "other:x", bundle)
    result = images("rm", "other:x")
    assert result.code == 1 and f"in use by {bundle}" in result.err
    images.ok("rm", "--force", "other:x")
    assert len(os.listdir(images.store / "layers")) == 4 and (bundle / "rootfs/bin/busybox").exists()
    images.ok("umount", "--rm", bundle)
    assert images.ok("prune").startswith("removed 6 blobs, 4 unpacked layers")
    assert images.blobs() == set() and os.listdir(images.store / "layers") == []


def test_prune_waits_for_who_adds(registry: Registry, images: Images) -> None:
    """Nothing that a pull has fetched is removed before it has its name."""
    from pyrunc.registry.store import Store

    store = Store(str(images.store))
    with store.adding():
        process = subprocess.Popen(images.command("prune"), env=images.environment, stdout=subprocess.PIPE, text=True)
        store.add(b"{}", "application/json")
        time.sleep(0.5)
        assert process.poll() is None and len(images.blobs()) == 1
    wait_for(lambda: process.poll() is not None, "prune")
    assert process.communicate()[0].startswith("removed 1 blobs")


def test_an_index_of_several_platforms(registry: Registry, images: Images, layout: Path, tmp_path: Path) -> None:
    """The image for this machine, another one when asked for, or all of them."""
    name = f"{registry.host}/test/multi"
    run("cp", "-a", layout, tmp_path / "layout")
    run("umoci", "config", "--image", f"{tmp_path}/layout:bb", "--tag", "s390x", "--architecture", "s390x")
    index = json.loads((tmp_path / "layout/index.json").read_text())
    manifests = []
    for entry in index["manifests"]:
        blob = json.loads((tmp_path / "layout/blobs" / entry["digest"].replace(":", "/")).read_text())
        config = json.loads((tmp_path / "layout/blobs" / blob["config"]["digest"].replace(":", "/")).read_text())
        manifests.append({"mediaType": entry["mediaType"], "digest": entry["digest"], "size": entry["size"],
                          "platform": {"os": "linux", "architecture": config["architecture"]}})
    document = json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                           "manifests": manifests}).encode()
    digest = hashlib.sha256(document).hexdigest()
    (tmp_path / "layout/blobs/sha256" / digest).write_bytes(document)
    (tmp_path / "layout/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": f"sha256:{digest}", "size": len(document),
        "annotations": {"org.opencontainers.image.ref.name": "multi"}}]}))
    run("skopeo", "copy", "--all", "--dest-tls-verify=false", f"oci:{tmp_path}/layout:multi", f"docker://{name}:1")
    images.ok("pull", f"{name}:1")
    found = json.loads(images.ok("inspect", f"{name}:1"))
    assert found["platform"] != "linux/s390x" and found["indexDigest"] == f"sha256:{digest}"
    assert images("pull", f"{name}@sha256:{digest}").code == 0
    assert json.loads(images.ok("inspect", f"{name}@sha256:{digest}"))["digest"] == found["digest"]
    result = images("pull", "--platform", "linux/s390x", f"{name}:1")
    assert result.code == 0 and "an image for linux/s390x" not in result.err
    assert json.loads(images.ok("inspect", f"{name}:1"))["platform"] == "linux/s390x"
    result = images("pull", "--platform", "linux/riscv64", f"{name}:1")
    assert result.code == 1 and "no image for linux/riscv64 (there are linux/" in result.err
    assert images.ok("pull", "--all-platforms", f"{name}:1") == f"sha256:{digest}\n"
    assert images.unreachable() == set()
    assert {f"sha256:{digest}", *(item["digest"] for item in manifests)} <= images.blobs()


def test_login_htpasswd(images: Images, layout: Path, tmp_path: Path) -> None:
    """Basic authentication: refused without or with a wrong password; after login it works, for skopeo too; logout."""
    auth = registries.htpasswd(tmp_path / "htpasswd", "alice", "pass:word")
    with registries.serving(tmp_path / "registry", auth=auth) as served:
        name = f"{served.host}/test/bb:1"
        run("skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "alice:pass:word", f"oci:{layout}:bb",
            f"docker://{name}")
        result = images("pull", name)
        assert result.code == 1
        assert f"HTTP 401: unauthorized: authentication required (not logged in: `pyrunc image login {served.host}`)" \
            in result.err
        result = images("login", "-u", "alice", "--password-stdin", served.host, stdin="wrong\n")
        assert result.code == 1 and "the user or the password is wrong: HTTP 401" in result.err
        assert not (images.home / ".docker/config.json").exists()
        images.ok("login", "-u", "alice", "--password-stdin", served.host, stdin="pass:word\n")
        kept = images.home / ".docker/config.json"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        images.ok("pull", name)
        run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}",
            env={**os.environ, "REGISTRY_AUTH_FILE": str(kept)})
        images.ok("logout", served.host)
        result = images("pull", name)
        assert result.code == 1 and "not logged in" in result.err
        assert images("pull", "--creds", "alice:pass:word", name).code == 0
        assert json.loads(kept.read_text())["auths"] == {}


def test_a_credential_helper(images: Images, layout: Path, tmp_path: Path) -> None:
    """docker-credential-helpers: get, store and erase go to the program that config.json names."""
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    helper.write_text(f'#!/bin/sh\necho "$1" >>{tmp_path}/calls\ncase $1 in\nget) cat {tmp_path}/secret 2>/dev/null || '
                      f'{{ echo "credentials not found in native keychain"; exit 1; }} ;;\n'
                      f'store) cat >{tmp_path}/secret ;;\nerase) rm -f {tmp_path}/secret ;;\nesac\n')
    helper.chmod(0o755)
    auth = registries.htpasswd(tmp_path / "htpasswd", "alice", "secret")
    (images.home / ".docker").mkdir()
    (images.home / ".docker/config.json").write_text('{"credsStore": "test"}')
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    with registries.serving(tmp_path / "registry", auth=auth) as served:
        run("skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "alice:secret", f"oci:{layout}:bb",
            f"docker://{served.host}/test/bb:1")
        assert images("pull", f"{served.host}/test/bb:1", PATH=path).code == 1
        images.ok("login", "-u", "alice", "--password-stdin", served.host, stdin="secret", PATH=path)
        assert "secret" not in (images.home / ".docker/config.json").read_text()
        images.ok("pull", f"{served.host}/test/bb:1", PATH=path)
        images.ok("logout", served.host, PATH=path)
        assert not (tmp_path / "secret").exists()
    assert {"get", "store", "erase"} == set((tmp_path / "calls").read_text().split())


def test_where_credentials_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In docker's file and in podman's, root's as well, as people's scripts write them."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert readable_paths() == [f"{tmp_path}/.docker/config.json", f"/run/containers/{os.geteuid()}/auth.json",
                                f"{tmp_path}/.config/containers/auth.json"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    assert readable_paths()[1] == f"{tmp_path}/run/containers/auth.json"
    wrapped = base64.encodebytes(b"alice:" + b"secret" * 20).decode()
    assert wrapped.count("\n") > 1
    for path, content in ((".config/containers/auth.json", {"auths": {"here.example": {"auth": wrapped}}}),
                          (".docker/config.json", {"credsStore": "none-such",
                                                   "auths": {"http://there.example/": {"auth": "Ym9iOng="}}})):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(json.dumps(content))
    here, there = find("here.example"), find("there.example")
    assert here is not None and (here.username, here.password) == ("alice", "secret" * 20)
    assert there is not None and there.username == "bob" and find("nowhere.example") is None
    (tmp_path / ".docker/config.json").write_text(json.dumps({"credHelpers": {"there.example": "none-such"}}))
    with pytest.raises(ImageError, match="docker-credential-none-such is not installed"):
        find("there.example")


def test_tokens(images: Images, layout: Path, tmp_path: Path) -> None:
    """Bearer tokens: anonymous for what is public, with credentials for the rest, new ones when they have run out."""
    server = registries.TokenServer(tmp_path / "tokens", "alice", "secret", lifetime=60)
    try:
        with registries.serving(tmp_path / "registry", auth=server.auth()) as served:
            for repository in ("public/bb", "private/bb"):
                run("skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "alice:secret", f"oci:{layout}:bb",
                    f"docker://{served.host}/{repository}:1")
            server.requests.clear()
            images.ok("pull", f"{served.host}/public/bb:1")
            assert [request["authorization"] for request in server.requests] == [""]
            assert server.requests[0]["query"]["scope"] == ["repository:public/bb:pull"]
            result = images("pull", f"{served.host}/private/bb:1")
            assert result.code == 1 and "HTTP 401" in result.err and "login" in result.err
            assert images("login", "-u", "alice", "-p", "wrong", served.host).code == 1
            images.ok("login", "-u", "alice", "-p", "secret", served.host)
            images.ok("pull", f"{served.host}/private/bb:1")
            server.lifetime = 1
            images.ok("pull", f"{served.host}/private/bb:1")
            kept = images.home / ".docker/config.json"
            for identity, code in ((server.identity, 0), ("another", 1)):
                kept.write_text(json.dumps({"auths": {served.host: {"identitytoken": identity}}}))
                server.requests.clear()
                result = images("pull", f"{served.host}/private/bb:1")
                assert result.code == code and (code == 0 or "HTTP 401" in result.err), result
                assert [request["query"]["refresh_token"] for request in server.requests][:1] == [[identity]]
    finally:
        server.stop()


def test_tls_with_an_authority_of_its_own(images: Images, layout: Path, tmp_path: Path) -> None:
    """Refused without its certificate, with a remedy; taken with it, or when told not to verify."""
    ca = registries.authority(tmp_path / "ca")
    with registries.serving(tmp_path / "registry", tls=registries.certificate(tmp_path, ca)) as served:
        name = f"{served.host}/test/bb:1"
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:bb", f"docker://{name}")
        result = images("pull", name)
        assert result.code == 1 and "certificate verify failed" in result.err.lower()
        assert f"/etc/containers/certs.d/{served.host}/ca.crt" in result.err
        images.ok("pull", "--tls-verify=false", name)
        images.ok("rm", name)
        # certs.d lies in /etc: OpenSSL's own variable stands for the system's authorities.
        images.ok("pull", name, SSL_CERT_FILE=str(ca[0]))


def test_mirrors(registry: Registry, images: Images) -> None:
    """registries.conf: mirrors are asked first, in their order, then the registry; `blocked` blocks."""
    mirrored = "unreachable.invalid/some/bb:1"
    (images.path / "registries.conf").write_text(f"""
[[registry]]
prefix = "unreachable.invalid/some"
location = "unreachable.invalid/some"
[[registry.mirror]]
location = "127.0.0.1:1/nowhere"
insecure = true
[[registry.mirror]]
location = "{registry.host}/test"
[[registry]]
prefix = "blocked.invalid"
blocked = true
""")
    images.ok("pull", mirrored)
    assert json.loads(images.ok("ls", "--format", "json"))[0]["name"] == mirrored
    result = images("pull", "unreachable.invalid/other/bb:1")
    assert result.code == 1 and result.err.startswith("pyrunc: image pull: unreachable.invalid/other/bb: ")
    result = images("pull", "blocked.invalid/x")
    assert result.code == 1 and "blocked by" in result.err


def test_through_a_proxy(registry: Registry, images: Images, layout: Path, tmp_path: Path) -> None:
    """HTTP_PROXY and HTTPS_PROXY, with a password that the registry never sees; what is on this machine is near."""
    proxy = registries.Proxy("alice", "s/ecret")
    address = f"http://alice:s%2Fecret@{proxy.address}"
    host = f"registry.test:{registry.port}"
    name = f"{host}/test/bb:1"
    (images.path / "registries.conf").write_text(f"[[registry]]\nlocation = '{host}'\ninsecure = true\n")
    try:
        images.ok("pull", name, http_proxy=address, https_proxy=address)
        targets = [line for line in proxy.requests if f"http://{host}/v2/test/bb/" in line]
        assert len([line for line in targets if "/blobs/" in line]) >= 4
        assert proxy.forwarded and not [each for each in proxy.forwarded if "Authorization" in each]
        images.ok("rm", name)
        proxy.requests.clear()
        images.ok("pull", f"{registry.host}/test/bb:1", http_proxy=address, https_proxy=address)
        assert proxy.requests == []
        images.ok("rm", f"{registry.host}/test/bb:1")
        wrong = f"http://alice:wrong@{proxy.address}"
        result = images("pull", name, http_proxy=wrong, https_proxy=wrong)
        assert result.code == 1 and "407" in result.err and "wrong" not in result.err, result
        result = images("pull", name, http_proxy="socks5://alice:wrong@127.0.0.1:1", https_proxy=address)
        assert result.code == 1 and "the proxy 'socks5://127.0.0.1:1'" in result.err and "HTTP_PROXY" in result.err
        gone = "http://alice:wrong@127.0.0.1:1"
        result = images("pull", name, http_proxy=gone, https_proxy=gone)
        assert result.code == 1 and "refused (ECONNREFUSED) (by the proxy http://127.0.0.1:1; NO_PROXY" in result.err
        ca = registries.authority(tmp_path / "ca")
        with registries.serving(tmp_path / "tls", tls=registries.certificate(tmp_path, ca)) as served:
            run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:bb", f"docker://{served.host}/test/bb:1")
            proxy.requests.clear()
            images.ok("pull", f"registry.test:{served.port}/test/bb:1", https_proxy=address, SSL_CERT_FILE=str(ca[0]))
            assert {*proxy.requests} == {f"CONNECT registry.test:{served.port}"}
    finally:
        proxy.stop()
