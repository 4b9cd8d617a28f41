# SPDX-License-Identifier: Apache-2.0
"""A process that stands in the container's cgroup in the init's place, when that is to join last.

Somebody has to be there before: to make a cgroup namespace, which is rooted where its maker stands
and belongs to the user namespace that its maker is in; and because systemd starts no unit without a
process, and ends one that has none left.
"""

from __future__ import annotations

import os

from .channel import pair
from .console import send_descriptor
from .errors import PyruncError, kernel_error
from .linux import process as k
from .linux.syscall import clone3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .channel import Channel


class Placeholder:
    """The process, from the fork to `leave`."""

    __slots__ = ("channel", "pid")

    def __init__(self, user_namespace: int, init: Channel, proc: int) -> None:
        """`user_namespace`: a descriptor of the container's, -1 for ours; `init`: the channel to its init."""
        self.channel, theirs = pair()
        try:
            self.pid = clone3(0)
        except OSError as error:
            self.channel.close()
            theirs.close()
            raise kernel_error("fork", error) from None
        if self.pid == 0:
            self.channel.close()
            _main(theirs, user_namespace, init, proc)
        theirs.close()

    def give_cgroup_namespace(self) -> None:
        """Once it is in the cgroup: have it make the namespace and send that to the init.  Raises PyruncError."""
        try:
            self.channel.send("make")
            self.channel.expect("sent")
        except (EOFError, BrokenPipeError):
            raise PyruncError("the process that makes the cgroup namespace died", pointer="/linux/namespaces",
                              hint="was it out of memory?") from None

    def leave(self) -> None:
        """Have it end, if it hasn't, and wait for that."""
        if self.pid:
            self.channel.close()
            os.waitpid(self.pid, 0)
            self.pid = 0


def _main(channel: Channel, user_namespace: int, init: Channel, proc: int) -> NoReturn:
    try:
        channel.expect("make")
        # Processes of a user namespace that is joined could ptrace us from here on (CVE-2016-9962).
        k.prctl(k.PR_SET_DUMPABLE, 0)
        if user_namespace >= 0:
            k.setns(user_namespace, k.CLONE_NEWUSER)
        k.unshare(k.CLONE_NEWCGROUP)
        send_descriptor(init.fd, os.open("self/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc), "cgroup")
        channel.send("sent")
        channel.receive()  # nothing: the end
    except EOFError:
        pass
    except PyruncError as failure:
        channel.send_error(failure)
    except OSError as failure:
        channel.send_error(kernel_error("make the cgroup namespace", failure, pointer="/linux/namespaces"))
    finally:
        os._exit(0)
