# Every target sets up .venv by itself; a second call finds it ready.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV      = $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
INPUTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

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

bench: $(VENV)/.dev ## Run the side-by-side measurements but those that take an hour or a run of yours
	for script in $(filter-out $(patsubst %,benchmarks/%.py,ablation finetune decoder),$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

clean: ## Remove the environment and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
