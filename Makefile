# Each target is one command; what runs here is what CI runs.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
export SYSBOX_SHIM := $(TARGET)/$(shell uname -m)-unknown-linux-gnu/release/containerd-shim-sysbox-v2

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

build: deps ## the static release binary; its path is the last line
	cargo build --locked --release --bin containerd-shim-sysbox-v2
	.ci/static $(SYSBOX_SHIM)

# A build for speed takes longer than all the rest, and the demo measures nothing: one quick build has both programs.
demo: deps ## a system container with systemd and Docker on a real containerd (root)
	cargo build --locked --workspace --bins
	env -u SYSBOX_SHIM $(TARGET)/$(shell uname -m)-unknown-linux-gnu/debug/demo

test: check integration fuzz ## all tiers: check, integration (root), fuzz

check: deps fmt clippy unit deny ## no root, under two minutes warm

bench: build ## ours against runc's shim and crun, to target/bench/summary.json (root)
	cargo build -q --locked --release -p integration --bins
	cargo run -q --locked --release -p integration --bin bench

fuzz: deps ## every fuzz target for FUZZ_SECONDS (60)
	.ci/fuzz

install: build ## the binary and its configuration on this host, below DESTDIR (root)
	deploy/install.sh install --binary $(SYSBOX_SHIM)

fmt:
	cargo fmt --all --check
	cargo fmt --check --manifest-path runtime-core/fuzz/Cargo.toml

clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings

unit:
	cargo test --locked --no-fail-fast

deny:
	.ci/deny

integration: setup build
	cargo test --locked --no-fail-fast -p integration

setup: deps
	cargo build -q --locked -p integration --bins
	cargo run -q --locked -p integration --bin setup

deps:
	@integration/setup.sh

critest: setup build ## the whole of critest with our handler and with runc's, on two engines, with and without hostUsers (20 min)
	SYSBOX_CRITEST=all cargo test --locked -p integration --test cri -- critest

test-k8s: setup build ## pods under a real API server and kubelet (root; their build takes a quarter of an hour, once)
	SYSBOX_K8S=1 cargo test --locked -p integration --test k8s

test-vm: setup build ## hosts with kernels of their own, booted in QEMU (root; half an hour without KVM, their disks five minutes, once)
	SYSBOX_VM=1 cargo test --locked --no-fail-fast -p integration --test vm

.PHONY: critest test-k8s test-vm help build demo test check bench fuzz install fmt clippy unit deny integration setup deps
