# Every target sets up .venv by itself; a second call finds it ready.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV      = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt
INPUTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint dist bench clean

help: ## Show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

$(VENV)/.light: $(BIN)/uv $(INPUTS)
	$(UV) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.light
	$(UV) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.light ## Predict prompts for sample pictures, then run the whole pipeline on sketches
	$(UV) 'scikit-image>=0.25'
	$(BIN)/python examples/first_prediction.py
	$(UV) --editable '.[train]'
	$(BIN)/python examples/pipeline.py

test: $(VENV)/.dev ## Run the tests with coverage
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --cov --cov-report=term $(ARGS)

lint: $(VENV)/.dev ## Check style, types and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

dist: $(VENV)/.dev ## Build the sdist, a wheel from it, and collect the sdist's tests in a folder of its own
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist
	folder=$$(mktemp -d) && tar -xzf dist/*.tar.gz -C $$folder --strip-components 1 && cd $$folder \
		&& PYTHONPATH=src $(CURDIR)/$(BIN)/python -m pytest --collect-only -qq && rm -rf $$folder

bench: $(VENV)/.dev ## Run every side-by-side measurement (decoder.py needs a trained decoder: run it yourself)
	for script in $(filter-out benchmarks/decoder.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

clean: ## Remove the environment and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
