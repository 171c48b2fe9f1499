# The two commands of the README are `make demo` and `make test`. They need git, make and Python 3.11 or newer; the
# rest they install into .venv.
#
# PYTHON    the interpreter that .venv is made with: make demo PYTHON=python3.12
# PIP_ARGS  more options for pip. On Linux the public index's torch brings CUDA, several gigabytes that a machine
#           without a GPU has no use for. PyTorch's index of CPU builds has a smaller one:
#           make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
# ARGS      options for the demos, the benchmarks and the load tests: make demo ARGS="--open --keep"

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Touched when everything is installed; older than what it was installed from, the installation is done anew.
READY := $(VENV)/.ready

# protocol and ps.core are pure: their own tests alone have to reach every branch.
PURE_TESTS := tests/protocol tests/ps/core
# These measure, or have to be done in time: with nothing beside them.
TIMED_TESTS := tests/demo/test_demo.py tests/load/test_program.py tests/ps/top/test_keys.py
# What `make check` runs: decisions and the wire, which start no process and wait for nothing.
QUICK_TESTS := $(PURE_TESTS) tests/scenarios tests/worker/session tests/test_documented.py
# The tests of one file stay together. Most wait for processes that they have started, so few cores serve many.
CORES := --numprocesses auto --maxprocesses 4 --dist loadfile
# Programs that are typed although they stand among the tests.
DEMO := $(filter-out %/conftest.py $(wildcard tests/demo/test_*.py tests/demo/gpt/test_*.py),\
	$(wildcard tests/demo/*.py tests/demo/gpt/*.py))

.PHONY: help demo demo-gpt test check system lint bench load kills fuzz dashboards format clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    train digits with four workers under sync, ssp and async, and compare (under 90 s)"
	@echo "make demo-gpt  a small GPT on three unlike workers, one of which is killed and comes back (under 90 s)"
	@echo "make check   a quick look, under 2 minutes: format, types, layers, and the tests that start no process"
	@echo "make test    everything that must hold: format, types, layers, tests, coverage"
	@echo "make system  what some tests need beside $(VENV): Prometheus, Chromium; installed if root, else named; Lightning, transformers"
	@echo "make lint    the part of it that runs no tests"
	@echo "make bench   measure against raw sockets and DDP; writes a page under docs/benchmarks"
	@echo "make load    compare sync, async, SSP and DDP under stragglers; writes a report there, within an hour"
	@echo "make kills   kill stages of pipelines, 50 times in each mode; writes a page there, in a quarter of an hour"
	@echo "make fuzz    bad bytes: ten million inputs for whatever reads a stranger's bytes; writes a page there, within an hour"
	@echo "make dashboards  write the Grafana dashboards and the rules for Prometheus anew"
	@echo "make format  put the sources in order"
	@echo "make clean   remove what the other commands have made, except $(VENV)"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[dev]'
	@touch $@

demo: $(READY)
	PYTHONPATH=. $(BIN)/python -m tests.demo $(ARGS)

demo-gpt: $(READY)
	PYTHONPATH=. $(BIN)/python -m tests.demo.gpt $(ARGS)

check: lint
	$(BIN)/python -m pytest $(CORES) $(QUICK_TESTS)

test: lint system
	$(BIN)/coverage run -m pytest $(PURE_TESTS)
	$(BIN)/coverage report --fail-under=100
	$(BIN)/python -m pytest $(CORES) tests $(PURE_TESTS:%=--ignore=%) $(TIMED_TESTS:%=--ignore=%)
	$(BIN)/python -m pytest $(TIMED_TESTS)

system: $(READY)
	@PYTHONPATH=. $(BIN)/python -m tests.system
	@PYTHONPATH=. $(BIN)/python -m tests.frameworks $(PIP_ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	MYPYPATH=. $(BIN)/mypy --explicit-package-bases $(DEMO) examples/*.py
	$(BIN)/lint-imports

bench: $(READY)
	PYTHONPATH=. $(BIN)/python -m tests.bench $(ARGS)

load: $(READY)
	PYTHONPATH=. $(BIN)/python -m tests.load $(ARGS)

kills: $(READY)
	PYTHONPATH=. $(BIN)/python -m tests.load.kills $(ARGS)

fuzz: $(READY)
	PYTHONPATH=. $(BIN)/python -m tests.fuzz $(ARGS)

dashboards: $(READY)
	PYTHONPATH=. $(BIN)/python -m dashboards

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf out build dist *.egg-info .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache \
		.ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
