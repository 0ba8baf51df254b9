# What a person types. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Everything that is built from third-party modules is kept outside the checkout, keyed by version.
export PANOPTES_CACHE ?= $(HOME)/.cache/panoptes
export CARGO_TARGET_DIR ?= $(PANOPTES_CACHE)/target
export INSTA_UPDATE ?= no
TRIPLE := x86_64-unknown-linux-gnu
RELEASE := $(CARGO_TARGET_DIR)/$(TRIPLE)/release
DEBUG := $(CARGO_TARGET_DIR)/$(TRIPLE)/debug
# Tests take the peers that are named here, so that a missing one fails at once and not in the middle.
TEST_PEERS := azurite etcd strace kube-apiserver kube-controller-manager prometheus promtool prometheus-blocks thanos thanos-blocks versitygw
IMAGE ?= panoptes.dev/panoptes:0.1.0
E2E := $(DEBUG)/e2e

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

.PHONY: demo demo-down
demo: release harness ## three clusters on this machine, one view over all of them (root; Debian)
	$(E2E) demo --binary $(RELEASE)/panoptes

demo-down: harness ## end the demo and remove what it left
	$(E2E) demo-down

.PHONY: install
install: release ## definitions and operator on your own cluster: make install IMAGE=registry/panoptes:tag
	$(RELEASE)/panoptes operator crds | kubectl apply --server-side -f -
	$(RELEASE)/panoptes operator manifests --image '$(IMAGE)' | kubectl apply --server-side -f -
	kubectl -n panoptes-system rollout status deployment/panoptes-operator --timeout=180s
	@echo; echo "Next: kubectl apply -f examples/tutorial.yaml   (edit the bucket and the storage class first)"

.PHONY: build release image
build: release ## the binary, static, as target/release/panoptes
	@mkdir -p target/release && cp -f $(RELEASE)/panoptes target/release/panoptes && ls -l target/release/panoptes

release:
	cargo build --release --locked -p panoptes --features jemalloc

image: release harness ## the image as an archive for `ctr images import`: target/panoptes-image.tar
	@mkdir -p target && $(E2E) image --binary $(RELEASE)/panoptes --name $(IMAGE) --output target/panoptes-image.tar

.PHONY: harness peers
harness:
	cargo build --locked -p e2e

peers: harness ## build the real parts that tests run against (Kubernetes, Prometheus, Thanos, ...)
	$(E2E) peers

# Eight threads on any machine: most tests wait for real programs.
.PHONY: test
test: harness ## everything that needs no whole cluster
	$(E2E) peers $(TEST_PEERS)
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-8} cargo test --locked --workspace

.PHONY: e2e
e2e: release harness ## the stories, on three real clusters (root; Debian)
	$(E2E) stories --binary $(RELEASE)/panoptes

.PHONY: goals bench
goals: harness ## the goals of docs/goals.md, each with its negative runs: make goals [ONLY='G22 G41']
	$(E2E) goals $(ONLY)

bench: release harness ## ours beside the peer, on the same data, in one run
	$(E2E) peers prometheus-blocks
	cargo bench --locked -p tsdb --bench chunks --bench blocks
	$(E2E) bench --binary $(RELEASE)/panoptes

# On a stable compiler it runs without a sanitizer, which safe code does not need.
FUZZ := $(PANOPTES_CACHE)/fuzz
FUZZER := $(FUZZ)/target/$(shell uname -m)-unknown-linux-gnu/release/decoder
SECONDS_EACH := $(or $(SECONDS_OF_FUZZ),60)
.PHONY: fuzz fuzz-list fuzzer
fuzz: fuzzer ## libFuzzer on one decoder: make fuzz TARGET=index SECONDS_OF_FUZZ=60 (make fuzz-list names them)
	@mkdir -p $(FUZZ)/corpus/$(TARGET)
	PANOPTES_DECODER=$(TARGET) PANOPTES_SEEDS=$(FUZZ)/corpus/$(TARGET) $(FUZZER) $(FUZZ)/corpus/$(TARGET) \
	  -max_total_time=$(SECONDS_EACH) -timeout=10 -max_len=65536 -artifact_prefix=$(FUZZ)/

fuzz-list: fuzzer ## the decoders that can be fuzzed
	@$(FUZZER)

fuzzer:
	@PATH=$(FUZZ)/tools/bin:$$PATH command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz --root $(FUZZ)/tools
	cp Cargo.lock e2e/fuzz/ # the same versions as everywhere
	cd e2e/fuzz && PATH=$(FUZZ)/tools/bin:$$PATH cargo fuzz build --fuzz-dir . --target-dir $(FUZZ)/target -s none --codegen-units 16 decoder

.PHONY: lint crds
lint: ## format, clippy, stale generated files
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

crds: ## write crds/ again from the types
	cargo run --locked -q -p panoptes -- operator crds --output crds
