# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv first; nothing outside this folder is needed
# but Python 3.11 or newer and the package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-serve test test-slow compiled lint setup clean lock

setup: $(VENV)/ready

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jouleflow needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/jouleflow demo

demo-serve: setup
	$(BIN)/jouleflow demo-serve

test: setup
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

compiled: setup  # a copy in build/compiled whose server is compiled: PYTHONPATH=build/compiled
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/compiled .

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --recursive --severity-level medium src

lock:
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --extra dev --extra serve --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras \
	  --allow-unsafe -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) jouleflow-out build
