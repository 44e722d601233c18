#!/usr/bin/env bash
# Unpacks what an emulated machine of another architecture runs, from Debian's packages:
#
#   foreign.sh ARCH root             the programs that the tests need, into bin/kernels/ARCH/root
#   foreign.sh ARCH kernel PACKAGE   a kernel's package, into bin/kernels/ARCH/new
#
# ARCH is Debian's name, such as arm64 or s390x. Nothing is installed: apt gets lists, a cache
# and a status of its own below bin/kernels/ARCH/apt, asks the sources that this machine has, and
# checks their signatures as ever. No script of a package is run.
set -euo pipefail
cd "$(dirname "$0")/../.."
arch=$1
base=$PWD/bin/kernels/$arch

# programs are what inside.sh and the tests run. netbase has the names of protocols, which nft prints.
programs=(bash busybox-static coreutils grep iproute2 kmod libc-bin mount netbase nftables procps sed util-linux)

mkdir -p "$base"/apt/{lists,archives}/partial
: >"$base/apt/status"
cat >"$base/apt/conf" <<END
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State::lists "$base/apt/lists";
Dir::State::status "$base/apt/status";
Dir::Cache "$base/apt";
Dir::Cache::archives "$base/apt/archives";
Debug::NoLocking "true";
END
apt() { # COMMAND ARGUMENT...
  "apt-$1" -c "$base/apt/conf" -q "${@:2}"
}
apt cache show nftables >/dev/null 2>&1 || apt get update

rm -rf "$base/new" "$base"/apt/archives/*.deb
mkdir -p "$base/new"
case $2 in
root)
  apt get install -y --download-only "${programs[@]}"
  for file in "$base"/apt/archives/*.deb; do
    dpkg -x "$file" "$base/new"
  done
  # What the packages' scripts would have made.
  echo 'root:x:0:0:root:/root:/bin/bash' >"$base/new/etc/passwd"
  echo 'root:x:0:' >"$base/new/etc/group"
  mkdir -p "$base/new"/{dev,proc,root,run,sys,tmp,var/tmp}
  ln -sf bash "$base/new/bin/sh"
  rm -rf "$base/root"
  mv "$base/new" "$base/root"
  ;;
kernel)
  # A metapackage depends on the one of the newest kernel.
  real=$(apt cache depends "$3" | awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }')
  echo "vm: unpacking ${real:=$3} ($arch)"
  (cd "$base/apt/archives" && apt get download "$real")
  dpkg -x "$base"/apt/archives/*.deb "$base/new"
  ;;
esac
rm -f "$base"/apt/archives/*.deb
