# Each target is one command; what runs here is what CI runs.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/containerd-shim-sysbox
TARGET := $(or $(CARGO_TARGET_DIR),target)
ARCH := $(shell uname -m)
export SHIM := $(abspath $(TARGET))/$(ARCH)-unknown-linux-gnu/release/containerd-shim-sysbox-v2
export CACHE

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

build: deps ## the static release binary, its path as the last line
	cargo build --release --bin containerd-shim-sysbox-v2
	.ci/static $(SHIM)

demo: setup build ## a system container with systemd and Docker on a real containerd
	cargo run -q --release -p integration --bin demo

test: check integration fuzz ## all tiers: check, integration (root), fuzz (FUZZ_SECONDS=60 each)

check: deps fmt clippy unit deny ## no root, under two minutes warm

bench: setup build ## ours against runc's shim and crun: target/bench/summary.json
	cargo run -q --release -p integration --bin bench

fuzz: deps ## every fuzz target for FUZZ_SECONDS (60)
	.ci/fuzz

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --locked --workspace --all-targets -- -D warnings

unit:
	cargo test --locked --no-fail-fast

deny:
	.ci/deny

integration: setup build
	cargo test --locked --no-fail-fast -p integration

setup: deps
	integration/setup.sh
	cargo run -q --release -p integration --bin setup

deps:
	@integration/setup.sh --build

install: build ## binary and configuration on this host (DESTDIR, see deploy/install.sh)
	deploy/install.sh install $(SHIM)

.PHONY: help build demo test check bench fuzz fmt clippy unit deny integration setup deps install
