#!/usr/bin/env bash
# Installs the Debian packages that are needed and missing; where it can't (no
# apt, not root), names them and fails.
#
#   packages.sh            for `make test`
#   packages.sh cluster    for `make cluster-up`
#   packages.sh kernels [ARCH]    for `make test-kernels`; ARCH is that of the emulated machine
#   packages.sh arch       for `make test-arch`
#   packages.sh conformance-cnp    for that, beside cluster's
#   packages.sh migrations         for `make test-migrations`, beside cluster's
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin # nft is there, and a user's PATH may lack it

missing=()
need() { # COMMAND PACKAGE...
  command -v "$1" >/dev/null || missing+=("${@:2}")
}
need nft nftables
need ip iproute2
need nsenter util-linux
need promtool prometheus # alerts and dashboard are tested by it
need chromium chromium fonts-dejavu-core # so is the page of kubectl podfence ui
need gcc gcc libc6-dev # the race detector needs cgo
# gcc may be there without the C library's headers.
[[ " ${missing[*]} " == *" gcc "* ]] ||
  echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || missing+=(libc6-dev)

if [[ ${1:-} == cluster ]]; then
  need mount mount
  need runc runc
  need iptables iptables
  need conntrack conntrack
  need buildah buildah
fi
if [[ ${1:-} == conformance-cnp ]]; then
  need bash-static bash-static # into the image of the suite's pods, which have no libc
fi
if [[ ${1:-} == migrations ]]; then
  need ipset ipset # kube-router runs the node's own
fi
if [[ ${1:-} == kernels ]]; then
  case ${2:-amd64} in
  amd64) need qemu-system-x86_64 qemu-system-x86 ;;
  arm64) need qemu-system-aarch64 qemu-system-arm ;;
  s390x) need qemu-system-s390x qemu-system-misc ;;
  esac
  [[ -z ${2:-} ]] || need qemu-aarch64 qemu-user # to ask a suite which tests it has
  need busybox busybox-static # no libc in the first root file system
  need cpio cpio
  need depmod kmod
  need xz xz-utils
fi
if [[ ${1:-} == arch ]]; then
  need qemu-aarch64 qemu-user
fi

((${#missing[@]})) || exit 0
if ! command -v apt-get >/dev/null || ((EUID != 0)); then
  echo "missing packages (Debian's names): ${missing[*]}" >&2
  exit 1
fi
echo "packages: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -qy --no-install-recommends "${missing[@]}"
