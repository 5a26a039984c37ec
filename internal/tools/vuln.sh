#!/usr/bin/env bash
# Known vulnerabilities in what the program calls: govulncheck $1 over the packages
# of the program, with the database of GOVULNDB (https://vuln.go.dev). First it has to
# find one that was made up, so that a check that sees nothing is noticed.
#
# Exit code 0: none known; 3: the database cannot be reached, the line above says why;
# any other: there are some, or the check is broken.
set -euo pipefail
cd "$(dirname "$0")/../.."
govulncheck=${1:?usage: vuln.sh GOVULNCHECK}

code=0
out=$(cd cmd/bootstrap-agent && "$govulncheck" -db "file://$PWD/../../internal/tools/testdata/vulndb" -scan module 2>&1) || code=$?
if [ "$code" != 3 ] || [[ $out != *GO-0000-0001* ]]; then
	echo "the check does not find what was made up for it (code $code):" >&2
	echo "$out" >&2
	exit 1
fi

code=0
out=$("$govulncheck" -db "${GOVULNDB:-https://vuln.go.dev}" ./cmd/... 2>&1) || code=$?
echo "$out"
case $code in
0) ;;
1) if [[ $out == *"fetching vulnerabilities"* ]]; then exit 3; else exit 1; fi ;;
*) exit 1 ;;
esac
