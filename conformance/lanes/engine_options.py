# SPDX-License-Identifier: Apache-2.0
"""The options of `run` that Podman and Docker have in common: each seen from inside the container."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request

from conformance.checks import Table, wait_for
from conformance.lanes.base import MEMORY, QUOTA, cgroup_file
from conformance.lanes.engine import IMAGE, Engine, has_all

TABLE: Table[Engine] = Table()
check = TABLE.check
NET_RAW, SYS_ADMIN, CHOWN = 1 << 13, 1 << 21, 1 << 0


def capabilities(engine: Engine, *options: str, which: str = "CapEff") -> int:
    return int(engine.script(f"grep {which} /proc/self/status", *options).split()[1], 16)


def fetched(url: str) -> str:
    """What is served there, once somebody listens."""
    def there() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                body.append(answer.read().decode().strip())
        except OSError:
            return False
        return True

    body: list[str] = []
    wait_for(there, url)
    return body[0]


# Files

@check("--read-only", "touch: /x: Read-only file system|/dev/shm is written", short=True)
def _(engine: Engine) -> str:
    return engine.script("touch /x 2>&1; echo -n '|'; touch /dev/shm/x && echo /dev/shm is written",
                         "--read-only").replace("\n", "")


@check("--read-only with --tmpfs", "written|touch: /y: Read-only file system")
def _(engine: Engine) -> str:
    return engine.script("touch /scratch/x && echo -n 'written|'; touch /y 2>&1 || :", "--read-only", "--tmpfs",
                         "/scratch")


@check("--tmpfs: type, size, options", "tmpfs 65536k noexec 1750", short=True)
def _(engine: Engine) -> str:
    script = ("set -- $(grep ' /t ' /proc/mounts); "
              "echo $3 $(echo $4 | tr , '\\n' | grep -E '^(size|noexec)' | sort -r) $(stat -c %a /t)")
    return engine.script(script, "--tmpfs", "/t:size=64m,noexec,mode=1750").replace("size=", "")


@check("--volume: what is written is there on the host", "from inside|from outside", short=True)
def _(engine: Engine) -> str:
    where = engine.directory()
    (where / "a").write_text("from outside")
    seen = engine.script("echo from inside >/v/b; cat /v/a", "-v", f"{where}:/v")
    return f"{(where / 'b').read_text().strip()}|{seen}"


@check("--volume :ro", "touch: /v/x: Read-only file system", short=True)
def _(engine: Engine) -> str:
    return engine.script("touch /v/x 2>&1 || :", "-v", f"{engine.directory()}:/v:ro")


@check("--volume of one file", "that file")
def _(engine: Engine) -> str:
    return engine.script("cat /etc/its-name", "-v", f"{engine.file('that file')}:/etc/its-name:ro")


@check("--volume: named, kept between containers, filled from the image", "from the image|kept")
def _(engine: Engine) -> str:
    name = engine.name("volume")
    first = engine.script("cat /data/file; echo kept >/data/mine", "-v", f"{name}:/data")
    second = engine.script("cat /data/mine", "-v", f"{name}:/data")
    engine("volume", "rm", name)
    return f"{first}|{second}"


@check("--volume :rslave: later mounts of the host show", "seen|private: not seen")
def _(engine: Engine) -> str:
    seen = []
    for mode in ("rslave", "rprivate"):
        where = engine.directory()
        engine.must("mount", "--bind", where, where)
        engine.must("mount", "--make-rshared", where)
        (where / "sub").mkdir()
        with engine.container("-v", f"{where}:/v:{mode}") as name:
            engine.must("mount", "-t", "tmpfs", "tmpfs", where / "sub")
            (where / "sub/file").write_text("")
            there = engine.do("exec", name, "test", "-e", "/v/sub/file").code == 0
            seen.append("seen" if there else "not seen")
            engine.must("umount", where / "sub")
        engine.must("umount", "-l", where)
    return f"{seen[0]}|private: {seen[1]}"


@check("--mount type=bind, readonly", "touch: /m/x: Read-only file system")
def _(engine: Engine) -> str:
    return engine.script("touch /m/x 2>&1 || :", "--mount", f"type=bind,source={engine.directory()},target=/m,readonly")


@check("--shm-size", "32768")
def _(engine: Engine) -> str:
    return engine.script("df -k /dev/shm | awk 'END {print $2}'", "--shm-size", "32m")


@check("the default masks and read-only paths", "no keys, no firmware, read-only: /proc/bus /proc/sys")
def _(engine: Engine) -> str:
    return engine.script("echo no$(cat /proc/keys) keys, no$(ls /sys/firmware) firmware, read-only: "
                         "$(awk '$2 ~ \"^/proc/(bus|sys)$\" && $4 ~ /^ro/ {print $2}' /proc/mounts | sort)")


# Privileges

@check("--cap-drop ALL", "0", short=True)
def _(engine: Engine) -> str:
    return str(capabilities(engine, "--cap-drop", "ALL"))


@check("--cap-drop ALL --cap-add CHOWN", "1", short=True)
def _(engine: Engine) -> str:
    return str(capabilities(engine, "--cap-drop", "ALL", "--cap-add", "CHOWN"))


@check("--cap-add SYS_ADMIN: mount works, and not without", "mounted, refused", short=True)
def _(engine: Engine) -> str:
    script = "mkdir /m && mount -t tmpfs tmpfs /m 2>/dev/null && echo mounted || echo refused"
    return f"{engine.script(script, '--cap-add', 'SYS_ADMIN', *engine.allow_mount)}, {engine.script(script)}"


@check("the default capabilities: no SYS_ADMIN, CHOWN, nothing ambient", "0 1 0")
def _(engine: Engine) -> str:
    effective, ambient = capabilities(engine), capabilities(engine, which="CapAmb")
    return f"{int(bool(effective & SYS_ADMIN))} {int(bool(effective & CHOWN))} {ambient}"


@check("--privileged: all capabilities, devices, writable /sys", "all, fuse, writable")
def _(engine: Engine) -> str:
    seen = engine.script("grep CapEff /proc/self/status | cut -f 2; test -c /dev/fuse && echo fuse; "
                         "grep -q ' /sys sysfs rw' /proc/mounts && echo writable", "--privileged").split()
    return ", ".join(["all" if has_all(seen[0]) else seen[0], *seen[1:]])


@check("--security-opt no-new-privileges", "1, without 0", short=True)
def _(engine: Engine) -> str:
    script = "grep NoNewPrivs /proc/self/status | cut -f 2"
    return f"{engine.script(script, '--security-opt', 'no-new-privileges')}, without {engine.script(script)}"


@check("seccomp: the default profile is a filter", "2", short=True)
def _(engine: Engine) -> str:
    return engine.script("grep Seccomp: /proc/self/status | cut -f 2")


@check("--security-opt seccomp=unconfined", "0", short=True)
def _(engine: Engine) -> str:
    return engine.script("grep Seccomp: /proc/self/status | cut -f 2", "--security-opt", "seccomp=unconfined")


@check("--security-opt seccomp=PROFILE", "mkdir: can't create directory '/x': Network is down|and touch works",
       short=True)
def _(engine: Engine) -> str:
    profile = engine.file(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 100}]}))
    return engine.script("mkdir /x 2>&1; touch /y && echo '|and touch works'",
                         "--security-opt", f"seccomp={profile}").replace("\n", "")


@check("seccomp of the container holds in exec", "2 mkdir: can't create directory '/x': Network is down")
def _(engine: Engine) -> str:
    profile = engine.file(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 100}]}))
    with engine.container("--security-opt", f"seccomp={profile}") as name:
        return engine.sh(name, "echo $(grep Seccomp: /proc/self/status | cut -f 2) $(mkdir /x 2>&1)")


@check("--device", "fuse opens|and not without", short=True)
def _(engine: Engine) -> str:
    script = "mknod /mine c 10 229 && ( : <>{} ) 2>/dev/null && echo {} || echo {}"
    make = ("--cap-add", "MKNOD")  # Podman 5 leaves it out
    given = engine.script(script.format("/dev/given", "fuse opens", "refused"), *make,
                          "--device", "/dev/fuse:/dev/given")
    without = engine.script(script.format("/mine", "opens", "and not without"), *make)
    return f"{given}|{without}"


@check("--device :r: reading only", "read, not written")
def _(engine: Engine) -> str:
    return engine.script("( : </dev/given ) 2>/dev/null && echo -n read; "
                         "( : >/dev/given ) 2>/dev/null || echo , not written", "--device", "/dev/fuse:/dev/given:r")


@check("--device-cgroup-rule", "opens")
def _(engine: Engine) -> str:
    return engine.script("mknod /mine c 10 229 && ( : <>/mine ) 2>/dev/null && echo opens || echo refused",
                         "--cap-add", "MKNOD", "--device-cgroup-rule", "c 10:229 rwm")


@check("--ulimit", "512 1024 0", short=True)
def _(engine: Engine) -> str:
    return engine.script("echo $(ulimit -Sn) $(ulimit -Hn) $(ulimit -c)", "--ulimit", "nofile=512:1024", "--ulimit",
                         "core=0",
                         "--ulimit", "nproc=1000:2000")


@check("--sysctl", "1234 7")
def _(engine: Engine) -> str:
    return engine.script("cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmni | tr '\\n' ' '",
                         "--sysctl", "net.core.somaxconn=1234", "--sysctl", "kernel.msgmni=7")


@check("--oom-score-adj", "700")
def _(engine: Engine) -> str:
    return engine.script("cat /proc/self/oom_score_adj", "--oom-score-adj", "700")


# Limits

@check("--memory", "67108864", short=True)
def _(engine: Engine) -> str:
    return engine.script(MEMORY, "--memory", "64m")


@check("--cpus", "50000", short=True)
def _(engine: Engine) -> str:
    return engine.script(QUOTA, "--cpus", "0.5")


@check("--cpu-shares", matches="512|20")
def _(engine: Engine) -> str:
    return engine.script(cgroup_file("cpu/cpu.shares", "cpu.weight"), "--cpu-shares", "512")


@check("--cpuset-cpus", "0 0")
def _(engine: Engine) -> str:
    return engine.script("echo $(grep Cpus_allowed_list /proc/self/status | cut -f 2) $(" +
                         cgroup_file("cpuset/cpuset.cpus", "cpuset.cpus") + ")", "--cpuset-cpus", "0")


@check("--pids-limit -1", "max")
def _(engine: Engine) -> str:
    return engine.script(cgroup_file("pids/pids.max", "pids.max"), "--pids-limit", "-1")


@check("--pids-limit", "33|sh: can't fork: Resource temporarily unavailable", short=True)
def _(engine: Engine) -> str:
    script = cgroup_file("pids/pids.max", "pids.max") + "; i=0; while [ $i -lt 40 ]; do sleep 3 & i=$((i+1)); done 2>&1"
    lines = engine.do("run", "--rm", "--pids-limit", "33", IMAGE, "sh", "-c", script).out.splitlines()
    return f"{lines[0]}|{lines[-1]}"


@check("--memory: out of memory", "137 told", timeout=90)
def _(engine: Engine) -> str:
    with engine.container("--memory", "32m", "--memory-swap", "32m", IMAGE, "sh", "-c",
                          "sleep 0.5; tail /dev/zero") as name:
        engine("wait", name)
        code, told = engine.inspect(name, "{{.State.ExitCode}} {{.State.OOMKilled}}").split()
        return f"{code} {'told' if told == 'true' or not engine.tells_oom else 'not told'}"


@check("update: memory and CPUs of a running container", "100663296 30000", short=True)
def _(engine: Engine) -> str:
    with engine.container("--memory", "64m", "--memory-swap", "64m") as name:
        engine("update", "--memory", "96m", "--memory-swap", "96m", "--cpu-quota", "30000", name)
        return f"{engine.sh(name, MEMORY)} {engine.sh(name, QUOTA)}"


# Namespaces

@check("--network none", "lo")
def _(engine: Engine) -> str:
    return engine.script("ls /sys/class/net", "--network", "none")


@check("--network host", "the lane's")
def _(engine: Engine) -> str:
    seen = engine.run("--network", "host", IMAGE, "readlink", "/proc/self/ns/net")
    return "the lane's" if seen == os.readlink("/proc/self/ns/net") else seen


@check("bridge network: containers talk", "hello over the bridge", short=True)
def _(engine: Engine) -> str:
    with engine.container(*engine.bridge, IMAGE, "sh", "-c",
                          "echo hello over the bridge >/index.html; httpd -f -p 80 -h /") as name:
        address = engine.inspect(name, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
        fetch = f"for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://{address}/ && exit; sleep 0.2; done"
        return engine.script(fetch, *engine.bridge)


@check("bridge network: a published port", "hello from outside")
def _(engine: Engine) -> str:
    with engine.container(*engine.bridge, "-p", "127.0.0.1:8080:80", IMAGE, "sh", "-c",
                          "echo hello from outside >/index.html; httpd -f -p 80 -h /"):
        return fetched("http://127.0.0.1:8080/")


@check("--network container:ID, --pid container:ID, --ipc container:ID", "shared: net pid ipc", short=True)
def _(engine: Engine) -> str:
    with engine.container("--ipc", "shareable") as name:
        kinds = ("net", "pid", "ipc")
        script = "; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds)
        first = engine.sh(name, script).split()
        second = engine.script(script, "--network", f"container:{name}", "--pid", f"container:{name}",
                               "--ipc", f"container:{name}").split()
        return "shared: " + " ".join(kind for kind, one, two in zip(kinds, first, second, strict=True) if one == two)


@check("--pid host, --ipc host, --uts host", "the lane's: pid ipc uts")
def _(engine: Engine) -> str:
    kinds = ("pid", "ipc", "uts")
    seen = engine.script("; ".join(f"readlink /proc/self/ns/{kind}" for kind in kinds), "--pid", "host", "--ipc",
                         "host",
                         "--uts", "host").split()
    return "the lane's: " + " ".join(kind for kind, link in zip(kinds, seen, strict=True)
                                     if link == os.readlink(f"/proc/self/ns/{kind}"))


@check("--cgroupns private and host", "private is its own, host is the lane's")
def _(engine: Engine) -> str:
    private, host = (engine.run("--cgroupns", kind, IMAGE, "readlink", "/proc/self/ns/cgroup") for kind in ("private",
                                                                                                            "host"))
    own = os.readlink("/proc/self/ns/cgroup")
    return (f"private is {'the lane s' if private == own else 'its own'}, host is "
            f"{'the lane' + chr(39) + 's' if host == own else 'its own'}")


@check("nothing is left of the containers in the lane's cgroups and mounts", "nothing")
def _(engine: Engine) -> str:
    engine.run(IMAGE, "true")
    left = subprocess.run(["find", "/sys/fs/cgroup", "-type", "d", "-regex", r".*[0-9a-f]\{64\}.*"],
                          capture_output=True,
                          text=True, check=True).stdout.split()
    return "nothing" if not left else " ".join(left)
