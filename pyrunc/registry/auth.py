# SPDX-License-Identifier: Apache-2.0
"""Credentials: docker's config.json (and podman's auth.json), and credential helpers.

docker-credential-helpers' protocol: a program `docker-credential-NAME` gets the registry's name on
stdin and answers in JSON.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import re
import subprocess
from contextlib import suppress
from typing import Any, final

from pyrunc.errors import ImageError
from pyrunc.paths import make_private

from .reference import DOCKER_HUB

_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.A)
_HELPER_TIMEOUT = 60
_MAX_FILE = 4 << 20
_TOKEN_USER = "<token>"  # what a helper calls the user of an identity token


@final
class HelperMissing(ImageError):
    """A credential helper that config.json names is not installed."""


@final
class Credentials:
    """A user's name and password, or an identity token (OAuth2 refresh token) in the password's place."""

    __slots__ = ("identity", "password", "username")

    def __init__(self, username: str, password: str, identity: str = "") -> None:
        self.username = username
        self.password = password
        self.identity = identity

    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def config_path() -> str:
    """The file `login` writes."""
    own = os.environ.get("REGISTRY_AUTH_FILE")
    if own:
        return own
    directory = os.environ.get("DOCKER_CONFIG") or os.path.join(os.environ.get("HOME") or "/root", ".docker")
    return os.path.join(directory, "config.json")


def readable_paths() -> list[str]:
    """The files that credentials are looked for in: docker's, and podman's (containers-auth.json(5))."""
    paths = [config_path()]
    if not os.environ.get("REGISTRY_AUTH_FILE"):
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        paths.append(f"{runtime}/containers/auth.json" if runtime else f"/run/containers/{os.geteuid()}/auth.json")
        own = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.environ.get("HOME") or "/root", ".config")
        paths.append(f"{own}/containers/auth.json")
    return paths


def _key(registry: str) -> str:
    return _HUB_KEY if registry == DOCKER_HUB else registry


def _keys(registry: str) -> tuple[str, ...]:
    """What a file may call the registry."""
    if registry == DOCKER_HUB:
        return (_HUB_KEY, DOCKER_HUB, "index.docker.io", "registry-1.docker.io")
    return (registry, f"https://{registry}", f"https://{registry}/", f"https://{registry}/v1/",
            f"https://{registry}/v2/", f"http://{registry}", f"http://{registry}/")


def load_file(path: str) -> dict[str, Any]:
    """config.json, {} where there is none.  Raises ImageError."""
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(_MAX_FILE) or b"{}")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ImageError(f"{path} is not JSON") from None
    if not isinstance(value, dict):
        raise ImageError(f"{path} is not a JSON object")
    return value


def find(registry: str, repository: str = "") -> Credentials | None:
    """The credentials for the registry; podman's files may have others for a repository of it."""
    for path in readable_paths():
        data = load_file(path)
        helper = _helper_for(data, registry)
        if helper:
            try:
                found = _ask(helper, _key(registry))
            except HelperMissing:
                # One for all registries, of a desktop that isn't here, must not keep from what is public.
                if helper != data.get("credsStore"):
                    raise
                found = None
            if found is not None:
                return found
        auths = data.get("auths")
        if not isinstance(auths, dict):
            continue
        parts = repository.split("/") if repository else []
        spaces = [f"{registry}/{'/'.join(parts[:length])}" for length in range(len(parts), 0, -1)]
        for key in (*spaces, *_keys(registry)):
            entry = auths.get(key)
            if isinstance(entry, dict):
                found = _decode(entry, path, key)
                if found is not None:
                    return found
    return None


def _helper_for(data: dict[str, Any], registry: str) -> str:
    helpers = data.get("credHelpers")
    if isinstance(helpers, dict):
        for key in _keys(registry):
            if helpers.get(key):
                return str(helpers[key])
    return str(data.get("credsStore") or "")


def _decode(entry: dict[str, Any], path: str, key: str) -> Credentials | None:
    identity = str(entry.get("identitytoken") or "")
    if entry.get("auth"):
        try:
            # base64(1) wraps its lines, and ends them.
            text = base64.b64decode("".join(str(entry["auth"]).split()), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise ImageError(f"{path}: the credentials for {key} are not base64", hint="log in again") from None
        username, _, password = text.partition(":")  # a password may hold colons
        return Credentials(username, password.rstrip("\0"), identity)
    if entry.get("username"):
        return Credentials(str(entry["username"]), str(entry.get("password") or ""), identity)
    return Credentials("", "", identity) if identity else None


def _run_helper(name: str, action: str, given: str) -> str:
    if not _HELPER_NAME.fullmatch(name):
        raise ImageError(f"{name[:80]!a} is not the name of a credential helper")
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run([program, action], input=given, capture_output=True, text=True,
                              timeout=_HELPER_TIMEOUT, check=False)
    except FileNotFoundError:
        raise HelperMissing(f"the credential helper {program} is not installed",
                            hint="install it, or take credsStore and credHelpers out of config.json") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"the credential helper {program}: {error}") from None
    if done.returncode:
        said = (done.stdout or done.stderr).strip()
        if "credentials not found" in said.lower():
            return ""
        raise ImageError(f"the credential helper {program} failed: {said[:300]}")
    return done.stdout


def _ask(helper: str, key: str) -> Credentials | None:
    answer = _run_helper(helper, "get", key)
    if not answer:
        return None
    try:
        value = json.loads(answer)
        username, secret = str(value["Username"]), str(value["Secret"])
    except (ValueError, KeyError, TypeError):
        raise ImageError(f"the credential helper {helper} answered with something else than credentials") from None
    return Credentials("", "", secret) if username == _TOKEN_USER else Credentials(username, secret)


def save(registry: str, credentials: Credentials) -> str:
    """Keep the credentials; where they are now (a file, or a helper's name)."""
    path = config_path()
    helper = _helper_for(load_file(path), registry)
    if helper:
        _run_helper(helper, "store", json.dumps({
            "ServerURL": _key(registry), "Username": credentials.username or _TOKEN_USER,
            "Secret": credentials.password or credentials.identity}))
        return f"docker-credential-{helper}"

    def change(data: dict[str, Any]) -> bool:
        auths = data.setdefault("auths", {})
        encoded = base64.b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
        auths[_key(registry)] = {"auth": encoded, **({"identitytoken": credentials.identity}
                                                     if credentials.identity else {})}
        return True

    _change_file(path, change)
    return path


def erase(registry: str) -> bool:
    """Forget the credentials; whether there were any."""
    path = config_path()
    helper = _helper_for(load_file(path), registry)
    if helper:
        there = _ask(helper, _key(registry)) is not None
        _run_helper(helper, "erase", _key(registry))
        return there

    def change(data: dict[str, Any]) -> bool:
        auths = data.get("auths", {})
        return any([auths.pop(key, None) is not None for key in _keys(registry)])

    return _change_file(path, change)


def _change_file(path: str, change: Any) -> bool:
    """Change config.json as a whole, mode 0600, leaving alone what others keep in it."""
    directory = os.path.dirname(os.path.abspath(path))
    try:
        make_private(directory)
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            data = load_file(path)
            if not change(data):
                return False
            temporary = f"{path}.{os.getpid()}"
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with open(fd, "w") as file:
                    json.dump(data, file, indent="\t")
                    file.flush()
                    os.fsync(fd)
                os.rename(temporary, os.path.realpath(path))
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
            return True
        finally:
            os.close(lock)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None
