#!/usr/bin/env bash
# Installs the packages of this host that the lab needs, and only those that
# are missing. Prints nothing when there is nothing to do (a few milliseconds).
# It changes nothing else on the host. Exit code 3 with one line on stderr: this
# host cannot run machines at all, and why.
set -euo pipefail

# command -> Debian package that brings it
needs=(
	debootstrap:debootstrap
	systemd-nspawn:systemd-container
	ip:iproute2
	nft:nftables
	nsenter:util-linux
	unshare:util-linux
	flock:util-linux
	mount:mount
	gpg:gnupg
	apt-ftparchive:apt-utils
	createrepo_c:createrepo-c
	rpmsign:rpm
	dnf:dnf
	strace:strace
)

missing=()
for need in "${needs[@]}"; do
	PATH=$PATH:/usr/sbin:/sbin command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

if [ "$(id -u)" != 0 ]; then
	echo "machines need root" >&2
	exit 3
fi
if ! command -v apt-get >/dev/null; then
	echo "machines need a Debian host: apt-get is not here, and ${missing[*]} would have to be installed" >&2
	exit 3
fi

echo "installing on this host: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y -q --no-install-recommends "${missing[@]}")
# The package lists of this host may be too old or absent: update only then.
"${install[@]}" >/dev/null 2>&1 || { apt-get update -q >/dev/null && "${install[@]}" >/dev/null; }
