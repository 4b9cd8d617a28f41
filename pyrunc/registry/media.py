# SPDX-License-Identifier: Apache-2.0
"""Media types: the OCI's and Docker's names of the same things, and how layers are compressed."""

from __future__ import annotations

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_SCHEMA1 = ("application/vnd.docker.distribution.manifest.v1+json",
                  "application/vnd.docker.distribution.manifest.v1+prettyjws")

INDEXES = (OCI_INDEX, DOCKER_INDEX)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIGS = (OCI_CONFIG, DOCKER_CONFIG)
ACCEPT = ", ".join((*MANIFESTS, *INDEXES))

#: A layer's media type -> how it is compressed.
LAYERS = {
    OCI_LAYER: "", OCI_LAYER + "+gzip": "gzip", OCI_LAYER + "+zstd": "zstd",
    OCI_FOREIGN: "", OCI_FOREIGN + "+gzip": "gzip", OCI_FOREIGN + "+zstd": "zstd",
    DOCKER_LAYER: "", DOCKER_LAYER + ".gzip": "gzip", DOCKER_LAYER + ".zstd": "zstd",
    DOCKER_FOREIGN: "", DOCKER_FOREIGN + ".gzip": "gzip", DOCKER_FOREIGN + ".zstd": "zstd",
}


def is_foreign(media_type: str) -> bool:
    """Whether a layer of that type is not for distribution: fetched from its `urls`, never pushed."""
    return media_type.startswith((OCI_FOREIGN, DOCKER_FOREIGN))


def layer_type(compression: str, docker: bool = False) -> str:
    """The media type of a layer compressed so ("", gzip, zstd)."""
    if docker:
        return DOCKER_LAYER + (f".{compression}" if compression else "")
    return OCI_LAYER + (f"+{compression}" if compression else "")
