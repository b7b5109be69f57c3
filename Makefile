# Every target sets up what it needs the first time; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One thread a process: two tests side by side would fight over the cores otherwise.
export OMP_NUM_THREADS ?= 1
export PYTHONHASHSEED = 0

.DEFAULT_GOAL := help
.PHONY: help setup book test train chapters figures results lint format clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-12s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make a virtual environment with everything (2 minutes the first time)
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 15) else "Python 3.11 to 3.14 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[book,test]"
	touch $@

book: $(READY) ## render the book; open _build/html/index.html
	$(BIN)/jupyter-book build . -W -n --keep-going

test: lint ## check style and types, then run all tests: tests/ and every notebook of book/
	$(BIN)/pytest -n 2

train: $(READY) ## train the default run into runs/photos (2 minutes, no download)
	OMP_NUM_THREADS=$$(getconf _NPROCESSORS_ONLN) $(BIN)/python -m rrvqlib.train --out runs/photos $(if $(wildcard runs/photos/checkpoint.safetensors),--resume)

chapters: $(READY) ## run the chapters again and store their outputs
	$(BIN)/python tools/run_chapters.py

figures: $(READY) ## draw the diagrams of book/figures again
	$(BIN)/python tools/draw_figures.py
	$(BIN)/python tools/export_tiny_hierarchy.py

results: $(READY) ## make every table and figure of book/results again: the page and its chapters
	$(BIN)/python tools/results_page.py
	$(BIN)/python tools/tables_page.py
	$(BIN)/python tools/recipe_page.py
	$(BIN)/python tools/run_chapters.py $(wildcard $(foreach n,06 07 08 09 10 11 12 13 14,book/$(n)-*.ipynb))

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY) ## fix style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built (not the environment, not runs)
	rm -rf _build .pytest_cache .ruff_cache
