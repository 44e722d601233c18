#!/usr/bin/env bash
# Installs the Debian packages that `make test` and `make cluster-up` need into the container, which is root's and
# privileged: the tests make network namespaces, write nftables, and mount. The clusters of `make cluster-up` are on a
# volume, as their nodes' overlays cannot be on the container's own. Docker is not in it, so `make test-e2e` is not.
set -euo pipefail
cd "$(dirname "$0")/.."
make packages
test/packages.sh cluster
make help
