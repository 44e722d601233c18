#!/usr/bin/env bash
# Builds the programs that podfence is tested with, at the versions that the
# go.mod files here pin:
#
#   build.sh DIR NAME...    kube-apiserver etcd ... into DIR
#
# What is there already at these versions is kept. Cold, on 2 cores, the API
# server and etcd take about 5 minutes, all of them 20; hence the progress lines.
set -euo pipefail
out=${1:?usage: build.sh DIR NAME...}
shift
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"
export CGO_ENABLED=0

build() { # NAME MODULE PACKAGE COMMAND...
  local name=$1 module=$2 package=$3 stamp
  shift 3
  stamp=$(cat "$module/go.mod" "$module/go.sum" <(echo "$@" "$package") | sha256sum | cut -d' ' -f1)
  if [[ -x $out/$name && $(cat "$out/.$name.stamp" 2>/dev/null) == "$stamp" ]]; then
    return
  fi
  echo "assets: building $name ($package); cold this takes minutes"
  local total
  total=$(go -C "$module" list -deps "$package" | wc -l)
  # -v names each package as it is compiled; the line every 100 shows it moves.
  go -C "$module" "$@" -v -trimpath -o "$out/$name.new" "$package" 2>&1 |
    awk -v name="$name" -v total="$total" '
      /^[a-z0-9.-]+(\/[A-Za-z0-9._~-]+)*$/ { if (++n % 100 == 0) { printf "assets: %s: %d of at most %d packages compiled\n", name, n, total; fflush() }; next }
      { print; fflush() }'
  mv "$out/$name.new" "$out/$name"
  echo "$stamp" >"$out/.$name.stamp"
  echo "assets: $name is ready in $out"
}

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
vars=k8s.io/component-base/version
stripped="-s -w"
# The programs tell their version by these; the e2e suite picks its specs by it.
kubernetes="$stripped -X $vars.gitVersion=$version -X $vars.gitMajor=1 -X $vars.gitMinor=$(cut -d. -f2 <<<"$version")"
containerd=github.com/containerd/containerd/v2

for name in "$@"; do
  case $name in
  etcd) build etcd . go.etcd.io/etcd/server/v3 build -ldflags "$stripped" ;;
  ginkgo) build ginkgo . github.com/onsi/ginkgo/v2/ginkgo build -ldflags "$stripped" ;;
  agnhost) build agnhost . k8s.io/kubernetes/test/images/agnhost build -ldflags "$kubernetes" ;;
  e2e.test) build e2e.test . k8s.io/kubernetes/test/e2e test -c -ldflags "$kubernetes" ;;
  kube*) build "$name" . "k8s.io/kubernetes/cmd/$name" build -ldflags "$kubernetes" ;;
  # The snapshotters that need kernel features or libraries beyond overlayfs are left out.
  containerd | ctr | containerd-shim-runc-v2)
    build "$name" containerd "$containerd/cmd/$name" build -tags "no_btrfs no_zfs no_devmapper" -ldflags "$stripped" ;;
  coredns) build coredns coredns github.com/coredns/coredns build -ldflags "$stripped" ;;
  *) echo "build.sh: no such program: $name" >&2; exit 2 ;;
  esac
done
