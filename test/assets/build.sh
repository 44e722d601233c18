#!/usr/bin/env bash
# Builds kube-apiserver and etcd, at the versions that go.mod pins, into $1.
# What is there already at these versions is kept. Cold: about 10 minutes on 2
# cores, hence the progress line.
set -euo pipefail
out=${1:?usage: build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
vars=k8s.io/component-base/version
ldflags="-s -w -X $vars.gitVersion=$version -X $vars.gitMajor=1 -X $vars.gitMinor=$(cut -d. -f2 <<<"$version")"
export CGO_ENABLED=0

build() { # NAME PACKAGE
  local name=$1 package=$2 stamp
  stamp=$(sha256sum go.mod go.sum build.sh | sha256sum | cut -d' ' -f1)
  if [[ -x $out/$name && $(cat "$out/$name.stamp" 2>/dev/null) == "$stamp" ]]; then
    return
  fi
  echo "envtest: building $name ($package); cold this takes minutes"
  local total
  total=$(go list -deps "$package" | wc -l)
  # -v names each package as it is compiled; the line every 50 shows it moves.
  go build -v -trimpath -ldflags "$ldflags" -o "$out/$name.new" "$package" 2>&1 |
    awk -v name="$name" -v total="$total" '
      /^[a-z0-9.-]+(\/[A-Za-z0-9._~-]+)*$/ { if (++n % 50 == 0) { printf "envtest: %s: %d of at most %d packages compiled\n", name, n, total; fflush() }; next }
      { print; fflush() }'
  mv "$out/$name.new" "$out/$name"
  echo "$stamp" >"$out/$name.stamp"
  echo "envtest: $name is ready in $out"
}

build etcd go.etcd.io/etcd/server/v3
build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
