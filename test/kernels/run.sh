#!/usr/bin/env bash
# Runs the tests that have to do with the kernel under other kernels:
#
#   run.sh [PACKAGE...]
#
# PACKAGEs are Debian's, linux-image-amd64 (6.1, Debian 12's own) and
# linux-image-6.12-amd64 if none are named; with ARCH those of that architecture. The test binaries are compiled here,
# without the race detector, and run there one after another (vm.sh, inside.sh).
# Prints a line for each kernel and suite, and each test that was skipped, with
# its reason (test/results, which has the list of those that may be). It fails if a test
# failed, did not run or was skipped without being expected to, or if the kernel
# complained. Logs: bin/kernels/results/PACKAGE/.
#
#   ARCH    arm64 or s390x: kernels, programs and test binaries are of that architecture
#   SUITES  which packages, such as "ruleset/kernel cni/node"
#   RUN     which tests, as in `go test -run`
#
# and what vm.sh takes from the environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
own=$(dpkg --print-architecture)
arch=${ARCH:-$own}
tests=$root/bin/kernels/tests-$arch
results=$root/bin/kernels/results
case $arch in
s390x) (($#)) || set -- linux-image-s390x ;; # 6.12 has no package for it
*) (($#)) || set -- "linux-image-$arch" "linux-image-6.12-$arch" ;;
esac

# list runs a test binary of the architecture, to ask it which tests it has.
case $arch in
"$own") list=() ;;
arm64) list=(qemu-aarch64) ;;
*) list=("qemu-$arch") ;;
esac

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
helm="runs helm by the go command, and has nothing to do with the kernel"
declare -A without=(
  [controllers]="needs an API server; what it has to do with the kernel is ruleset/kernel's"
  [test/soak]="needs an API server too"
  [test/chaos]="needs an API server too"
  [test/bench]="has benchmarks alone"
  ["cli TestAgentTakesChart"]="$helm"
  ["cli TestStatusWriterTakesChart"]="$helm"
  ["cli TestConnectivityTakesChart"]="$helm"
  ["cli TestAgentsKeepOff"]="$helm"
)

compile() {
  local package
  mkdir -p "$tests"
  : >"$tests/list"
  go build -o "$tests/results" ./test/results
  # As `make build` does, so that what it has compiled is used.
  export CGO_ENABLED=0 GOARCH=$arch
  local flags=(-trimpath -buildvcs=false -ldflags "-s -w")
  go build -o "$tests/test2json" cmd/test2json
  programs "${flags[@]}"
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
    (cd "$package" && "${list[@]}" "$tests/$name.test" -test.list "${RUN:-.}" 2>/dev/null) |
      grep -E '^(Test|Fuzz|Example)' | grep -vE "${skip:-^\$}" >"$tests/$name.tests" || true
    echo "$name $package $skip" >>"$tests/list"
  done
}

# programs makes what the tests run, where there is no compiler (test/prebuilt): podfence, its plugin, and the
# plugins of containernetworking that connect pods besides it.
programs() { # FLAG...
  local plugins=github.com/containernetworking/plugins version name
  mkdir -p "$tests/programs"
  go build -tags grpcnotrace "$@" -o "$tests/programs/" . ./cni/podfence-cni
  version=$(go list -m -f '{{.Version}}' $plugins)
  for name in main/bridge main/ptp ipam/host-local; do
    # The go command installs nothing for another architecture to GOBIN.
    GOMODCACHE=$(go env GOMODCACHE) GOBIN="" GOPATH=$tests/gopath GOFLAGS=-mod=mod \
      go install "$@" "$plugins/plugins/$name@$version"
  done
  find "$tests/gopath/bin" -type f -exec mv -t "$tests/programs" {} +
}

# absent prints the tests of a suite that have not ended; it fails if there are any.
absent() { # SUITE JSON
  local missing
  missing=$(comm -23 <(sort -u "$tests/$1.tests") \
    <(grep -E '"Action":"(pass|fail|skip)"' "$2" | grep -oE '"Test":"[^"/]+"' | cut -d'"' -f4 | sort -u))
  [[ -z $missing ]] || { echo "$1: did not run:" $missing; return 1; }
}

# report prints what has become of a kernel's run; it fails if something is wrong.
report() { # PACKAGE
  local out=$results/$1 release bad=0 suite code ended=()
  release=$(cat "$out/release" 2>/dev/null || echo "$1")
  echo "$release"
  while read -r suite _; do
    if [[ ! -f $out/$suite.exit ]]; then
      echo "$suite: did not end; see $out/$suite.log"
      bad=1
      continue
    fi
    read -r code <"$out/$suite.exit"
    ((code == 0)) || { echo "$suite: exit code $code; see $out/$suite.log"; bad=1; }
    ended+=("$out/$suite.json")
    absent "$suite" "$out/$suite.json" || bad=1
  done <"$tests/list"
  cat /dev/null "${ended[@]}" | RELEASE=$release "$tests/results" kernels || bad=1
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

if [[ $arch == "$own" ]]; then test/packages.sh kernels; else test/packages.sh kernels "$arch"; fi
compile
failed=0
for package in "$@"; do
  out=$results/$package
  rm -rf "$out"
  mkdir -p "$out"
  echo "kernels: running $(wc -l <"$tests/list") suites under $package"
  test/kernels/vm.sh "$package" "$out" \
    env PODFENCE_TEST_PROGRAMS="$tests/programs" RUN="${RUN:-}" test/kernels/inside.sh "$tests" "$out" || failed=1
  report "$package" | tee "$out/report" || failed=1
done
exit "$failed"
