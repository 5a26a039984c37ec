#!/usr/bin/env bash
# fuzz.sh SECONDS TOTAL: runs every fuzz target of the module for SECONDS each, or
# for less, so that all of them together take about TOTAL (building not counted).
# Targets are found by listing, so none can be forgotten. What a run finds is
# written to testdata/fuzz of its package: commit it with the repair.
set -euo pipefail
each=${1:?usage: fuzz.sh SECONDS TOTAL}
total=${2:?usage: fuzz.sh SECONDS TOTAL}

listing=$(go test -run '^$' -list '^Fuzz' ./...) || { printf '%s\n' "$listing" >&2; exit 1; }
targets=$(awk '/^Fuzz/ { names[n++] = $1 } $1 == "ok" { for (i = 0; i < n; i++) print $2, names[i]; n = 0 }' <<<"$listing")
if [ -z "$targets" ]; then
	echo "no fuzz target found" >&2
	exit 1
fi
count=$(wc -l <<<"$targets")
if [ $((each * count)) -gt "$total" ]; then each=$((total / count)); fi
if [ "$each" -lt 1 ]; then each=1; fi

echo "$count targets, $each s each"
while read -r package name; do
	echo "$package $name"
	# "context deadline exceeded" alone is the fuzzing engine stopping late on a
	# busy machine, not a finding: a finding names an input file.
	if ! output=$(go test -run '^$' -fuzz "^$name\$" -fuzztime "${each}s" -parallel 2 "$package" 2>&1 </dev/null); then
		if grep -q 'context deadline exceeded' <<<"$output" && ! grep -q 'Failing input written to' <<<"$output"; then continue; fi
		printf '%s\n' "$output" >&2
		exit 1
	fi
done <<<"$targets"
