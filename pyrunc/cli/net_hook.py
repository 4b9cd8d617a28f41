# SPDX-License-Identifier: Apache-2.0
"""pyrunc net hook attach|detach: what the hooks of `net setup` run, the container's state on stdin."""

from __future__ import annotations

import os

from pyrunc.cli import net_setup, netting
from pyrunc.cli.options import Argument
from pyrunc.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = net_setup.WISH
ARGUMENTS = (Argument("action", help="attach or detach"),)
_MAX_STATE = 1 << 22


def run(args: Args, context: Context) -> int:
    from pyrunc.net import bundles

    action = {"attach": bundles.attach, "detach": bundles.detach}.get(args["action"])
    if action is None:
        raise UsageError(f"net hook has no {args['action']!a}", hint="attach, in createRuntime; detach, in poststop")
    data = b""
    while len(data) < _MAX_STATE and (piece := os.read(0, 1 << 16)):
        data += piece
    action(bundles.State(data), net_setup.wish(args), netting.warner(context))
    return 0
