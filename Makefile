# Two commands do everything on a fresh machine with Python 3.11 and a package index:
#   make demo    draw images, tune, export, serve and ask, without any download but the packages
#   make test    all tests
PYTHON ?= python3
GPU_PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-all gpu lint format protos constraints clean

demo: $(INSTALLED)
	$(BIN)/unfreeze demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not exhaustive"

test-all: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# On a machine with an NVIDIA GPU: the tests that need one and what it does, in eight minutes, with the packages that
# GPU_PYTHON has; what is missing is left out and named in the end. See docs/gpu.md.
gpu:
	$(GPU_PYTHON) -m bench.gpu --tests --seconds 460

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m unfreeze.protos.generate --check

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

protos: $(INSTALLED)
	$(BIN)/python -m unfreeze.protos.generate

# Takes what is installed now; install without the constraints first to take what is newest.
constraints:
	sed -n '/^#/p' constraints.txt > .constraints.new
	$(BIN)/pip freeze --exclude-editable >> .constraints.new
	mv .constraints.new constraints.txt

clean:
	rm -rf .venv demo bench/out

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[tune,cpu,dev]'
	touch $@
