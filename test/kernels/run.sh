#!/usr/bin/env bash
# Runs the tests that have to do with the kernel under other kernels:
#
#   run.sh [PACKAGE...]
#
# PACKAGEs are Debian's, linux-image-amd64 (6.1, Debian 12's own) and
# linux-image-6.12-amd64 if none are named. The test binaries are compiled here,
# without the race detector, and run there one after another (vm.sh, inside.sh).
# Prints a line for each kernel and suite, and each test that was skipped, with
# its reason. It fails if a test failed, did not run or was skipped without being
# expected to, or if the kernel complained. Logs: bin/kernels/results/PACKAGE/.
#
#   SUITES  which packages, such as "ruleset/kernel cni/node"
#   RUN     which tests, as in `go test -run`
#
# and what vm.sh takes from the environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
tests=$root/bin/kernels/tests
results=$root/bin/kernels/results
(($#)) || set -- linux-image-amd64 linux-image-6.12-amd64

# suites are the packages whose tests talk to the kernel: those that netlink is
# linked into, and the rest of the CNI part. A new one is not forgotten.
suites() {
  local module
  module=$(go list -m)
  {
    go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./cni/...
    go list -test -f '{{if eq .Name "main"}}{{.ImportPath}} {{join .Deps " "}}{{end}}' ./... |
      awk '$1 ~ /\.test$/ && / github\.com\/(vishvananda|mdlayher)\/netlink / { sub(/\.test$/, "", $1); print $1 }'
  } | sort -u | sed "s|^$module\$|.|; s|^$module/||"
}

# What is left out, packages and tests of a package, and why. Nothing else is.
declare -A without=(
  [controllers]="needs an API server; what it has to do with the kernel is ruleset/kernel's"
  [test/soak]="needs an API server too"
  [test/chaos]="needs an API server too"
  [test/bench]="has benchmarks alone"
  [". TestAgentTakesChart"]="runs helm by the go command, and has nothing to do with the kernel"
)

# Why a test may be skipped: EREs. Any other skip is a failure.
expected=(
  # nft 1.0.6 on Linux 6.12.115 and newer: see docs/KERNELS.md.
  'skipped: there is no comparing with nft, which writes for ports what this kernel refuses: .*'
  'skipped: this nft can load no ports on this kernel: .*'
  # The tests fail, rather than skip, if a kernel from 6.9 on is without them.
  'skipped: this kernel has no tables that are owned and persist, which takes Linux 6.9'
)

compile() {
  local package
  mkdir -p "$tests"
  : >"$tests/list"
  # As `make build` does, so that what it has compiled is used.
  export CGO_ENABLED=0
  local flags=(-trimpath -buildvcs=false -ldflags "-s -w")
  go build "${flags[@]}" -o "$tests/podfence-cni" ./cni/podfence-cni
  for package in ${SUITES:-$(suites)}; do
    if [[ -n ${without[$package]:-} && -z ${SUITES:-} ]]; then
      echo "kernels: without $package: ${without[$package]}"
      continue
    fi
    local name=${package//\//-} key skip=""
    [[ $package != . ]] || name=main
    for key in "${!without[@]}"; do
      [[ $key == "$package "* ]] || continue
      echo "kernels: without $key: ${without[$key]}"
      skip+="${skip:+|}^${key#* }\$"
    done
    go test -c "${flags[@]}" -o "$tests/$name.test" "./$package"
    # The tests that there are, to be compared with those that ran.
    (cd "$package" && "$tests/$name.test" -test.list "${RUN:-.}" 2>/dev/null) |
      grep -E '^(Test|Fuzz|Example)' | grep -vE "${skip:-^\$}" >"$tests/$name.tests" || true
    echo "$name $package $skip" >>"$tests/list"
  done
}

# summary prints a suite's line, and its skips; it fails if something is wrong.
summary() { # PACKAGE RELEASE SUITE
  local log=$results/$1/$3.log code seconds
  read -r code seconds <"$results/$1/$3.exit" || return 1
  awk -v kernel="$2" -v suite="$3" -v code="$code" -v seconds="$seconds" -v list="$tests/$3.tests" \
    -v expected="$(printf '%s\n' "${expected[@]}")" -v log_="$log" '
    BEGIN {
      while ((getline name <list) > 0) listed[name]
      allowed = split(expected, allow, "\n")
    }
    # The reason is what the test has printed last before it ended.
    /^=== (RUN|NAME|CONT) / { now = $3 }
    /^ +[a-z0-9_]+_test\.go:[0-9]+: / { sub(/^ +/, ""); said[now] = $0 }
    /^ *--- (PASS|FAIL|SKIP): / {
      state = substr($2, 1, 4); count[state]++; ended[$3]
      if (state == "FAIL") failed[++failures] = $3
      if (state == "SKIP") skipped[++skips] = $3
    }
    END {
      for (name in listed) if (!(name in ended)) absent[++absents] = name
      printf "%-24s %-18s %4d passed %3d failed %3d skipped %5d s\n", kernel, suite, count["PASS"], failures, skips, seconds
      bad = failures + absents
      for (i = 1; i <= skips; i++) {
        verdict = "skipped, unexpectedly"
        for (j = 1; j <= allowed; j++) if (allow[j] != "" && said[skipped[i]] ~ ": " allow[j] "$") verdict = "skipped"
        bad += verdict != "skipped"
        printf "  %s: %s: %s\n", verdict, skipped[i], said[skipped[i]]
      }
      for (i = 1; i <= failures; i++) printf "  failed: %s\n", failed[i]
      for (i = 1; i <= absents; i++) printf "  did not run: %s\n", absent[i]
      if (count["PASS"] == 0) { print "  no test passed"; bad++ }
      if (code != 0 && !bad) { printf "  exit code %d\n", code; bad++ }
      if (bad) printf "  see %s\n", log_
      exit bad > 0
    }' "$log"
}

# report prints what has become of a kernel's run; it fails if something is wrong.
report() { # PACKAGE
  local out=$results/$1 release bad=0 suite
  release=$(cat "$out/release" 2>/dev/null || echo "$1")
  while read -r suite _; do
    if [[ -f $out/$suite.exit ]]; then
      summary "$1" "$release" "$suite" || bad=1
    else
      echo "$release $suite: did not end; see $out/$suite.log"
      bad=1
    fi
  done <"$tests/list"
  if [[ -s $out/modules-missing ]]; then
    echo "  modules that there are not: $(tr '\n' ' ' <"$out/modules-missing")"
  fi
  # A bug of the kernel's own, or one that podfence has brought to light.
  if grep -qE 'WARNING:|BUG:|Oops|detected stall' "$out/dmesg" 2>/dev/null; then
    echo "  the kernel complained; see $out/dmesg"
    bad=1
  fi
  return "$bad"
}

compile
failed=0
for package in "$@"; do
  out=$results/$package
  rm -rf "$out"
  mkdir -p "$out"
  echo "kernels: running $(wc -l <"$tests/list") suites under $package"
  test/kernels/vm.sh "$package" "$out" \
    env PODFENCE_TEST_PLUGIN="$tests/podfence-cni" RUN="${RUN:-}" test/kernels/inside.sh "$tests" "$out" || failed=1
  report "$package" | tee "$out/report" || failed=1
done
exit "$failed"
