#!/bin/bash
# Packs the chart, for the image of a version, with what Artifact Hub shows of it beside Chart.yaml:
#
#   HELM=bin/tools/helm charts/package.sh 1.2.3 v1.2.3 ghcr.io/podfence/podfence dist
#
# makes dist/podfence-1.2.3.tgz. What is annotated here depends on the version, and would be wrong in between if
# Chart.yaml had it.
set -euo pipefail
[[ $# == 4 ]] || { echo "usage: HELM=helm $0 CHART-VERSION VERSION IMAGE FOLDER" >&2; exit 1; }
chart=$1 version=$2 image=$3 folder=$4
here=$(cd "$(dirname "$0")" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$here/podfence" "$work/"
# Behind the annotations, which are the last that Chart.yaml has.
tail -n 1 "$work/podfence/Chart.yaml" | grep -q '^  ' || { echo "$here/podfence/Chart.yaml does not end with its annotations" >&2; exit 1; }
cat >>"$work/podfence/Chart.yaml" <<END
  artifacthub.io/images: |
    - name: podfence
      image: $image:$version
  artifacthub.io/prerelease: "$([[ $chart == *-* ]] && echo true || echo false)"
  artifacthub.io/changes: |
    - kind: changed
      description: What has changed since the release before is in the release's notes.
      links:
        - name: Release notes
          url: https://github.com/podfence/podfence/releases/tag/$version
END
"${HELM:-helm}" package "$work/podfence" --version "$chart" --app-version "$version" --destination "$folder"
