#!/usr/bin/env bash
# Builds every package that lies in dist again, from the same files in a folder with
# another name, with another umask, time zone and language and as a user with another
# home, and compares the bytes. Like make package it takes VERSION, and SOURCE_DATE_EPOCH.
#
#	TOOLS      the folder with nfpm, as make has it
#	GOCACHE    set it to an empty folder to compile everything anew (some minutes)
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${VERSION:?}" "${SOURCE_DATE_EPOCH:?}" "${TOOLS:?}"
here=$PWD
there=$(mktemp -d)
trap 'chmod -R u+w "$there"; rm -rf "$there"' EXIT
copy="$there/somebody else's folder, with another name/bootstrap-agent"
mkdir -p "$copy" "$there/home"

# What is in the tree and not ignored, as it is now.
git ls-files -coz --exclude-standard | while IFS= read -r -d '' file; do
	if [ -e "$file" ]; then printf '%s\0' "$file"; fi
done | tar --create --null --files-from - | tar --extract --touch --directory "$copy"

COMMIT=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE) GOPATH=$(go env GOPATH)
export COMMIT GOCACHE GOMODCACHE GOPATH
bad=0 compared=0
for arch in amd64 arm64; do
	[ -e "dist/bootstrap-agent_$VERSION-1_$arch.deb" ] || continue
	(
		umask 077
		cd "$copy"
		HOME=$there/home TZ=Asia/Kolkata LANG=C.UTF-8 LC_ALL=C.UTF-8 make -s package ARCH=$arch VERSION="$VERSION" TOOLS="$TOOLS" >/dev/null
	)
	for file in "$copy"/dist/*; do
		name=$(basename "$file")
		compared=$((compared + 1))
		if ! cmp "$file" "$here/dist/$name" >&2; then bad=1; fi
	done
	rm -rf "$copy/dist"
done
if [ $compared = 0 ]; then
	echo "no packages of version $VERSION in dist: make package" >&2
	exit 1
fi
if [ $bad != 0 ]; then
	echo "two builds of one commit differ (see above)" >&2
	exit 1
fi
echo "$compared files made again in another folder: the same bytes"
