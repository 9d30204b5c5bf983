# `make demo` and `make test` work on a machine with only Python 3.11, pip, make and gcc.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
TESTS :=
MINUTES := 20
SEED := 0

.PHONY: demo test test-lowest coverage soak mutation docs lint clean

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[offline,dev]"
	touch $@

demo: $(VENV)/ready  ## the whole thing on a small generated world: train, evaluate, predict, report
	$(BIN)/manyseg demo --out demo

test: lint  ## everything that must hold
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-lowest: $(LOWEST)/ready  ## all tests with the lowest versions of the dependencies that pyproject promises
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 -W ignore::DeprecationWarning -W ignore::FutureWarning -W ignore::UserWarning $(TESTS)

$(LOWEST)/ready: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python tests/lowest_versions.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/lowest.txt -e ".[offline,dev]"
	touch $@

coverage: $(VENV)/ready  ## all tests, and the lines that they do not execute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov=manyseg --cov-report=term:skip-covered --cov-report=html:coverage

soak: $(VENV)/ready  ## runs killed anywhere and inputs damaged in any way, for MINUTES; ends with a report
	$(BIN)/python tools/soak.py --seed $(SEED) --minutes $(MINUTES)

mutation: $(VENV)/ready  ## how many single changes of the code the tests notice
	$(BIN)/python tools/mutation.py --seed $(SEED) --count 80

docs: $(VENV)/docs  ## the documentation as a site, with the API reference, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	touch $@

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(LOWEST) demo site coverage .coverage build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
