# SPDX-License-Identifier: Apache-2.0
"""The image that lanes run: busybox and a few files, as the archive that `docker save` writes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from conformance.errors import Unavailable

NAME = "localhost/busybox:latest"
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n",
    "etc/group": "root:x:0:\nalice:x:1000:\nstaff:x:50:alice\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "data/file": "from the image\n",
    "bin/not-executable": "#!/bin/sh\n",
}
DIRECTORIES = ("bin", "data", "dev", "etc", "home", "home/alice", "proc", "root", "run", "sys", "tmp", "var", "var/tmp")
CONFIG = {"Env": ["PATH=/bin:/sbin:/usr/bin", "FROM_IMAGE=yes"], "Cmd": ["sh"], "WorkingDir": "/"}


def busybox() -> Path:
    """A statically linked one."""
    for path in ("/bin/busybox", shutil.which("busybox")):
        if path and os.path.exists(path):
            return Path(path)
    raise Unavailable("busybox is not installed (Debian: busybox-static)")


def write(path: Path, name: str = NAME, **config: Any) -> None:
    """Write the archive; `config` is added to the image's (Healthcheck, User, ...)."""
    layer = _layer()
    digest = hashlib.sha256(layer).hexdigest()
    described = json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux", "created": "2026-01-01T00:00:00Z", "config": {**CONFIG, **config},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "conformance"}],
    }).encode()
    config_name = hashlib.sha256(described).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        for member, data in ((config_name, described), (f"{digest}/layer.tar", layer),
                             ("manifest.json", json.dumps(manifest).encode())):
            _add(archive, member, data)


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))


def _layer() -> bytes:
    program = busybox()
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as layer:
        for name in DIRECTORIES:
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
            if name == "home/alice":
                info.uid = info.gid = 1000
            layer.addfile(info)
        _add(layer, "bin/busybox", program.read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                info = tarfile.TarInfo(f"bin/{applet}")
                info.type, info.linkname = tarfile.SYMTYPE, "busybox"
                layer.addfile(info)
        for name, text in FILES.items():
            _add(layer, name, text.encode())
    return made.getvalue()
