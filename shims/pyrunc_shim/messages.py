# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: RUF012, RUF023, F401
"""Generated from proto/ by tools/generate_messages.py: ttrpc.proto, task.proto, events.proto; do not edit."""

from __future__ import annotations

from .codec import BOOL, BYTES, DOUBLE, INT32, INT64, MAP, MESSAGE, STRING, UINT32, UINT64, Message


class Any(Message):
    __slots__ = ("type_url", "value")
    FIELDS = {
        1: ("type_url", STRING, False, None),
        2: ("value", BYTES, False, None),
    }
    type_url: str
    value: bytes


class Timestamp(Message):
    __slots__ = ("seconds", "nanos")
    FIELDS = {
        1: ("seconds", INT64, False, None),
        2: ("nanos", INT32, False, None),
    }
    seconds: int
    nanos: int


class KeyValue(Message):
    __slots__ = ("key", "value")
    FIELDS = {
        1: ("key", STRING, False, None),
        2: ("value", STRING, False, None),
    }
    key: str
    value: str


class Request(Message):
    __slots__ = ("service", "method", "payload", "timeout_nano", "metadata")
    FIELDS = {
        1: ("service", STRING, False, None),
        2: ("method", STRING, False, None),
        3: ("payload", BYTES, False, None),
        4: ("timeout_nano", INT64, False, None),
        5: ("metadata", MESSAGE, True, KeyValue),
    }
    service: str
    method: str
    payload: bytes
    timeout_nano: int
    metadata: list[KeyValue]


class Status(Message):
    __slots__ = ("code", "message", "details")
    FIELDS = {
        1: ("code", INT32, False, None),
        2: ("message", STRING, False, None),
        3: ("details", MESSAGE, True, Any),
    }
    code: int
    message: str
    details: list[Any]


class Response(Message):
    __slots__ = ("status", "payload")
    FIELDS = {
        1: ("status", MESSAGE, False, Status),
        2: ("payload", BYTES, False, None),
    }
    status: Status | None
    payload: bytes


class Empty(Message):
    __slots__ = ()

UNKNOWN = 0
CREATED = 1
RUNNING = 2
STOPPED = 3
PAUSED = 4
PAUSING = 5


class Mount(Message):
    __slots__ = ("type", "source", "target", "options")
    FIELDS = {
        1: ("type", STRING, False, None),
        2: ("source", STRING, False, None),
        3: ("target", STRING, False, None),
        4: ("options", STRING, True, None),
    }
    type: str
    source: str
    target: str
    options: list[str]


class CreateTaskRequest(Message):
    __slots__ = (
        "id",
        "bundle",
        "rootfs",
        "terminal",
        "stdin",
        "stdout",
        "stderr",
        "checkpoint",
        "parent_checkpoint",
        "options",
    )
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("bundle", STRING, False, None),
        3: ("rootfs", MESSAGE, True, Mount),
        4: ("terminal", BOOL, False, None),
        5: ("stdin", STRING, False, None),
        6: ("stdout", STRING, False, None),
        7: ("stderr", STRING, False, None),
        8: ("checkpoint", STRING, False, None),
        9: ("parent_checkpoint", STRING, False, None),
        10: ("options", MESSAGE, False, Any),
    }
    id: str
    bundle: str
    rootfs: list[Mount]
    terminal: bool
    stdin: str
    stdout: str
    stderr: str
    checkpoint: str
    parent_checkpoint: str
    options: Any | None


class CreateTaskResponse(Message):
    __slots__ = ("pid",)
    FIELDS = {
        1: ("pid", UINT32, False, None),
    }
    pid: int


class DeleteRequest(Message):
    __slots__ = ("id", "exec_id")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("exec_id", STRING, False, None),
    }
    id: str
    exec_id: str


class DeleteResponse(Message):
    __slots__ = ("pid", "exit_status", "exited_at")
    FIELDS = {
        1: ("pid", UINT32, False, None),
        2: ("exit_status", UINT32, False, None),
        3: ("exited_at", MESSAGE, False, Timestamp),
    }
    pid: int
    exit_status: int
    exited_at: Timestamp | None


class ExecProcessRequest(Message):
    __slots__ = ("id", "exec_id", "terminal", "stdin", "stdout", "stderr", "spec")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("exec_id", STRING, False, None),
        3: ("terminal", BOOL, False, None),
        4: ("stdin", STRING, False, None),
        5: ("stdout", STRING, False, None),
        6: ("stderr", STRING, False, None),
        7: ("spec", MESSAGE, False, Any),
    }
    id: str
    exec_id: str
    terminal: bool
    stdin: str
    stdout: str
    stderr: str
    spec: Any | None


class ResizePtyRequest(Message):
    __slots__ = ("id", "exec_id", "width", "height")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("exec_id", STRING, False, None),
        3: ("width", UINT32, False, None),
        4: ("height", UINT32, False, None),
    }
    id: str
    exec_id: str
    width: int
    height: int


class StateRequest(Message):
    __slots__ = ("id", "exec_id")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("exec_id", STRING, False, None),
    }
    id: str
    exec_id: str


class StateResponse(Message):
    __slots__ = (
        "id",
        "bundle",
        "pid",
        "status",
        "stdin",
        "stdout",
        "stderr",
        "terminal",
        "exit_status",
        "exited_at",
        "exec_id",
    )
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("bundle", STRING, False, None),
        3: ("pid", UINT32, False, None),
        4: ("status", INT32, False, None),
        5: ("stdin", STRING, False, None),
        6: ("stdout", STRING, False, None),
        7: ("stderr", STRING, False, None),
        8: ("terminal", BOOL, False, None),
        9: ("exit_status", UINT32, False, None),
        10: ("exited_at", MESSAGE, False, Timestamp),
        11: ("exec_id", STRING, False, None),
    }
    id: str
    bundle: str
    pid: int
    status: int
    stdin: str
    stdout: str
    stderr: str
    terminal: bool
    exit_status: int
    exited_at: Timestamp | None
    exec_id: str


class KillRequest(Message):
    __slots__ = ("id", "exec_id", "signal", "all")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("exec_id", STRING, False, None),
        3: ("signal", UINT32, False, None),
        4: ("all", BOOL, False, None),
    }
    id: str
    exec_id: str
    signal: int
    all: bool


class CloseIORequest(Message):
    __slots__ = ("id", "exec_id", "stdin")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("exec_id", STRING, False, None),
        3: ("stdin", BOOL, False, None),
    }
    id: str
    exec_id: str
    stdin: bool


class PidsRequest(Message):
    __slots__ = ("id",)
    FIELDS = {
        1: ("id", STRING, False, None),
    }
    id: str


class ProcessInfo(Message):
    __slots__ = ("pid", "info")
    FIELDS = {
        1: ("pid", UINT32, False, None),
        2: ("info", MESSAGE, False, Any),
    }
    pid: int
    info: Any | None


class PidsResponse(Message):
    __slots__ = ("processes",)
    FIELDS = {
        1: ("processes", MESSAGE, True, ProcessInfo),
    }
    processes: list[ProcessInfo]


class CheckpointTaskRequest(Message):
    __slots__ = ("id", "path", "options")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("path", STRING, False, None),
        3: ("options", MESSAGE, False, Any),
    }
    id: str
    path: str
    options: Any | None


class UpdateTaskRequest(Message):
    __slots__ = ("id", "resources", "annotations")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("resources", MESSAGE, False, Any),
        3: ("annotations", MAP, False, None),
    }
    id: str
    resources: Any | None
    annotations: dict[str, str]


class StartRequest(Message):
    __slots__ = ("id", "exec_id")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("exec_id", STRING, False, None),
    }
    id: str
    exec_id: str


class StartResponse(Message):
    __slots__ = ("pid",)
    FIELDS = {
        1: ("pid", UINT32, False, None),
    }
    pid: int


class WaitRequest(Message):
    __slots__ = ("id", "exec_id")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("exec_id", STRING, False, None),
    }
    id: str
    exec_id: str


class WaitResponse(Message):
    __slots__ = ("exit_status", "exited_at")
    FIELDS = {
        1: ("exit_status", UINT32, False, None),
        2: ("exited_at", MESSAGE, False, Timestamp),
    }
    exit_status: int
    exited_at: Timestamp | None


class StatsRequest(Message):
    __slots__ = ("id",)
    FIELDS = {
        1: ("id", STRING, False, None),
    }
    id: str


class StatsResponse(Message):
    __slots__ = ("stats",)
    FIELDS = {
        1: ("stats", MESSAGE, False, Any),
    }
    stats: Any | None


class ConnectRequest(Message):
    __slots__ = ("id",)
    FIELDS = {
        1: ("id", STRING, False, None),
    }
    id: str


class ConnectResponse(Message):
    __slots__ = ("shim_pid", "task_pid", "version")
    FIELDS = {
        1: ("shim_pid", UINT32, False, None),
        2: ("task_pid", UINT32, False, None),
        3: ("version", STRING, False, None),
    }
    shim_pid: int
    task_pid: int
    version: str


class ShutdownRequest(Message):
    __slots__ = ("id", "now")
    FIELDS = {
        1: ("id", STRING, False, None),
        2: ("now", BOOL, False, None),
    }
    id: str
    now: bool


class PauseRequest(Message):
    __slots__ = ("id",)
    FIELDS = {
        1: ("id", STRING, False, None),
    }
    id: str


class ResumeRequest(Message):
    __slots__ = ("id",)
    FIELDS = {
        1: ("id", STRING, False, None),
    }
    id: str


class Options(Message):
    __slots__ = (
        "no_pivot_root",
        "no_new_keyring",
        "shim_cgroup",
        "io_uid",
        "io_gid",
        "binary_name",
        "root",
        "systemd_cgroup",
        "criu_image_path",
        "criu_work_path",
    )
    FIELDS = {
        1: ("no_pivot_root", BOOL, False, None),
        2: ("no_new_keyring", BOOL, False, None),
        3: ("shim_cgroup", STRING, False, None),
        4: ("io_uid", UINT32, False, None),
        5: ("io_gid", UINT32, False, None),
        6: ("binary_name", STRING, False, None),
        7: ("root", STRING, False, None),
        9: ("systemd_cgroup", BOOL, False, None),
        10: ("criu_image_path", STRING, False, None),
        11: ("criu_work_path", STRING, False, None),
    }
    no_pivot_root: bool
    no_new_keyring: bool
    shim_cgroup: str
    io_uid: int
    io_gid: int
    binary_name: str
    root: str
    systemd_cgroup: bool
    criu_image_path: str
    criu_work_path: str


class RuntimeOptions(Message):
    __slots__ = ("type_url", "config_path", "config_body")
    FIELDS = {
        1: ("type_url", STRING, False, None),
        2: ("config_path", STRING, False, None),
        3: ("config_body", BYTES, False, None),
    }
    type_url: str
    config_path: str
    config_body: bytes


class CheckpointOptions(Message):
    __slots__ = (
        "exit",
        "open_tcp",
        "external_unix_sockets",
        "terminal",
        "file_locks",
        "empty_namespaces",
        "cgroups_mode",
        "image_path",
        "work_path",
        "parent_path",
    )
    FIELDS = {
        1: ("exit", BOOL, False, None),
        2: ("open_tcp", BOOL, False, None),
        3: ("external_unix_sockets", BOOL, False, None),
        4: ("terminal", BOOL, False, None),
        5: ("file_locks", BOOL, False, None),
        6: ("empty_namespaces", STRING, True, None),
        7: ("cgroups_mode", STRING, False, None),
        8: ("image_path", STRING, False, None),
        9: ("work_path", STRING, False, None),
        10: ("parent_path", STRING, False, None),
    }
    exit: bool
    open_tcp: bool
    external_unix_sockets: bool
    terminal: bool
    file_locks: bool
    empty_namespaces: list[str]
    cgroups_mode: str
    image_path: str
    work_path: str
    parent_path: str


class ProcessDetails(Message):
    __slots__ = ("exec_id",)
    FIELDS = {
        1: ("exec_id", STRING, False, None),
    }
    exec_id: str


class Extension(Message):
    __slots__ = ("value",)
    FIELDS = {
        1: ("value", MESSAGE, False, Any),
    }
    value: Any | None


class BootstrapParams(Message):
    __slots__ = (
        "instance_id",
        "namespace",
        "log_level",
        "containerd_version",
        "containerd_ttrpc_address",
        "containerd_grpc_address",
        "containerd_binary",
        "extensions",
        "socket_dir",
    )
    FIELDS = {
        1: ("instance_id", STRING, False, None),
        2: ("namespace", STRING, False, None),
        3: ("log_level", INT32, False, None),
        4: ("containerd_version", STRING, False, None),
        5: ("containerd_ttrpc_address", STRING, False, None),
        6: ("containerd_grpc_address", STRING, False, None),
        7: ("containerd_binary", STRING, False, None),
        8: ("extensions", MESSAGE, True, Extension),
        9: ("socket_dir", STRING, False, None),
    }
    instance_id: str
    namespace: str
    log_level: int
    containerd_version: str
    containerd_ttrpc_address: str
    containerd_grpc_address: str
    containerd_binary: str
    extensions: list[Extension]
    socket_dir: str


class BootstrapResult(Message):
    __slots__ = ("version", "address", "protocol", "capabilities", "metadata")
    FIELDS = {
        1: ("version", INT32, False, None),
        2: ("address", STRING, False, None),
        3: ("protocol", STRING, False, None),
        4: ("capabilities", INT32, True, None),
        5: ("metadata", MAP, False, None),
    }
    version: int
    address: str
    protocol: str
    capabilities: list[int]
    metadata: dict[str, str]


class RuntimeVersion(Message):
    __slots__ = ("version", "revision")
    FIELDS = {
        1: ("version", STRING, False, None),
        2: ("revision", STRING, False, None),
    }
    version: str
    revision: str


class RuntimeInfo(Message):
    __slots__ = ("name", "version", "options", "features", "annotations")
    FIELDS = {
        1: ("name", STRING, False, None),
        2: ("version", MESSAGE, False, RuntimeVersion),
        3: ("options", MESSAGE, False, Any),
        4: ("features", MESSAGE, False, Any),
        5: ("annotations", MAP, False, None),
    }
    name: str
    version: RuntimeVersion | None
    options: Any | None
    features: Any | None
    annotations: dict[str, str]


class Envelope(Message):
    __slots__ = ("timestamp", "namespace", "topic", "event")
    FIELDS = {
        1: ("timestamp", MESSAGE, False, Timestamp),
        2: ("namespace", STRING, False, None),
        3: ("topic", STRING, False, None),
        4: ("event", MESSAGE, False, Any),
    }
    timestamp: Timestamp | None
    namespace: str
    topic: str
    event: Any | None


class ForwardRequest(Message):
    __slots__ = ("envelope",)
    FIELDS = {
        1: ("envelope", MESSAGE, False, Envelope),
    }
    envelope: Envelope | None


class TaskIO(Message):
    __slots__ = ("stdin", "stdout", "stderr", "terminal")
    FIELDS = {
        1: ("stdin", STRING, False, None),
        2: ("stdout", STRING, False, None),
        3: ("stderr", STRING, False, None),
        4: ("terminal", BOOL, False, None),
    }
    stdin: str
    stdout: str
    stderr: str
    terminal: bool


class TaskCreate(Message):
    __slots__ = ("container_id", "bundle", "rootfs", "io", "checkpoint", "pid")
    FIELDS = {
        1: ("container_id", STRING, False, None),
        2: ("bundle", STRING, False, None),
        3: ("rootfs", MESSAGE, True, Mount),
        4: ("io", MESSAGE, False, TaskIO),
        5: ("checkpoint", STRING, False, None),
        6: ("pid", UINT32, False, None),
    }
    container_id: str
    bundle: str
    rootfs: list[Mount]
    io: TaskIO | None
    checkpoint: str
    pid: int


class TaskStart(Message):
    __slots__ = ("container_id", "pid")
    FIELDS = {
        1: ("container_id", STRING, False, None),
        2: ("pid", UINT32, False, None),
    }
    container_id: str
    pid: int


class TaskDelete(Message):
    __slots__ = ("container_id", "pid", "exit_status", "exited_at", "id")
    FIELDS = {
        1: ("container_id", STRING, False, None),
        2: ("pid", UINT32, False, None),
        3: ("exit_status", UINT32, False, None),
        4: ("exited_at", MESSAGE, False, Timestamp),
        5: ("id", STRING, False, None),
    }
    container_id: str
    pid: int
    exit_status: int
    exited_at: Timestamp | None
    id: str


class TaskExit(Message):
    __slots__ = ("container_id", "id", "pid", "exit_status", "exited_at")
    FIELDS = {
        1: ("container_id", STRING, False, None),
        2: ("id", STRING, False, None),
        3: ("pid", UINT32, False, None),
        4: ("exit_status", UINT32, False, None),
        5: ("exited_at", MESSAGE, False, Timestamp),
    }
    container_id: str
    id: str
    pid: int
    exit_status: int
    exited_at: Timestamp | None


class TaskOOM(Message):
    __slots__ = ("container_id",)
    FIELDS = {
        1: ("container_id", STRING, False, None),
    }
    container_id: str


class TaskExecAdded(Message):
    __slots__ = ("container_id", "exec_id")
    FIELDS = {
        1: ("container_id", STRING, False, None),
        2: ("exec_id", STRING, False, None),
    }
    container_id: str
    exec_id: str


class TaskExecStarted(Message):
    __slots__ = ("container_id", "exec_id", "pid")
    FIELDS = {
        1: ("container_id", STRING, False, None),
        2: ("exec_id", STRING, False, None),
        3: ("pid", UINT32, False, None),
    }
    container_id: str
    exec_id: str
    pid: int


class TaskPaused(Message):
    __slots__ = ("container_id",)
    FIELDS = {
        1: ("container_id", STRING, False, None),
    }
    container_id: str


class TaskResumed(Message):
    __slots__ = ("container_id",)
    FIELDS = {
        1: ("container_id", STRING, False, None),
    }
    container_id: str


class TaskCheckpointed(Message):
    __slots__ = ("container_id", "checkpoint")
    FIELDS = {
        1: ("container_id", STRING, False, None),
        2: ("checkpoint", STRING, False, None),
    }
    container_id: str
    checkpoint: str
