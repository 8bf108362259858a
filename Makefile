# pgfleet: run `make` for the list of targets. Everything here does its own set-up.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test test-long bench check build setup setup-bench setup-test clean-labs

# What the sandbox's hosts need on this machine, and what the tests run for real.
PACKAGES := build-essential ca-certificates iproute2 mmdebstrap nftables openssh-client systemd-container util-linux
TEST_PACKAGES := $(PACKAGES) etcd-client etcd-server openssh-server openssl postgresql procps python3-venv sudo
CARGO_DENY := 0.20.2
# Its ansible-vault opens what pgfleet seals, and the other way round.
ANSIBLE := ansible-core==2.19.14

DEMO := demo
INVENTORY := inventories/demo.yml
PGFLEET := target/release/pgfleet

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup build ## Boot seven hosts on this machine, bootstrap a cluster on them, show that it works
	$(PGFLEET) sandbox up -i $(INVENTORY) --name $(DEMO)
	$(PGFLEET) bootstrap -i $(INVENTORY) --sandbox $(DEMO) -y
	$(PGFLEET) status -i $(INVENTORY) --sandbox $(DEMO)
	$(PGFLEET) verify -i $(INVENTORY) --sandbox $(DEMO)
	@printf '%s\n' "" \
	  "The cluster runs. Things to try:" \
	  "  connect      $(PGFLEET) ssh -i $(INVENTORY) --sandbox $(DEMO) pg-1 -- sudo -u postgres psql -h /var/run/postgresql" \
	  "  watch        watch -n1 $(PGFLEET) status -i $(INVENTORY) --sandbox $(DEMO)" \
	  "  kill         $(PGFLEET) sandbox kill pg-1 --name $(DEMO)      (power loss; another member takes over)" \
	  "  power on     $(PGFLEET) sandbox start pg-1 --name $(DEMO)     (it comes back as a replica)" \
	  "  switch over  $(PGFLEET) switchover -i $(INVENTORY) --sandbox $(DEMO) -y" \
	  "  clean up     make demo-down"

demo-down: ## Remove the demo's hosts
	$(PGFLEET) sandbox down --name $(DEMO)

build: ## The release build
	cargo build --release --locked

check: ## Format, lints, licences and banned crates
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo deny --locked check bans licenses sources

test: setup-test check ## Every test, end to end ones included
	@trap 'make --no-print-directory clean-labs' EXIT; cargo nextest run --locked --no-fail-fast
	@echo "Left out: the stories of 'make test-long' (20 kills over a bootstrap and over an upgrade, 24 faults in a row on one cluster, a cluster with TLS that grows, shrinks and changes its authority, upgrades of everything and of PostgreSQL's major version) and the advisory database, which needs the internet."

test-long: setup-test ## The repetitions that do not fit into `make test`
	@trap 'make --no-print-directory clean-labs' EXIT; cargo nextest run --locked --no-fail-fast --profile long --run-ignored ignored-only
	@echo "Left out: nothing."

# Gigabytes of bootstrapped hosts. `cargo nextest run` by itself keeps them for its next run.
clean-labs: ## Remove the clusters that the tests have kept
	@target=$${CARGO_TARGET_DIR:-target}; for lab in $$target/tmp/labs/lab-*/; do \
	  [ -d "$$lab" ] || continue; \
	  $$target/debug/pgfleet sandbox forget "$$(basename "$$lab")" && rm -rf "$$lab"; \
	done

bench: setup-bench build ## Speed, side by side with the references, in one run
	PGFLEET_BIN=$(abspath $(PGFLEET)) tests/bench/run

setup:
	@missing=; for package in $(PACKAGES); do dpkg-query -W -f='$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then \
	  [ "$$(id -u)" = 0 ] || { echo "root is needed to install:$$missing" >&2; exit 1; }; \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; \
	fi
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust $$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later" >&2; exit 1; }

setup-bench:
	@$(MAKE) --no-print-directory setup PACKAGES="$(PACKAGES) python3-venv"

setup-test:
	@$(MAKE) --no-print-directory setup PACKAGES="$(TEST_PACKAGES)"
	@command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny --version $(CARGO_DENY)
	@target/ansible/bin/ansible-vault --version >/dev/null 2>&1 || { python3 -m venv --clear target/ansible && target/ansible/bin/pip install --quiet --disable-pip-version-check $(ANSIBLE); }
