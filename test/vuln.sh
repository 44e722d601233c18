#!/usr/bin/env bash
# Looks for known vulnerabilities that podfence's code can reach:
#
#   vuln.sh GOVULNCHECK
#
# Says so and succeeds where the database of them can't be read, as without a
# network: that is no finding. GOVULNDB names another one (file:// or https://).
set -euo pipefail
cd "$(dirname "$0")/.."
check() { timeout 5m "$govulncheck" ${GOVULNDB:+-db "$GOVULNDB"} "$@" 2>&1; }
govulncheck=$1
# Of the modules alone, which takes no time but the database's. 3: there are some.
status=0
said=$(check -scan module) || status=$?
if ((status != 0 && status != 3)); then
  echo "govulncheck: skipped: $(tail -n 1 <<<"$said")"
  exit
fi
if ((status == 3)) && ! said=$(check ./...); then
  echo "$said"
  exit 1
fi
echo "govulncheck: no known vulnerability is reached"
