#!/usr/bin/env bash
# Runs the conformance suite of ClusterNetworkPolicy against podfence, on a cluster of
# its own for each combination of IP family and kube-proxy mode, with the
# CustomResourceDefinition of each channel in turn.
#
#   CHANNELS="standard experimental" FAMILIES="ipv4 dual" PROXIES="nftables iptables" RUNS=1 TESTS= run.sh
#
# TESTS is an expression for the names of the suite's tests; empty: all. The program and
# the image of the suite's pods are built first. It prints one line a run, and in the end
# by name what the kernel could not run, keeps log and report of each run below
# bin/conformance-cnp (of some tests alone: bin/conformance-cnp-some), and fails if a test
# of any run did. When the results of all combinations are there, from this time or from
# earlier ones, the documents are written.
#
# The suite mostly waits for denied connections to time out, so two of these at a time,
# for different combinations, take little longer than one. They need clusters of different
# names: CLUSTER=cnp2.
set -euo pipefail
channels=${CHANNELS:-standard experimental} families=${FAMILIES:-ipv4 dual} proxies=${PROXIES:-nftables iptables}
runs=${RUNS:-1} tests=${TESTS:-}
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
bin=$PWD/bin/assets out=$PWD/bin/conformance-cnp built=$PWD/bin/conformance-cnp/built
archive= # of the image of the suite's pods
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}
export CLUSTER=${CLUSTER:-cnp} # beside one that is up for other work
module=sigs.k8s.io/network-policy-api
policies=clusternetworkpolicies.policy.networking.k8s.io
[[ -z $tests ]] || out+=-some
mkdir -p "$out" "$built"

kubectl() { "$bin/podfence-cluster" kubectl "$@"; }

# program builds the suite, with its tests a second time with the probes of the folder
# kubernetes, from their own source but for the line that imports the probes. That is not
# in files of Go's name, which would be a package of podfence's.
program() {
  local file name
  rm -rf "$built/tests"
  mkdir -p "$built/tests"
  for file in "$suite"/conformance/tests/*.go; do
    name=$(basename "$file")
    sed "s#\"$module/conformance/utils/kubernetes\"#\"github.com/podfence/podfence/test/conformance/cnp/kubernetes\"#" "$file" >"$built/tests/$name.txt"
    printf '%s\n' "$here/tests/$name" "$built/tests/$name.txt"
  done | awk '
    NR % 2 { at = $0; next }
    { printf "%s\n  \"%s\": \"%s\"", n++ ? "," : "{\"Replace\": {", at, $0 }
    END { print "\n}}" }' >"$built/overlay.json"
  CGO_ENABLED=0 go -C "$here" test -c -trimpath -tags conformance -overlay "$built/overlay.json" -o "$built/suite.test" .
}

# image builds the one of the suite's pods, under the name that its manifests have for it.
image() {
  local names
  names=$(sed -nE 's/^ *(- )?image: *//p' "$suite/conformance/base/manifests.yaml" | sort -u)
  if (($(wc -l <<<"$names") != 1)); then
    echo "conformance-cnp: the suite's pods are of several images:" $names >&2
    return 1
  fi
  archive=$built/agnhost-${names##*:}.tar
  if [[ $archive -nt $bin/agnhost && $archive -nt $here/Dockerfile ]]; then
    return
  fi
  mkdir -p "$built/image"
  cp -u "$bin/agnhost" "$(command -v bash-static)" "$built/image"
  # vfs and chroot need neither overlayfs nor a container runtime.
  buildah --storage-driver vfs build --quiet --isolation chroot --tag "$names" --file "$here/Dockerfile" "$built/image" >/dev/null
  rm -f "$archive"
  buildah --storage-driver vfs push --quiet "$names" "docker-archive:$archive:$names"
}

# define installs a CustomResourceDefinition, and waits until the API server also tells
# clients of the new kind, which is some time after it is Established.
define() { # FILE
  kubectl apply --server-side -f "$1" >/dev/null
  kubectl wait --for=condition=Established --timeout=1m -f "$1" >/dev/null
  timeout 1m bash -c 'until "$@" >/dev/null 2>&1; do sleep 1; done' - "$bin/podfence-cluster" kubectl get "$policies"
}

# clean removes what a run that was ended has left, and waits until what the last one
# has removed is gone: the suite's pods have a grace period.
clean() {
  local left
  left=$(kubectl get namespaces -o name | grep /network-policy-conformance- || true)
  [[ -z $left ]] || kubectl delete --wait --timeout=5m --ignore-not-found $left || return 1
  kubectl delete --wait --timeout=1m "$policies" --all
}

run() { # CHANNEL FAMILY PROXY N
  local dir=$out/$1/$2-$3/$4 failed=0 features=()
  mkdir -p "$dir"
  if [[ $1 == experimental ]]; then
    features=(--supported-features=ClusterNetworkPolicyNamedPorts,ClusterNetworkPolicyEgressNodePeers)
  fi
  clean >"$dir/log" 2>&1 || { cat "$dir/log" >&2; return 1; }
  KUBECONFIG=/var/lib/podfence-cluster/$CLUSTER/pki/admin.conf nsenter --net="/run/netns/$CLUSTER-cp" \
    "$built/suite.test" -test.run='^TestConformance$' -test.v -test.timeout=1h -channel="$1" -focus="$tests" -out="$dir" \
    --conformance-profiles=ClusterNetworkPolicy "${features[@]}" \
    --organization=podfence --project=podfence --url=https://github.com/podfence/podfence \
    --version="$version" --contact=https://github.com/podfence/podfence/issues/new \
    --additional-info=https://github.com/podfence/podfence/blob/main/docs/CONFORMANCE.md \
    >>"$dir/log" 2>&1 || failed=1
  if [[ ! -s $dir/counts ]]; then
    echo "conformance-cnp: the suite ended without a report:" >&2
    tail -n 20 "$dir/log" >&2
    return 1
  fi
  local passed failures left seconds
  read -r passed failures left seconds <"$dir/counts"
  printf '%-12s %-6s %-10s %4d %7d %7d %9d %7d s  %s\n' "$1" "$2" "$3" "$4" "$passed" "$failures" "$left" "$seconds" "${dir#"$PWD"/}"
  return $failed
}

# up starts a cluster, which begins by building all that one is made of.
up() { # FAMILY PROXY
  make --no-print-directory cluster-down >/dev/null
  if ! make --no-print-directory cluster-up IPFAMILY="$1" KPROXY="$2" 9>&- >"$out/$CLUSTER.log" 2>&1; then
    cat "$out/$CLUSTER.log" >&2
    return 1
  fi
  "$bin/podfence-cluster" load "$archive"
}

go -C "$here" mod download "$module"
suite=$(go -C "$here" list -m -f '{{.Dir}}' "$module")
# Only one at a time builds. What a cluster starts does not inherit the lock.
exec 9>"$built/lock"
echo "conformance-cnp: building the suite"
flock 9
program
image
flock --unlock 9
echo "conformance-cnp: ClusterNetworkPolicy $(go -C "$here" list -m -f '{{.Version}}' "$module"), Kubernetes $("$bin/kubelet" --version | cut -d' ' -f2), Linux $(uname -r)${tests:+, tests that match $tests}"

failed=0 reports=()
printf '%-12s %-6s %-10s %4s %7s %7s %9s %9s  %s\n' channel family kube-proxy run passed failed "left out" time report
for family in $families; do
  for proxy in $proxies; do
    flock 9
    up "$family" "$proxy"
    flock --unlock 9
    for channel in $channels; do
      definition=$suite/config/crd/$channel/policy.networking.k8s.io_clusternetworkpolicies.yaml
      rm -rf "${out:?}/$channel/$family-$proxy"
      define "$definition"
      for ((n = 1; n <= runs; n++)); do
        run "$channel" "$family" "$proxy" "$n" || failed=1
        reports+=("$out/$channel/$family-$proxy/$n/counts")
      done
      clean >/dev/null
      kubectl delete --wait --timeout=1m -f "$definition" >/dev/null
    done
  done
done
make --no-print-directory cluster-down >/dev/null

# What was left out is in counts after the first line; a run without a report has none.
{ sed -s 1d "${reports[@]}" 2>/dev/null || true; } | sort -u | sed 's/^/conformance-cnp: /'
if [[ -z $tests ]]; then
  go run ./test/conformance/publish "$out" docs
fi
exit $failed
