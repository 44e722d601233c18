#!/usr/bin/env bash
# Writes into a folder what `go build -overlay` takes, and prints its path, for machines of 32 bits:
#
#   overlay.sh FOLDER
#
# github.com/google/nftables, as go.mod has it, prints the untyped constant math.MaxUint32 as an
# int, which does not compile where an int has 32 bits. The overlay gives that constant its type; no
# other line changes. The script fails once the line is another one: it can go then.
set -euo pipefail
out=${1:?usage: overlay.sh FOLDER}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
source=$(go list -m -f '{{.Dir}}' github.com/google/nftables)/conn.go
wrong='in a single nftables transaction", math.MaxUint32)'
if [[ $(grep -cF "$wrong" "$source") != 1 ]]; then
  echo "$source has not the one line that the overlay mends: build for arm without it, and remove $0" >&2
  exit 1
fi
sed 's/in a single nftables transaction", math.MaxUint32)/in a single nftables transaction", uint32(math.MaxUint32))/' "$source" >"$out/conn.go"
printf '{"Replace": {"%s": "%s"}}\n' "$source" "$out/conn.go" >"$out/overlay.json"
echo "$out/overlay.json"
