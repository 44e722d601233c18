#!/usr/bin/env bash
# Prints the version of the working tree, which is also its image's tag: that of its release (v1.2.3), or else
# what `git describe` says (v1.2.3-4-gabcdef0: four commits after it; abcdef0: there is no release before it).
# What is not committed adds "-dirty" and a checksum of it, so that no two states of the tree have one name: nodes
# keep the image that they have of a name. Without git it prints "dev".
set -euo pipefail
cd "$(dirname "$0")/.."
if ! version=$(git describe --tags --match 'v[0-9]*' --always 2>/dev/null); then
  echo dev
  exit
fi
if [[ -n $(git status --porcelain) ]]; then
  sum=$({ git diff --binary HEAD; git ls-files -z --others --exclude-standard | LC_ALL=C sort -z | xargs --null --no-run-if-empty sha256sum; } | sha256sum)
  version+=-dirty-${sum:0:8}
fi
echo "$version"
