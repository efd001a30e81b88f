# Two commands do everything: `make demo` (the micro study) and `make test`.
# uv is used if it is there; else it goes into .uv/, a private folder. Nothing is installed elsewhere.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
# A private uv is on the path of everything, so that tests that build packages find it.
export PATH := $(CURDIR)/.uv/bin:$(PATH)
# Tests start many processes: what Python compiled once is kept, also where a machine forbids that.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test unit lint lock results docs picture readme clean help

help:
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv

# The environment with everything that tests need also serves the demo. It is compiled at once: the
# tests start many processes, and some machines forbid Python to write what it compiled.
$(VENV)/.run: requirements/run.txt | $(filter .uv/bin/uv,$(UV))
	@test -f $(VENV)/.dev || { \
	  $(UV) venv --quiet --allow-existing --python '>=3.11,<3.14' $(VENV) && \
	  $(UV) pip sync --quiet --python $(BIN)/python requirements/run.txt && \
	  $(UV) pip install --quiet --python $(BIN)/python --no-deps -e . ; }
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python '>=3.11,<3.14' $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run ## train, sweep, score and judge the micro study (under 6 minutes on 2 cores)
	$(BIN)/forgeteval demo

test: $(VENV)/.dev lint ## everything CI runs
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "" -n 2 --dist loadfile

unit: $(VENV)/.dev ## the quick tests, about a minute
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile

lint: $(VENV)/.dev ## ruff and strict mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

results: $(VENV)/.run ## the committed micro study: 3 runs of every strategy
	$(BIN)/forgeteval demo --runs 3 --out demo3
	rm -rf results/micro && cp -r demo3/results/micro results/micro

COMPILE := pip compile pyproject.toml --universal --python-version 3.11 --override requirements/overrides.txt \
  --generate-hashes --no-emit-index-url --no-header --quiet
lock: ## compile the hashed requirements from pyproject.toml
	$(UV) $(COMPILE) --extra demo -o requirements/run.txt
	$(UV) $(COMPILE) --extra demo --extra lm-eval --extra ray --group dev -o requirements/dev.txt

docs: $(VENV)/.dev ## make the reference pages and the schema anew from the code
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_tasks.py

picture: $(VENV)/.dev ## the README's picture of the report (needs chromium)
	$(BIN)/forgeteval report micro -o .cache/report/micro.html
	$(BIN)/python tests/report_browser.py .cache/report/micro.html docs/report.png

readme: $(VENV)/.dev ## write real output into README.md
	$(BIN)/python docs/refresh_readme.py

clean: ## remove environments and what the demo made
	rm -rf $(VENV) .uv demo demo3
