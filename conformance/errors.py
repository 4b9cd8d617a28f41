# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with a lane, as opposed to what it finds out."""

from __future__ import annotations


class Unavailable(Exception):
    """The lane can't run here: something isn't installed, or the host lacks something."""


class Failed(Exception):
    """A command of a check failed; what it said is the message."""


class TooLate(Exception):
    """A check has used up its time."""
