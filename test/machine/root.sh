#!/usr/bin/env bash
# Builds the root folder that every machine shares as its lower layer: a minimal
# Debian of this host's own release with systemd, containerd and what a node
# wants. $1 is the folder to create (it must not exist). Prints one line a step.
#
# It takes the package sources, the proxy and the certificate authorities from
# the host, so it works wherever apt-get works. Run it in mount and PID
# namespaces of its own (machine.BuildRoot does): then nothing survives a kill.
set -euo pipefail
root=${1:?usage: root.sh FOLDER}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# Into debootstrap only what apt inside needs and what cannot be missing in a
# system that boots; all else goes in afterwards (debootstrap's own resolver
# fails on larger sets).
base=systemd,systemd-sysv,dbus,libpam-systemd,ca-certificates,iproute2,iptables,procps,kmod,curl
extra=(containerd runc containernetworking-plugins conntrack ethtool socat nftables strace rpm cloud-init)

. /etc/os-release
suite=${VERSION_CODENAME:?this host has no release codename}

# The host's sources of this very release, whatever file and format they are in.
sources=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
	awk -v suite="$suite" '$2 == suite || index($2, suite "-") == 1' | sort -u)
mirror=$(awk -v suite="$suite" '$2 == suite { print $1; exit }' <<<"$sources")
if [ -z "$mirror" ]; then
	echo "the apt sources of this host have no $suite" >&2
	exit 1
fi

log=$root.log
trap 'code=$?; [ $code = 0 ] || tail -n 30 "$log" >&2' EXIT

echo "debootstrap $suite"
debootstrap --variant=minbase --include="$base" "$suite" "$root" "$mirror" >"$log" 2>&1

echo "apt inside: ${extra[*]}"
awk '{ print "deb " $1 " " $2 " " $3 }' <<<"$sources" >"$root/etc/apt/sources.list"
# How the host reaches its mirrors (proxy, TLS): settings of the transports only.
apt-config dump | grep -E '^Acquire::(http|https|Retries|ForceIPv[46])(::| )' >"$root/etc/apt/apt.conf.d/90host" || true
if [ -d /usr/local/share/ca-certificates ]; then
	cp -rL /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
	chroot "$root" update-ca-certificates >>"$log" 2>&1
fi
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
mount --bind /proc "$root/proc"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"
chroot "$root" apt-get update -q >>"$log" 2>&1
chroot "$root" apt-get install -y -q --no-install-recommends "${extra[@]}" >>"$log" 2>&1
rm "$root/usr/sbin/policy-rc.d"

echo "settling the root folder"
# A machine has no way out: nothing may wait for the network or use it.
chroot "$root" systemctl mask -q apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer console-getty.service getty.target \
	systemd-networkd-wait-online.service >>"$log" 2>&1
# Off until a machine asks for them.
chroot "$root" systemctl disable -q containerd.service >>"$log" 2>&1
touch "$root/etc/cloud/cloud-init.disabled"
umount "$root/proc"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/*
# Both, or all machines would share one identity.
rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" "$root/etc/apt/apt.conf.d/90host"
: >"$root/etc/resolv.conf"
rm -f "$log"
