# What one does here; `make` lists it. Everything lives in .venv, made when it is needed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# pytest-xdist: four processes, since most tests wait for something, each with a Redis of its own; a file's tests stay
# together, and the longest files begin first (tests/conftest.py). What fails is tried once more, and named as a rerun: on
# two cores that others use too, a deadline may pass.
TESTS  ?= -n 4 --dist loadfile --no-loadscope-reorder --reruns 1 -raR --tb native

.DEFAULT_GOAL := help
.PHONY: help setup run test check bench faults guards format browser typescript clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Three stamps: what `make run` needs is installed in seconds, the tools of the tests and the peers of the bench only
# when they are wanted. All are made again when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	@.ci/venv $(VENV) $(PYTHON) .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@.ci/venv $(VENV) $(PYTHON) '.[test]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	@.ci/venv $(VENV) $(PYTHON) '.[bench]'
	@touch $@

setup: $(VENV)/.installed ## make .venv with what dragon needs to run

run: setup ## Redis, server and worker on this machine (HOST, PORT, DRAGON_DATA); Ctrl-C ends all
	@$(BIN)/dragon up

test: check browser typescript ## format, lint, types and all tests
	$(BIN)/python -m pytest $(TESTS)

check: $(VENV)/.installed-test ## format, lint and types only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-test ## write the code as `make check` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-bench ## dragon beside its peers and yardsticks (ONLY=worker: one part)
	$(BIN)/python -m bench $(ONLY)

faults: $(VENV)/.installed-test browser ## the faults and attacks of docs/guarantees.md in full (ONLY=expression: some)
	@rm -f var/figures.jsonl && mkdir -p var
	FAULTS_FULL=1 FAULTS_FIGURES=var/figures.jsonl $(BIN)/python -m pytest tests/faults tests/attack -o timeout=1800 $(if $(ONLY),-k '$(ONLY)')
	$(BIN)/python -m tests.figures var/figures.jsonl docs/guarantees.md

guards: $(VENV)/.installed-test ## take out each guard in a copy and see its test fail (tests/guards.py)
	$(BIN)/python -m tests.guards

browser: ## install Chromium for the browser tests, if it is missing and that is possible
	@.ci/browser

typescript: setup ## install the TypeScript compiler for a test of the client's types, if there is npm
	@.ci/typescript $(VENV)

clean: ## remove .venv and all caches; the data in var/ stays
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
