# SPDX-License-Identifier: Apache-2.0
"""What this build can do, as the `features` command prints it (features.md, features-linux.md).

Whoever reads it relies on it, so a feature is named here once it works, and not before.  What the
host's kernel lacks does not matter here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OCI_VERSION_MIN = "1.0.0"

MEMORY_POLICIES = ("MPOL_DEFAULT", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE",
                   "MPOL_PREFERRED",
                   "MPOL_PREFERRED_MANY", "MPOL_LOCAL")
MEMORY_POLICY_FLAGS = ("MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES")


def features() -> dict[str, Any]:
    """The features structure of runtime-spec 1.3.0."""
    from pyrunc._version import __version__
    from pyrunc.capabilities import NAMES
    from pyrunc.mountopts import KNOWN_OPTIONS
    from pyrunc.spec.check import HOOKS
    from pyrunc.spec.default import OCI_VERSION

    seccomp, libseccomp = _seccomp()
    return {
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": OCI_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": list(KNOWN_OPTIONS),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": list(NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": seccomp,
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {"modes": list(MEMORY_POLICIES), "flags": list(MEMORY_POLICY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        # A name that ends in a dot is the beginning of many (features.md).
        "potentiallyUnsafeConfigAnnotations": ["org.criu.config", "org.systemd.property.",
                                               "run.oci.keep_original_groups", "run.oci.mount_context_type"],
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "true",
            "io.pyrunc.version": __version__,
            **({"io.github.seccomp.libseccomp.version": libseccomp} if libseccomp else {}),
        },
    }


def _seccomp() -> tuple[dict[str, Any], str]:
    """What libseccomp and this kernel let a profile ask for, and libseccomp's version."""
    from pyrunc.errors import PyruncError
    from pyrunc.libseccomp import ARCHITECTURES, Library
    from pyrunc.linux.seccomp import action_known, flag_known
    from pyrunc.seccomp import ACTIONS, FLAGS, OPERATORS

    try:
        library = Library()
    except PyruncError:
        return {"enabled": False}, ""
    return {
        "enabled": True,
        "actions": [name for name, action in ACTIONS.items() if action_known(action)],
        "operators": list(OPERATORS),
        "archs": [f"SCMP_ARCH_{name.upper()}" for name in ARCHITECTURES if library.architecture(name)],
        "knownFlags": list(FLAGS),
        "supportedFlags": [name for name, flag in FLAGS.items() if flag_known(flag)],
    }, library.version_text
