#!/usr/bin/env bash
# Builds the images of a test cluster from the binaries in ASSETS, and archives
# them, with podfence's own (the image IMG, which `make image` has built), in DIR:
#
#   build.sh ASSETS DIR IMG
#
# An archive that is newer than what is in it is kept.
set -euo pipefail
assets=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
img=$3
cd "$(dirname "$0")"
# vfs and chroot need neither overlayfs nor a container runtime.
buildah=(buildah --storage-driver vfs)

image() { # TARGET NAME BINARY
  local archive=$out/$1.tar
  if [[ $archive -nt $assets/$3 && $archive -nt Dockerfile ]]; then
    return
  fi
  echo "images: $2"
  "${buildah[@]}" build --quiet --isolation chroot --target "$1" --tag "$2" --file Dockerfile "$assets" >/dev/null
  archive "$2" "$archive"
}

archive() { # NAME FILE
  rm -f "$2"
  "${buildah[@]}" push --quiet "$1" "docker-archive:$2:$1"
}

image pause registry.k8s.io/pause:3.10.1 agnhost
image agnhost registry.k8s.io/e2e-test-images/agnhost:2.66.1 agnhost
image coredns registry.k8s.io/coredns/coredns:v1.15.0 coredns
archive "$img" "$out/podfence.tar"
