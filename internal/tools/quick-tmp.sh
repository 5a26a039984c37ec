#!/usr/bin/env bash
# quick-tmp.sh COMMAND...: runs a command whose short-lived files (TMPDIR) are in
# memory, where there is room for them and programs can be run from there; else with
# the TMPDIR that there is. The folder is removed whatever becomes of the command. The
# exit code is the command's.
set -euo pipefail

# What Go builds stays where it was: that is too much for memory.
export GOTMPDIR="${GOTMPDIR:-${TMPDIR:-/tmp}}"

work=
clean() {
	if [ -n "$work" ]; then
		chmod -R u+w "$work"
		rm -rf "$work"
	fi
}
trap clean EXIT

room() {
	[ "$(stat --file-system --format=%T /dev/shm 2>/dev/null)" = tmpfs ] &&
		[ "$(df --output=avail /dev/shm | tail -n 1)" -ge $((2 << 20)) ] # KiB
}
if room && work=$(mktemp -d /dev/shm/bootstrap-agent-XXXXXXXX 2>/dev/null); then
	chmod 0755 "$work" # as with /tmp: a test may have a folder that another user reads
	printf '#!/bin/sh\n' >"$work/runs"
	chmod +x "$work/runs"
	if "$work/runs" 2>/dev/null; then # not mounted noexec, as in some containers
		rm "$work/runs"
		export TMPDIR="$work"
	fi
fi
"$@"
