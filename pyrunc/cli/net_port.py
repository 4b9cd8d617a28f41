# SPDX-License-Identifier: Apache-2.0
"""pyrunc net port CONTAINER [PORT[/PROTOCOL]]: which ports of the host lead to a container."""

from __future__ import annotations

from pyrunc.cli import netting
from pyrunc.cli.options import Argument, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrunc.cli import Context
    from pyrunc.cli.options import Args

OPTIONS: tuple[Option, ...] = (netting.JSON, netting.ROOT)
ARGUMENTS = (Argument("container-id"), Argument("port", required=False))


def run(args: Args, context: Context) -> int:
    from pyrunc.errors import NetworkError, UsageError
    from pyrunc.net.model import check_container, span

    as_json = netting.wants_json(args, "text")
    wanted, _, protocol = args["port"].partition("/")
    if wanted and not (wanted.isascii() and wanted.isdigit() and len(wanted) < 6):
        raise UsageError(f"{args['port']!a} is no port", hint="80, or 53/udp")
    found = []
    attachments = netting.store(args).attachments(container=check_container(args["container-id"]))
    if not attachments:
        raise NetworkError(f"{args['container-id']} is in no network", hint="`pyrunc net inspect` shows who is in one")
    for attachment in attachments:
        for port in attachment.ports:
            if not wanted or (port.container <= int(wanted) < port.container + port.count
                              and port.protocol == (protocol or "tcp")):
                found.append(port)
    if wanted and not found:
        raise NetworkError(f"port {args['port']} of {args['container-id']} is not published")
    if as_json:
        netting.print_json([port.to_data() for port in found])
        return 0
    for port in found:
        print(f"{span(port.container, port.count)}/{port.protocol} -> {port}")
    return 0
