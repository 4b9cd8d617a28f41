# SPDX-License-Identifier: Apache-2.0
"""pyrunc.spec.default and .features: what they say, beside `runc spec` and the schemas."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pyrunc.spec.default import default_config
from pyrunc.spec.explain import load_schema, validator
from pyrunc.spec.features import MEMORY_POLICIES, MEMORY_POLICY_FLAGS, features
from pyrunc.spec.load import dump, load_config

#: Where the two may differ, and why.
DIFFERENCES = {
    "/ociVersion": "each writes the version it implements",
    "/hostname": "each writes its name",
    # Without inheritable ones, which neither writes, they can't be raised: they have no effect with runc,
    # and later ones don't write them.
    **{f"/process/capabilities/ambient/{index}": "an ambient set would survive a change of user" for index in range(3)},
}


def leaves(value: Any, pointer: str = "") -> dict[str, Any]:
    """Every leaf of a JSON value by its pointer."""
    parts: Iterable[tuple[str, Any]]
    if isinstance(value, dict) and value:
        parts = value.items()
    elif isinstance(value, list) and value:
        parts = ((str(index), item) for index, item in enumerate(value))
    else:
        return {pointer: value}
    return {key: leaf for name, item in parts for key, leaf in leaves(item, f"{pointer}/{name}").items()}


@pytest.mark.parametrize("rootless", [False, True])
def test_the_default_means_what_runc_writes(rootless: bool, tmp_path: Path) -> None:
    subprocess.run(["runc", "spec", *(["--rootless"] if rootless else [])], cwd=tmp_path, check=True)
    theirs = leaves(json.loads((tmp_path / "config.json").read_bytes()))
    ours = leaves(default_config(rootless, os.geteuid(), os.getegid()))
    everywhere = theirs.keys() | ours.keys()
    different = {pointer for pointer in everywhere if theirs.get(pointer) != ours.get(pointer)}
    assert different == DIFFERENCES.keys() & theirs.keys()


@pytest.mark.parametrize("rootless", [False, True])
def test_the_default_is_valid(rootless: bool) -> None:
    config = default_config(rootless, 1000, 1000)
    assert load_config(dump(config).encode()) == config


def test_rootless_maps_the_ids_given() -> None:
    linux = default_config(True, 1000, 1001)["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 1}]
    assert linux["gidMappings"] == [{"containerID": 0, "hostID": 1001, "size": 1}]


def test_each_default_is_a_copy_of_its_own() -> None:
    default_config()["process"]["capabilities"]["bounding"].clear()
    default_config()["linux"]["maskedPaths"].clear()
    assert default_config()["process"]["capabilities"]["bounding"]
    assert default_config()["linux"]["maskedPaths"]


def test_features_fit_their_schema() -> None:
    assert [error.message for error in validator(load_schema("features.json")).iter_errors(features())] == []


def test_features_name_what_the_configuration_takes() -> None:
    definitions = load_schema("config.json")["$defs"]
    linux = features()["linux"]
    assert set(features()["hooks"]) == set(definitions["hooks"]["properties"])
    assert set(linux["namespaces"]) == set(definitions["namespace"]["properties"]["type"]["enum"])
    assert list(MEMORY_POLICIES) == definitions["memoryPolicy"]["properties"]["mode"]["enum"]
    assert list(MEMORY_POLICY_FLAGS) == definitions["memoryPolicy"]["properties"]["flags"]["items"]["enum"]


def test_features_claim_nothing_that_is_refused() -> None:
    assert {"ro", "idmap", "ridmap", "rro", "rbind", "rslave", "tmpcopyup"} <= set(features()["mountOptions"])
    assert "CAP_SYS_ADMIN" in features()["linux"]["capabilities"]


def test_features_leave_nothing_out() -> None:
    """Every member that runtime-spec 1.3.0 knows is there."""
    schema = load_schema("features.json")
    assert set(features()) == set(schema["properties"])
    assert set(features()["linux"]) == set(schema["properties"]["linux"]["properties"])
    assert features()["potentiallyUnsafeConfigAnnotations"] == [
        "org.criu.config", "org.systemd.property.", "run.oci.keep_original_groups",
        "run.oci.mount_context_type"]
