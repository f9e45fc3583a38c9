PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint benchmark clean

demo: .venv/installed
	$(BIN)/python -m pipelines.traffic

# In two processes, each with services of its own: one computes while the other waits for a cluster.
test: .venv/installed lint
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy pipelines transforms schemas runners tests

benchmark: .venv/installed
	$(BIN)/python -m tests.benchmarks.batch

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install -qq --editable '.[test]'
	touch $@

clean:
	rm -rf .venv out sample build *.egg-info
