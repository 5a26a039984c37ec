#!/usr/bin/env bash
# repo.sh PACKAGES REPO: makes the folder REPO of all .deb and .rpm in the folder
# PACKAGES: a signed apt and a signed dnf repository, to be hosted as plain files.
#
#	REPO_KEY             the key in $GNUPGHOME that signs: fingerprint, ID or address
#	REPO_URL             where REPO will be hosted; stands in the two example files
#	SOURCE_DATE_EPOCH    the Date of the repository. apt ignores one that is older
#	                     than what it has seen, so this must never go back
#
# All of REPO/deb but the signatures depends on the packages and that date alone;
# the index in REPO/rpm holds hashes of signed packages.
#
#	REPO/bootstrap-agent.asc        the public key: for apt, dnf and rpm
#	REPO/bootstrap-agent.sources    for /etc/apt/sources.list.d
#	REPO/bootstrap-agent.repo       for /etc/yum.repos.d
#	REPO/deb  pool/, dists/stable/{InRelease,Release,Release.gpg,main/binary-*}
#	REPO/rpm  *.rpm (signed), repodata/ with repomd.xml.asc
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
packages=${1:?usage: repo.sh PACKAGES REPO}
repo=${2:?usage: repo.sh PACKAGES REPO}
export LC_ALL=C TZ=UTC
umask 022

name=bootstrap-agent
url=${REPO_URL:-https://packages.example.com/$name}
url=${url%/}
epoch=${SOURCE_DATE_EPOCH:-$(date +%s)}

if [ -z "${REPO_KEY:-}" ]; then
	echo "REPO_KEY does not name the key that signs the repository: REPO_KEY=FINGERPRINT make repo (gpg --list-secret-keys shows them)" >&2
	exit 1
fi
shopt -s nullglob
debs=("$packages"/*.deb)
rpms=("$packages"/*.rpm)
if [ ${#debs[@]} -eq 0 ] || [ ${#rpms[@]} -eq 0 ]; then
	echo "a repository needs packages of both kinds in $packages: run make package first" >&2
	exit 1
fi
"$here/need.sh" gpg:gnupg apt-ftparchive:apt-utils createrepo_c:createrepo-c rpmsign:rpm dpkg-deb:dpkg
if ! gpg --batch --list-secret-keys "$REPO_KEY" >/dev/null 2>&1; then
	echo "gpg has no secret key $REPO_KEY (in ${GNUPGHOME:-the home of $(id -un)})" >&2
	exit 1
fi
sign=(gpg --batch --yes --quiet --local-user "$REPO_KEY" --digest-algo SHA512)

# Whole or not at all: what was built before stays until this one is complete.
mkdir -p "$(dirname "$repo")"
new=$repo.new
rm -rf "$new"
trap 'rm -rf "$new"' EXIT
mkdir -p "$new/deb/pool" "$new/rpm"

gpg --batch --armor --export-options export-minimal --export "$REPO_KEY" >"$new/$name.asc"

# apt: what is signed is Release, which holds the hashes of Packages, which holds
# the hash of each package.
install -m 0644 "${debs[@]}" "$new/deb/pool/"
dist=$new/deb/dists/stable
archs=
for arch in $(for deb in "${debs[@]}"; do dpkg-deb --field "$deb" Architecture; done | sort -u); do
	archs=${archs:+$archs }$arch
	index=$dist/main/binary-$arch
	mkdir -p "$index"
	(cd "$new/deb" && apt-ftparchive --arch "$arch" -o APT::FTPArchive::MD5=false -o APT::FTPArchive::SHA1=false packages pool) >"$index/Packages"
	gzip -9nk "$index/Packages"
	xz -9k "$index/Packages"
done
(cd "$dist" && apt-ftparchive \
	-o APT::FTPArchive::Release::Origin="$name" -o APT::FTPArchive::Release::Label="$name" \
	-o APT::FTPArchive::Release::Suite=stable -o APT::FTPArchive::Release::Codename=stable \
	-o APT::FTPArchive::Release::Architectures="$archs" -o APT::FTPArchive::Release::Components=main \
	-o APT::FTPArchive::Release::Date="$(date -u -d "@$epoch" '+%a, %d %b %Y %H:%M:%S +0000')" \
	-o APT::FTPArchive::Release::Acquire-By-Hash=yes \
	-o APT::FTPArchive::Release::MD5=false -o APT::FTPArchive::Release::SHA1=false -o APT::FTPArchive::Release::SHA512=false \
	release .) >"$new/Release"
mv "$new/Release" "$dist/Release"
# By hash as well: who has read one Release finds the files that belong to it even
# while the next ones are being uploaded.
for file in "$dist"/main/binary-*/*; do
	mkdir -p "$(dirname "$file")/by-hash/SHA256"
	cp "$file" "$(dirname "$file")/by-hash/SHA256/$(sha256sum <"$file" | cut -d' ' -f1)"
done
"${sign[@]}" --clearsign --output "$dist/InRelease" "$dist/Release"
"${sign[@]}" --armor --detach-sign --output "$dist/Release.gpg" "$dist/Release"

# dnf: the index is signed, and each package is too, because rpm by itself knows
# nothing of an index.
install -m 0644 "${rpms[@]}" "$new/rpm/"
tty -s || export GPG_TTY=/dev/null # rpmsign would warn that it found none
for rpm in "$new"/rpm/*.rpm; do
	rpmsign --define "_gpg_name $REPO_KEY" --define "__gpg $(command -v gpg)" --addsign "$rpm" >/dev/null
done
find "$new/rpm" -type f -exec touch -d "@$epoch" {} +
createrepo_c --quiet --no-database --revision "$epoch" --set-timestamp-to-revision "$new/rpm"
"${sign[@]}" --armor --detach-sign --output "$new/rpm/repodata/repomd.xml.asc" "$new/rpm/repodata/repomd.xml"

cat >"$new/$name.sources" <<END
# For /etc/apt/sources.list.d/$name.sources. The key comes from you, not from here:
#   curl -fsSL $url/$name.asc -o /etc/apt/keyrings/$name.asc
Types: deb
URIs: $url/deb
Suites: stable
Components: main
Signed-By: /etc/apt/keyrings/$name.asc
END
cat >"$new/$name.repo" <<END
# For /etc/yum.repos.d/$name.repo. The key comes from you, not from here:
#   curl -fsSL $url/$name.asc -o /etc/pki/rpm-gpg/RPM-GPG-KEY-$name
[$name]
name=$name
baseurl=$url/rpm
enabled=1
gpgcheck=1
repo_gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-$name
END

find "$new" -exec touch --no-dereference -d "@$epoch" {} +
rm -rf "$repo"
mv "$new" "$repo"
trap - EXIT
echo "$repo: $archs, ${#debs[@]} .deb, ${#rpms[@]} .rpm, signed by $(gpg --batch --with-colons --list-secret-keys "$REPO_KEY" | awk -F: '$1 == "fpr" { print $10; exit }')"
