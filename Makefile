# Every target sets itself up in $(VENV); Python (3.10 or later) and make are all that is needed.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
VLLM_VENV ?= .venv-vllm
AUDIT_VENV ?= .venv-audit
DOCS_VENV ?= .venv-docs
OLDEST_VENV ?= .venv-oldest
OLDEST_PYTHON ?= 3.10
# CPU builds of torch. With OLDEST_FLAGS= uv takes the index's own builds, which may be gigabytes.
OLDEST_FLAGS ?= --torch-backend=cpu
SOAK_MINUTES ?= 30
STAMP  := $(VENV)/.nabla-eval-installed

# .ci/run leaves compiling to the tests' own imports.
PIP_FLAGS ?=

# Test processes, one thread each, on two cores; `make test PYTEST_FLAGS="-k dto"` replaces this.
PYTEST_FLAGS ?= -n 2 --dist loadgroup

# Threads of torch that spin while they wait slow each other down on few cores.
export OMP_WAIT_POLICY := passive
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-browser notebooks picture test-oldest test-vllm lint bench bench-gpu reports sbom audit soak theory docs

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

setup: $(STAMP) ## make the virtual environment, with the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (the first time takes some minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
		-c constraints.txt -e ".[test,lint]"
	@touch $@

demo: $(STAMP) ## compare the methods on the embedded pair and print the tables
	$(BIN)/nabla-eval demo

test: $(STAMP) ## run the tests, slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

test-browser: $(STAMP) ## run the tests that need a browser (Chromium or Chrome)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser

notebooks: $(STAMP) ## run the notebooks of examples/ again, and keep their outputs
	$(BIN)/python tests/support/notebooks.py

picture: $(STAMP) ## take the README's picture again, in a browser
	NABLA_PICTURE=docs/revision.png $(BIN)/python -m pytest tests/browser/test_picture.py

# Pins, so that a floor which something else rules out is an error and not a newer version.
# constraints.txt is about other versions, and so is its test.
test-oldest: $(STAMP) ## run the fast tests with the oldest versions that pyproject.toml names
	@test -x $(OLDEST_VENV)/bin/uv || { $(PYTHON) -m venv $(OLDEST_VENV) && \
		$(OLDEST_VENV)/bin/pip install --quiet --disable-pip-version-check uv; }
	$(OLDEST_VENV)/bin/uv venv --quiet --clear --seed --python $(OLDEST_PYTHON) $(OLDEST_VENV)/oldest
	$(BIN)/python tests/support/floors.py > $(OLDEST_VENV)/floors.txt
	$(OLDEST_VENV)/bin/uv pip install --python $(OLDEST_VENV)/oldest/bin/python $(OLDEST_FLAGS) \
		-c $(OLDEST_VENV)/floors.txt -e ".[test]"
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/oldest/bin/python -m pytest -m "not slow and not browser" \
		--deselect tests/packaging/test_constraints.py $(PYTEST_FLAGS)

test-vllm: $(STAMP) ## test against a real vLLM server on the CPU, in an environment of its own
	OMP_NUM_THREADS=1 $(BIN)/python tests/vllm/serve.py --venv $(VLLM_VENV) -q -s

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Without pyproject's options: they check shapes at every call, and the clock would time the checks.
BENCH = -o addopts="--import-mode=importlib --strict-markers --strict-config -ra" reports/benchmarks

bench: $(STAMP) ## measure the engine's ratios and write reports/benchmarks.md
	@mkdir -p results
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(BENCH) -m "not gpu" --benchmark-enable \
		--benchmark-columns=median,rounds --benchmark-json=results/benchmarks.json
	OMP_NUM_THREADS=1 $(BIN)/python reports/benchmarks/benchmark_page.py results/benchmarks.json reports/benchmarks

bench-gpu: $(STAMP) ## the same on a GPU, with random weights of real shapes
	@mkdir -p results
	$(BIN)/python -m pytest $(BENCH) -m gpu --benchmark-enable \
		--benchmark-columns=median,rounds --benchmark-json=results/benchmarks-gpu.json
	$(BIN)/python reports/benchmarks/benchmark_page.py results/benchmarks-gpu.json reports/benchmarks

reports: $(STAMP) ## run every report's own run.sh again
	@set -e; for script in reports/*/run.sh; do \
		test -f "$$script" || { echo "There is no reports/*/run.sh."; exit 1; }; \
		echo "$$script"; PATH="$(abspath $(BIN)):$$PATH" bash "$$script"; \
	done

# In an environment of its own, so that the audit does not change what it looks at.
$(AUDIT_VENV)/bin/pip-audit:
	@$(PYTHON) -m venv $(AUDIT_VENV)
	@$(AUDIT_VENV)/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom pip-audit

sbom: $(STAMP) $(AUDIT_VENV)/bin/pip-audit ## check that what is installed fits together, and list it in results/sbom.json
	$(BIN)/python -m pip check
	@mkdir -p results
	$(AUDIT_VENV)/bin/cyclonedx-py environment --output-file results/sbom.json $(BIN)/python

audit: sbom ## the same, and look for known vulnerabilities (needs a network)
	@echo "Known weaknesses are asked for over the network:"
	$(AUDIT_VENV)/bin/pip-audit --skip-editable --path $$($(BIN)/python -c \
		'import sysconfig; print(sysconfig.get_path("purelib"))')

soak: $(STAMP) ## run drawn programs and small evaluations for SOAK_MINUTES (30); fails where something grows
	OMP_NUM_THREADS=1 PYTHONPATH=. SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python tests/support/soak.py

# In an environment of its own: the pages are built from the source, without torch.
docs: ## build the pages of docs/ into site/, which opens without a network
	@test -x $(DOCS_VENV)/bin/mkdocs || { $(PYTHON) -m venv $(DOCS_VENV) && $(DOCS_VENV)/bin/pip \
		install --quiet --disable-pip-version-check -r docs/requirements.txt; }
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@! grep -rnE 'src="https?:|<link[^>]*href="https?:' site --include='*.html' || \
		{ echo "These lines fetch from a network."; exit 1; }

theory: $(STAMP) ## check the paper's mathematics numerically
	$(BIN)/python -m nabla_theory
