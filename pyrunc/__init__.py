# SPDX-License-Identifier: Apache-2.0
"""pyrunc: an OCI container runtime.

    import pyrunc

    container = pyrunc.Container.create("/path/to/bundle", "web")
    container.start()

`Container`, `CreateOptions`, `ExecOptions` and the errors are the public names; they are imported when first used,
so that `import pyrunc` costs nothing.
"""

from __future__ import annotations

from pyrunc._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.errors import (
        BundleError,
        ConfigError,
        ContainerError,
        ContainerExists,
        ContainerNotFound,
        HookError,
        KernelError,
        PyruncError,
        UsageError,
    )
    from pyrunc.lifecycle import Container, load_all
    from pyrunc.options import CreateOptions, ExecOptions

__all__ = [
    "BundleError",
    "ConfigError",
    "Container",
    "ContainerError",
    "ContainerExists",
    "ContainerNotFound",
    "CreateOptions",
    "ExecOptions",
    "HookError",
    "KernelError",
    "PyruncError",
    "UsageError",
    "__version__",
    "load_all",
]

_HOME = {"Container": "pyrunc.lifecycle", "load_all": "pyrunc.lifecycle", "CreateOptions": "pyrunc.options",
         "ExecOptions": "pyrunc.options"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pyrunc' has no attribute {name!r}")
    module = __import__(_HOME.get(name, "pyrunc.errors"), fromlist=(name,))
    return getattr(module, name)
