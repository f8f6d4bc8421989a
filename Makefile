# make demo | test | check | bench | ci. Needs Python 3.11 or later with pip, git and make; all else it gets itself.

# Tests at a time: most of them wait for brokers and browsers.
JOBS ?= 3
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# mypy's Django plugin loads the settings: their data folder must not be the user's.
export UMBEL_DATA := $(CURDIR)/.umbel
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tests start hundreds of processes: without it each would compile all of Umbel anew.
unexport PYTHONDONTWRITEBYTECODE
MAKEFLAGS += --no-print-directory

.PHONY: help demo test check bench ci ready-demo ready-test ready-bench soak clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     a shop with real workers and Umbel on http://127.0.0.1:8000 (PORT=9000 RATE=20 ARGS=…)"
	@echo "make test     the tests, with real brokers, workers and browser (ARGS='tests/test_cli.py -x', JOBS=4)"
	@echo "make check    format, lint, types, who may import whom"
	@echo "make bench    Umbel, Flower and the raw limit side by side (QUICK=1 ONLY=ingest,memory,pages,push,fanout,start)"
	@echo "make soak     the tests of faults for longer (UMBEL_SOAK=1)"
	@echo "make ci       check and test; a skipped test is a failure"
	@echo "make clean    removes .venv, caches and built files"

# One plain command, so that make starts it itself, without a shell between them.
demo: ready-demo
	@$(BIN)/umbel demo --data .umbel $(if $(PORT),--port $(PORT)) $(if $(RATE),--rate $(RATE)) $(if $(SEED),--seed $(SEED)) $(ARGS)

# JOBS at a time, in processes of their own; what is named in ARGS runs one after the other.
test: ready-test
	@$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n $(JOBS))

check: ready-test
	@$(BIN)/ruff format --check --quiet . || { echo "Format: ruff format ."; exit 1; }
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

# With Flower 2.2 in an environment of its own; about half an hour; QUICK=1 takes smaller sizes.
bench: ready-bench
	@$(BIN)/python -m bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(SEED),--seed $(SEED)) $(ARGS)

# The faults again, for longer: fifty kills in place of three.
soak: export UMBEL_SOAK := 1
soak: ready-test
	@$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),$(wildcard tests/test_crash.py tests/test_faults*.py tests/test_losses*.py tests/test_scaling_live.py))

ci: export UMBEL_CI := 1
ci: check test

ready-demo ready-test ready-bench:
	@$(if $(PYTHON),,$(error No Python 3.11 or later was found: install one, or say make PYTHON=/path/to/python3))
	@$(PYTHON) .ci/setup.py $(@:ready-%=%)

clean:
	@rm -rf .venv .umbel static/vendor .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build
