# Run `make` for the list of targets.

.DEFAULT_GOAL := help
.PHONY: help test check

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

check: ## Format and lints
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

test: check ## Every test
	cargo nextest run --locked
