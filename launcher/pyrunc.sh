#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The `pyrunc` command, and by their names containerd-shim-pyrunc-v1 and pyrunc-cni, where launcher/pyrunc.c could
# not be compiled: finds the package beside itself, then an interpreter, and runs it isolated: no environment
# variables, no site-packages hooks, nothing imported from the working directory.  pyrunc/_seal.py does the sealing.

fail() {
	echo "pyrunc: $1" >&2
	exit 1
}

# An isolated interpreter still believes these about where its standard library is (getpath.py).
unset PYTHONEXECUTABLE __PYVENV_LAUNCHER__

self=$(command -p readlink -f -- "$0") || fail "cannot resolve $0"
bin=${self%/*}
prefix=${bin%/*}

package=
for place in "$prefix"/lib*/python3.*/site-packages "$prefix"/lib*/python3.*/dist-packages \
	"$prefix"/lib/python3/dist-packages "$prefix"; do
	if [ -f "$place/pyrunc/__main__.py" ]; then
		package=$place
		break
	fi
done
[ -n "$package" ] || fail "the pyrunc package is not beside $self (reinstall pyrunc)"

case $self in
*/containerd-shim-pyrunc-v1) script=$package/pyrunc_shim/__main__.py ;;
*/pyrunc-cni) script=$package/pyrunc/net/cni_plugin.py ;;
*) script=$package/pyrunc/__main__.py ;;
esac

# The interpreter that the package was installed for, then any.
version=${package%/*}
version=${version##*/}
for name in "$version" python3.11 python3.12 python3.13 python3.14 python3; do
	for directory in "$bin" /usr/bin /usr/local/bin; do
		if [ -f "$directory/$name" ] && [ -x "$directory/$name" ]; then
			exec "$directory/$name" -I -S -P -B -X utf8 "$script" "$@"
		fi
	done
done
fail "a python3 of version 3.11 or later is missing (install one)"
