#!/usr/bin/env bash
# Runs unit tests as programs of other architectures, by qemu's user emulation:
#
#   arch.sh ARCH...
#
# ARCHs are Go's, such as arm64, or s390x, which is big-endian. Each package's tests are compiled
# here, without the race detector, and run in the package's folder. They are those of the rooms that
# only compute, and of ruleset/kernel those that need no kernel: user emulation passes netlink on to
# this machine's kernel in part only, and changes its byte order in part only. What the suites that
# need a kernel say on an architecture, `make test-kernels ARCH=...` shows.
#
# In the end what podfence sends to the kernel for each golden table is compared with what this
# machine would send: all octets must be the same, but for those of numbers that the kernel takes
# in the order of the machine (TestTransactions).
#
#   RUN   which tests of the pure rooms, as in `go test -run`
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
out=$root/bin/arch
(($#)) || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }

# pure are the packages that only compute: they and their tests use neither netlink nor an API server, nor run
# programs.
pure() {
  go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' \
    ./api/... ./explain/... ./names/dns ./policy/... ./ruleset ./ruleset/nft ./ruleset/kernel/bytecode ./test/quantiles
}

# kernelless are the tests of ruleset/kernel that need no kernel: what is sent, and how answers are read.
kernelless='^(TestByteOrder|TestRequestsByteOrder|TestUserDataInHostOrder|TestTransactions|TestEverythingIsKnown|TestParse.*|Fuzz.*)$'

# compile makes a package's test binary for an architecture; without tests there is none.
compile() { # ARCH PACKAGE BINARY
  # As run.sh does, so that what it has compiled is used.
  CGO_ENABLED=0 GOARCH=$1 go test -c -trimpath -buildvcs=false -ldflags "-s -w" -o "$3" "$2"
}

# run prints the line of a suite; it fails if the suite does.
run() { # ARCH PACKAGE BINARY [ARGUMENT...]
  local arch=$1 package=$2 binary=$3 emulator=() begun=$SECONDS
  shift 3
  case $arch in
  "$(go env GOHOSTARCH)") ;;
  arm64) emulator=(qemu-aarch64) ;;
  *) emulator=("qemu-$arch") ;;
  esac
  if ! (cd "$(go list -f '{{.Dir}}' "$package")" && "${emulator[@]}" "$binary" -test.timeout 30m "$@") >"$binary.log" 2>&1; then
    echo "  $arch $package: FAILED"
    sed 's/^/    /' "$binary.log"
    return 1
  fi
  echo "  $arch $package: ok, $((SECONDS - begun)) s"
}

# transactions writes to a folder what an architecture sends for each golden table.
transactions() { # ARCH
  mkdir -p "$out/$1/transactions"
  rm -f "$out/$1"/transactions/*
  compile "$1" ./ruleset/kernel "$out/$1/kernel.test"
  run "$1" ./ruleset/kernel "$out/$1/kernel.test" -test.run "$kernelless" -transactions "$out/$1/transactions"
}

own=$(go env GOHOSTARCH)
failed=0
transactions "$own" || failed=1
for arch in "$@"; do
  mkdir -p "$out/$arch"
  for package in $(pure); do
    binary=$out/$arch/$(basename "$package").test
    compile "$arch" "$package" "$binary"
    run "$arch" "$package" "$binary" ${RUN:+-test.run "$RUN"} || failed=1
  done
  transactions "$arch" || failed=1
  diff -r "$out/$own/transactions" "$out/$arch/transactions" || { echo "  $arch sends something else than $own"; failed=1; }
  tables=$(find "$out/$arch/transactions" -type f | wc -l)
  ((tables)) || { echo "  $arch: no transactions were compared"; failed=1; }
  echo "  $arch: $tables transactions compared with $own's"
done
exit "$failed"
