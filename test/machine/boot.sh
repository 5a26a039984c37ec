#!/usr/bin/env bash
# Boots one machine; runs as the first process of new mount, network and PID
# namespaces (machine.Boot starts it so), therefore all that it mounts and
# starts is gone when it dies, however it dies.
#
# $1 name, $2 its folder, $3 the shared root folder, $4 its address/length,
# $5 its gateway; the rest goes to systemd-nspawn. It says "ready" on fd 3 when
# its network namespace is there, and goes on when its stdin gets a line: by
# then eth0 has been put in.
set -euo pipefail
name=$1 dir=$2 root=$3 address=$4 gateway=$5
shift 5

# What nspawn leaves in /run (locks, propagation folders) stays out of the host's.
mount -t tmpfs -o mode=0755 lab /run

# A cgroup of its own below ours in each hierarchy: two machines in one cgroup
# would stop each other's services. (On a host with systemd and cgroup v2 a scope
# gave us one already.)
: >"$dir/cgroups"
own_cgroup() { # mount point, path of ours in it
	local parent=$1$2
	local new=${parent%/}/$name
	echo "$new" >>"$dir/cgroups" # first, so that whoever cleans up knows
	mkdir -p "$new"
	if [ -e "$new/cpuset.cpus" ] && [ -z "$(cat "$new/cpuset.cpus")" ]; then
		cat "$parent/cpuset.cpus" >"$new/cpuset.cpus"
		cat "$parent/cpuset.mems" >"$new/cpuset.mems"
	fi
	echo 0 >"$new/cgroup.procs"
}
mapfile -t ours </proc/self/cgroup # whole, before the moves below change it
unified=
for line in "${ours[@]}"; do
	if [ "${line%%:*}" = 0 ]; then unified=${line#0::}; fi
done
for line in "${ours[@]}"; do
	IFS=: read -r id controllers path <<<"$line"
	if [ -e /sys/fs/cgroup/cgroup.controllers ]; then # cgroup v2 alone
		if [ "$id" = 0 ] && [ -z "${LAB_IN_SCOPE:-}" ]; then own_cgroup /sys/fs/cgroup "$path"; fi
	elif [ "$id" = 0 ]; then
		if [ -d /sys/fs/cgroup/unified ]; then own_cgroup /sys/fs/cgroup/unified "$path"; fi
	elif [ "$controllers" = name=systemd ] && [ -d /sys/fs/cgroup/unified ]; then
		# nspawn expects it where the unified one is, whatever we are in.
		own_cgroup /sys/fs/cgroup/systemd "$unified"
	else
		own_cgroup "/sys/fs/cgroup/${controllers#name=}" "$path"
	fi
done

mount -t overlay overlay -o "lowerdir=$root,upperdir=$dir/upper,workdir=$dir/work" "$dir/merged"
mount --bind /proc/self/ns/net "$dir/netns"

echo ready >&3
exec 3>&-
read -r _
ip link set lo up
ip address add "$address" dev eth0
ip link set eth0 up
ip route add default via "$gateway"

# Not exec: nspawn as first process of a PID namespace would have to reap.
SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes systemd-nspawn --quiet --boot --directory="$dir/merged" \
	--machine="$name" --register=no --keep-unit --network-namespace-path="$dir/netns" \
	--capability=all --system-call-filter=@known --bind=/dev/kmsg \
	--resolv-conf=off --timezone=off --link-journal=no --console=pipe "$@" </dev/null
