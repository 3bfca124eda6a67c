# `make` or `make help` lists the targets.

VENV := .venv
SOURCES := setup.py pyproject.toml
UNIT_TESTS = $(patsubst %/__init__.py,%,$(wildcard tests/*/__init__.py)) $(patsubst %.py,%,$(wildcard tests/test_*.py))

.DEFAULT_GOAL := help
.PHONY: help run test check bench clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/installed  ## Run the balancer on :8080 with its demo servers, in the foreground
	$(VENV)/bin/twistd --nodaemon --pidfile= tokenlb --demo

test: $(VENV)/installed-dev  ## Run every test
	@tools/test_programs.sh
	$(VENV)/bin/trial --reporter=summary $(filter-out tests.integration,$(subst /,.,$(UNIT_TESTS)))
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/installed-dev  ## Check style, types and the direction of imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --strict twisted_lb
	$(VENV)/bin/python -m pytest --quiet tests/test_floors.py

bench: $(VENV)/installed-dev  ## Measure against nginx (needs wrk and nginx)
	$(VENV)/bin/python bench/run.py

clean:  ## Remove what the other targets have made, but not the data
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .hypothesis _trial_temp* twisted/plugins/dropin.cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/installed: $(SOURCES)
	@echo "Setting up $(VENV)"
	@PYTHON="$(PYTHON)" tools/setup.sh

$(VENV)/installed-dev: $(SOURCES)
	@echo "Setting up $(VENV)"
	@PYTHON="$(PYTHON)" tools/setup.sh dev
