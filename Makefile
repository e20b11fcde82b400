# make demo     a small family of models of known history, from files to findings
# make test     everything that CI runs
# make docs     the documentation as a site, in site/ (its links are checked by `make check`)
# make wheel    the whole test suite on the built wheel, without the checkout
# make matrix   the same on every installed Python from 3.11 to 3.14, and on the lowest versions
# make bench    benchmarks against the limits of the machine (writes 26 GB and removes them)
# make lock     renew requirements.lock (UPGRADE=--upgrade for newer versions)
# make audit    ask the package index for known vulnerabilities of the locked libraries
# make sbom     all installed packages with versions and licences, as CycloneDX, in dist/sbom.json

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
JOBS   ?= 2
# Tools that are not needed to work on megasim, in a separate environment.
TOOLS  := cyclonedx-bom==7.5.0 pip-audit==2.10.1 uv==0.13.9

.PHONY: help demo test lint types layers check docs wheel matrix bench bench-quick reliability lock audit \
	sbom clean

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

# Everything that is locked, with hashes; torch (see requirements-torch.lock); megasim itself.
$(VENV)/.installed: pyproject.toml requirements.lock requirements-torch.lock
	@$(PYTHON) -c 'import sys; sys.exit("megasim needs Python 3.11 or newer; name one with PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --require-hashes --no-deps -r requirements.lock
	$(PIP) install --quiet -r requirements-torch.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	$(PIP) check
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

# A short form of `python -m benchmarks.reliability`, whose figures are in docs/reliability.md.
reliability: $(VENV)/.installed
	$(BIN)/python -m benchmarks.reliability --short

test: lint types layers check bench-quick reliability

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

wheel: $(VENV)/.installed
	$(BIN)/python -m tests.packaging.suite wheel -n $(JOBS)

matrix: $(VENV)/.installed
	$(BIN)/python -m tests.packaging.suite matrix -n $(JOBS)

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

$(VENV)/tools/.installed: Makefile
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/python -m pip --disable-pip-version-check install --quiet $(TOOLS)
	@touch $@

lock: $(VENV)/tools/.installed
	$(VENV)/tools/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras \
		--generate-hashes --no-emit-package torch --custom-compile-command 'make lock' $(UPGRADE) \
		pyproject.toml -o requirements.lock

# --strict: a library that cannot be looked up is a failure, not a clean bill of health.
audit: $(VENV)/tools/.installed
	@$(VENV)/tools/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock \
		2> $(VENV)/audit.log; status=$$?; cat $(VENV)/audit.log >&2; \
	! grep -q 'could not be audited' $(VENV)/audit.log || \
		echo 'Not audited: this package index has no data on known vulnerabilities, as many mirrors' \
			'do not. Run `make audit` where the main index can be reached.' >&2; \
	exit $$status

sbom: $(VENV)/.installed $(VENV)/tools/.installed
	@mkdir -p dist
	$(VENV)/tools/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
		--of JSON -o dist/sbom.json $(BIN)/python

clean:
	rm -rf $(VENV) demo site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
