# Two commands do everything: `make book` and `make test`. `make help` lists the rest.

PYTHON ?= python3
PRESET ?= laptop
JOBS   ?= 2
MINUTES ?= 8
SECONDS ?= 540
INTO    ?= _build/visit

VENV  := .venv
BIN   := $(CURDIR)/$(VENV)/bin
BUILD := $(CURDIR)/_build
READY := $(VENV)/.ready

# These run for minutes and must not see each other's records of claims.
book notebooks readme: export LAZYLIB_LEDGER = $(BUILD)/ledger
test unit:      export LAZYLIB_LEDGER = $(BUILD)/test-ledger
# What is not there is skipped, with a reason, and not loaded in passing.
test unit:      export LAZYLIB_OFFLINE = 1
# One thread a process, because $(JOBS) of them run side by side.
test unit:      export OMP_NUM_THREADS = 1
# Sweeps in $(JOBS) processes with one thread each: one process with as many threads does less.
book notebooks paper verify: export LAZYLIB_JOBS ?= $(JOBS)
gpu: export LAZYLIB_JOBS ?= $(if $(filter cpu,$(PRESET)),$(JOBS),1)

# The published scale of these is for a GPU: `make gpu`.
ALL := $(basename $(notdir $(wildcard chapters/*.ipynb)))
GPU := $(filter 07_% 10_% 11_% 12_%,$(ALL))
PAPER = $(or $(CHAPTERS),$(filter-out $(GPU),$(ALL)))

.PHONY: help lock data book pdf verify test unit lint bench paper gpu visit notebooks readme clean
.DEFAULT_GOAL := help

help:
	@echo "make book       execute every chapter and build the HTML; says where index.html is; resumes when run again"
	@echo "make pdf        the pages that make book has built, as one PDF; needs chromium"
	@echo "make verify     sets up a new environment from the lock, runs the book in it and compares the ledger: _build/verify"
	@echo "make test       all tests: lazylib, chapters, book"
	@echo "make unit       the tests of lazylib and of the tools alone"
	@echo "make lint       ruff over code and chapters, and a check of the types of lazylib"
	@echo "make data       load CIFAR-10 and Fashion-MNIST where they are missing; say where they are"
	@echo "make bench      compare with plain loops; prints a table"
	@echo "make paper      chapters 1 to 6, 8 and 9 at the published scale; records go to results/ledger; resumes when run again"
	@echo "make gpu        the others at the published scale on a GPU, in pieces of MINUTES=$(MINUTES); resumes when run again"
	@echo "make visit      what a GPU can do in SECONDS=$(SECONDS), in order of worth, into INTO; goes on when run again; no set-up"
	@echo "make notebooks  for authors: execute the chapters in place (CHAPTERS='03_tau_plateau' for some)"
	@echo "make readme     for authors: put the last measurements into README.md, and CITATION.cff into .zenodo.json"
	@echo "make lock       for authors: bring requirements.lock up to requirements.txt; delete it first to renew all of it"
	@echo "make clean      remove everything that was built, but not .venv, results and the runs of make gpu and make paper"
	@echo "Variables: PYTHON=$(PYTHON)  PRESET=$(PRESET) (smoke, laptop, paper)  JOBS=$(JOBS)  CHAPTERS=$(CHAPTERS)"

# The lock leaves torch and torchvision to requirements.txt: those that are there stay, whatever their build.
$(READY): requirements.txt requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`:" \
	         "name another one, as in 'make book PYTHON=python3.12'" >&2; exit 1; }
	@echo "Setting up $(VENV) with the packages of requirements.lock; the first time takes minutes"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --no-build-isolation --requirement requirements.txt --editable .
	@$(VENV)/bin/python -m pip check
	@touch $@

# One version of a package for every Python where there is one. Which build of torch is right, and so what it
# brings for CUDA, depends on the machine: neither is in the lock.
UV   := 0.13.9
CUDA := cuda-bindings cuda-toolkit triton \
        nvidia-cudnn-cu13 nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvshmem-cu13

lock:
	$(PYTHON) -m venv --clear $(BUILD)/uv
	$(BUILD)/uv/bin/python -m pip install --quiet uv==$(UV)
	printf '%s\n' $(CUDA) | $(BUILD)/uv/bin/uv pip compile requirements.txt --output-file requirements.lock \
	  --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes --no-emit-index-url \
	  --excludes - --no-emit-package torch --no-emit-package torchvision --custom-compile-command 'make lock'

book: $(READY)
	$(BIN)/python -m tools.book --preset $(PRESET) $(CHAPTERS)

pdf: $(READY)
	$(BIN)/python -m tools.pdf

# Everything anew and in a place of its own: packages, records, executed notebooks.
FRESH := _build/verify

verify:
	test ! -d $(FRESH)/bundle || mv $(FRESH)/bundle $(FRESH)-`date -r $(FRESH)/bundle +%Y%m%d-%H%M%S`
	rm -rf $(FRESH)
	$(MAKE) VENV=$(FRESH)/venv $(FRESH)/venv/.ready
	$(FRESH)/venv/bin/python -m tools.verify --into $(FRESH)/bundle $(CHAPTERS)

# The files in this order end with many short ones, so that no worker waits long for the other.
test: $(READY)
	$(BIN)/python -m tools.ready test
	rm -rf $(BUILD)/test-ledger
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=300 --durations-min=3 \
	  --nbval-lax --nbval-current-env chapters tests

unit: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile tests \
	  --ignore tests/test_chapters.py --ignore tests/test_book.py --ignore-glob 'tests/test_planted_*.py'

CODE := lazylib tools tests benchmarks conftest.py

lint: $(READY)
	$(BIN)/python -m ruff check $(CODE) chapters
	$(BIN)/python -m ruff format --check $(CODE)
	$(BIN)/python -m mypy

data: $(READY)
	$(BIN)/python -m tools.data

bench: $(READY)
	$(BIN)/python -m tools.bench --into $(BUILD)/bench.md

paper: export LAZYLIB_STORE ?= $(BUILD)/paper/cells
paper: $(READY)
	$(BIN)/python -m tools.execute --into $(BUILD)/paper --preset paper $(PAPER)

# PRESET=cpu makes the larger run on a processor that a page shows; PIECES=1 stops after one piece.
gpu: $(READY)
	for chapter in $(or $(CHAPTERS),$(GPU)); do \
	  $(BIN)/python -m tools.pieces $$chapter --into $(BUILD)/gpu --minutes $(MINUTES) \
	    --preset $(if $(filter laptop,$(PRESET)),paper,$(PRESET)) $(if $(PIECES),--pieces $(PIECES)) || exit $$?; \
	done

# The machine that it is for is there for minutes and has torch, and no network to set anything up from.
visit:
	$(PYTHON) -m tools.visit --seconds $(SECONDS) --into $(INTO)

notebooks: $(READY)
	$(BIN)/python -m tools.execute --in-place $(CHAPTERS)

readme: $(READY)
	$(BIN)/python -m tools.readme
	$(BIN)/python -m tools.crate

# _build/gpu, paper and visit hold hours of paused runs, verify* bundles that a codechecker completes.
clean:
	test ! -d $(BUILD) || find $(BUILD) -mindepth 1 -maxdepth 1 ! -name gpu ! -name paper ! -name visit ! -name 'verify*' -exec rm -rf {} +
	rm -rf $(FRESH)/venv
	rm -rf build dist *.egg-info .pytest_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	test ! -d chapters || find chapters -name '*.failed.ipynb' -delete
