# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the attacks: the record, the hostile program, the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacks import Attack, build_attacker, collect, weaken
from support import PYRUNC, Runtime


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> Iterator[Attack]:
    """The record of the test's attack; at the end it has to prove what the table says."""
    row, what = request.node.get_closest_marker("attack").args
    name = getattr(request.node, "originalname", request.node.name)
    record = Attack(row, what, f"{request.node.path.name}::{name}")
    yield record
    if getattr(request.node, "passed", False) and request.config.getoption("--runtime") == PYRUNC:
        record.check()
        collect(request.config).append(record)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.passed = report.passed  # type: ignore[attr-defined, union-attr]
    return report


@pytest.fixture(scope="session")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hostile program."""
    return build_attacker(tmp_path_factory.mktemp("attacker"))


@pytest.fixture
def runc(make_runtime: Callable[[str], Runtime]) -> Iterator[Runtime]:
    """The peer, which has fallen to some of them."""
    runtime = make_runtime("runc")
    yield runtime
    runtime.clean_up()  # before `host` looks


@pytest.fixture
def weakened(make_runtime: Callable[[str], Runtime], tmp_path: Path) -> Iterator[Callable[[str], Runtime]]:
    """A function that makes a pyrunc without one of its defences."""
    made = []

    def make(code: str) -> Runtime:
        made.append(make_runtime(str(weaken(tmp_path / "weakened", code))))
        return made[-1]

    yield make
    for runtime in made:
        runtime.clean_up()
