# make install | demo | demo-full | test | test-slow | test-nightly | lint | bench | reference | clean
# Needs Python 3.11 or newer; everything else goes into .venv.
# `test-nightly` has what would make `.ci/run` take over 40 minutes. One of its tests loses machines of
# a cluster in network namespaces, needs root on Linux for it, and skips itself without.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install demo demo-full test test-slow test-nightly lint bench reference clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "raythief needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

demo: install
	$(BIN)/raythief demo

demo-full: install
	$(BIN)/raythief demo --full

# Two files at a time: half of a test is waiting for Ray. Those with a Ray come first, so that none is
# left alone at the end.
test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: install
	$(BIN)/python -m pytest -m slow

test-nightly: install
	$(BIN)/python -m pytest -m nightly

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@set -e; for benchmark in generation labeling scaling training; do \
		$(BIN)/python benchmarks/$$benchmark.py; done

reference: install
	$(BIN)/raythief reference > jobs/REFERENCE.md

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache artifacts build *.egg-info
