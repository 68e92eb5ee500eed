# Two commands set everything up on a machine with Python 3.11 or newer, make and a compiler:
#   make quickstart   all four steps on the embedded playground, on the CPU
#   make test         the test suite
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: quickstart test test-all pytest wheel-test check lint types format docs site real results benchmarks benchmarks-quick clean help

help:  ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "steerlm needs Python 3.11 or newer, this is %d.%d; try: make PYTHON=python3.11" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $(READY)

# huge pages make large tensors cheaper to touch on Linux; elsewhere the variable means nothing
quickstart: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1
quickstart: $(READY)  ## run all four steps on the playground (CPU, minutes)
	$(BIN)/steerlm run playground

# types are checked beside the tests: mypy alone would leave one of two cores idle for a minute
test: lint  ## lint, types and the fast tests
	$(MAKE) -j 2 types pytest

test-all: lint  ## everything, the slow tests too
	$(MAKE) -j 2 types pytest MARKED="slow or not slow"

# three workers for the two cores of CI: a fifth of the tests' time is waiting
MARKED := not slow
pytest: $(READY)
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "$(MARKED)"

# the Pythons to install into, and more words for pip (an index with CPU builds of torch, say)
WHEEL_PYTHONS ?= $(PYTHON)
WHEEL_PIP ?= --constraint $(CURDIR)/requirements.lock
wheel-test:  ## build the wheel, install it without extras into a clean environment, use it there
	$(PYTHON) scripts/check_wheel.py $(WHEEL_PYTHONS) --pip "$(WHEEL_PIP)"

check: lint types  ## lint and types

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the environment and caches, keep runs/
	rm -rf $(VENV) build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

docs: $(READY)  ## regenerate the generated blocks of README and docs
	$(BIN)/python docs/generate.py

site: $(READY)  ## build the site of the docs into build/site; links are checked
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[site]'
	$(BIN)/zensical build --strict

# GEMMA: the hub's id (gated: log in first), or a folder of the model
GEMMA ?= google/gemma-3-270m
real: $(READY)  ## the real run: Gemma 3 270M on human data, hours on two cores, held to what it reached
	$(BIN)/python recipes/real_input/convert.py --any-schema --out runs/gemma_270m_data
	$(BIN)/steerlm prepare recipes/real_input/independent.yaml
	$(BIN)/steerlm train-attribute-model recipes/real_input/independent.yaml --set train_attribute_model.base_model=$(GEMMA)
	$(BIN)/steerlm run gemma_270m --set train_sft.base_model=$(GEMMA) \
		--set 'evaluate.attribute_models=[runs/independent/train_attribute_model/model]'
	$(BIN)/steerlm check runs/gemma_270m --require "length.spearman>=0.7" --require "reading_grade.spearman>=0.1" \
		--require "positivity.spearman>=0.1" --require "toxicity.spearman>=0.1"

results: $(READY)  ## copy the numbers of the playground run into docs/results, then `make docs`
	$(BIN)/python docs/results_playground.py runs/playground
	$(MAKE) docs

# both sides of every benchmark get the same environment; nothing else should run meanwhile
BENCHMARKS := sft annotate generative_labels sampling engines planning io
# takes the models of the quickstart; fails where a claim does not hold, which the page says
SERVE_LOAD = -test ! -d runs/playground/train_sft || $(BIN)/python -m benchmarks.serve_load
benchmarks benchmarks-quick: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1

benchmarks: $(READY)  ## measure us and the peers (hours on 2 idle cores; a part: BENCHMARKS="sft io"), then `make docs`
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(SERVE_LOAD)
	$(MAKE) docs

benchmarks-quick: $(READY)  ## check that the benchmarks work, in minutes; results in runs/benchmarks
	for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name --quick || exit 1; done
	$(SERVE_LOAD) --quick
