# Everything one does with this tree. Needs Go, make and git; the scenarios on
# machines also root on Debian. `make` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# One step after the other: the steps fill two cores by themselves.
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

ARCH ?= $(shell go env GOARCH)
VERSION ?= $(shell internal/tools/version.sh)
# Two builds of one commit are equal byte by byte.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

# What is costly to make (tools, control plane, root folder of the machines) is
# made once and kept here, outside the tree. test/cluster/cache has the same rule.
export LAB_CACHE ?= $(if $(filter 0,$(shell id -u)),/var/cache,$(or $(XDG_CACHE_HOME),$(HOME)/.cache))/bootstrap-agent-lab
TOOLS := $(LAB_CACHE)/tools
# Set KUBE_BIN_DIR to a folder with etcd, kube-apiserver, kube-controller-manager,
# kubelet, kubeadm and kubectl to use those instead of building them.
KUBE_BIN_DIR ?=
# The same for the older release that only test-skew uses: any that has all six.
KUBE_OLD_BIN_DIR ?=

# Kubernetes' own packages are mostly generated code that runs a few times in a
# join: not inlined, it makes the program half a megabyte smaller. The door and what
# only the door uses run once a start: 145 KB, for nothing that can be measured. So do
# the hall, the kubelet's files and the units, or once a minute: 125 KB.
OURS := github.com/bootstrap-agent/bootstrap-agent
BUILD_FLAGS = -trimpath -buildvcs=false -gcflags=k8s.io/...=-l -gcflags=$(OURS)/cmd/...=-l -gcflags=$(OURS)/agent/...=-l \
	-gcflags=$(OURS)/kubelet/...=-l -gcflags=$(OURS)/systemd=-l -gcflags=github.com/spf13/...=-l -ldflags '-s -w -X main.version=$(VERSION)'

STEP := internal/tools/step.sh
# How long each fuzz target runs, and all of them together.
FUZZ_EACH ?= 3
FUZZ_TOTAL ?= 75
FUZZ_LONG ?= 150
FUZZ_RUN ?= .
E2E_PACKAGES ?= ./test/...
E2E_RUN ?= .
E2E_TAGS ?= e2e
# For the scenarios of one package: -crash.seed=N, say.
E2E_ARGS ?=

GO_FILES = $(shell git ls-files -co --exclude-standard '*.go')
DEB = dist/bootstrap-agent_$(VERSION)-1_$(ARCH).deb

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## the program for this machine, into bin/
	@mkdir -p bin
	CGO_ENABLED=0 go build $(BUILD_FLAGS) -o bin/bootstrap-agent ./cmd/bootstrap-agent

.PHONY: test
test: ## all there is to test; what cannot run here says why in one line
	@mkdir -p bin; rm -f bin/steps; export STEPS=$(CURDIR)/bin/steps; \
	trap 'echo; echo "make test:"; sed "s/^/  /" bin/steps' EXIT; \
	$(STEP) "formatting" $(MAKE) format-check; \
	$(STEP) "lint" $(MAKE) lint; \
	$(STEP) "known vulnerabilities" $(MAKE) vuln; \
	$(STEP) "unit tests and race" $(MAKE) race; \
	$(STEP) "short fuzz" $(MAKE) fuzz-short; \
	$(STEP) "packages" $(MAKE) package; \
	$(STEP) "packages judged" $(MAKE) lint-packages; \
	$(STEP) "packages made again" $(MAKE) reproducible; \
	$(STEP) "control plane and machines" $(MAKE) e2e

.PHONY: format-check
format-check: ## every Go file is as gofmt writes it
	@bad=$$(gofmt -l $(GO_FILES)); if [ -n "$$bad" ]; then echo "not formatted (run gofmt -w):"; echo "$$bad"; exit 1; fi

.PHONY: unit
unit: ## unit and in-process tests
	go test ./...

# The race detector changes timing, not meaning: one run with it is the unit run.
# It needs cgo and a C compiler; without one the same tests run without it.
# Where there is room the tests' folders are in memory: the calls are the same, and
# what a power cut leaves of files is shown elsewhere (test/crash), not here.
.PHONY: race
race: ## the same under the race detector (make test runs only this one)
	@if command -v "$$(go env CC)" >/dev/null; then \
		CGO_ENABLED=1 internal/tools/quick-tmp.sh go test -race -timeout 20m ./...; \
	else \
		echo "skipped: race detector: no C compiler ($$(go env CC)) on this machine"; \
		internal/tools/quick-tmp.sh go test ./...; \
	fi

.PHONY: crash
crash: ## a crash anywhere: every step, file and damage in-process, 200 seeds of kill -9 (make test runs a part)
	go test ./agent -run TestCrashAnywhere -count=1 -timeout 30m -v -args -crash.all
	@$(MAKE) e2e E2E_PACKAGES=./test/e2e E2E_RUN='^TestAnAgentKilledAtAnyInstant' E2E_ARGS='-crash.seeds=200 $(E2E_ARGS)'

# How long the soak lasts; E2E_ARGS=-soak.seed=N plays the same faults again.
SOAK_FOR ?= 30m

.PHONY: soak
soak: package ## one agent and a real control plane through random faults, half an hour (SOAK_FOR; make test: two minutes)
	@$(MAKE) e2e E2E_PACKAGES=./test/e2e E2E_RUN='^TestASoak' E2E_ARGS='-soak.for=$(SOAK_FOR) $(E2E_ARGS)'

# Not part of make test: an emulator runs them. What it cannot do (the host's systemd
# starting a program of another architecture) is a skip that says so.
.PHONY: test-arm64
test-arm64: ## the unit tests as arm64 programs, under qemu-user (3 to 5 minutes)
	@internal/tools/need.sh qemu-aarch64-static:qemu-user-static
	GOARCH=arm64 CGO_ENABLED=0 go test -exec qemu-aarch64-static -timeout 30m ./...

.PHONY: fuzz-short
fuzz-short: ## every fuzz target for some seconds (FUZZ_EACH, FUZZ_TOTAL)
	@internal/tools/fuzz.sh $(FUZZ_EACH) $(FUZZ_TOTAL)

# On two processors 150 s of the clock are five minutes of theirs.
.PHONY: fuzz
fuzz: ## every fuzz target for five minutes of processor time (FUZZ_LONG seconds of the clock each; two hours; FUZZ_RUN=Regexp)
	@internal/tools/fuzz.sh $(FUZZ_LONG) 1000000 '$(FUZZ_RUN)'

.PHONY: lint
lint: tools ## golangci-lint, as pinned in internal/tools
	$(TOOLS)/golangci-lint run ./...

.PHONY: vuln
vuln: tools ## what govulncheck knows of the code that is called (needs the database of GOVULNDB)
	@code=0; internal/tools/vuln.sh $(TOOLS)/govulncheck || code=$$?; \
	if [ "$$code" = 3 ]; then echo "skipped: known vulnerabilities: the database cannot be reached (the line above)"; else exit "$$code"; fi

.PHONY: tools
tools: ## golangci-lint, nfpm and govulncheck into the cache, once (3 minutes)
	@internal/tools/build.sh $(TOOLS)

.PHONY: generate
generate: ## what is written from tables: example config, reference pages
	go generate ./...

.PHONY: package
package: tools ## .deb, .rpm, tar.gz and SBOM into dist/ (ARCH=arm64 for another machine)
	@if [ ! -e packaging/config.example.yaml ]; then echo "packaging/config.example.yaml is not there: run make generate" >&2; exit 1; fi
	@rm -rf dist/stage; mkdir -p dist/stage; chmod 0755 dist/stage
	CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) go build $(BUILD_FLAGS) -o dist/stage/bootstrap-agent ./cmd/bootstrap-agent
	@ARCH=$(ARCH) VERSION='$(VERSION)' NFPM=$(TOOLS)/nfpm internal/tools/package.sh

.PHONY: lint-packages
lint-packages: ## what lintian, rpmlint, man and journalctl say of dist/, and whether the formats are alike
	@code=0; internal/tools/lint-packages.sh || code=$$?; \
	if [ "$$code" = 3 ]; then echo "skipped: packages are not judged (the reason is the line above)"; else exit "$$code"; fi

.PHONY: contents
contents: package ## renew packaging/contents.txt, the table of what is installed
	go test -tags packages -count=1 ./packaging/pack -run TestTheThreeFormatsInstallWhatTheTableSays -update
	@git --no-pager diff --stat packaging/contents.txt

.PHONY: reproducible
reproducible: ## build dist/ again in another folder, as somebody else would: the same bytes
	@VERSION='$(VERSION)' TOOLS=$(TOOLS) internal/tools/reproducible.sh

.PHONY: repo
repo: ## dist/repo: the packages of dist/ as a signed apt and dnf repository (REPO_KEY=, REPO_URL=)
	@internal/tools/repo.sh dist dist/repo

.PHONY: release
release: ## dist/release: packages of both architectures, SBOMs, repositories, sums, signed (REPO_KEY=)
	@internal/tools/release.sh --check
	@rm -f dist/*.deb dist/*.rpm dist/*.tar.gz dist/*.cdx.json
	@for arch in amd64 arm64; do $(MAKE) package ARCH=$$arch VERSION='$(VERSION)'; done
	@internal/tools/release.sh dist dist/release

# Root and Debian are needed for machines only; a control plane runs anywhere.
.PHONY: e2e
e2e: kube ## scenarios on a real control plane and real machines (E2E_RUN=Regexp)
	@code=0; test/machine/prepare.sh || code=$$?; \
	if [ "$$code" = 3 ]; then \
		echo "skipped: scenarios on machines (the reason is the line above)"; packages="./test/cluster/... ./test/hostile/..."; \
	elif [ "$$code" != 0 ]; then exit "$$code"; \
	elif [ "$$(id -u)" != 0 ]; then \
		echo "skipped: scenarios on machines: they need root (mounts and namespaces)"; packages="./test/cluster/... ./test/hostile/..."; \
	elif ! command -v apt-get >/dev/null; then \
		echo "skipped: scenarios on machines: they are made with debootstrap, on a Debian host"; packages="./test/cluster/... ./test/hostile/..."; \
	else \
		packages='$(E2E_PACKAGES)'; if [ ! -e '$(DEB)' ]; then $(MAKE) package; fi; \
	fi; \
	mkdir -p bin; code=0; \
	BOOTSTRAP_AGENT_DEB='$(CURDIR)/$(DEB)' KUBE_BIN_DIR='$(KUBE_BIN_DIR)' KUBE_OLD_BIN_DIR='$(KUBE_OLD_BIN_DIR)' \
		go test -tags '$(E2E_TAGS)' $$packages -p 1 -run '$(E2E_RUN)' -count=1 -timeout 40m -v $(if $(E2E_ARGS),-args $(E2E_ARGS)) 2>&1 </dev/null | tee bin/e2e.log || code=$$?; \
	echo; echo "scenarios:"; grep -E '^--- ' bin/e2e.log | sed 's/^--- /  /' || true; \
	internal/tools/failures.sh bin/e2e.log; \
	exit $$code

.PHONY: kube
kube: ## the real control plane and kubelet into the cache, once (10 to 18 minutes)
	@if [ -n "$(KUBE_BIN_DIR)" ]; then exit 0; fi; mkdir -p $(LAB_CACHE); \
	lock=(); if command -v flock >/dev/null; then lock=(flock $(LAB_CACHE)/kube.lock); fi; \
	"$${lock[@]}" test/cluster/kube/build.sh $(LAB_CACHE)/kube

# Not part of make test: a second Kubernetes is built, and certificates must grow
# old. The pairs of versions wait for that side by side.
.PHONY: test-skew on-machines
test-skew: E2E_TAGS = e2e,skew
test-skew: E2E_PACKAGES = ./test/e2e -parallel 3
test-skew: E2E_RUN = ^TestSkew
test-skew: on-machines kube-old package e2e ## joins and renewals between releases, 1.36 and 1.34 (builds the second one once)

on-machines:
	@if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "this runs on machines: it needs root, on a Debian host" >&2; exit 1; \
	fi

# As kube, for the older release; what both share is compiled already.
.PHONY: kube-old
kube-old:
	@if [ -n "$(KUBE_OLD_BIN_DIR)" ]; then exit 0; fi; mkdir -p $(LAB_CACHE); \
	lock=(); if command -v flock >/dev/null; then lock=(flock $(LAB_CACHE)/kube-1.34.lock); fi; \
	"$${lock[@]}" test/cluster/kube/v1.34/build.sh $(LAB_CACHE)/kube-1.34

.PHONY: machine-root
machine-root: ## what machines need on this host (the root folder itself is made by the first scenario)
	@test/machine/prepare.sh

.PHONY: demo
demo: ## see a machine join: first a rehearsal, then, as root, the real thing
	@echo "compiling the demo (a minute the first time)"
	@KUBE_BIN_DIR='$(KUBE_BIN_DIR)' CGO_ENABLED=0 go run -trimpath ./test/demo

.PHONY: bench
bench: kube package ## the figures in docs/: agent, kubeadm, kubelet side by side
	@KUBE_BIN_DIR='$(KUBE_BIN_DIR)' BOOTSTRAP_AGENT_DEB='$(CURDIR)/$(DEB)' go run ./test/bench $(BENCH)

# Not part of make test, which lets 60 machines join: 500 and 2000 need their time.
.PHONY: herd
herd: kube ## docs/herd.md: hundreds of machines that join at once (9 minutes on a quiet machine)
	@KUBE_BIN_DIR='$(KUBE_BIN_DIR)' go run ./test/herd $(HERD)

.PHONY: clean
clean: ## remove bin/ and dist/ (the cache stays: rm -r $LAB_CACHE)
	rm -rf bin dist
