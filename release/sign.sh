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
index=$(cat "$out/image-digest") # as in ghcr.io/podfence/podfence@sha256:…
repository=${index%@*}
cosign sign-blob --yes --bundle "$out/SHA256SUMS.sigstore.json" "$out/SHA256SUMS"
cosign sign --yes --recursive "$index"
# The layout's index has one entry, whose manifest lists a digest and an architecture for each platform.
manifest=$out/image/blobs/sha256/${index#*@sha256:}
jq --raw-output '.manifests[] | "\(.digest) \(.platform.architecture)"' "$manifest" | while read -r digest arch; do
  for program in podfence podfence-cni; do
    cosign attest --yes --type spdxjson --predicate "$out/$program-linux-$arch.spdx.json" "$repository@$digest"
  done
done
