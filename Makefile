# `make` or `make help` lists the targets.

VENV := .venv
SOURCES := setup.py pyproject.toml
UNIT_TESTS = $(patsubst %/__init__.py,%,$(wildcard tests/*/__init__.py)) $(patsubst %.py,%,$(wildcard tests/test_*.py))

# For two cores: half of the time and more, a test with real processes waits.
TEST_PROCESSES := 5
# Many processes load the same modules; compiled once, they are kept.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-pytest test-compiled check bench openapi compiled pure wheel clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/installed  ## Run the balancer on :8080 with its demo servers, in the foreground
	$(VENV)/bin/twistd --nodaemon --pidfile= tokenlb --demo

test: $(VENV)/installed-dev  ## Run every test
	@tools/test_programs.sh
	$(VENV)/bin/trial --jobs 2 --reporter=text $(filter-out tests.integration,$(subst /,.,$(UNIT_TESTS)))
	$(VENV)/bin/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder tests/integration
	$(VENV)/bin/python -m pytest -p twisted --numprocesses 2 --dist loadfile tests/integration/asynchronous

test-pytest: $(VENV)/installed-dev  ## Run the tests that `make test` has run under trial under pytest as well
	$(VENV)/bin/python -m pytest --numprocesses 2 --ignore=tests/integration

test-compiled: $(VENV)/installed-dev  ## Run every test on the compiled data path, in a copy of this checkout
	@tools/test_compiled.sh

check: $(VENV)/installed-dev  ## Check style, types and the direction of imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --strict twisted_lb
	$(VENV)/bin/python -m pytest --quiet tests/test_floors.py

bench: $(VENV)/installed-dev  ## Measure against nginx and others (needs nginx, redis-server, a C compiler)
	$(VENV)/bin/python bench/run.py

openapi: $(VENV)/installed-dev  ## Write docs/openapi.json, the description of the APIs
	$(VENV)/bin/python tools/write_openapi.py

compiled: $(VENV)/installed-dev  ## Compile the data path of this checkout with mypyc (needs a C compiler)
	$(VENV)/bin/python tools/compile_data_path.py

pure:  ## Remove what `make compiled` has made: the checkout is pure Python again
	find twisted_lb -name '*.so' -delete
	rm -f twisted_lb_*__mypyc*.so

wheel: $(VENV)/installed  ## Build a wheel with the data path compiled, for this platform and version of Python, in dist/
	TOKENLB_PURE=0 $(VENV)/bin/python -m pip wheel --disable-pip-version-check --no-deps --wheel-dir dist .

clean: pure  ## Remove what the other targets have made, but not the data
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis _trial_temp* twisted/plugins/dropin.cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/installed: $(SOURCES)
	@echo "Setting up $(VENV)"
	@PYTHON="$(PYTHON)" tools/setup.sh

$(VENV)/installed-dev: $(SOURCES)
	@echo "Setting up $(VENV)"
	@PYTHON="$(PYTHON)" tools/setup.sh dev
