# SPDX-License-Identifier: Apache-2.0
"""A registry of the tests' own that misbehaves as it is told, and remembers what it was asked."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import tarmaker

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Answer:
    """What to send: `cut` closes the connection after so many bytes, `stall` goes silent there."""

    def __init__(self, status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None, *,
                 length: int | None = None, cut: int | None = None, stall: int | None = None) -> None:
        self.status = status
        self.body = body
        self.headers = headers or {}
        self.length = len(body) if length is None else length
        self.cut = cut
        self.stall = stall


class Request:
    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


class HostileRegistry:
    """Serves what is in `blobs` and `manifests` under any repository; `hook` may answer a request otherwise."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.requests: list[Request] = []
        self.hook: Callable[[Request], Answer | None] = lambda request: None
        self.released = threading.Event()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = {key.lower(): value for key, value in self.headers.items()}
                request = Request(self.command, self.path, headers,
                                  self.rfile.read(int(headers.get("content-length", "0"))))
                owner.requests.append(request)
                answer = owner.hook(request) or owner.answer(request)
                self.send_response(answer.status)
                for key, value in answer.headers.items():
                    self.send_header(key, value)
                if "Content-Length" not in answer.headers:
                    self.send_header("Content-Length", str(answer.length))
                self.end_headers()
                body = answer.body
                if answer.cut is not None:
                    body = body[:answer.cut]
                if answer.stall is not None:
                    self.wfile.write(body[:answer.stall])
                    self.wfile.flush()
                    owner.released.wait(60)
                    self.close_connection = True
                    return
                try:
                    self.wfile.write(body)
                except OSError:
                    pass
                if answer.cut is not None or len(body) != answer.length:
                    self.close_connection = True

            do_HEAD = do_POST = do_PUT = do_PATCH = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.server.daemon_threads = True
        self.host = f"{address}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: Request) -> Answer:
        """As a registry should."""
        parts = request.path.partition("?")[0].split("/")
        if request.path.rstrip("/") == "/v2":
            return Answer(body=b"{}")
        if "manifests" in parts and parts[-1] in self.manifests:
            kind, body = self.manifests[parts[-1]]
            return Answer(body=body, headers={"Content-Type": kind, "Docker-Content-Digest": digest(body)})
        if "blobs" in parts and parts[-1] in self.blobs:
            body = self.blobs[parts[-1]]
            asked = request.headers.get("range", "")
            if asked:
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                return Answer(206, body[start:], {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"})
            return Answer(body=body)
        return Answer(404, json.dumps({"errors": [{"code": "NOT_FOUND", "message": "not here"}]}).encode())

    # What it has

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def image(self, *layers: bytes, tag: str = "1", compress: Callable[[bytes], bytes] | None = None,
              layer_type: str = LAYER, config: dict[str, Any] | None = None, **manifest: Any) -> dict[str, Any]:
        """An image of these tar archives; its manifest."""
        compress = compress or (lambda data: gzip.compress(data, 1, mtime=0))
        value = {"os": "linux", "architecture": ARCHITECTURE, "config": {"Cmd": ["true"]},
                 "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}, **(config or {})}
        document = {"schemaVersion": 2, "mediaType": MANIFEST,
                    "config": self.blob(json.dumps(value).encode(), CONFIG),
                    "layers": [self.blob(compress(layer), layer_type) for layer in layers], **manifest}
        self.put(document, tag)
        return document

    def put(self, document: Any, tag: str, media_type: str = MANIFEST) -> str:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.manifests[tag] = self.manifests[digest(body)] = (media_type, body)
        return digest(body)

    def asked(self, text: str) -> list[Request]:
        return [request for request in self.requests if text in request.path]


def layer(size: int = 100_000, name: str = "f") -> bytes:
    """An archive with one file of that size, which doesn't compress."""
    return tarmaker.archive(tarmaker.file(name, os.urandom(size)))
