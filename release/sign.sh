#!/usr/bin/env bash
# Signs what `make release` and `make release-push` have put into a folder and into the registry:
#
#   sign.sh FOLDER
#
# By cosign, without keys of one's own: who signs is whom the OpenID Connect token names, which in CI
# is the workflow. SHA256SUMS gets SHA256SUMS.sigstore.json beside it; the image's index and the image of
# each platform are signed in the registry; and what the programs of each platform's image are made of
# (their SPDX documents) is attested of that image.
set -euo pipefail
out=${1:?usage: sign.sh FOLDER}
cosign sign-blob --yes --bundle "$out/SHA256SUMS.sigstore.json" "$out/SHA256SUMS"
# The image by digest, as in ghcr.io/podfence/podfence@sha256:…, and then each platform's, with the architecture.
while read -r image arch <&3; do
  if [[ -z $arch ]]; then
    cosign sign --yes --recursive "$image"
    continue
  fi
  for program in podfence podfence-cni; do
    cosign attest --yes --type spdxjson --predicate "$out/$program-linux-$arch.spdx.json" "$image"
  done
done 3<"$out/image-digests"
