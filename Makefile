# Two commands do everything: `make book` and `make test`. `make help` lists the rest.

PYTHON ?= python3
PRESET ?= laptop
JOBS   ?= 2
MINUTES ?= 8

VENV  := .venv
BIN   := $(CURDIR)/$(VENV)/bin
BUILD := $(CURDIR)/_build
READY := $(VENV)/.ready

# These run for minutes and must not see each other's records of claims.
book notebooks readme: export LAZYLIB_LEDGER = $(BUILD)/ledger
test unit:      export LAZYLIB_LEDGER = $(BUILD)/test-ledger
# One thread a process, because $(JOBS) of them run side by side.
test unit:      export OMP_NUM_THREADS = 1
# Sweeps in $(JOBS) processes with one thread each: one process with as many threads does less.
book notebooks paper: export LAZYLIB_JOBS ?= $(JOBS)
gpu: export LAZYLIB_JOBS ?= $(if $(filter cpu,$(PRESET)),$(JOBS),1)

# The published scale of these is for a GPU: `make gpu`.
ALL := $(basename $(notdir $(wildcard chapters/*.ipynb)))
GPU := $(filter 07_% 10_% 11_% 12_%,$(ALL))
PAPER = $(or $(CHAPTERS),$(filter-out $(GPU),$(ALL)))

.PHONY: help book test unit bench paper gpu notebooks readme clean
.DEFAULT_GOAL := help

help:
	@echo "make book       execute every chapter and build the HTML; says where index.html is"
	@echo "make test       all tests: lazylib, chapters, book"
	@echo "make unit       the tests of lazylib and of the tools alone"
	@echo "make bench      compare with plain loops; prints a table"
	@echo "make paper      chapters 1 to 6, 8 and 9 at the published scale; records go to results/ledger"
	@echo "make gpu        the others at the published scale on a GPU, in pieces of MINUTES=$(MINUTES); resumes when run again"
	@echo "make notebooks  for authors: execute the chapters in place (CHAPTERS='03_tau_plateau' for some)"
	@echo "make readme     for authors: put the last measurements into README.md"
	@echo "make clean      remove everything that was built, but not .venv and results"
	@echo "Variables: PYTHON=$(PYTHON)  PRESET=$(PRESET) (smoke, laptop, paper)  JOBS=$(JOBS)  CHAPTERS=$(CHAPTERS)"

# torch stands in the same file as all that needs it, so that no other version of it comes in on the way.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`:" \
	         "name another one, as in 'make book PYTHON=python3.12'" >&2; exit 1; }
	@echo "Setting up $(VENV) with the packages of requirements.txt; the first time takes minutes"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --requirement requirements.txt --editable .
	@touch $@

book: $(READY)
	$(BIN)/python -m tools.execute --into $(BUILD)/executed --preset $(PRESET) $(CHAPTERS)
	$(BIN)/python -m tools.build --notebooks $(BUILD)/executed --out $(BUILD)

test: $(READY)
	rm -rf $(BUILD)/test-ledger
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --nbval-lax --nbval-current-env chapters tests

unit: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile tests \
	  --ignore tests/test_chapters.py --ignore tests/test_book.py --ignore-glob 'tests/test_planted_*.py'

bench: $(READY)
	$(BIN)/python -m tools.bench --into $(BUILD)/bench.md

paper: $(READY)
	$(BIN)/python -m tools.execute --into $(BUILD)/paper --preset paper $(PAPER)

# PRESET=cpu makes the larger run on a processor that a page shows; PIECES=1 stops after one piece.
gpu: $(READY)
	for chapter in $(or $(CHAPTERS),$(GPU)); do \
	  $(BIN)/python -m tools.pieces $$chapter --into $(BUILD)/gpu --minutes $(MINUTES) \
	    --preset $(if $(filter laptop,$(PRESET)),paper,$(PRESET)) $(if $(PIECES),--pieces $(PIECES)) || exit $$?; \
	done

notebooks: $(READY)
	$(BIN)/python -m tools.execute --in-place $(CHAPTERS)

readme: $(READY)
	$(BIN)/python -m tools.readme

clean:
	rm -rf $(BUILD) build dist *.egg-info .pytest_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	find chapters -name '*.failed.ipynb' -delete
