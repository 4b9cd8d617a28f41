# SPDX-License-Identifier: Apache-2.0
"""config.json's `process`: limits, user, privileges, and the program (config.md, Process).

Planned on the host side; what only the parent may do (limits, the OOM score) is done there, the
rest by the init after it has entered the root, privileges last.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from . import capabilities
from .errors import ConfigError, PyruncError, attempt, kernel_error
from .linux import process as k
from .namespaces import keeps_groups
from .passwd import home_directory
from .paths import clean, make_directory
from .rlimits import RLIMITS
from .scheduling import Scheduling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .channel import Channel
    from .lsm import Labels
    from .seccomp import Filter
    from .spec.types import Config, Process

_MAX_CPUS = 8192  # CONFIG_NR_CPUS at its largest

_UNMAPPED = {errno.EINVAL: "the id is not mapped in the user namespace"}

DEFAULT_PATH = "/bin:/usr/bin"  # confstr(_CS_PATH), what execvp(3) uses without PATH
DEFAULT_UMASK = 0o022


class ProcessPlan:
    """What becomes of the init; `lines` tell it in order for `explain`."""

    __slots__ = ("args", "capabilities", "config", "cwd", "entered", "env", "gid", "groups", "keep_groups", "labels",
                 "lines", "linux", "listens", "rlimits", "scheduling", "seccomp", "terminal", "uid", "umask",
                 "warnings")

    def __init__(self, config: Config, process: Process) -> None:
        user = process.get("user") or {}
        self.config = process
        self.linux = config.get("linux") or {}
        self.args = list(process.get("args") or ())
        self.cwd = process.get("cwd") or "/"
        self.entered = False  # it has been
        self.env: dict[str, str] = {}
        for entry in process.get("env") or ():
            key, _, value = entry.partition("=")
            self.env.pop(key, None)  # the last of a name counts, in its place
            self.env[key] = value
        self.uid = user.get("uid") or 0
        self.gid = user.get("gid") or 0
        self.groups = list(user.get("additionalGids") or ())
        self.keep_groups = keeps_groups(config)
        umask = user.get("umask")
        self.umask = DEFAULT_UMASK if umask is None else umask & 0o777
        self.scheduling = Scheduling(process, self.linux)
        self.terminal = bool(process.get("terminal"))
        self.listens = False  # on sockets of its service manager's (sd_listen_fds(3))
        self.rlimits: list[tuple[str, int, int, int, str]] = []
        self.warnings: list[str] = []
        self.lines: list[tuple[str, str]] = []
        for index, limit in enumerate(process.get("rlimits") or ()):
            pointer = f"/process/rlimits/{index}"
            number = RLIMITS.get(limit["type"])
            if number is None:
                raise ConfigError(pointer + "/type", f'"{limit["type"]}" is not a resource limit')
            self.rlimits.append((limit["type"], number, limit["soft"], limit["hard"], pointer))
        bounding = 0
        for number in range(capabilities.last_cap() + 1):
            if k.prctl(k.PR_CAPBSET_READ, number):
                bounding |= 1 << number
        # A new user namespace starts with all capabilities, whatever the runtime has.
        own_namespace = any(entry["type"] == "user" for entry in self.linux.get("namespaces") or ())
        every = (1 << (capabilities.last_cap() + 1)) - 1
        wanted: Mapping[str, Sequence[str] | None] | None = process.get("capabilities")  # type: ignore[assignment]
        self.capabilities, self.warnings = capabilities.from_config(
            wanted,
            every if own_namespace else k.capget()[1],
            every if own_namespace else bounding,
            self.uid,
        )
        self.labels: Labels | None = None
        if process.get("apparmorProfile") or process.get("selinuxLabel"):
            from .lsm import Labels

            self.labels = Labels(process)
        self.seccomp: Filter | None = None
        if profile := self.linux.get("seccomp"):
            from .seccomp import Filter

            self.seccomp = Filter(profile)
        persona = self.linux.get("personality")
        if persona and persona.get("flags"):
            self.warnings.append("/linux/personality/flags: there are none (config-linux.md, Personality): ignored")
        self._describe()

    def _describe(self) -> None:
        add = self.lines.append
        for key in ("oomScoreAdj", "scheduler", "ioPriority"):
            if self.config.get(key) is not None:
                add((f"/process/{key}", f"{key} {self.config.get(key)}"))
        for key in ("personality", "memoryPolicy"):
            if self.linux.get(key):
                add((f"/linux/{key}", f"{key} {self.linux.get(key)}"))
        groups = "of the caller" if self.keep_groups else self.groups
        add(("/process/cwd", f"working directory {self.cwd}"))
        add(("/process/user", f"uid {self.uid}, gid {self.gid}, groups {groups}, umask {self.umask:03o}"))
        if self.config.get("noNewPrivileges"):
            add(("/process/noNewPrivileges", "no new privileges"))
        for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
            mask = getattr(self.capabilities, name)
            names = [cap for number, cap in enumerate(capabilities.NAMES) if mask >> number & 1]
            add((f"/process/capabilities/{name}", f"{name} capabilities: {' '.join(names) or 'none'}"))
        for name, _, soft, hard, pointer in self.rlimits:
            add((pointer, f"{name} soft {soft} hard {hard}"))
        if self.labels is not None:
            self.lines += self.labels.lines()
        if self.seccomp is not None:
            self.lines += self.seccomp.lines
        add(("/process/args", f"execve {self.args}"))

    def apply_from_parent(self, pid: int, proc: int, *, free_cpus: bool = True) -> None:
        """What `pid` may not do itself in a user namespace: raise hard limits, set its OOM score.

        And with `free_cpus`, whatever processors our caller is bound to, it is bound to those of its cgroup.

        The limits as configured are set by `apply_limits` at the very end: with a few descriptors or
        a few megabytes the init could not do its work.
        """
        try:
            # A caller that isn't bound spares the call: moving a process to where it is costs a millisecond too.
            if free_cpus and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1):
                os.sched_setaffinity(pid, range(_MAX_CPUS))
        except OSError:
            pass  # a cpuset or a seccomp filter of the caller's: then it stays as it is
        for name, number, soft, hard, pointer in self.rlimits:
            try:
                now_soft, now_hard = k.prlimit(pid, number)
                if hard > now_hard:
                    k.prlimit(pid, number, (now_soft, hard))
            except OSError as error:
                hint = "raising a hard limit needs CAP_SYS_RESOURCE" if error.errno == errno.EPERM else ""
                raise kernel_error(f"{name} soft {soft} hard {hard}", error, pointer=pointer, hint=hint) from None
        score = self.config.get("oomScoreAdj")
        if score is not None:
            try:
                fd = os.open(f"{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
                try:
                    os.write(fd, str(score).encode())
                finally:
                    os.close(fd)
            except OSError as error:
                hint = "lowering it needs CAP_SYS_RESOURCE" if error.errno in (errno.EACCES, errno.EPERM) else ""
                raise kernel_error(f"set the OOM score to {score}", error, syscall="write",
                                   pointer="/process/oomScoreAdj", hint=hint) from None

    def apply_limits(self) -> None:
        """The resource limits as configured; no descriptor is opened from here on but by the program."""
        for name, number, soft, hard, pointer in self.rlimits:
            try:
                k.prlimit(0, number, (soft, hard))
            except OSError as error:
                raise kernel_error(f"{name} soft {soft} hard {hard}", error, pointer=pointer) from None

    def join_keyring(self, container_id: str, proc: int) -> None:
        """A session keyring of the container's own, labelled as its processes are.  Raises KernelError."""
        if self.labels is not None:
            self.labels.label_keys(proc, on=True)
        join_keyring(container_id)
        if self.labels is not None:
            self.labels.label_keys(proc, on=False)

    def make_cwd(self, root: int) -> None:
        """Make the working directory where the image lacks it."""
        try:
            os.close(make_directory(root, clean(self.cwd)))
        except OSError as error:
            # A directory that can't be made may still be entered, as a link or by its user.
            if error.errno not in (errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.EACCES, errno.ELOOP):
                raise kernel_error(f"make the working directory {self.cwd}", error, pointer="/process/cwd") from None

    def prepare(self, root: int, proc_self: int) -> None:
        """Before the user changes: HOME, who owns stdin, stdout and stderr, profile and label."""
        if not self.env.get("HOME"):
            self.env["HOME"] = home_directory(root, proc_self, self.uid)
        for fd in (0, 1, 2):
            own_stdio(fd, self.uid)
        if self.labels is not None:
            self.labels.apply(proc_self)

    def drop_privileges(self) -> None:
        """User, groups, working directory, capabilities, in the order the kernel needs."""
        self.become_user()
        self.enter_cwd()

    def become_user(self) -> None:
        """The same, but that a working directory which could not be entered is left to `enter_cwd`."""
        if self.config.get("noNewPrivileges"):
            k.prctl(k.PR_SET_NO_NEW_PRIVS, 1)
        # The bounding set first: dropping from it needs CAP_SETPCAP.
        attempt("/process/capabilities/bounding", "drop capabilities from the bounding set",
              lambda: capabilities.apply_bounding(self.capabilities.bounding))
        k.prctl(k.PR_SET_KEEPCAPS, 1)
        self._try_cwd()
        attempt("/process/user/additionalGids", f"groups {self.groups}", self._set_groups, _UNMAPPED)
        attempt("/process/user/gid", f"gid {self.gid}", lambda: os.setresgid(self.gid, self.gid, self.gid), _UNMAPPED)
        attempt("/process/user/uid", f"uid {self.uid}", lambda: os.setresuid(self.uid, self.uid, self.uid), _UNMAPPED)
        k.prctl(k.PR_SET_KEEPCAPS, 0)
        self._try_cwd()
        attempt("/process/capabilities", "set the capabilities", lambda: capabilities.apply(
            self.capabilities, self._kept_capability()))
        os.umask(self.umask)

    def _try_cwd(self) -> None:
        """Enter the working directory, as whoever we are; `enter_cwd` says why it can't be."""
        if not self.entered:
            try:
                os.chdir(self.cwd)
            except OSError:
                return
            self.entered = True
            self._check_cwd()

    def enter_cwd(self) -> None:
        """Enter the working directory, where that is still to be done.  Raises PyruncError."""
        if self.entered:
            return
        try:
            os.chdir(self.cwd)
        except PermissionError:
            raise ConfigError("/process/cwd", f"uid {self.uid} may not enter {self.cwd}", syscall="chdir",
                              errno=errno.EACCES) from None
        except OSError as error:
            raise kernel_error(f"enter the working directory {self.cwd}", error, syscall="chdir",
                               pointer="/process/cwd") from None
        self._check_cwd()

    def _check_cwd(self) -> None:
        if not _is_below_root():
            raise ConfigError("/process/cwd", f"{self.cwd} is outside of the container's root")

    def prepare_filter(self, report: Callable[[str, str], None]) -> Filter | None:
        """On the host's side: compile the seccomp filter, if there is to be one.  Raises PyruncError."""
        if self.seccomp is not None:
            self.seccomp.prepare()
            for level, text in self.seccomp.warnings:
                report(level, text)
        return self.seccomp

    def _kept_capability(self) -> int:
        """What loading the filter takes: no_new_privs or this one (seccomp(2))."""
        return capabilities.SYS_ADMIN if self.seccomp and not self.config.get("noNewPrivileges") else 0

    @property
    def has_more_until_execve(self) -> bool:
        """Whether the process keeps a capability for loading the filter that its program won't have."""
        return bool(self._kept_capability() & ~self.capabilities.permitted)

    def confine_early(self) -> None:
        """Load the filter, and give up at once what that took: others may look at who comes from here."""
        self.confine()
        attempt("/process/capabilities", "set the capabilities", lambda: capabilities.reduce(self.capabilities))

    def confine(self) -> int:
        """Load the seccomp filter, where there is one; the descriptor of its listener, or -1.

        CAP_SYS_ADMIN isn't given up again: that would be one more call that a profile had to allow, and
        execve, which follows, makes a permitted set from the bounding and the ambient one anew (capabilities(7)).
        """
        if self.seccomp is None:
            return -1
        try:
            capabilities.raise_effective(self._kept_capability())
            return self.seccomp.load()
        except OSError as error:
            hint = {errno.EACCES: "needs CAP_SYS_ADMIN, or process.noNewPrivileges",
                    errno.EBUSY: "a filter with a listener is there already: one is all the kernel allows",
                    }.get(error.errno or 0, "")
            raise kernel_error("load the seccomp filter", error, pointer="/linux/seccomp", hint=hint) from None

    def confine_for_agent(self, channel: Channel) -> None:
        """Load a filter with a listener, and have the parent hand that to the agent.

        From here on any call may wait for the agent's answer but write(2), which tells the parent.  The
        listener must not stay open here: were the agent to die, we would wait for ever instead of failing.
        """
        by_user = self.seccomp is not None and self.seccomp.by_user
        if by_user:
            # The runtime's right to our descriptors ends with our being not dumpable: its capabilities are
            # those of the new user namespace, and our memory is still of the old one (ptrace(2)).
            k.prctl(k.PR_SET_DUMPABLE, 1)
        fd = self.confine()
        channel.send("seccomp", fd=fd)
        channel.expect("taken")
        os.close(fd)
        if by_user:
            try:
                k.prctl(k.PR_SET_DUMPABLE, 0)
            except OSError:
                pass  # the filter forbids it: the user can look at us, as it can at the program

    def _set_groups(self) -> None:
        if self.keep_groups:
            return
        try:
            os.setgroups(self.groups)
        except PermissionError:
            # setgroups is denied in a user namespace an ordinary user made; with no groups asked for
            # nothing is lost that could be helped (user_namespaces(7)).
            if self.groups:
                raise

    def find_program(self) -> str:
        """args[0] as execvp(3) finds it, as the container's user.  Raises PyruncError as runc words it."""
        program = self.args[0]
        if "/" in program:
            error = _executable(program)
            if error:
                raise _exec_error(program, error)
            return program
        path = self.env.get("PATH", DEFAULT_PATH)
        denied = False
        for directory in path.split(":"):
            candidate = f"{directory or '.'}/{program}"
            error = _executable(candidate)
            if not error:
                return candidate
            denied = denied or error == errno.EACCES
        if denied:
            raise _exec_error(program, errno.EACCES)
        raise PyruncError(f'exec: "{program}": executable file not found in $PATH', pointer="/process/args/0",
                          hint=f"PATH is {path}")

    def execute(self, program: str) -> None:
        """execve(2); returns only by raising PyruncError."""
        if self.listens:
            self.env["LISTEN_PID"] = str(os.getpid())
        try:
            os.execve(program, self.args, self.env)
        except OSError as error:
            raise _exec_error(program, error.errno or 0) from None


def _is_below_root() -> bool:
    """Whether the working directory is: a descriptor or a link of /proc can lead out (CVE-2024-21626)."""
    try:
        return os.getcwd().startswith("/")
    except FileNotFoundError:  # getcwd(3), where the kernel says "(unreachable)"
        return False


def _exec_error(program: str, number: int) -> PyruncError:
    hint = {
        errno.ENOEXEC: "not a program for this machine, or a script without #!",
        errno.ENOENT: "the file is missing, or the interpreter or loader it names",
    }.get(number, "")
    if number == errno.EISDIR:
        # What execve(2) says of one, and clients look for: "permission denied" is exit code 126 to them.
        number, hint = errno.EACCES, "it is a directory"
    return PyruncError(f'exec: "{program}"', pointer="/process/args/0", errno=number, hint=hint)


def _executable(path: str) -> int:
    """0 if this process may execute `path`, else an errno."""
    try:
        info = os.stat(path)
    except OSError as error:
        return error.errno or errno.EIO
    if stat.S_ISDIR(info.st_mode):
        return errno.EISDIR
    if not os.access(path, os.X_OK, effective_ids=True):
        return errno.EACCES
    return 0


def own_stdio(fd: int, uid: int) -> None:
    """Give the standard stream to the user, who may want to reopen /dev/stdout: a pipe, a socket, a file to write to.

    Not a file to be read, which its owner could open again to write to it.  Nor a device, which is the host's.
    """
    try:
        info = os.fstat(fd)
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFREG:
            given = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        else:
            given = kind in (stat.S_IFIFO, stat.S_IFSOCK)
        if given and info.st_uid != uid:
            os.fchown(fd, uid, -1)
    except OSError as error:
        # A read-only file system, or an owner who is not mapped here: nothing that could be done.
        if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS, errno.EBADF, errno.ENOSYS):
            raise kernel_error(f"give descriptor {fd} to uid {uid}", error, syscall="fchown") from None


def join_keyring(container_id: str) -> None:
    """A session keyring of the container's own (keyrings(7)); kernels without keyrings are fine."""
    try:
        key = k.join_session_keyring(f"_ses.{container_id}")
        if not _is_our_key(key):
            # Somebody else has made one by that name, to find in it what the container keeps: one without a name.
            key = k.join_session_keyring("")
        # Give the processes of the container, which may be another user, search and link, as runc does.
        permissions = int(k.describe_key(key).split(";")[3], 16)
        k.set_key_permissions(key, permissions | 0x080000)
    except OSError as error:
        if error.errno == 122:
            raise kernel_error("make a session keyring", error,
                               hint="/proc/sys/kernel/keys/maxkeys is reached; or use --no-new-keyring") from None
        if error.errno not in (38, 1, 13):  # no keyrings in this kernel; forbidden by the caller's seccomp
            raise


def _is_our_key(key: int) -> bool:
    try:
        return k.describe_key(key).split(";")[1] == str(os.geteuid())
    except OSError:
        return False  # not ours to look at


def plan(config: Config) -> ProcessPlan | None:
    """The plan for `process`, None where config.json has none (create allows that, start does not)."""
    process = config.get("process")
    return ProcessPlan(config, process) if process else None
