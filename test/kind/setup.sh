#!/usr/bin/env bash
# Starts the kind cluster of `make test-e2e`, unless it is up:
#
#   setup.sh CLUSTER
#
# KIND is kind's program, and CONTAINER_TOOL the container engine's.
set -euo pipefail
cluster=$1 kind=${KIND:-kind} engine=${CONTAINER_TOOL:-docker}

missing=()
command -v "$kind" >/dev/null || missing+=("kind ($kind is not there; https://kind.sigs.k8s.io)")
"$engine" info >/dev/null 2>&1 || missing+=("a container engine (\`$engine info\` fails)")
command -v "${KUBECTL:-kubectl}" >/dev/null || missing+=("kubectl (${KUBECTL:-kubectl} is not there)")
if ((${#missing[@]})); then
  printf 'test-e2e: missing: %s\n' "${missing[@]}" >&2
  echo 'test-e2e: without them, `make cluster-up e2e cluster-down` tests more, on a cluster in namespaces of this machine (root)' >&2
  exit 1
fi
if "$kind" get clusters | grep -qxF "$cluster"; then
  echo "test-e2e: the cluster $cluster is up already"
  exit 0
fi
# Without a network plugin no node gets ready, so there is no --wait.
"$kind" create cluster --name "$cluster" --config "$(dirname "$0")/cluster.yaml"
