#!/usr/bin/env bash
# Prints the licenses of every module that is linked into the binary $1, as their
# terms ask of whoever passes a binary on. A module without a license file is an
# error: it must not be linked.
set -euo pipefail
binary=${1:?usage: notices.sh BINARY}

echo "bootstrap-agent is linked statically with the modules below. Their licenses:"
{
	printf 'std %s %s\n' "$(go env GOVERSION)" "$(go env GOROOT)"
	go version -m "$binary" | awk '$1 == "dep" { print $2, $3 }' | while read -r module version; do
		printf '%s %s %s\n' "$module" "$version" "$(go list -m -f '{{.Dir}}' "$module")"
	done
} | while read -r module version folder; do
	files=$(find "$folder" -maxdepth 1 -type f \( -iname 'LICENSE*' -o -iname 'LICENCE*' -o -iname 'COPYING*' -o -iname 'NOTICE*' \) | LC_ALL=C sort)
	if [ -z "$files" ]; then
		echo "$module $version has no license file in $folder" >&2
		exit 1
	fi
	printf '\n%s\n%s %s\n\n' "$(printf '=%.0s' {1..79})" "$module" "$version"
	while read -r file; do cat "$file"; echo; done <<<"$files"
done
