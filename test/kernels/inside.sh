#!/usr/bin/env bash
# The part of run.sh that runs under the other kernel:
#
#   inside.sh TESTS RESULTS
#
# TESTS has the test binaries and their list (see run.sh). For each suite RESULTS gets a
# log, the same as `go test -json` prints it, and a file with the exit code.
set -euo pipefail
tests=$1 results=$2

# What a node has loaded before podfence comes: kube-proxy and the container
# runtime load some of it, and so would the kernel by itself, where no user
# namespace is in the way. br_netfilter is the one that only an administrator
# loads; sctp is for the tests' own sockets.
modules=(nf_tables nft_ct nft_reject_inet nft_nat nft_masq nf_conntrack nf_conntrack_netlink br_netfilter
  bridge veth vxlan dummy sctp)
for module in "${modules[@]}"; do
  modprobe "$module" 2>>"$results/modules.log" || echo "$module" >>"$results/modules-missing"
done
uname -r >"$results/release"
nft --version >"$results/nft"

root=$PWD
while read -r suite folder skip; do
  echo "  $suite ..."
  cd "$root/$folder"
  code=0
  # Twice the time that the slowest takes under emulation; a hang ends with all
  # goroutines' stacks.
  "$tests/$suite.test" -test.v -test.timeout 20m ${RUN:+-test.run "$RUN"} ${skip:+-test.skip "$skip"} </dev/null 2>&1 |
    tee "$results/$suite.log" | "$tests/test2json" -t -p "$folder" >"$results/$suite.json" || code=$?
  echo "$code" >"$results/$suite.exit"
done <"$tests/list"
sysctl -n kernel.tainted >"$results/tainted"
dmesg >"$results/dmesg"
