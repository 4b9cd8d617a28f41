# SPDX-License-Identifier: Apache-2.0
"""Registries for tests: Debian's docker-registry on loopback (plain, htpasswd, TLS, tokens), and images for them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import os
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support import BUSYBOX, PYRUNC, Result, wait_for


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Registry:
    """A docker-registry process; `host` is its name in references."""

    def __init__(self, path: Path, *, auth: dict[str, Any] | None = None, tls: tuple[Path, Path] | None = None,
                 port: int = 0) -> None:
        self.path = path
        self.port = port or free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.scheme = "https" if tls else "http"
        path.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "version": 0.1, "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(path / "data")}, "delete": {"enabled": True}},
            "http": {"addr": f"127.0.0.1:{self.port}", "secret": "test"}}
        if tls:
            config["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
        if auth:
            config["auth"] = auth
        (path / "config.yml").write_text(json.dumps(config))  # JSON is YAML
        self.log = open(path / "log", "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", path / "config.yml"], stdout=self.log,
                                        stderr=self.log)

        def listening() -> bool:
            assert self.process.poll() is None, (path / "log").read_text()
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(listening, "the registry", 60)

    def blobs(self) -> set[str]:
        """The digests of all blobs."""
        return {f"sha256:{entry.name}" for entry in (self.path / "data/docker/registry/v2/blobs/sha256").glob("*/*")}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


@contextlib.contextmanager
def serving(path: Path, **options: Any) -> Iterator[Registry]:
    registry = Registry(path, **options)
    try:
        yield registry
    finally:
        registry.stop()


def htpasswd(path: Path, user: str, password: str) -> dict[str, Any]:
    """An auth section for that user."""
    hashed = run("perl", "-e", "print crypt($ARGV[0], $ARGV[1])", password, "$2b$05$" + "abcdefghijklmnopqrstuu").stdout
    assert hashed.startswith("$2b$")
    path.write_text(f"{user}:{hashed}\n")
    return {"htpasswd": {"realm": "test", "path": str(path)}}


def authority(path: Path) -> tuple[Path, Path]:
    """A certificate authority of the test's own: its certificate and key."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-subj", "/CN=test authority", "-days", "2", "-keyout", path / "ca.key", "-out", path / "ca.crt"],
                   check=True, capture_output=True)
    return path / "ca.crt", path / "ca.key"


def certificate(path: Path, ca: tuple[Path, Path]) -> tuple[Path, Path]:
    """A server's certificate for 127.0.0.1, signed by `ca`."""
    (path / "ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:registry.test\n")
    subprocess.run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                    "/CN=127.0.0.1", "-keyout", path / "server.key", "-out", path / "server.csr"],
                   check=True, capture_output=True)
    subprocess.run(["openssl", "x509", "-req", "-in", path / "server.csr", "-CA", ca[0], "-CAkey", ca[1], "-days", "2",
                    "-CAcreateserial", "-extfile", path / "ext", "-out", path / "server.crt"],
                   check=True, capture_output=True)
    return path / "server.crt", path / "server.key"


class TokenServer:
    """A token service (distribution's token specification): RS256 tokens for who knows the password."""

    def __init__(self, path: Path, user: str, password: str, *, lifetime: int = 60) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.requests: list[dict[str, Any]] = []
        self.lifetime = lifetime
        self.identity = "kept-instead-of-a-password"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tokens", "-days", "2",
                        "-keyout", path / "key.pem", "-out", path / "cert.pem"], check=True, capture_output=True)
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                given = self.headers.get("Authorization", "")
                owner.requests.append({"query": query, "authorization": given})
                right = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
                if given and given != right:
                    self.send_error(401)
                    return
                self.answer(query, bool(given))

            def do_POST(self) -> None:
                """An identity token for an access token (distribution's OAuth2 specification)."""
                length = int(self.headers["Content-Length"])
                query = urllib.parse.parse_qs(self.rfile.read(length).decode())
                owner.requests.append({"query": query, "authorization": self.headers.get("Authorization", "")})
                if query.get("grant_type") != ["refresh_token"] or query.get("refresh_token") != [owner.identity]:
                    self.send_error(401)
                    return
                query["scope"] = query["scope"][0].split()
                self.answer(query, True)

            def answer(self, query: dict[str, list[str]], given: bool) -> None:
                access = []
                for scope in query.get("scope", []):
                    kind, name, actions = scope.split(":")
                    allowed = [action for action in actions.split(",") if given or (action == "pull"
                               and name.startswith("public/"))]
                    access.append({"type": kind, "name": name, "actions": allowed})
                body = json.dumps({"token": owner.token(query["service"][0], access),
                                   "expires_in": owner.lifetime}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{self.server.server_address[1]}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def auth(self) -> dict[str, Any]:
        """The registry's auth section."""
        return {"token": {"realm": self.realm, "service": "test", "issuer": "test",
                          "rootcertbundle": str(self.path / "cert.pem")}}

    def token(self, service: str, access: list[dict[str, Any]]) -> str:
        """A signed JSON web token; its certificate is in it."""
        lines = (self.path / "cert.pem").read_text().splitlines()
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": ["".join(line for line in lines if "-" not in line)]}
        claims = {"iss": "test", "sub": "", "aud": service, "exp": now + self.lifetime, "nbf": now - 10, "iat": now,
                  "jti": str(now), "access": access}
        signed = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
                          for part in (head, claims))
        done = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.path / "key.pem"], input=signed.encode(),
                              capture_output=True, check=True)
        return f"{signed}.{base64.urlsafe_b64encode(done.stdout).rstrip(b'=').decode()}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Proxy:
    """An HTTP proxy on loopback that wants a password; `requests` are the methods and targets it let through.

    It alone knows where the host `registry.test` is: here.
    """

    def __init__(self, user: str, password: str) -> None:
        self.requests: list[str] = []
        self.forwarded: list[dict[str, str]] = []
        owner = self
        right = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

        class Handler(http.server.BaseHTTPRequestHandler):
            def allowed(self) -> bool:
                if self.headers.get("Proxy-Authorization") == right:
                    owner.requests.append(f"{self.command} {self.path}")
                    return True
                self.send_error(407)
                return False

            def do_CONNECT(self) -> None:
                if not self.allowed():
                    return
                host, _, port = self.path.rpartition(":")
                with socket.create_connection((host.replace("registry.test", "127.0.0.1"), int(port)), 30) as onward:
                    self.send_response(200)
                    self.end_headers()
                    ends = {self.connection: onward, onward: self.connection}
                    while ends:
                        for end in select.select(list(ends), [], [], 30)[0]:
                            data = end.recv(65536)
                            if not data:
                                return
                            ends[end].sendall(data)

            def do_GET(self) -> None:
                if not self.allowed():
                    return
                parts = urllib.parse.urlsplit(self.path)
                kept = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
                owner.forwarded.append(kept)
                onward = http.client.HTTPConnection(parts.netloc.replace("registry.test", "127.0.0.1"), timeout=30)
                onward.request(self.command, f"{parts.path}?{parts.query}", headers={**kept, "Connection": "close"})
                answer = onward.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A program that has to work."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done


class Images:
    """`pyrunc image`, with a store, a home and configuration of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = path / "store"
        self.home = path / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        (path / "registries.conf").write_text("")
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "LC_ALL": "C.UTF-8",
                            "CONTAINERS_REGISTRIES_CONF": str(path / "registries.conf"),
                            "XDG_RUNTIME_DIR": str(path / "run")}

    def command(self, name: str, *words: str | Path) -> list[str]:
        store = [] if name in ("login", "logout") else ["--store", str(self.store)]
        return [PYRUNC, "--root", str(self.path / "state"), "image", name, *store, *map(str, words)]

    def __call__(self, name: str, *words: str | Path, stdin: str = "", timeout: float = 120,
                 **environment: str) -> Result:
        done = subprocess.run(self.command(name, *words), input=stdin.encode(), capture_output=True, timeout=timeout,
                              env={**self.environment, **environment})
        return Result(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def ok(self, name: str, *words: str | Path, **options: Any) -> str:
        """The output of a command that has to work."""
        result = self(name, *words, **options)
        assert result.code == 0, (name, words, result)
        return result.out

    @property
    def layout(self) -> Path:
        return self.store / "oci"

    def blobs(self) -> set[str]:
        return {f"sha256:{path.name}" for path in (self.layout / "blobs/sha256").iterdir()}

    def leftovers(self) -> list[str]:
        """What is in the store besides whole things."""
        return sorted([path.name for path in (self.store / "partial").iterdir()]
                      + [path.name for path in (self.store / "layers").iterdir() if path.name.startswith("new-")]
                      + [path.name for path in self.layout.iterdir()
                         if path.name not in ("blobs", "index.json", "oci-layout")])

    def unreachable(self) -> set[str]:
        """Blobs that no name leads to."""
        seen: set[str] = set()

        def visit(value: Any) -> None:
            if isinstance(value, dict):
                digest = value.get("digest")
                if isinstance(digest, str) and digest not in seen:
                    seen.add(digest)
                    path = self.layout / "blobs" / digest.replace(":", "/")
                    if "json" in value.get("mediaType", "") and path.exists():
                        visit(json.loads(path.read_text()))
                for item in value.values():
                    visit(item)
            elif isinstance(value, list):
                for item in value:
                    visit(item)

        visit(json.loads((self.layout / "index.json").read_text()))
        return self.blobs() - seen


class Podman:
    """podman with storage of its own; below /tmp, since it wants short paths."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="pod", dir="/tmp"))
        (self.path / "containers.conf").write_text("[engine]\nevents_logger=\"file\"\ncgroup_manager=\"cgroupfs\"\n"
                                                   "[containers]\ndefault_ulimits=[\"nofile=1024:1024\"]\n")

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return run("podman", "--root", self.path / "root", "--runroot", self.path / "run", "--tmpdir",
                   self.path / "tmp", "--network-config-dir", self.path / "net", "--storage-driver", "overlay",
                   "--cgroup-manager", "cgroupfs", "--events-backend", "file", *words,
                   env={**os.environ, "CONTAINERS_CONF": str(self.path / "containers.conf")})

    def close(self) -> None:
        self("image", "unmount", "--all")
        subprocess.run(["umount", self.path / "root/overlay"], capture_output=True)
        run("rm", "-rf", self.path)


def busybox_image(path: Path) -> Path:
    """An OCI layout with the image `bb`: busybox and what images are made of, in four layers, by umoci."""
    layout = path / "layout"
    umoci = ["umoci"]
    run(*umoci, "init", "--layout", layout)
    run(*umoci, "new", "--image", f"{layout}:bb")
    first = path / "first"
    for name in ("bin", "etc", "tmp", "home/alice", "var/old", "data/deep"):
        (first / name).mkdir(parents=True)
    shutil.copy2(BUSYBOX, first / "bin/busybox")
    for applet in ("sh", "cat", "ls", "id", "echo", "sleep", "true", "touch", "rm", "mkdir", "env", "pwd", "test",
                   "stat", "head", "wc", "grep", "hostname", "mount", "kill"):
        (first / "bin" / applet).symlink_to("busybox")
    (first / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001::/home/alice:/bin/sh\n"
                                      "1000:x:0:0::/:/bin/sh\n")
    (first / "etc/group").write_text("root:x:0:\nalice:x:1001:\nwheel:x:10:alice,bob\nvideo:x:44:alice\n")
    (first / "var/old/file").write_text("to be removed")
    (first / "data/deep/seed").write_text("seed")
    (first / "data/link").symlink_to("deep/seed")
    os.link(first / "data/deep/seed", first / "data/hard")
    os.chown(first / "home/alice", 1000, 1001)
    os.chmod(first / "tmp", 0o1777)
    run(*umoci, "insert", "--image", f"{layout}:bb", first, "/")
    second = path / "second"
    second.mkdir()
    (second / "suid").write_text("#!/bin/sh\nid\n")
    os.chmod(second / "suid", 0o4755)
    os.setxattr(second / "suid", "user.note", b"kept")
    os.mkfifo(second / "fifo")
    os.mknod(second / "null", 0o20666, os.makedev(1, 3))
    os.utime(second / "suid", ns=(1234567890_123456789, 1234567890_123456789))
    run(*umoci, "insert", "--image", f"{layout}:bb", second, "/opt")
    run(*umoci, "insert", "--image", f"{layout}:bb", "--whiteout", "/var/old")
    run(*umoci, "insert", "--image", f"{layout}:bb", "--opaque", path / "second", "/opt")
    run(*umoci, "config", "--image", f"{layout}:bb", "--config.cmd", "sh", "--config.cmd", "-c", "--config.cmd",
        "echo hello from $NAME", "--config.env", "NAME=busybox", "--config.env", "PATH=/bin", "--config.workingdir",
        "/data", "--config.label", "org.example.note=a label", "--config.stopsignal", "SIGQUIT", "--config.volume",
        "/data/deep", "--config.exposedports", "80/tcp", "--author", "the tests", "--os", "linux", "--architecture",
        {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine])
    return layout
