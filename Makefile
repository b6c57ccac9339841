# Thin on purpose: what happens stands in .ci/, which needs no make.
PYTHON := .venv/bin/python
# where Debian keeps ip and nft, and where a plain `su` does not look
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help demo test lint e2e e2e-ipvs e2e-all bench clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: ## a node, pods, clients in namespaces: roll-outs under load, no failed connection (root); SOURCE=apiserver: over HTTPS; MODE=nftables|iptables|ipvs|userspace
	@.ci/setup --root demo
	@$(PYTHON) -m e2e.demo

test: ## unit, contract and end-to-end tests; says what ran and what could not
	@.ci/setup
	@status=0; $(PYTHON) -m pytest --numprocesses auto tests || status=$$?; $(PYTHON) -m pytest e2e && exit $$status

e2e: ## only the end-to-end tests, in network namespaces (root)
	@.ci/setup --root e2e
	@$(PYTHON) -m pytest e2e

e2e-ipvs: ## the tests that are for a kernel with IPVS: here if this one has it, else in a virtual machine
	@.ci/setup --guest
	@$(PYTHON) -m e2e.guest

e2e-all: ## every test: those of `make test`, then those for a kernel with IPVS, also the ones that take long: two hours
	@.ci/setup --guest
	@status=0; $(PYTHON) -m pytest --whole tests e2e || status=$$?; $(PYTHON) -m e2e.guest --all && exit $$status

lint: ## style, types, layers, and what may not stand in the tree
	@.ci/setup
	@.ci/lint

bench: ## measure, and print ratios against named references (root); mode ipvs in a virtual machine
	@.ci/setup --root bench
	-@.ci/setup --guest
	@$(PYTHON) -m bench

clean: ## remove what the other targets made, but for bench/results
	@rm -rf .venv .cache dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +
