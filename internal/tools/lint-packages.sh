#!/usr/bin/env bash
# Looks at the packages in dist with the eyes of a distribution: lintian, rpmlint,
# both formatters of man pages, the shell whose completion it is, the compiler of
# the journal's catalog. Any word of theirs is a failure; what they may not complain
# about stands with its reason in packaging/lintian-overrides and rpmlint.toml. Then
# the three formats are compared with each other and with packaging/contents.txt.
#
# Exit code 3 with one line: this host cannot, and why.
set -euo pipefail
cd "$(dirname "$0")/../.."
export LC_ALL=C.UTF-8

if ! command -v apt-get >/dev/null && ! command -v lintian >/dev/null; then
	echo "lintian is part of Debian, and this is another host" >&2
	exit 3
fi
internal/tools/need.sh lintian:lintian rpmlint:rpmlint rpm:rpm cpio:cpio dpkg-deb:dpkg gpg:gnupg gpgv:gpgv mandoc:mandoc man:man-db journalctl:systemd || {
	echo "without them packages cannot be judged" >&2
	exit 3
}

shopt -s nullglob
debs=(dist/*.deb)
rpms=(dist/*.rpm)
if [ ${#debs[@]} = 0 ] || [ ${#rpms[@]} = 0 ]; then
	echo "no packages in dist: make package" >&2
	exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bad=0
say() { # TOOL TEXT: what the tool said, if it did
	if [ -n "$2" ]; then
		printf '%s:\n%s\n' "$1" "$2" >&2
		bad=1
	fi
}

# lintian warns of root, who builds in a container; a user of its own need not exist.
for deb in "${debs[@]}"; do
	say "lintian $(basename "$deb")" "$(lintian --allow-root --pedantic --tag-display-limit 0 "$deb" 2>&1 || true)"
done

# rpmlint unpacks with cpio, and nfpm's rpm names its files from the root on: as root
# that would install the package on this host.
mkdir "$work/bin"
printf '#!/bin/sh\nexec %s --no-absolute-filenames "$@"\n' "$(command -v cpio)" >"$work/bin/cpio"
chmod 0755 "$work/bin/cpio"
for rpm in "${rpms[@]}"; do
	if ! out=$(PATH=$work/bin:$PATH rpmlint --strict --config packaging/rpmlint.toml "$rpm" 2>&1); then
		say "rpmlint $(basename "$rpm")" "$out"
	fi
done

mkdir "$work/unpacked"
dpkg-deb --extract "${debs[0]}" "$work/unpacked"
gunzip "$work"/unpacked/usr/share/man/man?/*.gz
for page in "$work"/unpacked/usr/share/man/man?/*; do
	say "mandoc $(basename "$page")" "$(mandoc -Tlint -W warning "$page" 2>&1 || true)"
	say "groff $(basename "$page")" "$(MANROFFSEQ='' MANWIDTH=80 man --warnings --local-file --encoding=UTF-8 -Tutf8 -Z "$page" 2>&1 >/dev/null || true)"
	# What apropos will find: a NAME section that cannot be read makes a page unfindable.
	say "lexgrog $(basename "$page")" "$(lexgrog "$page" 2>&1 | grep -v ': "bootstrap-agent.* - ' || true)"
done

completion=$work/unpacked/usr/share/bash-completion/completions/bootstrap-agent
say "bash" "$(bash -n "$completion" 2>&1 || true)"
for shell in zsh fish; do
	# Their scripts come from the same library; they are asked where they are installed.
	if command -v $shell >/dev/null; then say "$shell" "$($shell -n "$work"/unpacked/usr/share/$shell/*/*bootstrap-agent* 2>&1 || true)"; fi
done

# The database must hold every entry of the file, and only warnings tell of a bad one.
catalog=$work/unpacked/usr/lib/systemd/catalog/bootstrap-agent.catalog
mkdir -p "$work/unpacked/var/lib/systemd/catalog"
say "journalctl --update-catalog" "$(journalctl --root="$work/unpacked" --update-catalog 2>&1 || true)"
want=$(grep -c '^-- [0-9a-f]' "$catalog")
database=$work/unpacked/var/lib/systemd/catalog/database
if ! [ -s "$database" ] || [ "$(grep -ao 'Subject: ' "$database" | wc -l)" != "$want" ]; then
	say "journal catalog" "the database does not hold the $want entries of the file"
fi

if [ $bad = 0 ]; then echo "lintian, rpmlint, mandoc, groff, bash and the journal have nothing to say"; fi
go test -tags packages -count=1 ./packaging/pack || bad=1
exit $bad
