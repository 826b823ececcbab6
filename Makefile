# Every target does its own set-up on a machine with Python >= 3.11, pip and make.
# PYTHON=... takes another interpreter: make test PYTHON=python3.13
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(PYTHON) -m pip --quiet --quiet --disable-pip-version-check --python $(BIN)/python
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test soak check lint format bench build lock clean

help:
	@echo "make demo    a sandbox, a daemon and four jobs for half a minute"
	@echo "make check   format, lint, types, import contracts, quick tests"
	@echo "make test    the same with every test"
	@echo "make soak    new examples, a million simulated nights and 200 kills, for hours; make test has 10 000 and 20"
	@echo "make bench   the figures of bench/README.md, measured here"
	@echo "make build   wheel and sdist into dist/"
	@echo "make format  mend what ruff can mend"
	@echo "make lock    new requirements/*.txt from pyproject.toml"
	@echo "make clean   remove all that make made"

# The machine's pip fills the venv, so that Debian's python3 without python3-venv will do.
$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("erpsync needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv --without-pip $(VENV)
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)
	@$(BIN)/erpsync demo

lint: $(READY)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@report=$$($(BIN)/lint-imports --no-cache --no-logo) || { echo "$$report"; exit 1; }

check: lint
	@$(PYTEST) -m "not slow and not node and not browser"

test: $(READY)
	@$(PYTEST)
	@$(MAKE) --no-print-directory lint

soak: $(READY)
	@EXPLORE=1 $(PYTEST) $$(grep -rl "import.* given" tests)
	@NIGHTS=1000000 KILLS=200 $(PYTEST) tests/simulation tests/acceptance/test_killing.py

bench: $(READY)
	@$(BIN)/python bench/run.py

format: $(READY)
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

build: $(READY)
	@rm -rf dist
	@$(BIN)/hatchling build

# uv resolves for every platform at once; only a maintainer needs it. Where it asks is the machine's own
# configuration and must not get into the files.
lock: LOCK = UV_SYSTEM_CERTS=1 build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command "make lock"
lock:
	@$(PYTHON) -m venv --without-pip build/uv
	@$(PYTHON) -m pip --quiet --quiet --disable-pip-version-check --python build/uv/bin/python install uv
	@$(LOCK) --output-file requirements/run.txt pyproject.toml
	@$(LOCK) --output-file requirements/dev.txt --group dev pyproject.toml
	@echo hatchling | $(LOCK) --output-file requirements/build.txt --constraint requirements/dev.txt -
	@! grep -nE '://|^ *--(extra-)?index|^ *--find-links' requirements/*.txt

clean:
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache
