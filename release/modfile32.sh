#!/usr/bin/env bash
# Writes bin/nftables32.mod for `go build -modfile`, for machines of 32 bits, and prints its path.
#
# github.com/google/nftables, as go.mod has it, prints the untyped constant math.MaxUint32 as an
# int, which does not compile where an int has 32 bits. In bin/nftables32 is a copy in which that constant
# has its type; no other line is changed, and bin/nftables32.mod is go.mod with that copy in place of
# the module. The path is relative to the module's root, so that the same source makes the same program
# wherever it is. The script fails once the line is another one: then it can go.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$(go list -m -f '{{.Dir}}' github.com/google/nftables)
wrong='in a single nftables transaction", math.MaxUint32)'
if [[ $(grep -cF "$wrong" "$source/conn.go") != 1 ]]; then
  echo "$source/conn.go has not the one line that is mended: build for arm as for others, and remove $0" >&2
  exit 1
fi
rm -rf bin/nftables32
mkdir -p bin
cp -r --no-preserve=mode "$source" bin/nftables32
sed -i 's/in a single nftables transaction", math.MaxUint32)/in a single nftables transaction", uint32(math.MaxUint32))/' bin/nftables32/conn.go
cp go.mod bin/nftables32.mod
cp go.sum bin/nftables32.sum
go mod edit -replace github.com/google/nftables=./bin/nftables32 bin/nftables32.mod
echo bin/nftables32.mod
