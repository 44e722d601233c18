#!/usr/bin/env bash
# Runs the benchmarks, prints their medians and spread, and writes the report:
#
#   run.sh RESULTS REPORT README
#
# RESULTS gets Go's benchmark output (benchstat reads it), REPORT benchmarks.md and
# its plots, README what it says of them. What is short runs in ROUNDS rounds, all of
# it in each, so that a busy moment of the machine falls on all alike; what starts an
# API server runs once.
# About 30 minutes on two cores with 3 rounds. In the environment:
#
#   ROUNDS  3
#   ONLY    "rounds" or "end-to-end": not the other
#
# The API server and etcd are those in KUBEBUILDER_ASSETS.
set -euo pipefail
results=${1:?usage: run.sh RESULTS REPORT README}
report=${2:?usage: run.sh RESULTS REPORT README}
readme=${3:?usage: run.sh RESULTS REPORT README}
cd "$(dirname "$0")/../.."
mkdir -p "$results" "$report"
results=$(cd "$results" && pwd)
report=$(cd "$report" && pwd)
readme=$(cd "$(dirname "$readme")" && pwd)/$(basename "$readme")
only=${ONLY:-}

header() {
  echo "kernel: $(uname -r | cut -d- -f1)"
  echo "cores: $(nproc)"
  echo "go: $(go env GOVERSION)"
  echo "kubernetes: $(cd test/assets && go list -m -f '{{.Version}}' k8s.io/kubernetes)"
  echo "cni-plugins: $(go list -m -f '{{.Version}}' github.com/containernetworking/plugins)"
  echo "date: $(date -u +%F)"
  echo "commit: $(git describe --tags --always --dirty 2>/dev/null || echo unknown)"
}

# bench FILE PACKAGE PATTERN TIME appends to FILE what a package's benchmarks print.
bench() {
  local binary
  binary=$results/$(tr / - <<<"$2").test
  [[ -x $binary ]] || go test -c -o "$binary" "./$2"
  echo "bench: $2 $3"
  # Logs go to stderr: here are results alone.
  (cd "$2" && "$binary" -test.run '^$' -test.bench "$3" -test.benchtime "$4" -test.benchmem -test.timeout 60m) >>"$results/$1"
}

rm -f "$results"/*.test
if [[ $only != end-to-end ]]; then
  rm -f "$results"/round-*.txt
  for ((round = 1; round <= ${ROUNDS:-3}; round++)); do
    echo "bench: round $round of ${ROUNDS:-3}"
    header >"$results/round-$round.txt"
    bench "round-$round.txt" ruleset 'ModelLoad|Change|ClusterPolicies|StageFirst' 0.5s
    bench "round-$round.txt" ruleset/kernel '^Benchmark(OneElement|NewPod|Load|Open|Forget)$' 0.5s
    bench "round-$round.txt" cni/plugin AddDel 100x
    bench "round-$round.txt" test/connectivity Add 1x
    bench "round-$round.txt" test/bench FirstCommit 3x
    bench "round-$round.txt" test/bench DataPlane 1x
    bench "round-$round.txt" test/bench Observing 1x
    bench "round-$round.txt" test/bench 'Flood$' 1x
    bench "round-$round.txt" test/bench Staged 1x
  done
fi
if [[ $only != rounds ]]; then
  header >"$results/end-to-end.txt"
  bench end-to-end.txt test/bench Latency 200x
  bench end-to-end.txt test/bench Answer 100x
  bench end-to-end.txt test/bench Askers 6x
  bench end-to-end.txt test/bench Events 1x
  bench end-to-end.txt test/bench 'Agent$' 1x # with FloodedAgent
fi
rm -f "$results"/*.test
# Not the ends of each figure's interval: the report has them.
bin/tools/benchstat -filter '-.unit:/-(lo|hi)$/' "$results"/*.txt
go -C test/bench/report run . "$results" "$report" "$readme"
