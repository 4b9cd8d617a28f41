# SPDX-License-Identifier: Apache-2.0
"""Fixtures: registries that live as long as a module, an image, a store for each test; a lab of network namespaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import netlab as network_lab
import pytest
import registries
from registries import Images, Registry, run


@pytest.fixture(scope="session")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout with the image `bb`."""
    return registries.busybox_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, layout: Path) -> Iterator[Registry]:
    """A registry without authentication, with test/bb:1."""
    with registries.serving(tmp_path_factory.mktemp("registry")) as served:
        run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:bb", f"docker://{served.host}/test/bb:1")
        yield served


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(tmp_path / "images")


@pytest.fixture
def netlab(tmp_path: Path) -> Iterator[network_lab.Lab]:
    """A lab of network namespaces, gone after the test."""
    with network_lab.lab(tmp_path) as lab:
        yield lab
