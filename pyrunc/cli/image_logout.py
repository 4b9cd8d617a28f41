# SPDX-License-Identifier: Apache-2.0
"""pyrunc image logout [REGISTRY]: forget the credentials."""

from __future__ import annotations

from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (Option("all", "a", help="those for all registries, in the file (credential helpers keep theirs)"),)
ARGUMENTS = (Argument("registry", required=False, default="docker.io"),)


def run(args: Args, context: Context) -> int:
    from pyrunc.registry import auth

    registries = [args["registry"].removeprefix("https://").rstrip("/")]
    if args.flag("all"):
        registries = list(auth.load_file(auth.config_path()).get("auths") or {})
    found = [registry for registry in registries if auth.erase(registry)]
    if not found and not args.flag("all"):
        print(f"not logged in to {registries[0]}")
    for registry in found:
        print(f"logged out of {registry}")
    return 0
