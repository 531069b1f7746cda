# Two commands on a fresh machine: `make demo` and `make test`. Both make their own environment in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What computes with numbers, for other instruction sets, seeds and numbers of threads; without what is the same there.
NUMERIC := tests/schemes tests/architectures tests/lightning_modules/training/test_adaptive_training.py \
	tests/lightning_modules/training/test_training_options.py tests/lightning_modules/evaluation/test_spectrum.py \
	-k "not two_processes and not compile and not timm and not published and not memory"
OLDEST := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE
AVX2 := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2

.PHONY: help demo test test-all test-slurm lint bench docs clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'

# The environment is made anew when the dependencies change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"schemenet needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}; name another by make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --upgrade pip
	@echo "installing (PyTorch is large: some minutes on a slow line)"
	"$(BIN)/python" -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch "$@"

$(VENV)/.docs: $(VENV)/.installed
	"$(BIN)/python" -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	@touch "$@"

demo: $(VENV)/.installed  ## train and compare all families on 8x8 digits, some minutes on two cores
	"$(BIN)/python" -m lightning_modules compare experiment=demo

test: $(VENV)/.installed  ## the tests
	"$(BIN)/python" -m pytest -n 2 --dist worksteal -q

test-all: test $(VENV)/.docs  ## also the slow tests, and those of numbers under other instruction sets, seeds and threads
	"$(BIN)/python" -m pytest -n 2 --dist worksteal -q -m slow
	$(OLDEST) SCHEMENET_TEST_SEED=1 "$(BIN)/python" -m pytest -n 2 --dist worksteal -q $(NUMERIC)
	$(AVX2) SCHEMENET_TEST_SEED=2 SCHEMENET_TEST_THREADS=2 "$(BIN)/python" -m pytest -n 2 --dist worksteal -q $(NUMERIC)

test-slurm: $(VENV)/.installed  ## the tests that begin a real Slurm on this machine, some minutes
	"$(BIN)/python" -m pytest -m slurm -q -rs tests/lightning_modules/launching/test_real_slurm.py

lint: $(VENV)/.installed  ## ruff and pyright
	"$(BIN)/python" -m ruff check . && "$(BIN)/python" -m ruff format --check . && "$(BIN)/python" -m pyright --pythonpath "$(BIN)/python"

bench: $(VENV)/.installed  ## the benchmarks, as ratios within one process
	for script in benchmarks/[!_]*.py; do "$(BIN)/python" "$$script"; done

docs: $(VENV)/.docs  ## this documentation as a site, to be opened at site/index.html
	"$(BIN)/python" docs/scheme_tables.py
	NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build --quiet
	@echo "site/index.html"

clean:  ## remove the environment and caches (runs/ stays)
	rm -rf "$(VENV)" site .pytest_cache .ruff_cache
