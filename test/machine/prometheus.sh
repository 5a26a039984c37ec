#!/usr/bin/env bash
# prometheus.sh FOLDER: puts promtool and prometheus-node-exporter there, out of
# Debian's packages (23 MB), unless they are there. The packages are taken apart,
# not installed: they would start services on this host.
set -euo pipefail

out=$1
if [ -x "$out/promtool" ] && [ -x "$out/prometheus-node-exporter" ]; then exit 0; fi
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work"
cd "$work"
echo "fetching promtool and node_exporter (Debian packages, taken apart) into $out"
fetch=(apt-get download -q prometheus prometheus-node-exporter)
# The package lists of this host may be too old or absent: update only then.
"${fetch[@]}" >/dev/null 2>&1 || { apt-get update -q >/dev/null && "${fetch[@]}" >/dev/null 2>&1; }
for deb in *.deb; do dpkg-deb -x "$deb" unpacked; done
for program in prometheus-node-exporter promtool; do
	install -m 0755 "unpacked/usr/bin/$program" "$out/$program.new"
	mv "$out/$program.new" "$out/$program"
done
