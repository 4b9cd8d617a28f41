# SPDX-License-Identifier: Apache-2.0
"""What --debug adds to an error."""

from __future__ import annotations

import linecache
import sys
import traceback


def print_traceback() -> None:
    """Print the exception that is being handled, with its lines of source."""
    for frame, _ in traceback.walk_tb(sys.exc_info()[2]):
        # Frozen modules (tools/freeze.py) are named by their path below sys.path, and know no source of theirs.
        linecache.updatecache(frame.f_code.co_filename)
    traceback.print_exc()
