# Two commands do all set-up on a fresh Debian or Ubuntu: `make demo` and `make test`.
# They need make and Python >= 3.11 with its venv module, and say so where one is missing.

PYTHON ?= python3
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
WORKERS ?= 2

BIN := .venv/bin
# The second variable is for pip >= 25.3, where the first no longer reaches the build of rung itself.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip
PYTEST := $(BIN)/pytest -m "not nightly"
CLIENTS := -c tests/clients/pytest.ini --confcutdir tests/clients tests/clients

.PHONY: help demo test check format nightly clients bench docs clean
.DELETE_ON_ERROR:

help:  ## Say what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: .venv/train.done .venv/fleet.done  ## The whole loop on real images: train, serve, notice drift, train anew, release, take back
	$(BIN)/python examples/nuclei/story.py $(DEMO_ARGS)

test: .venv/dev.done .venv/frameworks.done  ## Every test but the long ones
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 12 --durations-min 5 $(TEST_ARGS)

check: .venv/dev.done .venv/frameworks.done  ## The fast loop: format, lint, types, layers, unit and architecture tests; frameworks and training wait for test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q -n $(WORKERS) --dist loadfile tests/unit tests/architecture \
	  --ignore tests/unit/runtimes --ignore tests/unit/examples $(TEST_ARGS)

format: .venv/dev.done  ## Put every file into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

nightly: .venv/dev.done .venv/frameworks.done clients  ## The long tests: chaos, soaks, traces; the vendors' clients
	$(BIN)/pytest -m nightly --timeout 3600 $(TEST_ARGS) || [ $$? -eq 5 ]  # 5: there are none

clients: .venv/dev.done .venv/frameworks.done .venv-clients/made .venv-clients-sagemaker/made  ## The vendors' own clients, in environments of their own
	.venv-clients/bin/pytest $(CLIENTS) $(TEST_ARGS)
	.venv-clients-sagemaker/bin/pytest $(CLIENTS) $(TEST_ARGS)

bench: .venv/train.done .venv/bench.done  ## Speed against the peers; needs wrk
	$(BIN)/python bench/run.py $(BENCH_ARGS)

docs: .venv/dev.done  ## Write the reference pages anew from the code
	$(BIN)/python docs/generate.py

clean:  ## Remove what the others made
	rm -rf .venv .venv-clients .venv-clients-sagemaker .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist bench/out examples/*/out

# A stamp is touched last, so an install that was cut off is done again.
.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "rung needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 || true)"; \
	  echo "On Debian 12, Ubuntu 24.04 and newer:  sudo apt-get install python3 python3-venv"; \
	  echo "On Ubuntu 22.04:  sudo apt-get install python3.11 python3.11-venv, then  make PYTHON=python3.11 $(MAKECMDGOALS)"; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module; get it by:  sudo apt-get install python3-venv"; \
	  echo "(for another Python its own package, such as python3.11-venv)"; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/%.done: .venv/made pyproject.toml constraints.txt
	$(PIP) install --editable ".[$*]"
	@touch $@

.venv-clients/made: tests/clients/requirements.txt
.venv-clients-sagemaker/made: tests/clients/requirements-sagemaker.txt
# mlflow-torchserve asks for torch to see whether something is a tensor; the full list says what else is needed.
.venv-clients/made .venv-clients-sagemaker/made: .venv/made
	.venv/bin/python -m venv $(@D)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(@D)/bin/pip install --no-deps --requirement $(filter %.txt,$^)
	@touch $@
