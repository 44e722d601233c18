#!/usr/bin/env bash
# Tries pages of docs/migrations, each on a cluster of its own that has the program which the page is about, and
# puts what was measured into the page:
#
#   run.sh "kube-router flannel" PODFENCE_CLUSTER
#
# The others' programs are built from their own modules, pinned in the folders beside this.
set -euo pipefail
pages=$1 cluster=$2
cd "$(dirname "$0")/../.."
bin=$PWD/bin
export CLUSTER=${CLUSTER:-migrate} # beside one that is up for other work

build() { # FOLDER PACKAGE OUTPUT FLAG...
  mkdir -p "$bin/migrations/$1"
  nice -n 10 go -C "test/migrations/$1" build -p 2 -trimpath "${@:4}" -o "$bin/migrations/$1/$3" "$2"
}

image() { # TARGET NAME
  local archive=$bin/images/$1.tar
  buildah --storage-driver vfs build --quiet --isolation chroot --target "$1" --tag "$2" \
    --file test/migrations/Dockerfile "$bin/migrations" >/dev/null
  rm -f "$archive"
  buildah --storage-driver vfs push --quiet "$2" "docker-archive:$archive:$2"
}

for page in $pages; do
  images=(pause agnhost coredns podfence)
  echo "migrations: building $page; cold this takes some minutes"
  case $page in
  kube-router)
    CGO_ENABLED=0 build kube-router github.com/cloudnativelabs/kube-router/v2/cmd/kube-router kube-router -ldflags '-s -w'
    image kube-router docker.io/cloudnativelabs/kube-router:latest
    images+=(kube-router)
    ;;
  flannel)
    # Its backend of UDP takes cgo.
    CGO_ENABLED=1 build flannel github.com/flannel-io/flannel flanneld -tags netgo,osusergo -ldflags '-s -w -extldflags "-static"'
    # Its CNI plugin, of the last version that containernetworking had it in, before it got a repository of its own,
    # which is no Go module that can be had by a tag.
    CGO_ENABLED=0 GOBIN=$bin/migrations/flannel-plugin nice -n 10 go install -ldflags '-s -w' \
      github.com/containernetworking/plugins/plugins/meta/flannel@v0.9.1
    manifest=$(go -C test/migrations/flannel list -m -f '{{.Dir}}' github.com/flannel-io/flannel)/Documentation/kube-flannel.yml
    for name in flannel flannel-cni-plugin; do
      image $name "$(sed -n "s#^ *image: *\\(.*/$name:.*\\)#\\1#p" "$manifest" | head -n 1)"
    done
    images+=(flannel flannel-cni-plugin)
    ;;
  *)
    echo "migrations: no page that can be tried is called $page" >&2
    exit 1
    ;;
  esac
  "$cluster" down
  archives=()
  for name in "${images[@]}"; do archives+=(--image "$bin/images/$name.tar"); done
  "$cluster" up --nodes 2 "${archives[@]}"
  failed=0
  go test -count 1 -timeout 40m -tags e2e -v ./test/e2e -run '^TestMigration' -migration "$page" -migration-publish || failed=1
  "$cluster" down
  ((failed == 0)) || exit 1
done
