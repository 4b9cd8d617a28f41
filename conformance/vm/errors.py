# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a machine, as opposed to what runs in it."""

from __future__ import annotations


class Unavailable(Exception):
    """There can be no machine here: no network, another architecture, not root."""


class Broken(Exception):
    """The machine didn't come up, or died under the command."""
