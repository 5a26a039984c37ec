#!/usr/bin/env bash
# step.sh NAME COMMAND...: runs one step of a build. Says what it does, every half
# minute for how long already, and how it ended; adds a line to $STEPS if that
# names a file. The exit code is the command's.
set -euo pipefail
name=$1
shift

start=$SECONDS
printf '==> %s\n' "$name"
(
	trap 'kill "$nap" 2>/dev/null; exit 0' TERM
	while :; do
		# Its output is closed: a pipe behind us must not wait for a sleeper.
		sleep 30 >/dev/null 2>&1 &
		nap=$!
		wait "$nap"
		printf '    ... %s: %d s\n' "$name" $((SECONDS - start))
	done
) &
ticker=$!

code=0
"$@" || code=$?
kill "$ticker" 2>/dev/null || true
wait "$ticker" 2>/dev/null || true

result=ok
[ $code = 0 ] || result="FAILED ($code)"
printf '<== %s: %s, %d s\n' "$name" "$result" $((SECONDS - start))
if [ -n "${STEPS:-}" ]; then
	printf '%-28s %-12s %5d s\n' "$name" "$result" $((SECONDS - start)) >>"$STEPS"
fi
exit $code
