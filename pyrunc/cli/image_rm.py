# SPDX-License-Identifier: Apache-2.0
"""pyrunc image rm NAME...: remove images, with all that only they need."""

from __future__ import annotations

from pyrunc.cli import imaging
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS = (
    Option("force", help="also when bundles or mounts are made of it, which keep its layers until they are gone"),
    imaging.JSON, imaging.STORE,
)
ARGUMENTS = (Argument("name", many=True),)


def run(args: Args, context: Context) -> int:
    from pyrunc.errors import ImageError
    from pyrunc.registry import uses
    from pyrunc.registry.digest import is_digest

    as_json = imaging.wants_json(args)
    store = imaging.store(args)
    failed = 0
    untagged: list[str] = []
    deleted: list[str] = []
    for text in (args["name"], *args.rest):
        try:
            name, descriptor = store.resolve(text)
            names = [other for other, entry in store.names().items() if entry.digest == descriptor.digest]
            by_id = is_digest(text) or (":" not in text and "/" not in text and text in descriptor.digest + text
                                        and name != text and not name.endswith(f"/{text}:latest"))
            if by_id and len(names) > 1 and not args.flag("force"):
                raise ImageError(f"{text}: the image has several names", hint="remove them by name, or use --force")
            held = [use.path for use in uses.listed(store) if use.descriptor.digest == descriptor.digest]
            if held and (by_id or len(names) == 1) and not args.flag("force"):
                raise ImageError(f"{text}: in use by {held[0]}", hint="delete that first, or use --force")
            for each in names if by_id else [name]:
                store.unname(each)
                untagged.append(each)
                if not as_json:
                    print(f"untagged: {each}")
        except ImageError as error:
            if not args.rest:
                raise
            context.log("error", f"image rm: {error}")
            failed = 1
    try:
        with store.removing(timeout=5.0):
            deleted = uses.collect(store).blobs
    except ImageError:
        context.log("warning", "the store is in use: `pyrunc image prune` removes the rest later")
    if as_json:
        imaging.print_json({"untagged": untagged, "deleted": deleted})
    else:
        for digest in deleted:
            print(f"deleted: {digest}")
    return failed
