# SPDX-License-Identifier: Apache-2.0
"""NO_PROXY means what it means to docker, podman and skopeo, which read it alike."""

from __future__ import annotations

import pytest

from pyrunc.registry.proxies import passed_by, proxy_for


@pytest.mark.parametrize(("no_proxy", "passed"), [
    ("", False), ("*", True), ("10.9.8.7", True), ("10.9.8.0/24", True), ("10.0.0.0/8", True), ("11.0.0.0/8", False),
    ("10.9.8.7:5000", True), ("10.9.8.7:1", False), ("foo , 10.9.8.0/24", True), ("10.9.8.7/33", False),
    ("example.com", False), ("10.9.8.70", False), ("fd00::/8", False), (" 10.9.8.7 ", True), (",,", False),
])
def test_an_address(no_proxy: str, passed: bool) -> None:
    assert passed_by("10.9.8.7", 5000, no_proxy) == passed


@pytest.mark.parametrize(("no_proxy", "passed"), [
    ("reg.example.com", True), ("example.com", True), (".example.com", True), ("*.example.com", True), ("com", True),
    ("REG.Example.com", True), ("xample.com", False), ("eg.example.com", False), ("reg.example.com:5000", True),
    ("reg.example.com:9", False), ("10.0.0.0/8", False), ("a.reg.example.com", False), (".reg.example.com", False),
    ("*.reg.example.com", False), ("*example.com", False),
])
def test_a_name(no_proxy: str, passed: bool) -> None:
    assert passed_by("Reg.example.com", 5000, no_proxy) == passed


@pytest.mark.parametrize(("no_proxy", "passed"), [
    ("fd00::1", True), ("[fd00::1]", True), ("[fd00::1]:5000", True), ("[fd00::1]:1", False), ("fd00::/64", True),
    ("fd01::/64", False),
])
def test_an_ipv6_address(no_proxy: str, passed: bool) -> None:
    assert passed_by("fd00::1", 5000, no_proxy) == passed


def test_this_machine_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "no_proxy", "HTTP_PROXY", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    assert proxy_for("https", "registry.example.com", 443) == "http://proxy:3128"
    assert proxy_for("http", "registry.example.com", 80) == ""
    assert [proxy_for("https", host, 443) for host in ("localhost", "127.0.0.1", "127.5.5.5", "::1")] == [""] * 4
