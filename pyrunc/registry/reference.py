# SPDX-License-Identifier: Apache-2.0
"""Names of images: `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`, as docker and podman read them.

A name without a registry is Docker Hub's, one without a tag or digest means `latest`.  The grammar
is the distribution-spec's (Pulling manifests); everything that doesn't follow it is refused, since
the parts go into URLs and file names.
"""

from __future__ import annotations

import re
from typing import final

from pyrunc.errors import ImageError

from .digest import is_digest

DOCKER_HUB = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.A)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.A)
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?", re.A)
_MAX_NAME = 255


@final
class Reference:
    """A checked name: `registry`, `repository`, and a `tag`, a `digest`, or both."""

    __slots__ = ("digest", "registry", "repository", "tag")

    def __init__(self, registry: str, repository: str, tag: str = "", digest: str = "") -> None:
        self.registry = registry
        self.repository = repository
        self.tag = tag
        self.digest = digest

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What a registry is asked for: the digest where there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __repr__(self) -> str:
        return f"Reference({str(self)!r})"

    def with_tag(self, tag: str) -> Reference:
        return Reference(self.registry, self.repository, tag)

    @property
    def familiar(self) -> str:
        """As people write it: without what is understood (`busybox:latest`)."""
        text = str(self)
        for prefix in (f"{DOCKER_HUB}/library/", f"{DOCKER_HUB}/"):
            short = text.removeprefix(prefix)
            if short != text and str(parse(short)) == text:
                return short
        return text


def parse(text: str) -> Reference:
    """The reference `text` means.  Raises ImageError."""
    if is_digest(text) or re.fullmatch(r"[0-9a-f]{64}", text):
        raise _bad(text, "a digest alone names no repository", "REPOSITORY@" + text)
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _bad(text, f"{digest!a} is not a digest", "sha256: and 64 lower-case hexadecimal digits")
    head, slash, tail = rest.partition("/")
    # Docker's rule: a first part is a host when it could not be a user's name.
    if slash and (any(char in head for char in ".:[") or head == "localhost" or head != head.lower()):
        registry, rest = head, tail
    else:
        registry = DOCKER_HUB
    path, colon, tag = rest.rpartition(":")
    if not colon:
        path, tag = rest, ""
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not _REGISTRY.fullmatch(registry) or not _port_is_possible(registry):
        raise _bad(text, f"{registry!a} is not a registry's name", "HOST or HOST:PORT")
    if not _REPOSITORY.fullmatch(path):
        hint = "lower-case letters, digits and separators"
        if path != path.lower() and _REPOSITORY.fullmatch(path.lower()):
            hint = f"a repository is in lower case: {path.lower()}"
        raise _bad(text, f"{path!a} is not a repository's name", hint)
    if len(registry) + 1 + len(path) > _MAX_NAME:
        raise _bad(text, f"longer than {_MAX_NAME} characters", "")
    if colon and not _TAG.fullmatch(tag):
        raise _bad(text, f"{tag!a} is not a tag", "letters, digits, _ . and -, at most 128")
    if not tag and not digest:
        tag = "latest"
    return Reference(registry, path, tag, digest)


def _port_is_possible(registry: str) -> bool:
    port = re.search(r":([0-9]+)$", registry)
    return port is None or 0 < int(port[1]) < 65536


def _bad(text: str, what: str, hint: str) -> ImageError:
    return ImageError(f"{text[:300]!a} is not the name of an image: {what}", hint=hint)
