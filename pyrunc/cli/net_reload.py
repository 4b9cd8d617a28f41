# SPDX-License-Identifier: Apache-2.0
"""pyrunc net reload: make bridges and rules anew."""

from __future__ import annotations

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS: tuple[Option, ...] = (netting.ROOT,)
ARGUMENTS: tuple[Argument, ...] = ()


def run(args: Args, context: Context) -> int:
    from pyrunc.net import attachments

    attachments.reload(netting.store(args), warn=netting.warner(context))
    return 0
