# SPDX-License-Identifier: Apache-2.0
"""A repository on its registry, as the distribution-spec has it: manifests, blobs, tags, referrers, uploads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, final
from urllib.parse import quote, urljoin, urlsplit

from urllib3.exceptions import HTTPError

from pyrunc.errors import ImageError, RegistryError

from . import media
from .client import TIMEOUT, Session, Unreachable
from .digest import Verifier, digest_of, is_digest
from .manifest import MAX_MANIFEST, Descriptor, Index, load_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .auth import Credentials
    from .hosts import Endpoint, Hosts
    from .reference import Reference

CHUNK = 1 << 20
_ATTEMPTS = 5
_PROGRESS = 1 << 20  # bytes after which a cut connection is not held against the registry
_MAX_TAGS = 100_000
_UPLOAD_CHUNK = 16 << 20
_LARGEST_CHUNK = 64 << 20  # in memory, each
#: Answers to a chunk that another way to upload doesn't help with.
_FINAL = (401, 403, 408, 429)


@final
class Remote:
    """The repository of `reference`; mirrors are asked first, for what is read."""

    def __init__(self, reference: Reference, hosts: Hosts, *, timeout: float = TIMEOUT,
                 credentials: Credentials | None = None,
                 report: Callable[[str, str], None] = lambda level, message: None) -> None:
        self.reference = reference
        self.report = report
        endpoints = hosts.endpoints(reference)
        self._chunk = _UPLOAD_CHUNK
        self._sessions = [Session(endpoint, reference.registry, timeout=timeout,
                                  credentials=None if endpoint.mirror else credentials) for endpoint in endpoints]

    @property
    def own(self) -> Session:
        """The registry itself, which comes after its mirrors; or a mirror that takes pushes."""
        return self._sessions[-1]

    @property
    def name(self) -> str:
        return self.reference.name

    def _each(self, attempt: Callable[[Session], Any], usable: Callable[[Endpoint], bool]) -> Any:
        """The first answer of those there are; of a mirror any failure is only told."""
        sessions = [session for session in self._sessions if usable(session.endpoint) or session is self.own]
        for session in sessions[:-1]:
            try:
                return attempt(session)
            except RegistryError as error:
                self.report("debug", f"mirror {session.endpoint.host}: {error}")
        return attempt(sessions[-1])

    # Manifests

    def manifest(self, target: str, expected: Descriptor | None = None) -> tuple[Descriptor, bytes]:
        """The manifest or index called `target` (a tag or a digest), verified, with its descriptor."""
        def fetch(session: Session) -> tuple[Descriptor, bytes]:
            return self._manifest(session, target, expected)

        try:
            found: tuple[Descriptor, bytes] = self._each(fetch, lambda endpoint: endpoint.resolve or is_digest(target))
            return found
        except RegistryError as error:
            if error.status == 404:
                raise self._not_found(target, error) from None
            raise

    def _manifest(self, session: Session, target: str, expected: Descriptor | None) -> tuple[Descriptor, bytes]:
        what = f"manifest {target}"
        response = session.request("GET", f"manifests/{target}", headers={"Accept": media.ACCEPT}, what=what)
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
        claimed = response.headers.get("Docker-Content-Digest", "")
        data = session.read(response, MAX_MANIFEST, what)
        wanted = expected.digest if expected else target
        if is_digest(wanted):
            verifier = Verifier.of(wanted)
            verifier.update(data)
            try:
                verifier.check(wanted, expected.size if expected else -1, what)
            except ImageError as error:
                raise RegistryError(f"{session.where}: {error.message}") from None
        elif claimed and is_digest(claimed) and digest_of(data, claimed.partition(":")[0]) != claimed:
            raise RegistryError(f"{session.where}: {what}: its digest is {digest_of(data)}, "
                                f"the registry says {claimed}",
                                hint="it was changed on its way, or the registry is at fault")
        if kind in ("", "application/json", "text/plain", "application/octet-stream"):
            kind = ""  # says nothing: a file server behind a mirror
        document = load_document(data, f"{session.where}: {what}", kind, expected.media_type if expected else "")
        if kind and not json.loads(data).get("mediaType") and kind != document.media_type:
            raise RegistryError(f"{session.where}: {what}: of type {kind} for the registry, "
                                f"{document.media_type} by itself")
        digest = wanted if is_digest(wanted) else digest_of(data)
        return Descriptor(document.media_type, digest, len(data)), data

    def _not_found(self, target: str, error: RegistryError) -> RegistryError:
        """A 404 with the nearest tags, where the registry lists them."""
        hint = "is the name right? Some registries say so for what needs a login, too"
        if not is_digest(target):
            try:
                tags = self.tags(limit=2000)
            except (RegistryError, ImageError):
                tags = []
            from difflib import get_close_matches

            near = get_close_matches(target, tags, 5, 0.3) or tags[-5:]
            if near:
                hint = f"there is no such tag; the nearest are {', '.join(near)}"
        return RegistryError(error.message, status=404, hint=hint)

    def put_manifest(self, target: str, data: bytes, media_type: str) -> None:
        """Have `target` mean the manifest."""
        session = self.own
        what = f"manifest {target}"
        response = session.request("PUT", f"manifests/{target}", headers={"Content-Type": media_type}, body=data,
                                   actions="pull,push", accept=(201, 200, 202), what=what)
        claimed = response.headers.get("Docker-Content-Digest", "")
        response.close()
        if is_digest(claimed) and claimed != digest_of(data, claimed.partition(":")[0]):
            raise RegistryError(f"{session.where}: {what}: stored under another digest, {claimed}")

    # What there is

    def tags(self, limit: int = _MAX_TAGS) -> list[str]:
        """All tags, page by page (Listing Tags)."""
        session = self.own
        found: list[str] = []
        path = "tags/list?n=1000"
        while path and len(found) < limit:
            response = session.request("GET", path, what="tags")
            link = response.headers.get("Link", "")
            value = _json(session.read(response, 16 << 20, "tags"), f"{session.where}: tags")
            listed = value.get("tags") or []
            if not isinstance(listed, list):
                raise RegistryError(f"{session.where}: tags: not a list")
            found += [str(tag)[:128] for tag in listed]
            path = self._next(session, link, path)
        return found[:limit]

    @staticmethod
    def _next(session: Session, link: str, path: str) -> str:
        """The next page's address of a Link header (RFC 8288), if it is one on the same host."""
        target, _, relation = link.partition(">")
        if not target.startswith("<") or 'rel="next"' not in relation:
            return ""
        url = urljoin(session.url(path.partition("?")[0]), target[1:])
        return url if urlsplit(url)[:2] == urlsplit(session.url(""))[:2] else ""

    def referrers(self, digest: str, artifact_type: str = "") -> list[Descriptor]:
        """What refers to the manifest: signatures, bills of materials (Listing Referrers, and its fallback tag)."""
        session = self.own
        query = f"?artifactType={quote(artifact_type)}" if artifact_type else ""
        what = f"referrers of {digest}"
        response = session.request("GET", f"referrers/{digest}{query}", accept=(200, 404, 405), what=what,
                                   headers={"Accept": media.OCI_INDEX})
        if response.status != 200:
            response.close()
            response = session.request("GET", f"manifests/{digest.replace(':', '-')}", accept=(200, 404), what=what,
                                       headers={"Accept": media.OCI_INDEX})
        data = session.read(response, MAX_MANIFEST, what)
        if response.status != 200:
            return []
        document = load_document(data, f"{session.where}: {what}")
        if not isinstance(document, Index):
            raise RegistryError(f"{session.where}: {what}: not an index")
        return [item for item in document.manifests if not artifact_type or item.artifact_type == artifact_type]

    # Blobs

    def blob(self, descriptor: Descriptor, start: int = 0) -> Iterator[bytes]:
        """The blob's bytes from `start` on, in pieces; where a connection is cut another one goes on.

        At most the descriptor's size is read.  The caller verifies.
        """
        sessions = [*self._sessions]
        position = mark = start
        failures = 0
        while position < descriptor.size:
            session = sessions[0]
            try:
                for chunk in self._ranged(session, descriptor, position):
                    position += len(chunk)
                    yield chunk
                if position >= descriptor.size:
                    return
                raise Unreachable(f"{session.where}: blob {descriptor.digest}: it ended after {position} of "
                                  f"{descriptor.size} bytes")
            except Unreachable as error:
                if position - mark >= _PROGRESS:
                    failures = 0
                mark = position
                failures += 1
                if failures < _ATTEMPTS:
                    session.wait(failures)
                    continue
                if len(sessions) == 1:
                    raise
                self.report("debug", f"mirror {session.endpoint.host}: {error}")
            except RegistryError as error:
                if error.status in (408, 500, 502, 503, 504) and failures < _ATTEMPTS:
                    failures += 1
                    session.wait(failures)
                    continue
                if len(sessions) == 1:
                    if error.status == 404:
                        raise RegistryError(error.message, status=404, hint="the registry has lost a part of the "
                                            "image; push it again") from None
                    raise
                self.report("debug", f"mirror {session.endpoint.host}: {error}")
            sessions.pop(0)
            failures = 0

    @staticmethod
    def _ranged(session: Session, descriptor: Descriptor, position: int) -> Iterator[bytes]:
        """Pieces from `position` on; what a registry sends again that can't begin in the middle is passed over."""
        what = f"blob {descriptor.digest}"
        headers = {"Range": f"bytes={position}-"} if position else {}
        paths = [f"blobs/{descriptor.digest}"]
        if media.is_foreign(descriptor.media_type):
            paths += [url for url in descriptor.urls if url.startswith("https://")]
        response = None
        for path in paths:
            try:
                response = session.request("GET", path, headers=headers, accept=(200, 206), what=what, attempts=1)
                break
            except RegistryError as error:
                if path is paths[-1] or error.status not in (404, 410):
                    raise
        assert response is not None
        try:
            begins = position if response.status == 206 else 0
            if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {begins}-"):
                raise RegistryError(f"{session.where}: {what}: asked for the bytes from {position} on, got "
                                    f"{response.headers.get('Content-Range', 'others')[:80]!a}")
            left = descriptor.size - begins
            length = response.headers.get("Content-Length", "")
            if length.isascii() and length.isdigit() and int(length) != left:
                raise RegistryError(f"{session.where}: {what}: {int(length)} bytes offered, the descriptor says {left}")
            skip = position - begins
            while left:
                try:
                    chunk = response.read(min(CHUNK, left), decode_content=False)
                except HTTPError as error:
                    raise session.unreachable(error, what) from None
                if not chunk:
                    return
                left -= len(chunk)
                if skip:
                    passed = min(skip, len(chunk))
                    skip -= passed
                    chunk = chunk[passed:]
                if chunk:
                    yield chunk
        finally:
            response.close()

    def small_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        """A whole blob of at most `limit` bytes, verified."""
        if descriptor.size > limit:
            raise ImageError(f"{self.name}: blob {descriptor.digest}: {descriptor.size} bytes is more than {limit}")
        data = b"".join(self.blob(descriptor))
        verifier = Verifier.of(descriptor.digest)
        verifier.update(data)
        verifier.check(descriptor.digest, descriptor.size, f"{self.name}: blob {descriptor.digest}")
        return data

    # Uploads

    def has_blob(self, descriptor: Descriptor) -> bool:
        response = self.own.request("HEAD", f"blobs/{descriptor.digest}", actions="pull,push", accept=(200, 404),
                                    what=f"blob {descriptor.digest}")
        response.close()
        return response.status == 200

    def mount_blob(self, descriptor: Descriptor, source: str) -> str:
        """Have the registry take the blob from its repository `source`; where to upload it if it doesn't."""
        response = self.own.request("POST", f"blobs/uploads/?mount={descriptor.digest}&from={quote(source)}",
                                    actions="pull,push", accept=(201, 202), what=f"blob {descriptor.digest}",
                                    extra_scope=f"repository:{source}:pull")
        response.close()
        return "" if response.status == 201 else self._location(response)

    def upload_blob(self, descriptor: Descriptor, open_at: Callable[[int], Any], location: str = "",
                    progress: Callable[[int], None] = lambda count: None) -> None:
        """Upload in chunks, asking where to go on after a failure; `open_at(offset)` opens the content.

        A registry that doesn't take chunks, or not several, gets it in one piece, as containerd sends it.
        """
        session = self.own
        what = f"blob {descriptor.digest}"
        if not location:
            location = self._begin(what)
        position = 0
        failures = 0
        while position < descriptor.size:
            if self._chunk > _LARGEST_CHUNK:
                self._upload_whole(descriptor, open_at)
                progress(descriptor.size - position)
                return
            size = min(self._chunk, descriptor.size - position)
            with open_at(position) as file:
                piece = file.read(size)
            if len(piece) != size:
                raise ImageError(f"{what}: the store has only {position + len(piece)} of its {descriptor.size} bytes")
            try:
                response = session.request(
                    "PATCH", location, body=piece, actions="pull,push", accept=(200, 201, 202, 204, 416), what=what,
                    attempts=1,
                    headers={"Content-Type": "application/octet-stream",
                             "Content-Range": f"{position}-{position + size - 1}", "Content-Length": str(size)})
                response.close()
                if response.status != 416:
                    location = self._location(response)
                    position += size
                    progress(size)
                    failures = 0
                    continue
                problem = RegistryError(f"{session.where}: {what}: HTTP 416", status=416)
            except RegistryError as error:
                if error.status in _FINAL:
                    raise
                if error.status and error.status < 500:
                    self._chunk = descriptor.size + _LARGEST_CHUNK
                    continue
                problem = error
            failures += 1
            if failures >= _ATTEMPTS:
                raise problem
            session.wait(failures)
            location, position = self._resume(location, position, what)
        separator = "&" if "?" in location else "?"
        response = session.request("PUT", f"{location}{separator}digest={quote(descriptor.digest)}", body=b"",
                                   actions="pull,push", accept=(201, 204), what=what,
                                   headers={"Content-Length": "0", "Content-Type": "application/octet-stream"})
        response.close()

    def _upload_whole(self, descriptor: Descriptor, open_at: Callable[[int], Any]) -> None:
        what = f"blob {descriptor.digest}"
        location = self._begin(what)
        separator = "&" if "?" in location else "?"
        response = self.own.request("PUT", f"{location}{separator}digest={quote(descriptor.digest)}",
                                    body=lambda: open_at(0), actions="pull,push", accept=(201, 204), what=what,
                                    headers={"Content-Length": str(descriptor.size),
                                             "Content-Type": "application/octet-stream"})
        response.close()

    def _begin(self, what: str) -> str:
        response = self.own.request("POST", "blobs/uploads/", actions="pull,push", accept=(202,), what=what,
                                    headers={"Content-Length": "0"})
        response.close()
        return self._location(response)

    def _resume(self, location: str, position: int, what: str) -> tuple[str, int]:
        """Where the upload stands (Pushing a blob in chunks, Range); begun anew if it is gone."""
        response = self.own.request("GET", location, actions="pull,push", accept=(204, 200, 404), what=what)
        response.close()
        first, _, last = response.headers.get("Range", "").rpartition("=")[2].partition("-")
        if response.status == 404 or first != "0" or not last.isdigit():
            return self._begin(what), 0
        return (self._location(response) if "Location" in response.headers else location), \
            0 if last == "0" and position == 0 else int(last) + 1

    def _location(self, response: Any) -> str:
        """Where the upload goes on: only on the registry itself, which gets our credentials."""
        session = self.own
        smallest = response.headers.get("OCI-Chunk-Min-Length", "")
        if smallest.isascii() and smallest.isdigit() and len(smallest) < 16:
            self._chunk = max(self._chunk, int(smallest))
        try:
            target: str = urljoin(session.url(""), response.headers.get("Location", ""))
        except ValueError:
            target = ""
        if urlsplit(target).scheme not in ("http", "https") or not response.headers.get("Location"):
            raise RegistryError(f"{session.where}: it gave no place to upload to")
        if urlsplit(target).scheme == "http" and session.scheme == "https":
            raise RegistryError(f"{session.where}: it wants the upload over plain HTTP, at {urlsplit(target).netloc}")
        return target


def _json(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RegistryError(f"{what}: not a JSON object")
    return value
