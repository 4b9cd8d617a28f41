# SPDX-License-Identifier: Apache-2.0
"""The runtime's options, which come with a container: containerd.runc.v1.Options, or a file in TOML.

containerd gives a runtime whose options it doesn't know `runtimeoptions.v1.Options`: the path of a
configuration file, or its contents.  The names in it are those that runc's options have there.
"""

from __future__ import annotations

import os

from pyrunc.errors import PyruncError, UsageError, kernel_error
from pyrunc.spec.load import dump, parse

from .codec import DecodeError
from .messages import Options, RuntimeOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .messages import Any

STATE_ROOT = "/run/containerd/pyrunc"
FILE = "options.json"  # in the bundle, for `delete` after the shim is gone
_NAMES = {"NoPivotRoot": "no_pivot_root", "NoNewKeyring": "no_new_keyring", "ShimCgroup": "shim_cgroup",
          "IoUid": "io_uid", "IoGid": "io_gid", "Root": "root", "SystemdCgroup": "systemd_cgroup",
          "CriuImagePath": "criu_image_path", "CriuWorkPath": "criu_work_path", "BinaryName": "binary_name"}


def decode(wanted: Any | None) -> Options:
    """The options that `wanted` holds; those of another runtime are passed over.  Raises PyruncError."""
    name = wanted.type_url.rpartition("/")[2] if wanted is not None else ""
    try:
        if wanted is not None and name == "containerd.runc.v1.Options":
            return Options.decode(wanted.value)
        if wanted is not None and name == "runtimeoptions.v1.Options":
            return _from_toml(RuntimeOptions.decode(wanted.value))
    except DecodeError as error:
        raise UsageError(f"the runtime's options are malformed: {error}") from None
    return Options()


def _from_toml(given: RuntimeOptions) -> Options:
    import tomllib

    text, place = given.config_body, "the runtime's options"
    if given.config_path:
        place = given.config_path
        try:
            with open(place, "rb") as file:
                text = file.read(1 << 20)
        except OSError as error:
            raise kernel_error(f"read {place}", error) from None
    try:
        found = tomllib.loads(text.decode())
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from None
    values = {}
    for key, value in found.items():
        if key not in _NAMES:
            raise UsageError(f"{place}: there is no option {key}", hint=", ".join(sorted(_NAMES)))
        if type(value) is not type(getattr(Options(), _NAMES[key])):
            raise UsageError(f"{place}: {key} can't be {value!r}")
        values[_NAMES[key]] = value
    return Options(**values)


def state_root(options: Options, namespace: str) -> str:
    """Where the state of that namespace's containers is."""
    return os.path.join(options.root or STATE_ROOT, namespace)


def save(bundle: str, options: Options) -> None:
    """Into the bundle.  Raises KernelError."""
    path = f"{bundle}/{FILE}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, dump({"root": options.root, "systemd_cgroup": options.systemd_cgroup}).encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise kernel_error(f"write {path}", error) from None


def load(bundle: str) -> Options:
    """What `save` has saved; the defaults where it hasn't."""
    path = f"{bundle}/{FILE}"
    try:
        with open(path, "rb") as file:
            found = parse(file.read(1 << 16), path)
        return Options(root=str(found["root"]), systemd_cgroup=bool(found["systemd_cgroup"]))
    except (OSError, PyruncError, KeyError, TypeError):
        return Options()
