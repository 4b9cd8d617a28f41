# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501, SIM110
"""Generated from schema/config.json by tools/generate_validator.py; do not edit.

`validate(value)` tells whether the value fits the schema; pyrunc.spec.explain tells why not.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def is_string(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def is_process_terminal(value: Any) -> bool:
    return value is True or value is False


def is_uint64(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 18446744073709551615


_is_box = {
    "height": is_uint64,
    "width": is_uint64,
}


def is_box(value: Any) -> bool:
    if not isinstance(value, dict) or "height" not in value or "width" not in value:
        return False
    for key, item in value.items():
        check = _is_box.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_uint32(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 4294967295


def is_user_additionalGids(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_uint32(item):
            return False
    return True


_is_user = {
    "uid": is_uint32,
    "gid": is_uint32,
    "umask": is_uint32,
    "additionalGids": is_user_additionalGids,
    "username": is_string,
}


def is_user(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_user.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_strings(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_string(item):
            return False
    return True


_is_capabilities = {
    "bounding": is_strings,
    "effective": is_strings,
    "inheritable": is_strings,
    "permitted": is_strings,
    "ambient": is_strings,
}


def is_capabilities(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_capabilities.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_rlimit_type = frozenset(["RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK"])


def is_rlimit_type(value: Any) -> bool:
    return isinstance(value, str) and value in _is_rlimit_type


_is_rlimit = {
    "type": is_rlimit_type,
    "soft": is_uint64,
    "hard": is_uint64,
}


def is_rlimit(value: Any) -> bool:
    if not isinstance(value, dict) or "type" not in value or "soft" not in value or "hard" not in value:
        return False
    for key, item in value.items():
        check = _is_rlimit.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_process_rlimits(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_rlimit(item):
            return False
    return True


def is_process_oomScoreAdj(value: Any) -> bool:
    return type(value) is int and -1000 <= value <= 1000


_is_scheduler_policy = frozenset(["SCHED_BATCH", "SCHED_DEADLINE", "SCHED_FIFO", "SCHED_IDLE", "SCHED_ISO", "SCHED_OTHER", "SCHED_RR"])


def is_scheduler_policy(value: Any) -> bool:
    return isinstance(value, str) and value in _is_scheduler_policy


def is_scheduler_nice(value: Any) -> bool:
    return type(value) is int and -20 <= value <= 19


def is_int32(value: Any) -> bool:
    return type(value) is int and -2147483648 <= value <= 2147483647


_is_scheduler_flags_item = frozenset(["SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_RECLAIM", "SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_UTIL_CLAMP_MAX", "SCHED_FLAG_UTIL_CLAMP_MIN"])


def is_scheduler_flags_item(value: Any) -> bool:
    return isinstance(value, str) and value in _is_scheduler_flags_item


def is_scheduler_flags(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_scheduler_flags_item(item):
            return False
    return True


_is_scheduler = {
    "policy": is_scheduler_policy,
    "nice": is_scheduler_nice,
    "priority": is_int32,
    "flags": is_scheduler_flags,
    "runtime": is_uint64,
    "deadline": is_uint64,
    "period": is_uint64,
}


def is_scheduler(value: Any) -> bool:
    if not isinstance(value, dict) or "policy" not in value:
        return False
    for key, item in value.items():
        check = _is_scheduler.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_ioPriority_class = frozenset(["IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE", "IOPRIO_CLASS_RT"])


def is_ioPriority_class(value: Any) -> bool:
    return isinstance(value, str) and value in _is_ioPriority_class


def is_ioPriority_priority(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 7


_is_ioPriority = {
    "class": is_ioPriority_class,
    "priority": is_ioPriority_priority,
}


def is_ioPriority(value: Any) -> bool:
    if not isinstance(value, dict) or "class" not in value:
        return False
    for key, item in value.items():
        check = _is_ioPriority.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_cpuAffinity = {
    "initial": is_string,
    "final": is_string,
}


def is_cpuAffinity(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_cpuAffinity.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_process = {
    "terminal": is_process_terminal,
    "consoleSize": is_box,
    "user": is_user,
    "args": is_strings,
    "commandLine": is_string,
    "env": is_strings,
    "cwd": is_string,
    "capabilities": is_capabilities,
    "rlimits": is_process_rlimits,
    "noNewPrivileges": is_process_terminal,
    "apparmorProfile": is_string,
    "oomScoreAdj": is_process_oomScoreAdj,
    "scheduler": is_scheduler,
    "selinuxLabel": is_string,
    "ioPriority": is_ioPriority,
    "execCPUAffinity": is_cpuAffinity,
}


def is_process(value: Any) -> bool:
    if not isinstance(value, dict) or "cwd" not in value:
        return False
    for key, item in value.items():
        check = _is_process.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_root = {
    "path": is_string,
    "readonly": is_process_terminal,
}


def is_root(value: Any) -> bool:
    if not isinstance(value, dict) or "path" not in value:
        return False
    for key, item in value.items():
        check = _is_root.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_idMapping = {
    "containerID": is_uint32,
    "hostID": is_uint32,
    "size": is_uint32,
}


def is_idMapping(value: Any) -> bool:
    if not isinstance(value, dict) or "containerID" not in value or "hostID" not in value or "size" not in value:
        return False
    for key, item in value.items():
        check = _is_idMapping.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_mount_uidMappings(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_idMapping(item):
            return False
    return True


_is_mount = {
    "destination": is_string,
    "type": is_string,
    "source": is_string,
    "options": is_strings,
    "uidMappings": is_mount_uidMappings,
    "gidMappings": is_mount_uidMappings,
}


def is_mount(value: Any) -> bool:
    if not isinstance(value, dict) or "destination" not in value:
        return False
    for key, item in value.items():
        check = _is_mount.get(key)
        if check is not None and not check(item):
            return False
    return True


def validate_mounts(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_mount(item):
            return False
    return True


def is_hook_timeout(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 9223372036854775807


_is_hook = {
    "path": is_string,
    "args": is_strings,
    "env": is_strings,
    "timeout": is_hook_timeout,
}


def is_hook(value: Any) -> bool:
    if not isinstance(value, dict) or "path" not in value:
        return False
    for key, item in value.items():
        check = _is_hook.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_hooks_prestart(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_hook(item):
            return False
    return True


_is_hooks = {
    "prestart": is_hooks_prestart,
    "createRuntime": is_hooks_prestart,
    "createContainer": is_hooks_prestart,
    "startContainer": is_hooks_prestart,
    "poststart": is_hooks_prestart,
    "poststop": is_hooks_prestart,
}


def is_hooks(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_hooks.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_stringMap(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for item in value.values():
        if not is_string(item):
            return False
    return True


_is_deviceRule_type = frozenset(["a", "b", "c"])


def is_deviceRule_type(value: Any) -> bool:
    return isinstance(value, str) and value in _is_deviceRule_type


def is_int64(value: Any) -> bool:
    return type(value) is int and -9223372036854775808 <= value <= 9223372036854775807


_is_deviceRule = {
    "allow": is_process_terminal,
    "type": is_deviceRule_type,
    "major": is_int64,
    "minor": is_int64,
    "access": is_string,
}


def is_deviceRule(value: Any) -> bool:
    if not isinstance(value, dict) or "allow" not in value:
        return False
    for key, item in value.items():
        check = _is_deviceRule.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_resources_devices(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_deviceRule(item):
            return False
    return True


def is_memory_swappiness(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 100


_is_memory = {
    "limit": is_int64,
    "reservation": is_int64,
    "swap": is_int64,
    "kernel": is_int64,
    "kernelTCP": is_int64,
    "swappiness": is_memory_swappiness,
    "disableOOMKiller": is_process_terminal,
    "useHierarchy": is_process_terminal,
    "checkBeforeUpdate": is_process_terminal,
}


def is_memory(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_memory.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_cpu = {
    "shares": is_uint64,
    "quota": is_int64,
    "burst": is_uint64,
    "period": is_uint64,
    "realtimeRuntime": is_int64,
    "realtimePeriod": is_uint64,
    "cpus": is_string,
    "mems": is_string,
    "idle": is_int64,
}


def is_cpu(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_cpu.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_pids = {
    "limit": is_int64,
}


def is_pids(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_pids.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_uint16(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 65535


_is_weightDevice = {
    "major": is_int64,
    "minor": is_int64,
    "weight": is_uint16,
    "leafWeight": is_uint16,
}


def is_weightDevice(value: Any) -> bool:
    if not isinstance(value, dict) or "major" not in value or "minor" not in value:
        return False
    for key, item in value.items():
        check = _is_weightDevice.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_blockIO_weightDevice(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_weightDevice(item):
            return False
    return True


_is_throttleDevice = {
    "major": is_int64,
    "minor": is_int64,
    "rate": is_uint64,
}


def is_throttleDevice(value: Any) -> bool:
    if not isinstance(value, dict) or "major" not in value or "minor" not in value or "rate" not in value:
        return False
    for key, item in value.items():
        check = _is_throttleDevice.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_blockIO_throttleReadBpsDevice(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_throttleDevice(item):
            return False
    return True


_is_blockIO = {
    "weight": is_uint16,
    "leafWeight": is_uint16,
    "weightDevice": is_blockIO_weightDevice,
    "throttleReadBpsDevice": is_blockIO_throttleReadBpsDevice,
    "throttleWriteBpsDevice": is_blockIO_throttleReadBpsDevice,
    "throttleReadIOPSDevice": is_blockIO_throttleReadBpsDevice,
    "throttleWriteIOPSDevice": is_blockIO_throttleReadBpsDevice,
}


def is_blockIO(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_blockIO.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_hugepageLimit = {
    "pageSize": is_string,
    "limit": is_uint64,
}


def is_hugepageLimit(value: Any) -> bool:
    if not isinstance(value, dict) or "pageSize" not in value or "limit" not in value:
        return False
    for key, item in value.items():
        check = _is_hugepageLimit.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_resources_hugepageLimits(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_hugepageLimit(item):
            return False
    return True


_is_interfacePriority = {
    "name": is_string,
    "priority": is_uint32,
}


def is_interfacePriority(value: Any) -> bool:
    if not isinstance(value, dict) or "name" not in value or "priority" not in value:
        return False
    for key, item in value.items():
        check = _is_interfacePriority.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_network_priorities(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_interfacePriority(item):
            return False
    return True


_is_network = {
    "classID": is_uint32,
    "priorities": is_network_priorities,
}


def is_network(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_network.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_rdma = {
    "hcaHandles": is_uint32,
    "hcaObjects": is_uint32,
}


def is_rdma(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_rdma.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_resources_rdma(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for item in value.values():
        if not is_rdma(item):
            return False
    return True


_is_resources = {
    "devices": is_resources_devices,
    "memory": is_memory,
    "cpu": is_cpu,
    "pids": is_pids,
    "blockIO": is_blockIO,
    "hugepageLimits": is_resources_hugepageLimits,
    "network": is_network,
    "rdma": is_resources_rdma,
    "unified": is_stringMap,
}


def is_resources(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_resources.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_namespace_type = frozenset(["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"])


def is_namespace_type(value: Any) -> bool:
    return isinstance(value, str) and value in _is_namespace_type


_is_namespace = {
    "type": is_namespace_type,
    "path": is_string,
}


def is_namespace(value: Any) -> bool:
    if not isinstance(value, dict) or "type" not in value:
        return False
    for key, item in value.items():
        check = _is_namespace.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_linux_namespaces(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_namespace(item):
            return False
    return True


_is_device_type = frozenset(["b", "c", "p", "u"])


def is_device_type(value: Any) -> bool:
    return isinstance(value, str) and value in _is_device_type


_is_device = {
    "type": is_device_type,
    "path": is_string,
    "major": is_int64,
    "minor": is_int64,
    "fileMode": is_uint32,
    "uid": is_uint32,
    "gid": is_uint32,
}


def is_device(value: Any) -> bool:
    if not isinstance(value, dict) or "type" not in value or "path" not in value:
        return False
    for key, item in value.items():
        check = _is_device.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_linux_devices(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_device(item):
            return False
    return True


_is_netDevice = {
    "name": is_string,
}


def is_netDevice(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_netDevice.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_linux_netDevices(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for item in value.values():
        if not is_netDevice(item):
            return False
    return True


_is_seccompAction = frozenset(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"])


def is_seccompAction(value: Any) -> bool:
    return isinstance(value, str) and value in _is_seccompAction


_is_seccomp_architectures_item = frozenset(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_M68K", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64", "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE", "SCMP_ARCH_RISCV64", "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_SH", "SCMP_ARCH_SHEB", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"])


def is_seccomp_architectures_item(value: Any) -> bool:
    return isinstance(value, str) and value in _is_seccomp_architectures_item


def is_seccomp_architectures(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_seccomp_architectures_item(item):
            return False
    return True


_is_seccomp_flags_item = frozenset(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])


def is_seccomp_flags_item(value: Any) -> bool:
    return isinstance(value, str) and value in _is_seccomp_flags_item


def is_seccomp_flags(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_seccomp_flags_item(item):
            return False
    return True


def is_seccompSyscall_names(value: Any) -> bool:
    if not isinstance(value, list) or len(value) < 1:
        return False
    for item in value:
        if not is_string(item):
            return False
    return True


def is_seccompArg_index(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 5


_is_seccompArg_op = frozenset(["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"])


def is_seccompArg_op(value: Any) -> bool:
    return isinstance(value, str) and value in _is_seccompArg_op


_is_seccompArg = {
    "index": is_seccompArg_index,
    "value": is_uint64,
    "valueTwo": is_uint64,
    "op": is_seccompArg_op,
}


def is_seccompArg(value: Any) -> bool:
    if not isinstance(value, dict) or "index" not in value or "value" not in value or "op" not in value:
        return False
    for key, item in value.items():
        check = _is_seccompArg.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_seccompSyscall_args(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_seccompArg(item):
            return False
    return True


_is_seccompSyscall = {
    "names": is_seccompSyscall_names,
    "action": is_seccompAction,
    "errnoRet": is_uint32,
    "args": is_seccompSyscall_args,
}


def is_seccompSyscall(value: Any) -> bool:
    if not isinstance(value, dict) or "names" not in value or "action" not in value:
        return False
    for key, item in value.items():
        check = _is_seccompSyscall.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_seccomp_syscalls(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_seccompSyscall(item):
            return False
    return True


_is_seccomp = {
    "defaultAction": is_seccompAction,
    "defaultErrnoRet": is_uint32,
    "architectures": is_seccomp_architectures,
    "flags": is_seccomp_flags,
    "listenerPath": is_string,
    "listenerMetadata": is_string,
    "syscalls": is_seccomp_syscalls,
}


def is_seccomp(value: Any) -> bool:
    if not isinstance(value, dict) or "defaultAction" not in value:
        return False
    for key, item in value.items():
        check = _is_seccomp.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_linux_rootfsPropagation = frozenset(["private", "rprivate", "rshared", "rslave", "runbindable", "shared", "slave", "unbindable"])


def is_linux_rootfsPropagation(value: Any) -> bool:
    return isinstance(value, str) and value in _is_linux_rootfsPropagation


_is_intelRdt = {
    "closID": is_string,
    "schemata": is_strings,
    "l3CacheSchema": is_string,
    "memBwSchema": is_string,
    "enableMonitoring": is_process_terminal,
    "enableCMT": is_process_terminal,
    "enableMBM": is_process_terminal,
}


def is_intelRdt(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_intelRdt.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_memoryPolicy_mode = frozenset(["MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED", "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE"])


def is_memoryPolicy_mode(value: Any) -> bool:
    return isinstance(value, str) and value in _is_memoryPolicy_mode


_is_memoryPolicy_flags_item = frozenset(["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"])


def is_memoryPolicy_flags_item(value: Any) -> bool:
    return isinstance(value, str) and value in _is_memoryPolicy_flags_item


def is_memoryPolicy_flags(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for item in value:
        if not is_memoryPolicy_flags_item(item):
            return False
    return True


_is_memoryPolicy = {
    "mode": is_memoryPolicy_mode,
    "nodes": is_string,
    "flags": is_memoryPolicy_flags,
}


def is_memoryPolicy(value: Any) -> bool:
    if not isinstance(value, dict) or "mode" not in value:
        return False
    for key, item in value.items():
        check = _is_memoryPolicy.get(key)
        if check is not None and not check(item):
            return False
    return True


_is_personality_domain = frozenset(["LINUX", "LINUX32"])


def is_personality_domain(value: Any) -> bool:
    return isinstance(value, str) and value in _is_personality_domain


_is_personality = {
    "domain": is_personality_domain,
    "flags": is_strings,
}


def is_personality(value: Any) -> bool:
    if not isinstance(value, dict) or "domain" not in value:
        return False
    for key, item in value.items():
        check = _is_personality.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_timeOffset_nanosecs(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 999999999


_is_timeOffset = {
    "secs": is_int64,
    "nanosecs": is_timeOffset_nanosecs,
}


def is_timeOffset(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_timeOffset.get(key)
        if check is not None and not check(item):
            return False
    return True


def is_linux_timeOffsets(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for item in value.values():
        if not is_timeOffset(item):
            return False
    return True


_is_linux = {
    "uidMappings": is_mount_uidMappings,
    "gidMappings": is_mount_uidMappings,
    "sysctl": is_stringMap,
    "resources": is_resources,
    "cgroupsPath": is_string,
    "namespaces": is_linux_namespaces,
    "devices": is_linux_devices,
    "netDevices": is_linux_netDevices,
    "seccomp": is_seccomp,
    "rootfsPropagation": is_linux_rootfsPropagation,
    "maskedPaths": is_strings,
    "readonlyPaths": is_strings,
    "mountLabel": is_string,
    "intelRdt": is_intelRdt,
    "memoryPolicy": is_memoryPolicy,
    "personality": is_personality,
    "timeOffsets": is_linux_timeOffsets,
}


def is_linux(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    for key, item in value.items():
        check = _is_linux.get(key)
        if check is not None and not check(item):
            return False
    return True


_validate = {
    "ociVersion": is_string,
    "process": is_process,
    "root": is_root,
    "hostname": is_string,
    "domainname": is_string,
    "mounts": validate_mounts,
    "hooks": is_hooks,
    "annotations": is_stringMap,
    "linux": is_linux,
}


def validate(value: Any) -> bool:
    if not isinstance(value, dict) or "ociVersion" not in value or "root" not in value:
        return False
    for key, item in value.items():
        check = _validate.get(key)
        if check is not None and not check(item):
            return False
    return True
