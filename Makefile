# Everything a user of the testbed runs. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
FUZZ_SECONDS ?= 60
BENCH_ARGS ?=
AUDIT_ARGS ?=
.PHONY: help setup experiment plots test test-fast break-invariants fuzz bench bench-setup bench-core bench-control audit lint doctor cli clean clean-results

PYTHON_VENV := .venv/bin/python
# quick: half an hour on two cores; paper: more repeats.
PROFILE ?= quick
SCENARIO ?=
# More arguments for pytest, for example: make test PYTEST_ARGS='-k sandbox -x'
PYTEST_ARGS ?=

export PYTHONDONTWRITEBYTECODE :=

help: ## List the targets
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing (Debian packages, .venv); quick when nothing is
	@./setup.sh

experiment: setup ## Run all experiments; PROFILE=quick (default) or paper (root)
	@$(PYTHON_VENV) -m experiments run --profile $(PROFILE)

plots: setup ## Draw the plots and tables of results/latest again from its samples (no root)
	@$(PYTHON_VENV) -m experiments plots results/latest

test: setup ## All tests, the live ones inside the sandbox (root)
	@$(PYTHON_VENV) -m topologies.sandbox -- $(PYTHON_VENV) -m pytest $(PYTEST_ARGS)

test-fast: setup ## The tests that need neither root nor a network
	@$(PYTHON_VENV) -m pytest -m 'not live' $(PYTEST_ARGS)

break-invariants: setup ## Break each security invariant in a copy and see that the tests notice
	@$(PYTHON_VENV) -m tests.break_invariants

fuzz: setup ## Fuzz everything that reads strangers' bytes, guided by coverage; FUZZ_SECONDS=60 for each target
	@$(PYTHON_VENV) -c 'import atheris' 2>/dev/null || $(PYTHON_VENV) -m pip install -q --no-deps atheris==3.0.0
	@for target in parser opener ipsec transit inner nve netlink audit; do \
		$(PYTHON_VENV) -m tests.geneve.fuzz $$target --seconds $(FUZZ_SECONDS) || exit 1; done

bench: setup ## Our NVE beside OpenVPN, WireGuard, fastd and others, in one run; PROFILE=quick or paper (root)
	@$(PYTHON_VENV) -m experiments.peers --profile $(PROFILE) $(BENCH_ARGS)

bench-setup: ## Install what 'make bench' compares with (Debian packages; starts no service)
	@./setup.sh --peers

bench-core: setup ## What sealing, opening and refusing a packet cost, beside the bare AEAD call (no root)
	@$(PYTHON_VENV) -m experiments.core_bench $(BENCH_ARGS)

bench-control: setup ## What the NVA costs with 10, 100 and 1000 simulated nodes on real TLS connections (no root)
	@$(PYTHON_VENV) -m experiments.control_scale $(BENCH_ARGS)

audit: setup ## Judge a scenario or anybody's capture against SEC-OP-1 to 10; FILE=... AUDIT_ARGS='--html a.html'
	@test -n "$(FILE)" || { echo "audit: say which file: make audit FILE=capture.pcap"; exit 2; }
	@$(PYTHON_VENV) -m experiments.audit "$(FILE)" $(AUDIT_ARGS)

lint: setup ## Style and types: ruff and mypy
	@$(PYTHON_VENV) -m ruff check .
	@$(PYTHON_VENV) -m mypy

doctor: setup ## Name every tool and kernel feature found or missing, and what a missing one costs
	@$(PYTHON_VENV) -m experiments.doctor

cli: setup ## Mininet's command line on the running default scenario; SCENARIO=name or file (root)
	@$(PYTHON_VENV) -m topologies.cli $(SCENARIO)

clean: ## Remove caches and stale files of the testbed (never results, never anything else)
	@find . -path ./.venv -prune -o -path ./results -prune -o -type d \
		\( -name __pycache__ -o -name .pytest_cache -o -name .mypy_cache -o -name .ruff_cache \
		-o -name .hypothesis -o -name '*.egg-info' \) -prune -exec rm -rf {} +
	@rm -f setup.log
	@echo "clean: caches and logs removed; .venv and results/ kept (make clean-results removes the latter)"

clean-results: ## Remove all results
	@find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	@echo "clean-results: results/ is empty"
