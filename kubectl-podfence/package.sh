#!/usr/bin/env bash
# Builds the plugin for every platform into a folder: an archive each with LICENSE and the completion script,
# checksums.txt, and, if VERSION is a release (v1.2.3), podfence.yaml for krew. The same source makes the
# same archives, octet by octet. If BINARIES is a folder with what `make release-binaries` has built, the
# archives get the programs in it, and nothing is built.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: VERSION=v1.2.3 $0 FOLDER}
: "${VERSION:?is not set: it is what the plugin prints as its version, such as v1.2.3}"
mkdir -p "$out"
rm -f "$out"/kubectl-podfence-*.tar.gz "$out/kubectl-podfence-checksums.txt" "$out/podfence.yaml"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
cp LICENSE kubectl-podfence/kubectl_complete-podfence "$stage"
manifest=$(sed "s/VERSION/$VERSION/g" kubectl-podfence/krew.yaml)
for os in linux darwin windows; do
  for arch in amd64 arm64; do
    name=kubectl-podfence
    [[ $os == windows ]] && name=kubectl-podfence.exe
    if [[ -n ${BINARIES:-} ]]; then
      cp "$BINARIES/kubectl-podfence-$os-$arch${name#kubectl-podfence}" "$stage/$name"
    else
      echo "building kubectl-podfence for $os/$arch"
      GOOS=$os GOARCH=$arch CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w ${STAMP:--X main.version=$VERSION}" \
        -o "$stage/$name" ./kubectl-podfence
    fi
    archive=kubectl-podfence-$os-$arch.tar.gz
    tar --create --directory "$stage" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
      "$name" LICENSE kubectl_complete-podfence | gzip -9 --no-name >"$out/$archive"
    rm "$stage/$name"
    sum=$(cd "$out" && sha256sum "$archive" | tee -a kubectl-podfence-checksums.txt | cut -d ' ' -f 1)
    manifest=${manifest//SHA256_${os^^}_${arch^^}/$sum}
  done
done
if [[ $VERSION =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]]; then
  grep -v '^#' <<<"$manifest" >"$out/podfence.yaml"
else
  echo "no $out/podfence.yaml for krew: VERSION is $VERSION, and krew takes releases such as v1.2.3 only"
fi
