#!/usr/bin/env bash
# fuzz.sh SECONDS TOTAL [REGEXP]: runs every fuzz target of the module for SECONDS each, or
# for less, so that all of them together take about TOTAL (building not counted).
# Targets are found by listing, so none can be forgotten. What a run finds is
# written to testdata/fuzz of its package: commit it with the repair. With REGEXP
# only those whose name it matches. Each says how often it was executed.
# Each package is built once, not once for each of its targets.
set -euo pipefail
each=${1:?usage: fuzz.sh SECONDS TOTAL [REGEXP]}
total=${2:?usage: fuzz.sh SECONDS TOTAL [REGEXP]}
only=${3:-.}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# shellcheck disable=SC2016 # a template of go list's
files=$(go list -f '{{$d := .Dir}}{{range .TestGoFiles}}{{$d}}/{{.}}
{{end}}{{range .XTestGoFiles}}{{$d}}/{{.}}
{{end}}' ./... | sed '/^$/d')
mapfile -t folders < <(xargs -d '\n' grep -l '^func Fuzz' <<<"$files" | xargs -d '\n' -n 1 dirname | sort -u)
if [ ${#folders[@]} = 0 ]; then
	echo "no fuzz target found" >&2
	exit 1
fi

targets=()
for i in "${!folders[@]}"; do
	if ! output=$(go test -c -fuzz=. -o "$work/$i.test" "${folders[i]}" 2>&1); then
		printf '%s\n' "$output" >&2
		exit 1
	fi
	for name in $(cd "${folders[i]}" && "$work/$i.test" -test.list '^Fuzz' | grep '^Fuzz' | grep -E "$only"); do targets+=("$i $name"); done
done
count=${#targets[@]}
if [ "$count" = 0 ]; then
	echo "no fuzz target is called like $only" >&2
	exit 1
fi
if [ $((each * count)) -gt "$total" ]; then each=$((total / count)); fi
if [ "$each" -lt 1 ]; then each=1; fi

echo "$count targets, $each s each"
cache=$(go env GOCACHE)/fuzz
for target in "${targets[@]}"; do
	read -r i name <<<"$target"
	package=$(go list "${folders[i]}")
	printf '%s %s' "$package" "$name"
	# "context deadline exceeded" alone is the fuzzing engine stopping late on a
	# busy machine, not a finding: a finding names an input file.
	if ! output=$(cd "${folders[i]}" && "$work/$i.test" -test.run '^$' -test.fuzz "^$name\$" -test.fuzztime "${each}s" -test.parallel 2 \
		-test.paniconexit0 -test.fuzzcachedir "$cache/$package" 2>&1 </dev/null); then
		if ! grep -q 'context deadline exceeded' <<<"$output" || grep -q 'Failing input written to' <<<"$output"; then
			printf '\n%s\n' "$output" >&2
			exit 1
		fi
	fi
	said=$(sed -n 's/.* execs: \([0-9]*\) .*(total: \([0-9]*\)).*/\1 executions, \2 inputs kept/p' <<<"$output" | tail -n 1)
	printf ': %s\n' "${said:-no figures}"
done
