# SPDX-License-Identifier: Apache-2.0
"""pyrunc features: what this build can do (features.md)."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS: tuple[Option, ...] = ()
ARGUMENTS: tuple[Argument, ...] = ()


def run(args: Args, context: Context) -> int:
    from pyrunc.spec.features import features
    from pyrunc.spec.load import dump_pretty

    print(dump_pretty(features(), indent=4))
    return 0
