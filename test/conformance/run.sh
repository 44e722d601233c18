#!/usr/bin/env bash
# Runs the upstream Kubernetes NetworkPolicy e2e suite against podfence, on a
# cluster of its own for each combination of IP family and kube-proxy mode.
#
#   FAMILIES="ipv4 dual" PROXIES="nftables iptables" RUNS=1 FOCUS=Netpol run.sh
#
# It prints one line a run, keeps log and JUnit report of each below
# bin/conformance, and fails if a spec of any run did. Specs run PROCS at a time.
set -euo pipefail
families=${FAMILIES:-ipv4 dual} proxies=${PROXIES:-nftables iptables} runs=${RUNS:-1}
focus=${FOCUS:-Netpol} procs=${PROCS:-4}
cd "$(dirname "$0")/../.."
bin=$PWD/bin/assets out=$PWD/bin/conformance
export CLUSTER=conform # beside one that is up for other work

# A kernel without SCTP sockets can't run the specs that connect by SCTP.
skip=SCTPConnectivity
if modprobe -q sctp 2>/dev/null || [[ -d /proc/net/sctp ]]; then
  skip=
fi
echo "conformance: Kubernetes $("$bin/kubelet" --version | cut -d' ' -f2), Linux $(uname -r), specs that match $focus${skip:+ but not $skip}"

specs() { # STATUS JUNIT: how many specs have ended so
  grep -cE "<testcase name=\"\[It\].* status=\"$1\"" "$2" || true
}

run() { # FAMILY PROXY N
  local dir=$out/$1-$2/$3 report failed=0
  rm -rf "$dir"
  mkdir -p "$dir"
  report=$dir/junit.xml
  nsenter --net=/run/netns/$CLUSTER-cp "$bin/ginkgo" run --procs="$procs" --focus="$focus" ${skip:+--skip="$skip"} \
    --no-color --silence-skips --timeout=1h --junit-report=junit.xml --output-dir="$dir" "$bin/e2e.test" -- \
    --kubeconfig="/var/lib/podfence-cluster/$CLUSTER/pki/admin.conf" --provider=local --disable-log-dump \
    >"$dir/log" 2>&1 || failed=1
  if [[ ! -s $report ]]; then
    echo "conformance: the suite ended without a report:" >&2
    tail -n 20 "$dir/log" >&2
    return 1
  fi
  local passed failures seconds
  passed=$(specs passed "$report")
  failures=$(($(grep -cE '<testcase name="\[It\]' "$report") - passed - $(specs skipped "$report")))
  seconds=$(sed -nE 's/.*<testsuites.* time="([0-9]*).*/\1/p' "$report")
  printf '%-6s %-10s %4d %7d %7d %8d s  %s\n' "$1" "$2" "$3" "$passed" "$failures" "$seconds" "${dir#"$PWD"/}"
  if ((passed + failures == 0)); then
    echo "conformance: no spec matches $focus" >&2
    return 1
  fi
  return $failed
}

failed=0
printf '%-6s %-10s %4s %7s %7s %10s  %s\n' family kube-proxy run passed failed time report
for family in $families; do
  for proxy in $proxies; do
    make --no-print-directory cluster-down >/dev/null
    if ! make --no-print-directory cluster-up IPFAMILY="$family" KPROXY="$proxy" >"$out.log" 2>&1; then
      cat "$out.log" >&2
      exit 1
    fi
    for ((n = 1; n <= runs; n++)); do
      run "$family" "$proxy" "$n" || failed=1
    done
  done
done
make --no-print-directory cluster-down >/dev/null
exit $failed
