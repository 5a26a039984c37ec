#!/usr/bin/env bash
# Packs the program in dist/stage, and what is generated for it, as .deb, .rpm and
# tar.gz, with its SBOM beside them, into dist. `make package` calls it, with ARCH,
# VERSION, SOURCE_DATE_EPOCH and NFPM (the packager) in the environment; COMMIT only
# where there is no repository to ask.
# What runs here is built for this host, whatever ARCH is.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ARCH:?}" "${VERSION:?}" "${SOURCE_DATE_EPOCH:?}" "${NFPM:?}"
export ARCH VERSION SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC CGO_ENABLED=0
unset GOOS GOARCH
umask 022

case $ARCH in
amd64) rpm_arch=x86_64 ;;
arm64) rpm_arch=aarch64 ;;
*) echo "there are packages for amd64 and arm64, not for $ARCH" >&2; exit 1 ;;
esac
stage=dist/stage
name=bootstrap-agent-$VERSION-linux-$ARCH
go build -trimpath -buildvcs=false -o "$stage/pack" ./packaging/pack
go build -trimpath -buildvcs=false -tags generate -o "$stage/generate" ./cmd/bootstrap-agent

"$stage/generate" catalog --to "$stage/catalog"
mkdir "$stage/man" "$stage/completions"
"$stage/generate" man --to "$stage/man" --release "$VERSION"
"$stage/generate" completions --to "$stage/completions"
internal/tools/notices.sh "$stage/bootstrap-agent" >"$stage/THIRD-PARTY-NOTICES"
gzip -9n "$stage/THIRD-PARTY-NOTICES" "$stage"/man/*
"$stage/pack" sbom "$stage/bootstrap-agent" >"$stage/sbom.cdx.json"

cat - packaging/changelog.yaml >"$stage/changelog.yaml" <<END
- semver: "$VERSION-1"
  date: "$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)"
  packager: "$(sed -n 's/^maintainer: //p' nfpm.yaml)"
  deb: {urgency: medium, distributions: [stable]}
  changes:
    - note: "Built from commit ${COMMIT:-$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}; what changed stands in the repository"
END

# One version lies there at a time, of both architectures: the one just built.
find dist -maxdepth 1 -type f -name 'bootstrap-agent*' ! -name "*[-_]$VERSION-*" -delete
rm -f dist/*_"$ARCH".deb dist/*."$rpm_arch".rpm dist/*-linux-"$ARCH".tar.gz dist/*-linux-"$ARCH".cdx.json
for format in deb rpm; do
	"$stage/pack" nfpm $format >"$stage/nfpm-$format.yaml"
	"$NFPM" package --config "$stage/nfpm-$format.yaml" --packager $format --target dist/ >/dev/null
done
"$stage/pack" tar "dist/$name.tar.gz"
cp "$stage/sbom.cdx.json" "dist/$name.cdx.json"
rm -rf "$stage"
ls -l dist/*_"$ARCH".deb dist/*."$rpm_arch".rpm "dist/$name".*
