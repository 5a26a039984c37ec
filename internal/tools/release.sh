#!/usr/bin/env bash
# release.sh PACKAGES RELEASE: makes the folder RELEASE, to be published as it is, of
# the packages in the folder PACKAGES: the .deb, .rpm (signed), tar.gz and SBOM of each
# architecture, the repositories, and SHA256SUMS with its signature.
# release.sh --check says only whether it could sign.
#
#	REPO_KEY             the key in $GNUPGHOME that signs: fingerprint, ID or address
#	REPO_URL             where RELEASE/repo will be hosted
#	SOURCE_DATE_EPOCH    the date of the repositories
#
#	RELEASE/SHA256SUMS, SHA256SUMS.asc    the sums of all files beside them, signed
#	RELEASE/bootstrap-agent.asc           the public key
#	RELEASE/repo                          as make repo builds it
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
usage="usage: release.sh PACKAGES RELEASE | release.sh --check"
packages=${1:?$usage}
export LC_ALL=C TZ=UTC
umask 022

if [ -z "${REPO_KEY:-}" ]; then
	cat >&2 <<'END'
REPO_KEY does not name the key that signs a release. Name one that gpg has:
    gpg --list-secret-keys
    make release REPO_KEY=FINGERPRINT REPO_URL=https://packages.example.com/bootstrap-agent
or make one, once, and keep it: everybody who installs will trust it
    gpg --quick-generate-key 'bootstrap-agent packages <packages@example.com>' rsa4096 sign 5y
END
	exit 1
fi
"$here/need.sh" gpg:gnupg sha256sum:coreutils
if ! gpg --batch --list-secret-keys "$REPO_KEY" >/dev/null 2>&1; then
	echo "gpg has no secret key $REPO_KEY (in ${GNUPGHOME:-the home of $(id -un)})" >&2
	exit 1
fi
if [ "$packages" = --check ]; then exit 0; fi
release=${2:?$usage}

shopt -s nullglob
for arch in amd64 arm64; do
	for kind in "_$arch.deb" "-linux-$arch.tar.gz" "-linux-$arch.cdx.json"; do
		found=("$packages"/*"$kind")
		if [ ${#found[@]} != 1 ]; then
			echo "a release needs one file *$kind in $packages, there are ${#found[@]}: make package ARCH=$arch" >&2
			exit 1
		fi
	done
done

# Whole or not at all.
new=$release.new
rm -rf "$new"
trap 'rm -rf "$new"' EXIT
mkdir -p "$new"
"$here/repo.sh" "$packages" "$new/repo" >/dev/null
install -m 0644 "$packages"/*.deb "$packages"/*.tar.gz "$packages"/*.cdx.json "$new/"
install -m 0644 "$new"/repo/rpm/*.rpm "$new/" # the copies that carry a signature
install -m 0644 "$new/repo/bootstrap-agent.asc" "$new/"

(cd "$new" && find . -maxdepth 1 -type f ! -name 'SHA256SUMS*' -printf '%P\n' | sort | xargs -d '\n' sha256sum >SHA256SUMS)
gpg --batch --yes --quiet --local-user "$REPO_KEY" --digest-algo SHA512 --armor --detach-sign --output "$new/SHA256SUMS.asc" "$new/SHA256SUMS"
gpg --batch --quiet --verify "$new/SHA256SUMS.asc" "$new/SHA256SUMS" 2>/dev/null

rm -rf "$release"
mv "$new" "$release"
trap - EXIT
echo "$release:"
ls -l "$release"
