# SPDX-License-Identifier: Apache-2.0
"""config.json and the state as types: what runtime-spec 1.3.0 lets stand where, for mypy.

For annotations alone: import this under `if TYPE_CHECKING:` only (`typing` is slow to import).
A value has these types once load_config has returned it; schema/config.json has the ranges.
"""

from __future__ import annotations

from typing import Any, Literal, Required, TypedDict

NamespaceType = Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]
Status = Literal["creating", "created", "running", "stopped", "paused"]
DeviceType = Literal["c", "b", "u", "p"]


class IDMapping(TypedDict):
    """config-linux.md, User namespace mappings."""

    containerID: int
    hostID: int
    size: int


class Root(TypedDict, total=False):
    """config.md, Root."""

    path: Required[str]
    readonly: bool


class Mount(TypedDict, total=False):
    """config.md, Mounts."""

    destination: Required[str]
    type: str
    source: str
    options: list[str]
    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]


class Hook(TypedDict, total=False):
    """config.md, POSIX-platform Hooks: one entry."""

    path: Required[str]
    args: list[str]
    env: list[str]
    timeout: int


class Hooks(TypedDict, total=False):
    """config.md, POSIX-platform Hooks."""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class User(TypedDict, total=False):
    """config.md, POSIX-platform User; an absent id is 0."""

    uid: int
    gid: int
    umask: int
    additionalGids: list[int]
    username: str


class ConsoleSize(TypedDict):
    """config.md, Process: consoleSize."""

    height: int
    width: int


class Rlimit(TypedDict):
    """config.md, POSIX process: one entry of rlimits."""

    type: str
    soft: int
    hard: int


class Capabilities(TypedDict, total=False):
    """config.md, Linux Process: capabilities."""

    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class Scheduler(TypedDict, total=False):
    """config.md, Linux Process: scheduler."""

    policy: Required[str]
    nice: int
    priority: int
    flags: list[str]
    runtime: int
    deadline: int
    period: int


IOPriority = TypedDict("IOPriority", {"class": Required[str], "priority": int}, total=False)


class CPUAffinity(TypedDict, total=False):
    """config.md, Linux Process: execCPUAffinity."""

    initial: str
    final: str


class Process(TypedDict, total=False):
    """config.md, Process."""

    terminal: bool
    consoleSize: ConsoleSize
    user: User
    args: list[str]
    commandLine: str
    env: list[str]
    cwd: Required[str]
    capabilities: Capabilities
    rlimits: list[Rlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    oomScoreAdj: int
    scheduler: Scheduler
    selinuxLabel: str
    ioPriority: IOPriority
    execCPUAffinity: CPUAffinity


class Namespace(TypedDict, total=False):
    """config-linux.md, Namespaces: one entry."""

    type: Required[NamespaceType]
    path: str


class Device(TypedDict, total=False):
    """config-linux.md, Devices: one entry."""

    type: Required[DeviceType]
    path: Required[str]
    major: int
    minor: int
    fileMode: int
    uid: int
    gid: int


class DeviceRule(TypedDict, total=False):
    """config-linux.md, Allowed Device list: one entry."""

    allow: Required[bool]
    type: Literal["a", "c", "b"]
    major: int
    minor: int
    access: str


class NetDevice(TypedDict, total=False):
    """config-linux.md, Network Devices: one value."""

    name: str


class Memory(TypedDict, total=False):
    """config-linux.md, Memory."""

    limit: int
    reservation: int
    swap: int
    kernel: int
    kernelTCP: int
    swappiness: int
    disableOOMKiller: bool
    useHierarchy: bool
    checkBeforeUpdate: bool


class CPU(TypedDict, total=False):
    """config-linux.md, CPU."""

    shares: int
    quota: int
    burst: int
    period: int
    realtimeRuntime: int
    realtimePeriod: int
    cpus: str
    mems: str
    idle: int


class Pids(TypedDict, total=False):
    """config-linux.md, PIDs."""

    limit: int


class WeightDevice(TypedDict, total=False):
    """config-linux.md, Block IO: one entry of weightDevice."""

    major: Required[int]
    minor: Required[int]
    weight: int
    leafWeight: int


class ThrottleDevice(TypedDict):
    """config-linux.md, Block IO: one entry of a throttle list."""

    major: int
    minor: int
    rate: int


class BlockIO(TypedDict, total=False):
    """config-linux.md, Block IO."""

    weight: int
    leafWeight: int
    weightDevice: list[WeightDevice]
    throttleReadBpsDevice: list[ThrottleDevice]
    throttleWriteBpsDevice: list[ThrottleDevice]
    throttleReadIOPSDevice: list[ThrottleDevice]
    throttleWriteIOPSDevice: list[ThrottleDevice]


class HugepageLimit(TypedDict):
    """config-linux.md, Huge page limits: one entry."""

    pageSize: str
    limit: int


class InterfacePriority(TypedDict):
    """config-linux.md, Network: one entry of priorities."""

    name: str
    priority: int


class Network(TypedDict, total=False):
    """config-linux.md, Network."""

    classID: int
    priorities: list[InterfacePriority]


class Rdma(TypedDict, total=False):
    """config-linux.md, RDMA: one value."""

    hcaHandles: int
    hcaObjects: int


class Resources(TypedDict, total=False):
    """config-linux.md, Control groups."""

    devices: list[DeviceRule]
    memory: Memory
    cpu: CPU
    pids: Pids
    blockIO: BlockIO
    hugepageLimits: list[HugepageLimit]
    network: Network
    rdma: dict[str, Rdma]
    unified: dict[str, str]


class SeccompArg(TypedDict, total=False):
    """config-linux.md, Seccomp: one entry of a rule's args."""

    index: Required[int]
    value: Required[int]
    valueTwo: int
    op: Required[str]


class SeccompSyscall(TypedDict, total=False):
    """config-linux.md, Seccomp: one entry of syscalls."""

    names: Required[list[str]]
    action: Required[str]
    errnoRet: int
    args: list[SeccompArg]


class Seccomp(TypedDict, total=False):
    """config-linux.md, Seccomp."""

    defaultAction: Required[str]
    defaultErrnoRet: int
    architectures: list[str]
    flags: list[str]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[SeccompSyscall]


class IntelRdt(TypedDict, total=False):
    """config-linux.md, IntelRdt."""

    closID: str
    schemata: list[str]
    l3CacheSchema: str
    memBwSchema: str
    enableMonitoring: bool
    enableCMT: bool  # these two up to 1.2.1
    enableMBM: bool


class MemoryPolicy(TypedDict, total=False):
    """config-linux.md, Memory policy."""

    mode: Required[str]
    nodes: str
    flags: list[str]


class Personality(TypedDict, total=False):
    """config-linux.md, Personality."""

    domain: Required[Literal["LINUX", "LINUX32"]]
    flags: list[str]


class TimeOffset(TypedDict, total=False):
    """config-linux.md, Offset for Time Namespace: one clock."""

    secs: int
    nanosecs: int


class Linux(TypedDict, total=False):
    """config-linux.md."""

    uidMappings: list[IDMapping]
    gidMappings: list[IDMapping]
    sysctl: dict[str, str]
    resources: Resources
    cgroupsPath: str
    namespaces: list[Namespace]
    devices: list[Device]
    netDevices: dict[str, NetDevice]
    seccomp: Seccomp
    rootfsPropagation: str
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    intelRdt: IntelRdt
    memoryPolicy: MemoryPolicy
    personality: Personality
    timeOffsets: dict[str, TimeOffset]


class Config(TypedDict, total=False):
    """config.md: a whole config.json."""

    ociVersion: Required[str]
    root: Required[Root]
    process: Process
    hostname: str
    domainname: str
    mounts: list[Mount]
    hooks: Hooks
    annotations: dict[str, str]
    linux: Linux
    solaris: Any
    windows: Any
    vm: Any
    zos: Any
    freebsd: Any


class State(TypedDict, total=False):
    """runtime.md, State."""

    ociVersion: Required[str]
    id: Required[str]
    status: Required[Status]
    pid: int
    bundle: Required[str]
    annotations: dict[str, str]
