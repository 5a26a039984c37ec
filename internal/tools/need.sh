#!/usr/bin/env bash
# need.sh COMMAND:PACKAGE...: installs the Debian packages that bring the commands
# which are missing on this host, once, and says so. Prints nothing when all are
# there. Where they cannot be installed it names them and ends with 1.
set -euo pipefail

missing=()
for need in "$@"; do
	PATH=$PATH:/usr/sbin:/sbin command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "these have to be installed first (as their Debian packages are called): ${missing[*]}" >&2
	exit 1
fi
echo "installing on this host: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y -q --no-install-recommends "${missing[@]}")
# The package lists of this host may be too old or absent: update only then.
"${install[@]}" >/dev/null 2>&1 </dev/null || { apt-get update -q >/dev/null && "${install[@]}" >/dev/null </dev/null; }
