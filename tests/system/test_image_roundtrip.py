# SPDX-License-Identifier: Apache-2.0
"""From a registry to a container, and what it changed back to the registry, for others to run."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import registries
from ordinary import FIRST, UID, User
from registries import Images, Registry, run
from support import BUSYBOX, PYRUNC, wait_for, without_hybrid

RUNTIMES = ("pyrunc", "runc", "crun")


@pytest.fixture
def name(registry: Registry, images: Images) -> str:
    """The image, in the store."""
    text = f"{registry.host}/test/bb:1"
    images.ok("pull", text)
    return text


def pyrunc(images: Images, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PYRUNC, "--root", images.path / "state", *words], capture_output=True, text=True, timeout=60)


def run_bundle(runtime: str, bundle: Path, script: str, state: Path) -> subprocess.CompletedProcess[str]:
    """The bundle's container under the runtime, with `script` as its program."""
    config = json.loads((bundle / "config.json").read_text())
    config["process"]["args"] = ["sh", "-c", script]
    config["ociVersion"] = "1.0.2"  # crun 1.8 knows no later one
    (bundle / "config.json").write_text(json.dumps(config))
    path = PYRUNC if runtime == "pyrunc" else runtime
    words = [path, "--root", state, "run", "--bundle", bundle, f"t{os.getpid()}"]
    return subprocess.run(without_hybrid(words) if runtime == "crun" else words, capture_output=True, text=True,
                          timeout=60, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(("runtime", "backend"), [(runtime, backend) for backend in ("copy", "overlay")
                                                  for runtime in RUNTIMES])
def test_round_trip(registry: Registry, images: Images, name: str, tmp_path: Path, runtime: str, backend: str,
                    long: bool) -> None:
    """pull, unpack, run under each runtime, diff, commit, push; skopeo finds it and a new container has the changes."""
    if not long and (runtime, backend) in (("pyrunc", "copy"), ("runc", "overlay")):
        pytest.skip("--long: each runtime and each backend has had its turn")
    bundle = tmp_path / "bundle"
    images.ok("unpack", "--backend", backend, name, bundle)
    try:
        done = run_bundle(runtime, bundle, "echo changed >/etc/new; rm /opt/suid; echo more >>/etc/passwd; "
                                           "mkdir -m 700 /srv; chmod 751 /home; pwd", tmp_path / "state")
        assert (done.returncode, done.stdout) == (0, "/data\n"), done.stderr
        diff = set(images.ok("diff", bundle).splitlines())
        expected = {"A /etc/new", "D /opt/suid", "C /etc/passwd", "A /srv", "C /home"}
        assert expected <= diff <= {*expected, "C /etc", "C /opt"}
        new = f"{registry.host}/test/{runtime}-{backend}:2"
        digest = images.ok("commit", "--message", "by a test", bundle, new).strip()
        assert images.ok("push", new).strip() == digest
        assert registry.blobs() >= {layer["digest"] for layer in json.loads(images.ok("inspect", new))["layers"]}
    finally:
        if backend == "overlay":
            images.ok("umount", "--rm", bundle)
    found = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{new}").stdout)
    assert found["Digest"] == digest and len(found["Layers"]) == 5
    fresh = Images(tmp_path / "fresh")
    out = fresh.ok("run", "--rm", "--quiet", new, "sh", "-c",
                   "cat /etc/new; tail -n1 /etc/passwd || cat /etc/passwd; ls /opt; stat -c %a /srv /home")
    assert out.splitlines()[0] == "changed" and "suid" not in out and out.endswith("700\n751\n") and "more" in out


def test_podman_runs_what_was_committed(registry: Registry, images: Images, name: str, tmp_path: Path) -> None:
    images.ok("run", "--name", "work", name, "sh", "-c", "echo from pyrunc >/etc/new")
    new = f"{registry.host}/test/podman:2"
    images.ok("commit", "--cmd", "cat", "--cmd", "/etc/new", "--label", "a=b", "work", new)
    images.ok("push", new)
    assert pyrunc(images, "delete", "work").returncode == 0
    podman = registries.Podman()
    try:
        podman("pull", "--tls-verify=false", new)
        inspected = json.loads(podman("image", "inspect", new).stdout)[0]
        assert inspected["Config"]["Cmd"] == ["cat", "/etc/new"] and inspected["Labels"]["a"] == "b"
        mounted = Path(podman("image", "mount", new).stdout.strip())
        assert (mounted / "etc/new").read_text() == "from pyrunc\n"
    finally:
        podman.close()


def test_the_configuration_is_the_images(images: Images, name: str, tmp_path: Path) -> None:
    """conversion.md: verbatim fields, annotations, the user; options say otherwise."""
    images.ok("unpack", name, tmp_path / "bundle")
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    process = config["process"]
    assert process["args"] == ["sh", "-c", "echo hello from $NAME"] and process["cwd"] == "/data"
    assert process["env"] == ["NAME=busybox", "PATH=/bin"]
    assert process["user"] == {"uid": 0, "gid": 0, "additionalGids": [0]}
    annotations = config["annotations"]
    assert annotations["org.example.note"] == "a label"
    assert annotations["org.opencontainers.image.stopSignal"] == "SIGQUIT"
    assert annotations["org.opencontainers.image.exposedPorts"] == "80/tcp"
    assert annotations["org.opencontainers.image.author"] == "the tests"
    assert annotations["org.opencontainers.image.os"] == "linux" and annotations["org.opencontainers.image.created"]
    volume = next(mount for mount in config["mounts"] if mount["destination"] == "/data/deep")
    assert (tmp_path / "bundle" / volume["source"] / "seed").read_text() == "seed"
    images.ok("unpack", "-e", "NAME=other", "-e", "MORE=1", "-u", "alice", "-w", "/srv/new", "-m", "64m", "--cmd",
              "id", "--hostname", "h", "--read-only", "--cap-drop", "ALL", "--cap-add", "chown", "-t", name,
              tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    process = config["process"]
    assert process["args"] == ["id"] and process["cwd"] == "/srv/new" and process["terminal"] is True
    assert process["env"] == ["NAME=other", "PATH=/bin", "MORE=1", "TERM=xterm"]
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [10, 44, 1001]}
    assert config["linux"]["resources"]["memory"] == {"limit": 64 << 20}
    assert config["hostname"] == "h" and config["root"]["readonly"] is True
    assert process["capabilities"] == {"bounding": ["CAP_CHOWN"], "effective": [], "permitted": []}
    assert (tmp_path / "other/rootfs/srv/new").is_dir()


@pytest.mark.parametrize(("user", "expected"), [
    ("alice", (1000, 1001, [10, 44, 1001])), ("alice:video", (1000, 44, [44])), ("alice:7", (1000, 7, [7])),
    ("1000", (1000, 1001, [10, 44, 1001])), ("1000:10", (1000, 10, [10])), ("4294967294", (4294967294, 0, [0])),
    ("5", (5, 0, [0])), ("5:wheel", (5, 10, [10])),
    ("0", (0, 0, [0])),
])
def test_users(images: Images, name: str, tmp_path: Path, user: str, expected: tuple[int, int, list[int]]) -> None:
    """With their groups, and the first among them (CVE-2022-36109); a number is itself (CVE-2016-3697)."""
    images.ok("unpack", "-u", user, name, tmp_path / "bundle")
    found = json.loads((tmp_path / "bundle/config.json").read_text())["process"]["user"]
    assert (found["uid"], found["gid"], found.get("additionalGids", [])) == expected


@pytest.mark.parametrize("user", ["nobody-there", "alice:nothing", "4294967295", "4294967296", "99999999999999999999",
                                  "-1", "+1", "01", "1:", ":1", "1:02", "0x1", "1_0", " 1", "\u0661",
                                  "alice:4294967295"])
def test_users_that_are_none(images: Images, name: str, tmp_path: Path, user: str) -> None:
    """CVE-2024-40635, CVE-2026-46680: no number wraps around, and none is looked up as a name."""
    result = images("unpack", f"--user={user}", name, tmp_path / "bundle")
    assert result.code == 1 and len(result.errors) >= 1
    assert not (tmp_path / "bundle").exists()


def test_groups_that_have_no_id(images: Images, name: str, tmp_path: Path) -> None:
    """Those of the user that the user namespace has no id for are left out, or nothing would start."""
    images.ok("unpack", "-u", "alice", "--uid-map", "0:100000:1002", "--gid-map", "0:100000:20", "--gid-map",
              "1001:101001:1", name, tmp_path / "bundle")
    user = json.loads((tmp_path / "bundle/config.json").read_text())["process"]["user"]
    assert user == {"uid": 1000, "gid": 1001, "additionalGids": [10, 1001]}
    assert "uid=1000(alice) gid=1001(alice) groups=10(wheel),44(video),1001(alice)" in images.ok(
        "run", "--rm", "-u", "1000", name, "id")


def test_labels_that_a_runtime_would_obey(images: Images, name: str, tmp_path: Path) -> None:
    """CVE-2026-53488, CVE-2024-3154: left out, and said so; image-spec: feedback is given."""
    labels = ["org.systemd.property.ExecStart=x", "run.oci.handler=krun", "containerd.io/restart.loguri=binary:///x",
              "io.cri-containerd.image=x", "org.criu.config=/x"]
    images.ok("run", "--name", "w", name, "true")
    images.ok("commit", *[f"--label={label}" for label in labels], "--label", "plain=1", "w", "labelled:1")
    assert pyrunc(images, "delete", "w").returncode == 0
    result = images("unpack", "labelled:1", tmp_path / "bundle")
    assert result.code == 0
    annotations = json.loads((tmp_path / "bundle/config.json").read_text())["annotations"]
    assert annotations["plain"] == "1" and not [label for label in labels if label.partition("=")[0] in annotations]
    for label in labels:
        assert f"warning: label {label.partition('=')[0]} left out" in result.err


def test_run(images: Images, name: str, tmp_path: Path) -> None:
    """The command, its exit status, stdin with -i only, variables, volumes, and nothing left with --rm."""
    assert images.ok("run", "--rm", name) == "hello from busybox\n"
    assert images("run", "--rm", name, "sh", "-c", "exit 7").code == 7
    assert images.ok("run", "--rm", name, "cat", stdin="ignored") == ""
    assert images.ok("run", "--rm", "-i", name, "cat", stdin="read") == "read"
    assert images.ok("run", "--rm", "--hostname", "h", name, "sh", "-c", "env | grep ^HOST") == "HOSTNAME=h\n"
    assert images.ok("run", "--rm", "-e", "HOSTNAME=mine", name, "sh", "-c", "env | grep ^HOST") == "HOSTNAME=mine\n"
    for size, limit in (("1.5g", 3 << 29), ("64MB", 64 << 20), ("0", None)):
        images.ok("unpack", "-m", size, name, tmp_path / size)
        resources = json.loads((tmp_path / size / "config.json").read_text())["linux"].get("resources", {})
        assert resources.get("memory", {}).get("limit") == limit
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/file").write_text("the host's\n")
    out = images.ok("run", "--rm", "-e", "A=1", "-w", "/tmp", "-u", "alice", "-v", f"{tmp_path}/shared:/mnt:ro",
                    "--name", "boxed", name, "sh", "-c", "echo $A $HOSTNAME; pwd; id -u; cat /mnt/file; "
                                               "touch /mnt/x || echo no; grep boxed /etc/hosts; hostname")
    assert out.splitlines() == ["1 boxed", "/tmp", "1000", "the host's", "no", "127.0.0.1\tlocalhost boxed", "boxed"]
    assert not (tmp_path / "shared/x").exists()
    assert os.listdir(images.store / "containers") == [] and pyrunc(images, "list", "-q").stdout == ""
    assert os.listdir(images.store / "uses") == []


def test_an_image_without_a_command(images: Images, tmp_path: Path) -> None:
    """Unpacked it gets a shell; run, one has to be given."""
    run("tar", "-C", "/bin", "-cf", tmp_path / "root.tar", "busybox")
    images.ok("import", tmp_path / "root.tar", "bare:1")
    images.ok("unpack", "bare:1", tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle/config.json").read_text())["process"]["args"] == ["sh"]
    result = images("run", "--rm", "bare:1")
    assert result.code == 125 and "the image names no command (give one after the image's name)" in result.err
    assert images.ok("run", "--rm", "bare:1", "/busybox", "echo", "yes") == "yes\n"
    assert os.listdir(images.store / "containers") == []


def test_run_fails_and_leaves_nothing(images: Images, name: str) -> None:
    result = images("run", name, "no-such-program")
    assert result.code == 127 and "no-such-program" in result.err
    for program, code in (("/no/such", 127), ("/etc/passwd", 126), ("/etc", 126), ("/etc/passwd/x", 127)):
        assert images("run", name, program).code == code, program
    result = images("run", "--unlikely", name)
    assert result.err == "pyrunc: image run: unknown option --unlikely\n"
    assert os.listdir(images.store / "containers") == [] and pyrunc(images, "list", "-q").stdout == ""
    result = images("run", "-v", "/nowhere:/x", name, "true")
    assert result.code == 125 and "there is no /nowhere" in result.err
    result = images("run", "--pull", "never", "not/there:1", "true")
    assert result.code == 125 and "no image not/there:1 in the store" in result.err


def test_confined_by_default(images: Images, name: str, tmp_path: Path) -> None:
    """System calls are filtered as docker filters them, unless told otherwise; the kernel says so."""
    def status(*words: str) -> dict[str, str]:
        lines = images.ok("run", "--rm", *words, name, "grep", "-E", "^(Seccomp|NoNewPrivs):", "/proc/self/status")
        return dict(line.split(":\t") for line in lines.splitlines())

    assert status() == {"NoNewPrivs": "0", "Seccomp": "2"}
    assert status("--security-opt", "seccomp=unconfined") == {"NoNewPrivs": "0", "Seccomp": "0"}
    for text in ("no-new-privileges", "no-new-privileges:true"):  # as docker's documentation writes it
        assert status("--security-opt", text)["NoNewPrivs"] == "1"
    for options, code in (([], 1), (["--security-opt", "seccomp=unconfined"], 0)):
        result = images("run", "--rm", *options, name, "busybox", "unshare", "-U", "true")
        assert result.code == code and ("Operation not permitted" in result.err) == bool(code), result
    (tmp_path / "own.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}))
    result = images("run", "--rm", "--security-opt", f"seccomp={tmp_path}/own.json", name, "mkdir", "/new")
    assert result.code == 1 and "/new" in result.err and "not supported" in result.err
    assert images.ok("run", "--rm", name, "mkdir", "/new") == ""
    (tmp_path / "docker.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_SYS_ADMIN"]}}]}))
    for text, why in ((f"seccomp={tmp_path}/docker.json", "docker's conditions"), ("seccomp=/nowhere", "No such file"),
                      ("label=disable", "not known"), ("apparmor=none-such", "none-such")):
        result = images("run", "--rm", "--security-opt", text, name, "true")
        assert result.code == 125 and why in result.err and len(result.errors) == 1, result
    assert os.listdir(images.store / "containers") == []


def test_run_detached(images: Images, name: str) -> None:
    """-d returns its name when it runs; pyrunc's commands take it; deleted, its bundle goes; with --rm by itself."""
    identity = images.ok("run", "-d", name, "sh", "-c", "echo started; sleep 1000").strip()
    assert pyrunc(images, "list", "-q").stdout == f"{identity}\n"
    wait_for(lambda: (images.store / "containers" / identity / "log").read_text() == "started\n", "its output")
    assert pyrunc(images, "exec", identity, "echo", "inside").stdout == "inside\n"
    assert images("run", "--name", identity, name, "true").code == 125
    assert images("rm", name).code == 1
    assert pyrunc(images, "delete", "--force", identity).returncode == 0
    wait_for(lambda: os.listdir(images.store / "containers") == [], "its bundle to go")
    identity = images.ok("run", "-d", "--rm", name, "sleep", "1000").strip()
    assert pyrunc(images, "kill", identity, "KILL").returncode == 0
    wait_for(lambda: os.listdir(images.store / "containers") == [], "its bundle to go")
    wait_for(lambda: pyrunc(images, "list", "-q").stdout == "", "it to be deleted")
    result = images("run", "-d", "--name", "bad", name, "no-such-program")
    assert result.code == 127 and "no-such-program" in result.err and os.listdir(images.store / "containers") == []


def test_a_crash_leaves_what_prune_removes(images: Images, name: str) -> None:
    process = subprocess.Popen(images.command("run", "--name", "crash", name, "sleep", "1000"), env=images.environment,
                               stdin=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: pyrunc(images, "list", "-q").stdout == "crash\n", "the container")
    wait_for(lambda: '"running"' in pyrunc(images, "state", "crash").stdout, "it to run")
    process.kill()
    process.wait()
    images.ok("prune")
    assert os.listdir(images.store / "containers") == ["crash"]  # it runs on
    assert pyrunc(images, "delete", "--force", "crash").returncode == 0
    images.ok("prune")
    assert os.listdir(images.store / "containers") == []


def test_commit_is_reproducible(images: Images, name: str) -> None:
    """SOURCE_DATE_EPOCH: of the same changes the same digest, times clamped; without it another one."""
    digests = []
    for number in range(2):
        images.ok("run", "--name", f"c{number}", name, "sh", "-c",
                  "mkdir /new; echo x >/new/b; echo y >/new/a; rm /opt/fifo")
        digests.append(images.ok("commit", f"c{number}", f"made:{number}", SOURCE_DATE_EPOCH="1700000000"))
        assert pyrunc(images, "delete", f"c{number}").returncode == 0
    assert digests[0] == digests[1]
    found = json.loads(images.ok("inspect", "made:0"))
    assert found["created"] == "2023-11-14T22:13:20Z"
    blob = images.layout / "blobs" / found["layers"][-1]["digest"].replace(":", "/")
    with tarfile.open(blob) as archive:
        members = archive.getmembers()
    assert max(member.mtime for member in members) <= 1700000000
    listed = [member.name for member in members]
    assert listed == ["new", "new/a", "new/b", "opt", "opt/.wh.fifo"]


def test_commit_of_nothing_and_with_zstd(images: Images, name: str) -> None:
    images.ok("run", "--name", "w", name, "true")
    images.ok("commit", "w", "same:1")
    before, after = (json.loads(images.ok("inspect", text)) for text in (name, "same:1"))
    assert after["layers"] == before["layers"] and after["history"][-1]["empty_layer"] is True
    assert pyrunc(images, "delete", "w").returncode == 0
    images.ok("run", "--name", "w", name, "sh", "-c", "echo zstd >/z")
    images.ok("commit", "--compression", "zstd", "w", "zstd:1")
    assert json.loads(images.ok("inspect", "zstd:1"))["layers"][-1]["mediaType"].endswith("+zstd")
    assert pyrunc(images, "delete", "w").returncode == 0
    assert images.ok("run", "--rm", "zstd:1", "cat", "/z") == "zstd\n"


def test_commit_of_what_a_layer_cannot_hold(images: Images, name: str, tmp_path: Path) -> None:
    """Left out, and said so: it would hide something, or no layer could be unpacked with it."""
    images.ok("unpack", name, tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    os.mknod(root / "zero", 0o20666, 0)
    (root / ".wh.etc").write_text("")
    (root / "new").write_text("new")
    result = images("commit", tmp_path / "bundle", "left:1")
    assert result.code == 0 and all(f"/{each} left out" in result.err for each in ("zero", ".wh.etc"))
    images.ok("unpack", "left:1", tmp_path / "again")
    assert (tmp_path / "again/rootfs/new").exists() and (tmp_path / "again/rootfs/etc/passwd").exists()
    assert not (tmp_path / "again/rootfs/zero").exists()


def test_import_and_export(images: Images, name: str, tmp_path: Path) -> None:
    """The root of one container is a tar archive, and an image again: the same files."""
    images.ok("run", "--name", "w", name, "sh", "-c", "echo exported >/file")
    images.ok("export", "-o", tmp_path / "root.tar", "w")
    assert pyrunc(images, "delete", "w").returncode == 0
    for kind, command in (("plain", ["cat"]), ("gz", ["gzip", "-c"]), ("xz", ["xz", "-1c"]), ("bz2", ["bzip2", "-c"])):
        path = tmp_path / f"root.{kind}"
        with open(path, "wb") as file:
            subprocess.run([*command, tmp_path / "root.tar"], stdout=file, check=True)
        images.ok("import", "--cmd", "cat", "--cmd", "/file", "--message", "made by a test", path, f"imported:{kind}")
        assert images.ok("run", "--rm", f"imported:{kind}") == "exported\n"
    assert "made by a test" in images.ok("history", "imported:gz")
    identities = {json.loads(images.ok("inspect", f"imported:{kind}"))["layers"][0]["diffID"]
                  for kind in ("plain", "xz")}
    assert len(identities) == 1
    result = images("import", "/bin/busybox", "bad:1")
    assert result.code == 1 and "not a tar archive" in result.err and images.leftovers() == []


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_save_and_load(images: Images, name: str, tmp_path: Path, form: str) -> None:
    """What is saved is read by skopeo, and loaded again; and what skopeo writes is loaded too."""
    images.ok("tag", name, "second:x")
    path = tmp_path / "saved.tar"
    images.ok("save", "--format", form, "-o", path, name, "second:x")
    other = Images(tmp_path / "other")
    out = other.ok("load", path)
    assert [line.split()[1] for line in out.splitlines()] == [name, "docker.io/library/second:x"]
    first, second = json.loads(images.ok("inspect", name)), json.loads(other.ok("inspect", name))
    assert second["id"] == first["id"] and other.leftovers() == [] and other.unreachable() == set()
    if form == "oci-archive":
        assert second["digest"] == first["digest"]
    assert other.ok("run", "--rm", "second:x") == "hello from busybox\n"
    suffix = f":{name}"
    run("skopeo", "copy", f"{form}:{path}{suffix}", f"oci:{tmp_path}/copied:x")
    run("skopeo", "copy", f"oci:{images.layout}:{name}", f"{form}:{tmp_path}/skopeo.tar:example.com/by/skopeo:1")
    third = Images(tmp_path / "third")
    assert third.ok("load", "-i", tmp_path / "skopeo.tar").split()[1] == "example.com/by/skopeo:1"
    assert third.ok("run", "--rm", "example.com/by/skopeo:1") == "hello from busybox\n"


def test_archives_that_lie(images: Images, name: str, tmp_path: Path) -> None:
    """A blob under another's digest, names that lead out, members that are links to the host: refused, or mere keys."""
    images.ok("save", "--format", "oci-archive", "-o", tmp_path / "good.tar", name)
    images.ok("save", "-o", tmp_path / "docker.tar", name)

    def rewritten(source: str, change: Any) -> Path:
        path = tmp_path / "bad.tar"
        with tarfile.open(tmp_path / source) as old, tarfile.open(path, "w") as new:
            for member in old.getmembers():
                content = old.extractfile(member)
                change(new, member, content.read() if content else b"")
        return path

    def add(archive: tarfile.TarFile, member: tarfile.TarInfo, data: bytes) -> None:
        import io

        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))

    def flip(archive: tarfile.TarFile, member: tarfile.TarInfo, data: bytes) -> None:
        add(archive, member, data[:-1] + b"!" if member.name.startswith("blobs/") and len(data) > 5000 else data)

    other = Images(tmp_path / "other")
    result = other("load", rewritten("good.tar", flip))
    assert result.code == 1 and "its digest is" in result.err

    def steal(archive: tarfile.TarFile, member: tarfile.TarInfo, data: bytes) -> None:
        if member.name.endswith(".tar"):  # CVE-2026-53489: a layer that is a link to a file of the host
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
            return
        add(archive, member, data)

    result = other("load", rewritten("docker.tar", steal))
    assert result.code == 1 and "which isn't there" in result.err

    def lead_out(archive: tarfile.TarFile, member: tarfile.TarInfo, data: bytes) -> None:
        if member.name == "manifest.json":
            value = json.loads(data)
            value[0]["Config"] = "../../../../etc/hostname"
            data = json.dumps(value).encode()
        add(archive, member, data)

    result = other("load", rewritten("docker.tar", lead_out))
    assert result.code == 1 and "which isn't there" in result.err
    result = other("load", BUSYBOX)
    assert result.code == 1 and "not a tar archive" in result.err
    assert json.loads(other.ok("ls", "--format", "json")) == [] and other.leftovers() == []
    assert other.blobs() == set()


def test_an_archive_of_an_image_without_a_name(images: Images, layout: Path, tmp_path: Path) -> None:
    """As `skopeo copy` and `podman save ID` write them: it is called by its id, as from a docker-archive."""
    for form in ("oci-archive", "docker-archive"):
        run("skopeo", "copy", f"oci:{layout}:bb", f"{form}:{tmp_path}/{form}.tar")
        other = Images(tmp_path / form)
        printed = other.ok("load", "-i", tmp_path / f"{form}.tar").split()[1]
        found = json.loads(other.ok("inspect", printed))
        assert printed == f"docker.io/library/{found['id'].replace(':', '-')}:latest"
        assert other.ok("run", "--rm", printed) == "hello from busybox\n"
        assert other.unreachable() == set()


def test_where_archives_go(images: Images, name: str, tmp_path: Path) -> None:
    """A file is there when it is complete; a device stays one, a link too; what can't be written is an error."""
    os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    os.mknod(tmp_path / "full", 0o20666, os.makedev(1, 7))
    (tmp_path / "link").symlink_to("archive.tar")
    images.ok("save", "-o", tmp_path / "null", name)
    result = images("save", "-o", tmp_path / "full", name)
    assert result.code == 1 and "ENOSPC" in result.err
    assert all(stat.S_ISCHR((tmp_path / each).stat().st_mode) for each in ("null", "full"))
    images.ok("save", "-o", tmp_path / "link", name)
    assert (tmp_path / "link").is_symlink()
    assert Images(tmp_path / "other").ok("load", "-i", tmp_path / "archive.tar").split()[1] == name
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []


def test_a_name_with_the_digest_of_something_else(images: Images, name: str, tmp_path: Path) -> None:
    """What was verified once must not be something else by the same name."""
    run("tar", "-C", "/bin", "-cf", tmp_path / "root.tar", "busybox")
    images.ok("unpack", name, tmp_path / "bundle")
    wrong = "by/digest@sha256:" + "0" * 64
    for words in (("import", tmp_path / "root.tar"), ("commit", tmp_path / "bundle")):
        result = images(*map(str, words), wrong)
        assert result.code == 1 and "the image's digest is sha256:" in result.err, result
    assert images("inspect", wrong).code == 1


def test_a_store_that_is_read_only(images: Images, name: str, tmp_path: Path) -> None:
    """It can be read from."""
    images.ok("pull", name)
    store = images.store
    run("mount", "--bind", store, store)
    try:
        run("mount", "-o", "remount,bind,ro", store)
        assert name in images.ok("ls", "--format", "names")
        images.ok("unpack", name, tmp_path / "bundle")
        assert (tmp_path / "bundle/rootfs/bin/busybox").exists()
        result = images("tag", name, "other:1")
        assert result.code == 1 and "EROFS" in result.err and len(result.errors) == 1
    finally:
        run("umount", store)


def test_push_sends_nothing_twice(registry: Registry, images: Images, name: str) -> None:
    """Layers that the registry has are not sent again, those of another repository are mounted."""
    images.ok("tag", name, f"{registry.host}/test/copied:1")
    result = images("push", f"{registry.host}/test/copied:1")
    assert result.code == 0 and result.err.count("mounted from test/bb") == 5
    result = images("push", f"{registry.host}/test/copied:1")
    assert result.err.count("already there") == 5
    assert json.loads(run("skopeo", "inspect", "--tls-verify=false", f"docker://{registry.host}/test/copied:1").stdout)[
        "Digest"] == json.loads(images.ok("inspect", name))["digest"]


def test_a_layer_is_sent_in_chunks(registry: Registry, images: Images, tmp_path: Path) -> None:
    """One larger than a chunk (16 MiB) arrives whole: skopeo, which verifies it, takes it from the registry."""
    (tmp_path / "large").write_bytes(os.urandom(35 << 20))
    run("tar", "-C", tmp_path, "-cf", tmp_path / "root.tar", "large")
    name = f"{registry.host}/test/large:1"
    images.ok("import", tmp_path / "root.tar", name)
    images.ok("push", name)
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{name}", f"dir:{tmp_path}/copied")
    assert any(path.stat().st_size > 2 * (16 << 20) for path in (tmp_path / "copied").iterdir())


def test_push_needs_rights(images: Images, layout: Path, tmp_path: Path) -> None:
    auth = registries.htpasswd(tmp_path / "htpasswd", "alice", "secret")
    with registries.serving(tmp_path / "registry", auth=auth) as served:
        run("skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "alice:secret", f"oci:{layout}:bb",
            f"docker://{served.host}/test/bb:1")
        images.ok("pull", "--creds", "alice:secret", f"{served.host}/test/bb:1")
        result = images("push", f"{served.host}/test/bb:1", f"{served.host}/new/bb:2")
        assert result.code == 1 and "HTTP 401" in result.err and f"pyrunc image login {served.host}" in result.err
        images.ok("push", "--creds", "alice:secret", f"{served.host}/test/bb:1", f"{served.host}/new/bb:2")


def test_mount(images: Images, name: str, tmp_path: Path) -> None:
    """Read-only, held against removal, gone with umount."""
    target = tmp_path / "here"
    target.mkdir()
    assert images.ok("mount", name, target).strip() == str(target)
    try:
        assert (target / "etc/passwd").exists() and not (target / "var/old").exists()
        with pytest.raises(OSError, match="Read-only"):
            (target / "x").write_text("x")
        assert f"in use by {target}" in images("rm", name).err
    finally:
        images.ok("umount", target)
    assert os.listdir(target) == []
    images.ok("rm", name)


def test_results_in_json(images: Images, name: str, tmp_path: Path) -> None:
    """--format json, wherever a command prints what it has done; a format that is none does nothing."""
    place = tmp_path / "mounted"
    place.mkdir()
    for words in (("unpack", name, tmp_path / "bundle"), ("mount", name, place), ("rm", name), ("untag", name)):
        result = images(words[0], "--format", "xml", *words[1:])
        assert result.code == 1 and '--format is json or left out, not "xml"' in result.err, result
    assert not (tmp_path / "bundle").exists() and not os.path.ismount(place)

    def printed(*words: str | Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(images.ok(str(words[0]), "--format", "json", *words[1:]))
        return found

    assert printed("unpack", name, tmp_path / "bundle") == {"bundle": str(tmp_path / "bundle")}
    assert printed("mount", name, place) == {"root": str(place)}
    images.ok("umount", place)
    images.ok("tag", name, "other:1")
    assert printed("untag", "other:1") == {"untagged": ["docker.io/library/other:1"]}
    blobs = images.blobs()
    removed = printed("rm", name)
    assert removed["untagged"] == [name] and set(removed["deleted"]) == blobs


def test_an_ordinary_user(registry: Registry, tmp_path: Path) -> None:
    """Pull and unpack without root: the files are the user's, the configuration can be run by it."""
    for path in (tmp_path, *tmp_path.parents):
        if str(path).startswith("/tmp/"):
            path.chmod(0o755)
    home = tmp_path / "user"
    home.mkdir()
    os.chown(home, 12345, 12345)
    words = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "env", "-i",
             f"PATH={os.environ['PATH']}", f"HOME={home}", PYRUNC, "image"]
    done = run(*words, "unpack", f"{registry.host}/test/bb:1", home / "bundle", cwd=home)
    assert done.stdout == f"{home}/bundle\n" and "devices left out: only root makes them" in done.stderr
    assert {path.lstat().st_uid for path in (home / "bundle/rootfs").rglob("*")} == {12345}
    config = json.loads((home / "bundle/config.json").read_text())
    assert config["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 12345, "size": 1}]
    assert json.loads(run(*words, "ls", "--format", "json", cwd=home).stdout)[0]["name"] == f"{registry.host}/test/bb:1"


def test_an_ordinary_user_with_ids_of_its_own(registry: Registry, tmp_path: Path) -> None:
    """The image's owners, on disk as ids that /etc/subuid grants; the container, its changes and archives have them."""
    user = User(tmp_path / "home", granted=65536)
    name = f"{registry.host}/test/bb:1"
    done = user.run(f"""
        set -e
        $P image unpack --quiet {name} bundle 2>warnings >/dev/null
        stat -c '%n %u:%g' bundle/rootfs/home/alice bundle/rootfs/bin/busybox
        grep -c 'devices left out' warnings
        $P image run --rm {name} sh -c 'stat -c "%n %u:%g" /home/alice /bin/busybox; touch /tmp/mine' 2>/dev/null
        $P image run --rm -u alice {name} sh -c 'id -u; touch /tmp/hers; stat -c %u:%g /tmp/hers'
        $P image run -d --name web {name} sh -c \
            'echo >/home/alice/new; chmod 0 /home/alice/new; chown 7:8 /home/alice/new; sleep 1000' >/dev/null 2>&1
        until $P image diff web | grep alice/new; do sleep 0.1; done
        $P image commit --no-pause web changed:1 >/dev/null
        $P image export web | tar -tv --numeric-owner home/alice/ | cut -d' ' -f2
        $P delete --force web
        $P image run --rm changed:1 stat -c '%n %u:%g %a' /home/alice /home/alice/new 2>/dev/null
        $P image umount --rm bundle
        test ! -e bundle
        for i in $(seq 100); do test "$(ls .local/share/pyrunc/images/containers)" || break; sleep 0.1; done
        ls .local/share/pyrunc/images/containers; echo end
        """)
    assert done.code == 0, done
    first = FIRST - 1  # 0 is the user itself
    assert done.lines == [
        f"bundle/rootfs/home/alice {first + 1000}:{first + 1001}", f"bundle/rootfs/bin/busybox {UID}:{UID}", "2",
        "/home/alice 1000:1001", "/bin/busybox 0:0", "1000", "1000:1001", "A /home/alice/new",
        "1000/1001", "7/8", "/home/alice 1000:1001 755", "/home/alice/new 7:8 0",
        "end"], done.out
