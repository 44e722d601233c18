#!/usr/bin/env bash
# Measures a release and the code as it is now, one after the other on this machine, and compares
# the two:
#
#   BASE=v1.2.3 WORSE=10 compare.sh FOLDER
#
# FOLDER gets the results in bench-base and bench-new, and what is worse in bench-compare.md. It fails if
# a figure is more than WORSE percent worse. Only what runs in ROUNDS (3) rounds is measured.
set -euo pipefail
out=${1:?usage: BASE=v1.2.3 compare.sh FOLDER}
: "${BASE:?is not set: the release to compare with, such as v1.2.3; there may be no tag yet}"
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/../.."
base=$(mktemp -d)
trap 'git worktree remove --force "$base/source"; rm -rf "$base"' EXIT
git worktree add --detach "$base/source" "$BASE"
mkdir -p "$base/source/bin/tools"
cp bin/tools/benchstat "$base/source/bin/tools/"
# The reports of both are by the way; those of the documentation stay as they are.
for of in base new; do
  source=.
  [[ $of == new ]] || source=$base/source
  rm -rf "$out/bench-$of"
  cp README.md "$base/README.md"
  ONLY=rounds "$source/test/bench/run.sh" "$out/bench-$of" "$base/report" "$base/README.md"
done
go -C test/bench/report run . compare "$out/bench-base" "$out/bench-new" "${WORSE:-10}" | tee "$out/bench-compare.md"
