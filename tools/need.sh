#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# need.sh PACKAGE...: install those Debian packages that are missing; nothing if none is.
# Of `PACKAGE?` only if the release has it: what is a package of its own there is part of another elsewhere.
set -eu

missing=
optional=
for package in "$@"; do
	case $(dpkg-query -W -f '${db:Status-Status}' "${package%[?]}" 2>/dev/null) in
	installed) ;;
	*)
		case $package in
		*[?]) optional="$optional ${package%[?]}" ;;
		*) missing="$missing $package" ;;
		esac
		;;
	esac
done

known() { # the optional ones that the lists have
	for package in $optional; do
		apt-cache show "$package" >/dev/null 2>&1 && echo "$package"
	done
}

[ -n "$missing$(known)" ] || exit 0
if ! command -v apt-get >/dev/null; then
	echo "need.sh: please install what this system calls:$missing" >&2
	exit 1
fi
echo "installing$missing${optional:+ (and, where the release has them,$optional)}" >&2
export DEBIAN_FRONTEND=noninteractive
# The lists are only fetched when something is missing, and only once.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # the list is words
if ! { apt-get -q update && apt-get -q -y --no-install-recommends install $missing $(known); } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	exit 1
fi
