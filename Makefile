# Every target works on a fresh machine: Python 3.11 or newer and a package index are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check format bench clean

DEMO := runs/brats_swinunetr_demo

demo: $(VENV)/.installed
	$(BIN)/medseg train recipes/brats_swinunetr.yaml --demo
	$(BIN)/medseg predict $(DEMO)/fold_0/bundle $(DEMO)/unseen -o $(DEMO)/predictions --overwrite
	$(BIN)/medseg evaluate $(DEMO)/predictions $(DEMO)/unseen --card brats_2021 -o $(DEMO)/report

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

test-all: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m ""

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python -m medseg.recipe.schema --check

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-test
	for file in kernels/benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) runs build dist

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $@
