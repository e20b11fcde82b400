# make demo   a small family of models of known history, from files to findings
# make test   everything that CI runs
# make bench  benchmarks against the limits of the machine (writes about 26 GB, removes them)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
JOBS   ?= 2

.PHONY: help demo test lint types layers check bench bench-quick lock clean

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("megasim needs Python 3.11 or newer; name one with PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/megasim demo -o demo

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

layers: $(VENV)/.installed
	$(BIN)/lint-imports

check: $(VENV)/.installed
	$(BIN)/pytest -n $(JOBS)

bench-quick: $(VENV)/.installed
	$(BIN)/python -m benchmarks --quick

test: lint types layers check bench-quick

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

lock: $(VENV)/.installed
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
