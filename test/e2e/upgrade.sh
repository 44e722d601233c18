#!/usr/bin/env bash
# Builds an earlier version of podfence from a worktree of its commit, loads its image and this tree's image IMG,
# which `make image-prebuilt` has built, into the cluster that is up, and has TestUpgrade replace agents of the one
# by agents of the other, and back:
#
#   upgrade.sh COMMIT IMG
#
# COMMIT may be a tag. Its programs are built by its own Makefile, and installed by its own config.
set -euo pipefail
cd "$(dirname "$0")/../.."
from=$1 img=$2
commit=$(git rev-parse --verify --quiet "$from^{commit}") ||
  { echo "there is no commit $from to upgrade from: git fetch --unshallow --tags, or UPGRADE_FROM=COMMIT" >&2; exit 1; }
work=$PWD/bin/upgrade tree=$PWD/bin/upgrade/source
remove() { # also what was left of one that was killed
  git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"
  git worktree prune
}
remove
trap remove EXIT
mkdir -p "$work"
git worktree add --quiet --detach "$tree" "$commit"
version=$(git describe --tags --match 'v[0-9]*' --always "$commit")
earlier=${img%:*}:earlier-$version
echo "upgrade: building $from ($version) as $earlier; cold this takes some minutes"
# What the environment and this make's command line say is about this tree.
env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS make -C "$tree" image-prebuilt VERSION="$version" IMG="$earlier" >"$work/build.log" 2>&1 ||
  { tail -n 20 "$work/build.log" >&2; exit 1; }
for image in "$earlier" "$img"; do
  rm -f "$work/image.tar"
  buildah --storage-driver vfs push --quiet "$image" "docker-archive:$work/image.tar:$image"
  bin/assets/podfence-cluster load "$work/image.tar"
  rm "$work/image.tar"
done
go test -count 1 -timeout 30m -tags e2e -v ./test/e2e -run '^TestUpgrade$' \
  -upgrade-earlier "$earlier" -upgrade-earlier-config "$tree/config" -upgrade-to "$img"
