# Two commands a fresh machine needs: `make demo` and `make test`. Each does all of its own set-up.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := prometheus prometheus-alertmanager prometheus-node-exporter victoria-metrics postgresql chromium

.PHONY: demo test lint unit bench servers dev schema pictures clean

demo: $(VENV)/.base  ## the real daemon on four weeks of a small web shop, with no server needed
	$(BIN)/anomalyd demo

test: dev servers  ## everything: lint, types, layers, all tests
	$(MAKE) --no-print-directory lint
	$(BIN)/pytest -q -n 2 --dist loadfile

lint: dev  ## formatting rules, types, layers
	$(BIN)/ruff check daemon tests bench grafana
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

unit: dev  ## the quick tests: no servers
	$(BIN)/pytest -q tests/unit

bench: dev  ## make bench NAME=tick [FULL=1] [DATA=folder] [SCORES=folder]; without NAME: the list
	@FULL="$(FULL)" DATA="$(DATA)" SCORES="$(SCORES)" $(BIN)/python -m bench $(NAME)

servers:  ## real servers for the tests, where we may install them
	@contrib/ci/install-servers $(PACKAGES)

dev: $(VENV)/.dev

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "anomalyd needs Python 3.11 to 3.13; name one: make PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint contrib/ci/constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint contrib/ci/constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base pyproject.toml contrib/ci/constraints.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint contrib/ci/constraints.txt --group dev --editable .
	@# pip, not uv: pip takes a CPU build of torch where the machine offers one.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint contrib/ci/constraints.txt torch==2.13.0
	@touch $@

schema: dev  ## the editors' schemas and the generated parts of the docs
	$(BIN)/anomalyd schema rules > contrib/schema/rules.json
	$(BIN)/anomalyd schema settings > contrib/schema/settings.json
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/detector_pages.py

pictures: dev  ## all pictures of the docs; make pictures [NAME=mad|reports|messages]; minutes, and it fails if one is untrue
	$(BIN)/python docs/pictures.py $(NAME)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
