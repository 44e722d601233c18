#!/usr/bin/env bash
# Tests the code as it is on the kind cluster that setup.sh has started:
#
#   run.sh CLUSTER
#
# KIND is kind's program, and CONTAINER_TOOL the container engine's.
set -euo pipefail
cluster=$1 kind=${KIND:-kind} engine=${CONTAINER_TOOL:-docker}
cd "$(dirname "$0")/../.."

# A tag of its own, so that no other image is meant, and nothing is pulled.
image=example.com/podfence/podfence:test-e2e
make --no-print-directory docker-build IMG="$image" CONTAINER_TOOL="$engine"
archive=$(mktemp --suffix .tar)
kubeconfig=$(mktemp)
trap 'rm -f "$archive" "$kubeconfig"' EXIT
"$engine" save --output "$archive" "$image"
"$kind" load image-archive "$archive" --name "$cluster"
"$kind" get kubeconfig --name "$cluster" >"$kubeconfig"
KUBECONFIG=$kubeconfig go test -count 1 -timeout 30m -tags e2e -v ./test/kind -image "$image" -kubectl "${KUBECTL:-kubectl}"
