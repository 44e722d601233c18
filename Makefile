# podfence. `make` lists what there is to make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A release's tag, or a name that this state of the tree alone has.
VERSION ?= $(shell release/version.sh)
VERSION := $(VERSION)
# Where releases' images are pushed to, and the image that is built and deployed.
IMAGE ?= ghcr.io/podfence/podfence
IMG ?= $(IMAGE):$(VERSION)
# What builds and pushes an image, by kubebuilder's names: docker, podman or nerdctl. `make image` needs none.
CONTAINER_TOOL ?= docker
# What docker-buildx builds for. Linux on arm takes a mended module: release-image has that.
PLATFORMS ?= linux/amd64,linux/arm64,linux/s390x,linux/ppc64le,linux/riscv64
# Asks the cluster to deploy to. That of cluster-up: KUBECTL="bin/assets/podfence-cluster kubectl".
KUBECTL ?= kubectl
# Whether undeploy and uninstall pass over what is not there; kubebuilder's spelling, too.
IGNORE_NOT_FOUND ?= false
ignore-not-found ?= $(IGNORE_NOT_FOUND)
# The cluster of its own that `make test-e2e` starts.
KIND ?= kind
KIND_CLUSTER ?= podfence-test-e2e
FUZZTIME ?= 30s
FUZZKERNEL ?= 1h
SEED ?= 1
SOAK ?= 10m
DURATION ?= 10m
ROUNDS ?= 3
# Which of test/faults are put back (empty: all), and the seeds that each is found from.
FAULTS ?=
SEEDS ?= 1
KEEP ?=
# What to deploy: default (podfence connects the pods), chained or policy-only.
OVERLAY ?= default
# Helm wants a semantic version, without the v.
CHART_VERSION ?= $(if $(filter v%,$(VERSION)),$(VERSION:v%=%),0.0.0-dev-$(VERSION))
# The cluster that `make cluster-up` starts.
NODES ?= 2
IPFAMILY ?= ipv4
KPROXY ?= nftables
# Debian's packages of the kernels for `make test-kernels`; empty: 6.1 and 6.12. The emulated machine's
# architecture, arm64 or s390x; empty: this machine's.
KERNELS ?=
ARCH ?=
# What `make test-arch` builds the pure rooms and the encoding of netlink for and runs, and what it type-checks
# all of the code for besides.
ARCHS ?= arm64 s390x
VET_ARCHS ?= arm64 arm s390x ppc64le riscv64
# What `make conformance` goes through: each family with each proxy, RUNS times.
FAMILIES ?= ipv4 dual
PROXIES ?= nftables iptables
RUNS ?= 1
FOCUS ?= Netpol
# And `make conformance-cnp`, with each channel of the API; TESTS is an expression for names.
CHANNELS ?= standard experimental
TESTS ?=
# Which pages of docs/migrations `make test-migrations` tries.
MIGRATIONS ?= kube-router flannel
# How many pods of each kind `make first-packets` starts.
PODS ?= 1000
# The newest release before this one: `make bench-compare` measures against it, and how much worse a
# figure may be, in percent.
BASE ?= $(shell git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null)
WORSE ?= 10
# What `make test-upgrade` upgrades from: the newest release before this commit. Before the first one, a commit
# whose tables and manifests differ from those of all that came later: after it, what is told of denied packets is
# bounded in another way, and images have tags of their own.
UPGRADE_FROM ?= $(shell git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null || echo 08c19ed)
# What a release is for: podfence and its image, and beside those platforms kubectl-podfence.
LINUX := amd64 arm64 arm s390x ppc64le riscv64
ELSEWHERE := darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
# Where a release is put, and where its chart is pushed to.
DIST ?= dist
CHARTS ?= oci://ghcr.io/podfence/charts
# A folder with binaries that kubectl-podfence-all packs, rather than building them; empty: none.
BINARIES ?=

# The rooms that only compute: no root, no kernel, no API server.
PURE := ./policy/... ./ruleset ./ruleset/nft
# Those that only compute, in one goroutine, on a great many random clusters: the race detector has nothing to
# find there, and would take ten minutes for what takes one.
QUESTIONS := ./explain/...

BIN := $(CURDIR)/bin
TOOLS := $(BIN)/tools
PODFENCE_CLUSTER := $(BIN)/assets/podfence-cluster
# What a program says of itself: version, commit, and when that was made (api/build).
BUILT := github.com/podfence/podfence/api/build
COMMIT ?= $(shell git rev-parse --verify --quiet HEAD)$(if $(shell git status --porcelain 2>/dev/null),-dirty)
COMMIT := $(COMMIT)
DATE ?= $(shell TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null)
DATE := $(DATE)
STAMP := -X main.version=$(VERSION) -X $(BUILT).commit=$(COMMIT) -X $(BUILT).date=$(DATE)
# Without the tag, gRPC takes html/template along, with which the linker leaves nothing out: 12 MB.
GO_BUILD := CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -buildvcs=false -ldflags "-s -w $(STAMP)"
# The same, whatever the environment asks of Go: each platform's oldest processors, in the form that
# Go has by default. The same Go makes the same octets.
GO_RELEASE := GOFLAGS= GOEXPERIMENT= GOAMD64=v1 GOARM64=v8.0 GOARM=7 GOPPC64=power8 GORISCV64=rva20u64 $(GO_BUILD)
# When the release's commit was made, in seconds since 1970: the date of all that has one.
CREATED = $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
# The checksums of all that is in $(DIST).
SUMS = cd $(DIST) && find . -maxdepth 1 -type f ! -name 'SHA256SUMS*' ! -name image-digests -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS
export KUBEBUILDER_ASSETS ?= $(BIN)/assets

##@ General

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' Makefile

##@ Development

.PHONY: demo
demo: build kubectl-podfence ## Show podfence at work in network namespaces (root); KEEP=1 leaves them
	$(GO_BUILD) -o $(BIN)/podfence-demo ./test/demo
	$(BIN)/podfence-demo $(if $(KEEP),--keep)

.PHONY: fmt
fmt: ## Format the Go code
	gofmt -w .

.PHONY: vet
vet: ## go vet, of all modules that have code
	go vet -tags e2e,hubble ./...
	@for module in $(filter-out .,$(LINTED)); do echo "go vet: $$module"; go -C $$module vet ./...; done

# The roles are written by hand, with a reason for each rule; a test holds them equal to the markers in the code.
# The chart's templates cannot reach out of the chart, so that has files of its own.
.PHONY: manifests
manifests: $(TOOLS)/controller-gen ## The CRD, of the types in api/, into config/crd and the chart
	$(TOOLS)/controller-gen crd paths=./api/... output:crd:dir=config/crd
	$(TOOLS)/controller-gen crd paths=./api/... output:crd:dir=charts/podfence/files

.PHONY: generate
generate: manifests ## The same, and the deep copies; the chart's alerts and dashboard
	$(TOOLS)/controller-gen object paths=./api/...
	cp config/prometheus/rules.yaml config/prometheus/dashboard.json charts/podfence/monitoring/

.PHONY: golden
golden: ## Write the golden rulesets anew; read the difference before you commit
	go test ./ruleset -run "TestGoldens|TestRulesetDocument" -update

##@ Development: tests and linters

.PHONY: test
test: packages ## Every test, with the race detector (root)
	@echo "first the pure rooms, which need no API server; cold they compile for some minutes"
	go test -json -count 1 -race -timeout 20m $(PURE) | go run ./test/results test
	@$(MAKE) --no-print-directory envtest-assets
	go test -json -count 1 -timeout 20m $(QUESTIONS) | go run ./test/results test
	go test -json -count 1 -race -timeout 20m $$(go list ./... | grep -vxF "$$(go list $(PURE) $(QUESTIONS))") | go run ./test/results test
	go -C test/bench/report test -json -count 1 ./... | go run ./test/results test
	go -C test/conformance/cnp test -json -count 1 -race ./... | go run ./test/results test
	go -C release test -json -count 1 ./... | go run ./test/results test

.PHONY: test-unit
test-unit: ## The pure rooms only; no root, no packages
	go test $(PURE) $(QUESTIONS)

.PHONY: test-e2e setup-test-e2e cleanup-test-e2e
test-e2e: setup-test-e2e ## Deploy to a kind cluster of its own, fence pods there, undeploy; needs docker and kind (without: cluster-up e2e)
	@status=0; KIND="$(KIND)" CONTAINER_TOOL="$(CONTAINER_TOOL)" KUBECTL="$(KUBECTL)" test/kind/run.sh $(KIND_CLUSTER) || status=$$?; \
	$(MAKE) --no-print-directory cleanup-test-e2e; exit $$status
setup-test-e2e: ## Start that cluster, without a network plugin
	@KIND="$(KIND)" CONTAINER_TOOL="$(CONTAINER_TOOL)" KUBECTL="$(KUBECTL)" test/kind/setup.sh $(KIND_CLUSTER)
cleanup-test-e2e: ## Remove that cluster
	$(KIND) delete cluster --name $(KIND_CLUSTER)

.PHONY: test-kernels
test-kernels: ## The suites that talk to the kernel, under Linux 6.1 and 6.12, emulated; KERNELS= names packages, ARCH=arm64|s390x (root)
	test/packages.sh
	ARCH="$(ARCH)" test/kernels/run.sh $(KERNELS)

.PHONY: test-arch
test-arch: ## go vet for VET_ARCHS, and the pure rooms and what podfence sends to the kernel as ARCHS, by qemu's user emulation
	test/packages.sh arch
	@for arch in $(VET_ARCHS); do echo "go vet for $$arch"; flags=(); \
	if [[ $$arch == arm ]]; then flags=(-modfile "$$(release/modfile32.sh)"); fi; \
	GOARCH=$$arch CGO_ENABLED=0 go vet "$${flags[@]}" -tags e2e,hubble ./...; done
	test/kernels/arch.sh $(ARCHS)

.PHONY: packages
packages: ## Install, or name, the Debian packages that the tests need
	test/packages.sh

.PHONY: envtest-assets
envtest-assets: ## Build kube-apiserver and etcd for the envtest suites; cold 10 minutes
	@if [[ "$$KUBEBUILDER_ASSETS" == $(BIN)/assets ]]; then test/assets/build.sh $(BIN)/assets etcd kube-apiserver; \
	else echo "envtest: using KUBEBUILDER_ASSETS=$$KUBEBUILDER_ASSETS"; fi

# golangci-lint reads one module at a time. Those that only pin programs have no code.
LINTED := . release test/bench/report test/conformance/cnp

.PHONY: lint
lint: packages $(TOOLS)/golangci-lint $(TOOLS)/actionlint $(TOOLS)/kustomize vuln ## golangci-lint (.golangci.yml), actionlint, kustomize, govulncheck
	@for module in $(LINTED); do echo "golangci-lint: $$module"; (cd $$module && $(TOOLS)/golangci-lint run --config $(CURDIR)/.golangci.yml ./...); done
	$(TOOLS)/actionlint
	@! git grep -nE '^(<<<<<<<|>>>>>>>) ' || { echo 'that is what a merge has left'; exit 1; }
	@for overlay in default chained policy-only samples samples/cluster uninstall hubble hubble/certificates hubble/ui network-policy; do echo "kustomize build config/$$overlay"; \
	  $(TOOLS)/kustomize build config/$$overlay >/dev/null; done

.PHONY: lint-fix
lint-fix: $(TOOLS)/golangci-lint ## Mend what golangci-lint can mend itself, format included; read the difference
	@for module in $(LINTED); do (cd $$module && $(TOOLS)/golangci-lint run --fix --config $(CURDIR)/.golangci.yml ./...); done

.PHONY: vuln
vuln: $(TOOLS)/govulncheck ## govulncheck, where its database (GOVULNDB, or vuln.go.dev) can be reached
	test/vuln.sh $(TOOLS)/govulncheck

# To make an input smaller Go takes a minute by default, twice the time there is.
.PHONY: fuzz
fuzz: ## Each fuzz target for FUZZTIME (30s)
	@go list ./... | while read -r package; do \
	  listing=$$(go test -list '^Fuzz' "$$package" </dev/null); \
	  for target in $$(grep '^Fuzz' <<<"$$listing" || true); do \
	    echo "fuzz: $$package $$target"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "$$package" </dev/null; \
	  done; \
	done

.PHONY: fuzz-kernel
fuzz-kernel: packages ## Random clusters, options and packets, each judged, traced and sent, then with an API that is wrong; how often each feature came up (root): FUZZKERNEL=1h each, SEED=1
	go test -count 1 -timeout 0 -v ./test/agreement -run '^(TestThreeWayAgreement|TestWhereTheAPIIsWrong)$$' -rounds 0 -worlds 0 \
	  -changes 40 -duration $(FUZZKERNEL) -seed $(SEED)

.PHONY: bench
bench: packages envtest-assets $(TOOLS)/benchstat ## Measure all of it, write docs/benchmarks.md (root; 30 minutes): ROUNDS=3
	ROUNDS="$(ROUNDS)" test/bench/run.sh $(BIN)/bench docs README.md

.PHONY: bench-compare
bench-compare: packages envtest-assets $(TOOLS)/benchstat ## Measure the release BASE and this, in bin/bench-*; fails if a figure is WORSE=10 percent worse (root; an hour)
	BASE="$(BASE)" WORSE="$(WORSE)" ROUNDS="$(ROUNDS)" test/bench/compare.sh $(BIN)

.PHONY: bench-issue
bench-issue: ## An issue on GitHub with what bench-compare has found worse, by gh
	gh issue create --title "Slower than $(BASE)" --body-file $(BIN)/bench-compare.md

.PHONY: soak
soak: packages envtest-assets ## Random changes and live probes against the verdict function (root): SOAK=10m
	go test -count 1 -timeout 0 -v ./test/soak -soak $(SOAK)

.PHONY: truth
truth: packages ## A node's real life against the table, then against a real agent (root): DURATION=10m each, SEED=1
	go test -count 1 -timeout 0 -v ./test/truth -run '^TestTruth$$' -duration $(DURATION) -seed $(SEED)
	go test -count 1 -timeout 0 -v ./test/truth -run '^TestReal$$' -duration $(DURATION) -seed $(SEED)

.PHONY: faults
faults: packages envtest-assets ## Faults put back, and the random suites that find them, into test/faults' table (root; hours): FAULTS="name name" SEEDS="1 7"
	go test -count 1 -timeout 0 -v ./test/faults -run '^TestFaults$$' -faults -only '$(FAULTS)' -seeds '$(SEEDS)' -table README.md

.PHONY: chaos
chaos: packages envtest-assets ## Faults under live traffic, a line each, into docs/RELIABILITY.md's table (root)
	go test -count 1 -timeout 0 -v ./test/chaos -chaos -table $(CURDIR)/docs/RELIABILITY.md

.PHONY: test-alerts
test-alerts: packages envtest-assets ## Each fault that an alert is for, made to a real agent, and what the alert says (root): five minutes
	go test -count 1 -timeout 20m -v ./test/alerts -alerts

.PHONY: paths
paths: packages ## Frames of every kind between a pod and all others, against the list of what may arrive (root)
	go test -count 1 -timeout 0 -v ./test/paths -paths

.PHONY: attack
attack: packages envtest-assets ## Attacks by pods and hosts outside, and random frames, into docs/SECURITY.md's table, and by policies' authors (root): SEED=1
	go test -count 1 -timeout 0 -v ./test/attack -attack -seed $(SEED) -table $(CURDIR)/docs/SECURITY.md
	go test -count 1 -timeout 0 -run '^$$' -bench Author/pods=5000 -benchtime 1x ./test/bench

.PHONY: test-hubble
test-hubble: ## Hubble's own CLI and relay against the agent's API of Hubble; cold they compile for some minutes
	@echo "hubble and hubble-relay: building; cold this takes some minutes"
	@mkdir -p $(BIN)/hubble
	CGO_ENABLED=0 nice -n 10 go -C test/hubble/stock build -p 1 -trimpath -o $(BIN)/hubble/ tool
	go test -count 1 -tags hubble -timeout 10m ./test/hubble -programs $(BIN)/hubble

.PHONY: limits
limits: packages ## The largest table that the API can have (root; several GB, ten minutes)
	go test -count 1 -timeout 0 -v ./ruleset/kernel -run '^TestLargest' -largest

##@ A real cluster on this machine (root)

.PHONY: cluster-up
cluster-up: cluster-assets ## Start it, with podfence: NODES=2 IPFAMILY=ipv4|dual KPROXY=nftables|iptables
	$(PODFENCE_CLUSTER) up --nodes $(NODES) --ip-family $(IPFAMILY) --kube-proxy $(KPROXY) \
	  $(foreach image,pause agnhost coredns podfence,--image $(BIN)/images/$(image).tar)
	$(PODFENCE_CLUSTER) kubectl apply -f test/cluster/manifests
	$(MAKE) --no-print-directory build-installer
	$(PODFENCE_CLUSTER) kubectl apply -f dist/install.yaml
	$(PODFENCE_CLUSTER) kubectl rollout status --timeout=3m --namespace podfence-system daemonset/podfence-agent
	$(PODFENCE_CLUSTER) kubectl wait --timeout=3m --for=condition=Ready nodes --all
	$(PODFENCE_CLUSTER) kubectl rollout status --timeout=3m --namespace kube-system deployment/coredns
	@echo; echo "The cluster is up. Use it by:  $(PODFENCE_CLUSTER) kubectl get pods -A"

.PHONY: cluster-reload
cluster-reload: $(PODFENCE_CLUSTER) image-prebuilt ## Run the code as it is now on the cluster that is up
	test/cluster/images/build.sh $(BIN)/assets $(BIN)/images $(IMG)
	$(PODFENCE_CLUSTER) load $(BIN)/images/podfence.tar
	$(PODFENCE_CLUSTER) kubectl set image --namespace podfence-system daemonset/podfence-agent deployment/podfence-status-writer '*=$(IMG)'
	$(PODFENCE_CLUSTER) kubectl rollout restart --namespace podfence-system daemonset/podfence-agent deployment/podfence-status-writer
	$(PODFENCE_CLUSTER) kubectl rollout status --timeout=3m --namespace podfence-system daemonset/podfence-agent

.PHONY: cluster-down
cluster-down: $(PODFENCE_CLUSTER) ## Remove it, whatever state it is in
	$(PODFENCE_CLUSTER) down

.PHONY: e2e
e2e: ## podfence's own tests on the cluster that is up
	go test -count 1 -timeout 2h -tags e2e -v ./test/e2e

.PHONY: test-upgrade
test-upgrade: $(PODFENCE_CLUSTER) image-prebuilt ## From UPGRADE_FROM's agents to this tree's and back, under traffic, on that cluster
	test/e2e/upgrade.sh $(UPGRADE_FROM) $(IMG)

.PHONY: first-packets
first-packets: ## First packets of PODS=1000 new pods that are let in, and of as many that are not, on that cluster
	go test -count 1 -timeout 90m -tags e2e -v ./test/e2e -run '^TestFirstPacket$$' -first-packets $(PODS)

.PHONY: test-migrations
test-migrations: cluster-assets ## The commands of docs/migrations, under traffic, on a cluster of each; what is measured goes into the pages: MIGRATIONS="kube-router flannel" (root)
	test/packages.sh migrations
	test/migrations/run.sh "$(MIGRATIONS)" $(PODFENCE_CLUSTER)

.PHONY: conformance
conformance: cluster-assets ## Kubernetes' NetworkPolicy suite: FAMILIES, PROXIES, RUNS=1, FOCUS=Netpol
	FAMILIES="$(FAMILIES)" PROXIES="$(PROXIES)" RUNS="$(RUNS)" FOCUS="$(FOCUS)" test/conformance/run.sh

.PHONY: conformance-cnp
conformance-cnp: cluster-assets ## ClusterNetworkPolicy's suite, into docs/CONFORMANCE.md: CHANNELS, FAMILIES, PROXIES, RUNS=1, TESTS="some|names" (20 minutes each run)
	test/packages.sh conformance-cnp
	VERSION="$(VERSION)" CHANNELS="$(CHANNELS)" FAMILIES="$(FAMILIES)" PROXIES="$(PROXIES)" RUNS="$(RUNS)" \
	  TESTS="$(TESTS)" test/conformance/cnp/run.sh

.PHONY: smoke
smoke: ## A few of the specs of `make conformance` on one cluster
	$(MAKE) --no-print-directory conformance FAMILIES=dual PROXIES=nftables RUNS=1 \
	  FOCUS="Netpol.*(default-deny-all|updated policy|one named port|except clause|UDP should enforce policy based on Ports)"

# The programs and images that a cluster is made of.
.PHONY: cluster-assets
cluster-assets: $(PODFENCE_CLUSTER)
	test/packages.sh cluster
	test/assets/build.sh $(BIN)/assets etcd kube-apiserver kube-controller-manager kube-scheduler kubectl \
	  kubelet kube-proxy containerd ctr containerd-shim-runc-v2 coredns agnhost e2e.test ginkgo
	$(MAKE) --no-print-directory image-prebuilt
	test/cluster/images/build.sh $(BIN)/assets $(BIN)/images $(IMG)

.PHONY: $(PODFENCE_CLUSTER)
$(PODFENCE_CLUSTER):
	CGO_ENABLED=0 go build -o $@ ./test/cluster/podfence-cluster

##@ Build

.PHONY: build
build: ## bin/podfence and bin/podfence-cni, static
	@[[ -x $(BIN)/podfence ]] || echo "building podfence; cold this takes some minutes"
	$(GO_BUILD) -o $(BIN)/podfence .
	$(GO_BUILD) -o $(BIN)/podfence-cni ./cni/podfence-cni

.PHONY: run
run: ## Says why not: an agent fences the node that it runs on
	@echo "An agent writes the nftables of the node that it runs on, so it is not run beside a cluster."
	@echo "make demo runs it in network namespaces, make cluster-up as a DaemonSet on a real cluster on this machine;"
	@echo "bin/podfence render shows what it would write, bin/podfence agent --manifests enforces a folder without a cluster."
	@exit 1

.PHONY: kubectl-podfence
kubectl-podfence: ## bin/kubectl-podfence, the plugin of kubectl; GOOS and GOARCH for another machine
	$(GO_BUILD) -o $(BIN)/kubectl-podfence ./kubectl-podfence

.PHONY: kubectl-podfence-all
kubectl-podfence-all: ## It for linux, darwin and windows, into dist, with checksums and krew's manifest (5 minutes)
	VERSION="$(VERSION)" STAMP="$(STAMP)" BINARIES="$(BINARIES)" kubectl-podfence/package.sh dist

.PHONY: image
image: ## The container image IMG, by docker, or else by buildah from what is in bin
	@if docker info >/dev/null 2>&1; then set -x; \
	  docker build --build-arg VERSION=$(VERSION) --build-arg STAMP="$(STAMP)" -t $(IMG) .; \
	else $(MAKE) --no-print-directory image-prebuilt; fi

# No base image, so nothing is pulled; vfs and chroot need neither overlayfs nor
# a container runtime.
.PHONY: image-prebuilt
image-prebuilt: build
	@command -v buildah >/dev/null || { echo "an image needs docker, or buildah (Debian's package of that name)"; exit 1; }
	buildah --storage-driver vfs bud --isolation chroot --target prebuilt \
	  --build-arg VERSION=$(VERSION) -t $(IMG) .

HAVE_CONTAINER_TOOL = @command -v $(CONTAINER_TOOL) >/dev/null || { \
  echo "there is no $(CONTAINER_TOOL): say CONTAINER_TOOL=docker, podman or nerdctl; make image does with buildah, and release-image with Go alone"; exit 1; }

.PHONY: docker-build docker-push docker-buildx
docker-build: ## The container image IMG, by CONTAINER_TOOL=docker|podman|nerdctl, built inside it
	$(HAVE_CONTAINER_TOOL)
	$(CONTAINER_TOOL) build --build-arg VERSION=$(VERSION) --build-arg STAMP="$(STAMP)" -t $(IMG) .
docker-push: ## Push the image IMG, by CONTAINER_TOOL
	$(HAVE_CONTAINER_TOOL)
	$(CONTAINER_TOOL) push $(IMG)
docker-buildx: ## Build the image IMG for PLATFORMS and push it, by CONTAINER_TOOL
	$(HAVE_CONTAINER_TOOL)
	release/buildx.sh "$(CONTAINER_TOOL)" "$(IMG)" "$(VERSION)" "$(STAMP)" "$(PLATFORMS)"

.PHONY: build-installer
build-installer: $(TOOLS)/kustomize ## dist/install.yaml, all that a cluster needs, from OVERLAY, with IMG; dist/uninstall.yaml
	@rm -rf dist/config && mkdir -p dist && cp -r config dist/
	for of in manager status uninstall; do (cd dist/config/$$of && $(TOOLS)/kustomize edit set image podfence=$(IMG)); done
	$(TOOLS)/kustomize build dist/config/$(OVERLAY) >dist/install.yaml
	$(TOOLS)/kustomize build dist/config/uninstall >dist/uninstall.yaml
	@rm -rf dist/config

# Its name before it had kubebuilder's; not to be mixed up with manifests.
.PHONY: manifest
manifest: build-installer

.PHONY: chart
chart: $(TOOLS)/helm ## dist/podfence-CHART_VERSION.tgz, a Helm chart for the image VERSION
	@mkdir -p dist
	HELM=$(TOOLS)/helm charts/package.sh "$(CHART_VERSION)" "$(VERSION)" "$(IMAGE)" dist

##@ Deployment

.PHONY: install
install: $(TOOLS)/kustomize ## Only the CRD, in the cluster of the current kubeconfig; deploy has it, too
	$(TOOLS)/kustomize build config/crd | $(KUBECTL) apply -f -

.PHONY: uninstall
uninstall: $(TOOLS)/kustomize ## Remove only the CRD; agents go on, and announce no addresses: IGNORE_NOT_FOUND=true
	$(TOOLS)/kustomize build config/crd | $(KUBECTL) delete --ignore-not-found=$(ignore-not-found) -f -

.PHONY: deploy
deploy: build-installer ## Install the OVERLAY, with IMG, in the cluster of the current kubeconfig
	$(KUBECTL) apply -f dist/install.yaml

.PHONY: undeploy
undeploy: build-installer ## Remove it, the agents included; what they have put on the nodes stays: IGNORE_NOT_FOUND=true
	@# In reverse, so that the namespace goes last: kubectl would not find what has gone with it.
	awk '/^---$$/ { n++; next } { part[n+0] = part[n+0] $$0 "\n" } END { for (; n >= 0; n--) printf "---\n%s", part[n] }' dist/install.yaml | \
	  $(KUBECTL) delete --ignore-not-found=$(ignore-not-found) -f -
	@echo 'The rules stay in force. To clear the nodes: docs/CNI.md, "Removing it", with dist/uninstall.yaml.'

##@ Release

.PHONY: release
release: release-version-check ## All that a release has, into dist, with checksums: VERSION=v1.2.3 (an hour on two cores, cold)
	rm -rf dist
	$(MAKE) --no-print-directory release-binaries release-sbom release-image release-changelog release-manifests \
	  kubectl-podfence-all chart CHART_VERSION=$(VERSION:v%=%) BINARIES=dist
	$(SUMS)

# What has the tag of a release, or its number, in the tree that is tagged.
VERSIONED := config/manager/kustomization.yaml config/status/kustomization.yaml config/uninstall/kustomization.yaml charts/podfence/Chart.yaml

.PHONY: release-version
release-version: ## Write VERSION=v1.2.3 into config, the chart and README.md, to be committed and tagged
	@[[ "$(VERSION)" =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$$ ]] || { echo "VERSION=$(VERSION) is no release: it takes one such as v1.2.3"; exit 1; }
	sed -i -e 's/^  newTag: .*/  newTag: $(VERSION)/' -e 's/^version: .*/version: $(VERSION:v%=%)/' -e 's/^appVersion: .*/appVersion: $(VERSION)/' $(VERSIONED)
	sed -i -E -e 's#(podfence/config/default\?ref=)v[0-9][^"]*#\1$(VERSION)#; s#(charts/podfence --version )[0-9]\S*#\1$(VERSION:v%=%)#' README.md

.PHONY: release-version-check
release-version-check: ## Fail unless config and the chart have the tag VERSION, as what users apply of a release must
	@for file in $(VERSIONED); do grep -qxE '(  newTag|appVersion): $(subst .,\.,$(VERSION))' $$file || \
	  { echo "$$file does not have the tag $(VERSION): make release-version VERSION=$(VERSION), commit, and tag that commit"; exit 1; }; done

.PHONY: release-binaries
release-binaries: ## podfence, podfence-cni and kubectl-podfence for each platform, into dist, with SHA256SUMS
	@mkdir -p $(DIST)
	@rm -f $(DIST)/podfence-{linux,cni}-* $(DIST)/kubectl-podfence-{linux,darwin,windows}-*
	@build() { echo "building $$1 for $$2/$$3"; export GOOS=$$2 GOARCH=$$3; flags=(); \
	  if [[ $$3 == arm ]]; then flags=(-modfile "$$(release/modfile32.sh)"); fi; \
	  $(GO_RELEASE) "$${flags[@]}" -o "$(DIST)/$$1-$$2-$$3$$([[ $$2 != windows ]] || echo .exe)" "$$4"; }; \
	for arch in $(LINUX); do \
	  build podfence linux $$arch .; build podfence-cni linux $$arch ./cni/podfence-cni; build kubectl-podfence linux $$arch ./kubectl-podfence; \
	done; \
	for platform in $(ELSEWHERE); do build kubectl-podfence $${platform%/*} $${platform#*/} ./kubectl-podfence; done
	@$(SUMS)

.PHONY: release-check
release-check: ## Build what release-binaries has built again, of a copy of the source elsewhere, and compare each octet
	@elsewhere=$$(mktemp -d); trap 'rm -rf "$$elsewhere"' EXIT; mkdir "$$elsewhere/source" "$$elsewhere/tmp"; \
	git ls-files -z | xargs -0 tar --create --no-recursion --file - -- | tar --extract --directory "$$elsewhere/source"; \
	GOTMPDIR=$$elsewhere/tmp $(MAKE) --no-print-directory -C "$$elsewhere/source" release-binaries VERSION=$(VERSION) COMMIT=$(COMMIT) DATE=$(DATE) LINUX="$(LINUX)" ELSEWHERE="$(ELSEWHERE)" DIST="$$elsewhere/dist"; \
	(cd "$$elsewhere/dist" && find . -type f ! -name SHA256SUMS) | while read -r built; do cmp "$(DIST)/$$built" "$$elsewhere/dist/$$built"; done; \
	echo "the same octets: $$(wc -l <"$$elsewhere/dist/SHA256SUMS") programs"

.PHONY: release-image
release-image: ## The image of those binaries for all of linux, by the Dockerfile and no engine, an OCI layout in dist/image
	go -C release run . image -version $(VERSION) -created $(CREATED) $(CURDIR)/Dockerfile $(CURDIR)/$(DIST) $(CURDIR)/$(DIST)/image

.PHONY: release-sbom
release-sbom: ## What each of those binaries is made of, beside it: SPDX 2.3
	go -C release run . sbom -version $(VERSION) -created $(CREATED) \
	  $$(find $(CURDIR)/$(DIST) -maxdepth 1 -type f \( -name 'podfence-*' -o -name 'kubectl-podfence-*' \) \
	    ! -name '*.json' ! -name '*.tgz' ! -name '*.tar.gz' ! -name '*.txt' | LC_ALL=C sort)
	@$(SUMS)

.PHONY: release-changelog
release-changelog: ## dist/CHANGELOG.md: the commits since the release before, by room
	@mkdir -p $(DIST)
	go -C release run . changelog $(CURDIR) HEAD >$(DIST)/CHANGELOG.md

.PHONY: release-manifests
release-manifests: ## dist/install.yaml, install-chained.yaml, install-policy-only.yaml and uninstall.yaml, with the image VERSION
	@for overlay in chained policy-only; do \
	  $(MAKE) --no-print-directory build-installer OVERLAY=$$overlay IMG=$(IMAGE):$(VERSION); mv dist/install.yaml dist/install-$$overlay.yaml; done
	@$(MAKE) --no-print-directory build-installer OVERLAY=default IMG=$(IMAGE):$(VERSION)

.PHONY: release-push
release-push: $(TOOLS)/helm ## Push dist/image as IMAGE:VERSION, and the chart to CHARTS; needs a login (docker login)
	go -C release run . push $(CURDIR)/$(DIST)/image $(IMAGE):$(VERSION) | tee $(DIST)/image-digests
	$(TOOLS)/helm push $(DIST)/podfence-$(VERSION:v%=%).tgz $(CHARTS)
	@[[ -z $${GITHUB_OUTPUT:-} ]] || echo "digest=$$(sed 's/.*@//; q' $(DIST)/image-digests)" >>"$$GITHUB_OUTPUT"

.PHONY: release-sign
release-sign: ## Sign checksums and the pushed image, and state its SBOMs, by cosign, without keys
	release/sign.sh $(DIST)

.PHONY: release-publish
release-publish: ## The release VERSION on GitHub, with what is in dist, by gh
	gh release create $(VERSION) --verify-tag --title $(VERSION) --notes-file $(DIST)/CHANGELOG.md \
	  $$([[ $(VERSION) != *-* ]] || echo --prerelease) $$(find $(DIST) -maxdepth 1 -type f ! -name image-digests | LC_ALL=C sort)

##@ Dependencies and cleaning up

.PHONY: clean
clean: ## Remove what was built, but not the envtest assets
	rm -rf $(BIN)/podfence $(BIN)/podfence-cni $(BIN)/podfence-demo $(BIN)/kubectl-podfence $(TOOLS) dist

# Built with the versions of linters that it was released with: a module of its own.
$(TOOLS)/golangci-lint: test/tools/golangci-lint/go.mod test/tools/golangci-lint/go.sum
	@mkdir -p $(TOOLS)
	@echo "tools: building golangci-lint; cold this takes five minutes on two cores"
	go -C test/tools/golangci-lint build -o $@ tool

# The tools that test/tools pins, each when a target needs it.
$(TOOLS)/%: test/tools/go.mod test/tools/go.sum
	@mkdir -p $(TOOLS)
	@echo "tools: building $*; cold this takes a minute or two"
	go -C test/tools build -o $@ $$(go -C test/tools list -f '{{.ImportPath}}' tool | grep -E '/$*(/v[0-9]+)?$$')
