# The image holds two static binaries and nothing else: no shell, no libc, no
# user database, hence nothing to patch but podfence itself. The agent is
# /podfence; it installs /podfence-cni on the node, as /opt/cni/bin/podfence.
#
#   docker build --build-arg VERSION=v1.2.3 .       builds the binaries too
#   buildah bud --target prebuilt .                 takes those in bin; pulls nothing
#
# `make image` picks between them.

FROM scratch AS base
ARG VERSION=dev
LABEL org.opencontainers.image.title="podfence" \
      org.opencontainers.image.description="Kubernetes NetworkPolicy with nftables, and a CNI plugin" \
      org.opencontainers.image.url="https://github.com/podfence/podfence" \
      org.opencontainers.image.source="https://github.com/podfence/podfence" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
ENTRYPOINT ["/podfence"]

# Before the stage "build", so that a builder that works through the stages in
# order reaches this one without a base image to pull.
FROM base AS prebuilt
COPY bin/podfence bin/podfence-cni /

FROM golang:1.26 AS build
WORKDIR /src
# The modules first: they change less often than the code, and stay cached.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
# What to build for, from builders that build for several platforms; elsewhere they are empty, and Go builds for
# the machine that it runs on.
ARG TARGETOS
ARG TARGETARCH
# What make says of commit and date as well, as .git is not here.
ARG STAMP="-X main.version=${VERSION}"
RUN mkdir /out && CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} go build -tags grpcnotrace -trimpath -buildvcs=false -ldflags "-s -w ${STAMP}" -o /out . ./cni/podfence-cni

FROM base
COPY --from=build /out/ /
