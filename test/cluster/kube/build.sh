#!/usr/bin/env bash
# Builds the real control plane and kubelet from the Go modules pinned in this
# folder's go.mod into a cache folder, once. Prints nothing but progress; the
# folder is $1. Whoever has the binaries already sets KUBE_BIN_DIR and never
# comes here (see Makefile).
set -euo pipefail
cd "$(dirname "$0")"
out=${1:?usage: build.sh FOLDER}

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
minor=${version#v1.}; minor=${minor%%.*}
base=k8s.io/component-base/version
ldflags="-s -w -X $base.gitVersion=$version -X $base.gitMajor=1 -X $base.gitMinor=$minor -X $base.gitTreeState=clean"

# The stamp holds what the binaries were built from: a change of the module or
# of this script builds anew, anything else is a no-op of a few milliseconds.
stamp=$(cat go.mod go.sum build.sh | sha256sum | cut -d' ' -f1)-$(go env GOVERSION)
if [ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi

mkdir -p "$out"
rm -f "$out/.stamp"
# The replace block of a go.mod does not change what upstream's own release
# builds do: static binaries, no cgo.
CGO_ENABLED=0 go build -trimpath -ldflags "$ldflags" -o "$out/" tool
mv -f "$out/server" "$out/etcd" # the root package of go.etcd.io/etcd/server/v3 is etcd's main
printf '%s\n' "$stamp" > "$out/.stamp"
