#!/usr/bin/env bash
# Builds the image for several platforms by the Dockerfile, and pushes it; `make docker-buildx` calls it:
#
#   buildx.sh docker|podman|nerdctl IMAGE VERSION STAMP PLATFORM,...
#
# STAMP is what the linker is to put into the programs, as the Makefile has it.
set -euo pipefail
tool=$1 image=$2 version=$3 stamp=$4 platforms=$5
cd "$(dirname "$0")/.."

# Go compiles for any platform on the one that it runs on, which is many times quicker than emulating the other.
# In the Dockerfile itself, Docker's old builder, which knows no BUILDPLATFORM, would fail at it.
dockerfile=$(mktemp)
trap 'rm -f "$dockerfile"' EXIT
sed 's/^FROM golang/FROM --platform=$BUILDPLATFORM golang/' Dockerfile >"$dockerfile"
options=(--platform "$platforms" --build-arg "VERSION=$version" --build-arg "STAMP=$stamp" --file "$dockerfile")

case $(basename "$tool") in
docker)
  # Docker's default builder keeps images for one platform only.
  "$tool" buildx inspect podfence-builder >/dev/null 2>&1 || "$tool" buildx create --name podfence-builder
  "$tool" buildx build --builder podfence-builder "${options[@]}" --tag "$image" --push .
  "$tool" buildx rm podfence-builder
  ;;
podman)
  # What an earlier build has put under this name would be pushed as well.
  ! "$tool" manifest exists "$image" || "$tool" manifest rm "$image"
  "$tool" build "${options[@]}" --manifest "$image" .
  "$tool" manifest push --all "$image" "docker://$image"
  ;;
nerdctl)
  "$tool" build "${options[@]}" --tag "$image" .
  "$tool" push --all-platforms "$image"
  ;;
*)
  echo "$tool: how it builds for several platforms is not known here; CONTAINER_TOOL can be docker, podman or nerdctl" >&2
  exit 1
  ;;
esac
