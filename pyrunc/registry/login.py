# SPDX-License-Identifier: Apache-2.0
"""Whether a registry takes a user's credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyrunc.errors import RegistryError

from .client import Session
from .hosts import Hosts
from .reference import Reference

if TYPE_CHECKING:
    from .auth import Credentials


def check(registry: str, credentials: Credentials, *, insecure: bool = False) -> None:
    """Raises RegistryError when the registry refuses them (API version check)."""
    endpoint = Hosts(insecure=insecure).endpoints(Reference(registry, "x/x", "latest"))[-1]
    endpoint.repository = ""
    session = Session(endpoint, registry, credentials=credentials)
    try:
        session.request("GET", "", what="login").close()
    except RegistryError as error:
        if error.status in (401, 403):
            raise RegistryError(f"{registry}: the user or the password is wrong: HTTP {error.status}",
                                status=error.status) from None
        raise
