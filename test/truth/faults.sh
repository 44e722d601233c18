#!/bin/bash
# Puts each of testdata/faults into a copy of the tree, one at a time, and runs the
# property test: it must fail. Prints a line each, with how many histories it took, the
# mean over SEEDS. Names on the command line choose some of them.
#
# A fault of which the patch says "Test: TestReal" takes the real agent to be found (root).
#
#   HISTORIES=2000 REAL=40 SEEDS="1 100001" test/truth/faults.sh [FAULT...]
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

missed=0
for patch in "$here"/testdata/faults/*.patch; do
  name=$(basename "$patch" .patch)
  if (($# > 0)) && [[ " $* " != *" $name "* ]]; then
    continue
  fi
  rm -rf "$work/tree"
  mkdir "$work/tree"
  tar -C "$root" --exclude=./bin --exclude=./.git -cf - . | tar -C "$work/tree" -xf -
  patch --quiet --strip 1 --directory "$work/tree" <"$patch"
  test=TestTruth
  if grep -q '^Test: ' "$patch"; then
    test=$(sed -n 's/^Test: //p' "$patch")
  fi
  (cd "$work/tree" && go test -c -o "$work/truth" ./test/truth)
  counts=()
  for seed in ${SEEDS:-1 100001 200001}; do
    if (cd "$work/tree/test/truth" && "$work/truth" -test.run "^$test\$" -histories "${HISTORIES:-2000}" -real "${REAL:-40}" -shrink 10s -seed "$seed") >"$work/out" 2>&1; then
      counts=()
      break
    fi
    found=$(sed -n 's/.*seed [0-9]*, history \([0-9]*\),.*/\1/p' "$work/out" | head -n 1)
    if [[ -z $found ]]; then # a panic, or no build: not what is to be shown
      tail -n 30 "$work/out"
      counts=()
      break
    fi
    counts+=("$found")
  done
  if ((${#counts[@]} == 0)); then
    printf '%-40s not found\n' "$name"
    missed=1
    continue
  fi
  printf '%-40s found, after %s histories: %s\n' "$name" "$(IFS=,; echo "${counts[*]}")" "$(sed -n 's/^ *\(truth_test.go:[0-9]*: \)\{0,1\}then: //p' "$work/out" | head -n 1 | cut -c 1-150)"
done
exit $missed
