# Everything a newcomer needs: `make demo`, `make test`. Only python3 (3.11 or newer) is assumed.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
T ?= tests
# Integration tests wait more than they compute; those that share a fleet stay together.
PARALLEL := --numprocesses 3 --dist loadgroup

# An operator's own vLLM, said in the environment or in .env, needs no engine environment of ours.
OWN_VLLM := $(VLLM_COMMAND)$(shell grep -s '^VLLM_COMMAND=.' .env)

.PHONY: help demo run test check bench faults scale fmt setup engine engine-environment models clean
.DEFAULT_GOAL := help

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '  %-12s %s\n' "$$name" "$$text"; done

demo: .venv/.ready engine-environment ## set up everything, then run the main job on real vLLM before your eyes
	@$(BIN)/python -m workers.provision model SmolLM2-135M-Instruct
	@$(BIN)/python -m tests.demo

run: .venv/.ready engine ## the whole fleet in the foreground, ready for curl; Ctrl-C ends all of it
	@$(BIN)/python -m shared.foreground

test: .venv/.ready-for-tests check engine models ## set up everything, then all tests: exactly what CI runs
	@$(if $(filter tests,$(T)),$(BIN)/python -m pytest $(PARALLEL) tests/integration)
	@$(BIN)/python -m pytest $(if $(filter tests,$(T)),tests/e2e,$(T))

check: .venv/.ready-for-tests ## format, lint, types, import contracts, unit tests: for every commit
	@ruff format --check --quiet . || { echo 'not formatted: run make fmt'; exit 1; }
	@ruff check --quiet .
	@mypy shared web workers tests
	@lint-imports --no-logo > .venv/import-contracts.log || { cat .venv/import-contracts.log; exit 1; }
	@$(BIN)/python -m pytest -q tests/unit

bench: .venv/.ready engine models ## the proxy against nginx, vllm-router, LiteLLM; starts, stops, crashes (20 minutes; needs gcc and two cores)
	@$(BIN)/python -m tests.bench --report docs/performance.md
	@$(BIN)/python -m tests.bench.lifecycle --report docs/performance.md

faults: .venv/.ready-for-tests ## everything that can die dies, on real processes (about an hour; all rows need root and gcc)
	@$(BIN)/python -m tests.faults --report docs/reliability.md

scale: .venv/.ready-for-tests ## what the control plane costs with 10, 100 and 1,000 nodes (about eight minutes; needs two cores)
	@$(BIN)/python -m tests.scale --report docs/scaling.md

fmt: .venv/.ready-for-tests ## format the code
	@ruff format --quiet . && ruff check --quiet --fix --select I .

setup: .venv/.ready engine models ## only install: both environments and the demo models

# Whoever has a vLLM already needs no engine environment of ours to run the fleet ...
engine: .venv/.ready $(if $(strip $(OWN_VLLM)),,engine-environment)

engine-environment: .venv/.ready
	@$(BIN)/python -m workers.provision engine

# ... only to make the demo models, with its transformers.
models: engine-environment
	@$(BIN)/python -m workers.provision model SmolLM2-135M-Instruct all-MiniLM-L6-v2

clean: ## remove what was installed and all state; models and engine environments too
	rm -rf .venv .engines .models .run .bench .faults

.venv/.ready: requirements.txt configs/constraints.txt web/relay/pump.c
	@$(PYTHON) -m workers.provision venv .venv
	@echo 'fleet environment: installing requirements.txt (about half a minute)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m web.relay.compiled
	@touch $@

.venv/.ready-for-tests: .venv/.ready tests/requirements.txt
	@echo 'fleet environment: installing tests/requirements.txt'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@
