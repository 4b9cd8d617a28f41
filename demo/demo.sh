#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# `make demo`: one container from nothing to gone.  A root file system is put together from the
# host's static busybox, `pyrunc spec` writes config.json, and the container is walked through its
# life.  All of it happens below a temporary directory, which is removed at the end.
set -eu

pyrunc=${PYRUNC:-pyrunc}
busybox=${BUSYBOX:-/bin/busybox}
[ "$(id -u)" = 0 ] || { echo "demo: this needs root (sudo make demo)" >&2; exit 1; }

scratch=$(mktemp -d)
root=$scratch/state # where pyrunc keeps the state of containers: our own, so that none is in the way
id=demo-$$
bold='' plain=''
if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi
clean() {
	"$pyrunc" --root "$root" delete --force "$id" >/dev/null 2>&1 || :
	rm -rf "$scratch"
}
trap clean EXIT
trap 'exit 130' INT TERM

step() { # what it does, then the command
	printf '\n%s# %s%s\n' "$bold" "$1" "$plain"
	shift
	printf '$ %s\n' "$(echo "$*" | sed "s|$pyrunc|pyrunc|; s|$scratch|\$DIR|g")"
	"$@"
}

wait_until() { # the status, for at most ten seconds
	tries=0
	until "$pyrunc" --root "$root" state "$id" | grep -q "\"status\": \"$1\""; do
		tries=$((tries + 1))
		[ $tries -lt 100 ] || { echo "demo: the container did not become $1" >&2; exit 1; }
		sleep 0.1
	done
}

echo "pyrunc demo, in DIR=$scratch"
mkdir -p "$scratch/bundle/rootfs/bin"
cd "$scratch/bundle"

step "a root file system: the static busybox and its applets" \
	sh -c "cp $busybox rootfs/bin/ && cd rootfs/bin && for a in \$($busybox --list); do [ -e \$a ] || ln -s busybox \$a; done"
mkdir -p rootfs/etc rootfs/proc rootfs/dev rootfs/sys rootfs/tmp
echo 'root:x:0:0:root:/:/bin/sh' >rootfs/etc/passwd

step "write a default config.json" "$pyrunc" spec

cat >rootfs/look <<'SHELL'
echo "   I am $(id), pid $$, on the host \"$(hostname)\""
echo "   I see $(wc -l </proc/mounts) mounts, and this root: $(echo /*)"
echo "   my capabilities: $(grep CapEff /proc/self/status)"
touch /etc/x 2>&1 | sed "s/^/   /"
ps | sed "s/^/   /"
SHELL
cat >edit.py <<'PYTHON'
import json
config = json.load(open("config.json"))
config["process"]["terminal"] = False
config["process"]["args"] = ["sh", "/look"]
config["hostname"] = "demo"
json.dump(config, open("config.json", "w"), indent=2)
PYTHON
step "no terminal, a name, and a program that looks around" /usr/bin/python3 edit.py

step "create: namespaces, mounts and all, up to the program, which waits" \
	"$pyrunc" --root "$root" create --bundle . "$id"
step "state: it is created" "$pyrunc" --root "$root" state "$id"
step "start: the program runs (what is indented comes from inside)" "$pyrunc" --root "$root" start "$id"
wait_until stopped
step "state: it has stopped" "$pyrunc" --root "$root" state "$id"
step "delete: undo all that create made" "$pyrunc" --root "$root" delete "$id"
step "list: nothing is left" "$pyrunc" --root "$root" list
