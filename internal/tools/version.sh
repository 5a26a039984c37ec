#!/usr/bin/env bash
# Prints the version of this commit, as dpkg and rpm both sort it:
#   v0.2.0          -> 0.2.0
#   v0.2.0-rc.1     -> 0.2.0~rc.1            (before 0.2.0)
#   3 commits later -> 0.2.0+3.g1a2b3c4      (after 0.2.0)
#   no tag yet      -> 0.0.0~git.20260102.1a2b3c4
# With changes that are not committed: ".dirty" behind it.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! commit=$(git rev-parse --short=7 HEAD 2>/dev/null); then
	echo "0.0.0~unknown" # a source archive without its history
	exit 0
fi
dirty=
git diff --quiet HEAD -- || dirty=.dirty

if tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null); then
	version=${tag#v}
	version=${version/-/\~}
	behind=$(git rev-list --count "$tag..HEAD")
	[ "$behind" = 0 ] || version=$version+$behind.g$commit
	[ -z "$dirty" ] || case $version in *+*) version=$version$dirty ;; *) version=$version+dirty ;; esac
else
	version=0.0.0~git.$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y%m%d).$commit$dirty
fi
printf '%s\n' "${version//-/.}"
