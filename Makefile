# Both main targets prepare .venv by themselves and are quick once it is there.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Python for .venv: the first of these that is 3.11 or 3.12 and can make virtual environments.
PYTHON ?= python3 python3.12 python3.11
# Processes that run the tests.
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
TYPED := build/typed/dicenas

.PHONY: help search test test-all lint typecheck format install wheel clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

search: $(INSTALLED) ## run the search of configs/quickstart.yaml; a second run continues or adds nothing
	$(BIN)/dicenas search configs/quickstart.yaml

test: lint ## check style and types, run the tests
	$(BIN)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-all: lint ## the same with the full sweeps
	$(BIN)/python -m pytest -n $(WORKERS) -m "" --hypothesis-profile=thorough $(PYTEST_ARGS)

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(MAKE) --no-print-directory typecheck

# mypy does not know of setup.py's folder mapping, so it is shown the package as it installs.
typecheck: $(INSTALLED) ## check types
	@rm -rf build/typed && mkdir -p $(TYPED)
	@ln -s $(CURDIR)/dicenas/* $(wildcard $(CURDIR)/search_spaces $(CURDIR)/strategies) $(TYPED)
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p dicenas

format: $(INSTALLED) ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

install: $(INSTALLED) ## prepare .venv only

# The stamp is written last: an interrupted installation is taken up again by the next make.
$(INSTALLED): setup.py pyproject.toml constraints.txt $(wildcard csrc/*) dicenas/ops/kernels/build.py
	@rm -f $@
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    for python in $(PYTHON); do \
	        if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in {(3, 11), (3, 12)})' 2>/dev/null; \
	        then echo "creating .venv with $$python"; exec $$python -m venv --clear .venv; fi; \
	    done; \
	    echo "No Python 3.11 or 3.12 with the venv module among: $(PYTHON)." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	    exit 1; \
	fi
	@echo "installing into .venv; the first time takes some minutes, most of them for torch"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	@$(BIN)/python -m pip install --constraint constraints.txt --no-build-isolation --editable '.[all,dev]' \
	    | grep --invert-match '^Requirement already satisfied'
	@touch $@

# What an earlier build left in build/ would be packed too.
wheel: $(INSTALLED) ## build dist/dicenas-*.whl with the kernels of CPU and GPU inside; DICENAS_BUILD=cpu: without nvcc
	@rm -rf build/lib* build/bdist*
	DICENAS_BUILD=$${DICENAS_BUILD:-cuda} $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

clean: ## remove build products and caches
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## the same and .venv
	rm -rf .venv
