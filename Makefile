# Python 3.11 or newer and a package index are needed. Packages are installed into .venv, except for `make gpu`.
PYTHON ?= python3
GPU_PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
NODE := tests
# One OpenMP thread in each of the two processes: more would compete for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

.PHONY: help demo test test-all gpu lint format docs protos constraints clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(INSTALLED) ## handwritten digits, from files to a gRPC answer; no download other than the packages
	$(BIN)/unfreeze demo

test: $(INSTALLED) $(NODE)/node_modules ## all tests except the exhaustive ones
	$(PYTEST) -m "not exhaustive"

test-all: $(INSTALLED) $(NODE)/node_modules ## all tests, also with the experiment trackers, which it installs
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[mlflow,wandb]'
	$(PYTEST)

gpu: ## on a machine with an NVIDIA GPU: the tests that need one, then the benchmark (docs/gpu.md)
	$(GPU_PYTHON) -m bench.gpu --tests --seconds 460

lint: $(INSTALLED) ## all checks of CI except the tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m unfreeze.protos.generate --check
	$(BIN)/python -m bench.commands --check
	$(BIN)/zensical build --strict

format: $(INSTALLED) ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(INSTALLED) ## build the documentation site into site/
	$(BIN)/python -m bench.commands
	$(BIN)/zensical build --strict

protos: $(INSTALLED) ## generate the Python code of the .proto files
	$(BIN)/python -m unfreeze.protos.generate

# To upgrade, first install without the constraints.
constraints: $(INSTALLED) ## pin the versions that are installed now
	sed -n '/^#/p' constraints.txt > .constraints.new
	$(BIN)/pip freeze --exclude-editable >> .constraints.new
	mv .constraints.new constraints.txt

clean: ## remove everything that these targets created
	rm -rf .venv demo site bench/out $(NODE)/node_modules

# For tests that are skipped where there is no npm: of a Node.js client, and of the accessibility of pages.
$(NODE)/node_modules: $(NODE)/package.json
	! command -v npm >/dev/null || npm install --silent --no-audit --no-fund --no-package-lock --prefix $(NODE)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[tune,cpu,dev,docs]'
	touch $@
