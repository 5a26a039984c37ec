#!/usr/bin/env bash
# failures.sh LOG: what `go test -v` wrote there of the tests that failed, and of no
# others: the name and the head of each message. Nothing where all passed. With
# thousands of lines between them it stands at the end, where one looks first.
set -euo pipefail

awk '
	/^=== (RUN|NAME|CONT|PAUSE) / { test = $3; next }
	/^ *--- (FAIL|PASS|SKIP): / {
		test = $3
		if ($2 == "FAIL:") { failed[test] = $4; order[++n] = test }
		next
	}
	/^(panic:|FAIL\t|WARNING: DATA RACE)/ { other[++m] = $0; next }
	/^ +[a-z0-9_]+_test\.go:[0-9]+: / && said[test] < 30 { words[test] = words[test] "    " substr($0, 1, 400) "\n"; said[test]++ }
	END {
		for (i = 1; i <= n; i++) printf "  FAILED %s %s\n%s", order[i], failed[order[i]], words[order[i]]
		for (i = 1; i <= m; i++) print "  " other[i]
	}
' "$1"
