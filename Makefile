# Everything runs in .venv, which the first target that needs it makes: Python >= 3.10 and make are all it takes.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup test demo format check types clean

help:
	@echo "make setup    .venv with this package and its development tools"
	@echo "make test     the tests"
	@echo "make demo     the paper's claim in about five minutes, offline"
	@echo "make format   rewrite the code in the house format"
	@echo "make check    lint, without changing anything"
	@echo "make types    static types"
	@echo "make clean    remove build output and caches (not .venv, not runs)"

# A half-made environment would be taken for a whole one the next time.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python >= 3.10 is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# A stamp is older than pyproject.toml when the dependencies may have changed.
.venv/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing into .venv; the first time takes minutes, torch is large ..."
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

.venv/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing into .venv; the first time takes minutes, torch is large ..."
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ .venv/.installed

setup: .venv/.installed-dev

# Two processes, one thread each; the tests of a file share what they prepare.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

demo: .venv/.installed
	$(BIN)/seed-hub demo

format: setup
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format .

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find seed_hub tests training eval -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
