# Each target sets up what it needs; `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := out/demo
# a file's tests stay together, for what they share; each worker holds a few GB at most
WORKERS := --numprocesses auto --maxprocesses 4 --dist loadfile
# options of the suites of their own: LIMIT="--minutes 5" begins no test later and says so
LIMIT :=
CPP := $(shell git ls-files '*.cuh' '*.h' '*.cpp' '*.cu' 2>/dev/null)

.PHONY: help setup demo test check mutants format test-plugin test-tools test-pipelines test-hostile gpu-test bench long \
  attack attack-long mutation node-cases plugin-wheel genai optimum others clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: $(VENV)/.ready ## a virtual environment in .venv with the package and the tools

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints.txt --config-settings editable_mode=compat --editable '.[bench,cpu,dev,models,sign]'
	touch $@

demo: setup ## export FLUX attention (24 heads of 128, float16), build, check, print the table
	$(BIN)/ropeexport export flux-attention -o $(DEMO) --dtype fp16 --force
	$(BIN)/ropeexport build $(DEMO) --force
	$(BIN)/ropeexport check $(DEMO)
	$(BIN)/ropeexport inspect $(DEMO)

test: setup ## the tests that need neither a GPU nor nvcc
	$(BIN)/python -m pytest -m 'not plugin and not tools and not pipelines and not hostile' $(WORKERS)

check: setup ## formatters, linters, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(if $(CPP),$(BIN)/clang-format --dry-run --Werror $(CPP))
	$(MAKE) test

mutants: setup ## break an export in every known way: check must catch each
	$(BIN)/python -m mutants

attack: setup ## broken inputs, kills, races, strangers' folders against every verb, 15 minutes
	$(BIN)/python -m attack

attack-long: setup ## the same with 20,000 inputs, 300 kills and 100 races, under 2 hours
	$(BIN)/python -m attack --long

format: setup ## let the formatters write
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(if $(CPP),$(BIN)/clang-format -i $(CPP))

test-tools: setup ## run our files through other people's tools, and theirs through ours
	$(BIN)/python -m pytest -m tools $(WORKERS) $(LIMIT)

test-pipelines: setup ## exports in use: pipelines' pictures, generate, exchanged weights, with faults planted
	$(BIN)/python -m pytest -m pipelines $(WORKERS) $(LIMIT)

test-hostile: setup ## broken inputs, odd streams, locks and kills, in processes of their own
	$(BIN)/python -m pytest -m hostile $(WORKERS) $(LIMIT)

test-plugin: setup ## compile the plugin with nvcc, drive it, build engines with it
	$(BIN)/python -m pytest -m plugin $(LIMIT)

# PLUGIN_OBJECTS: compiled objects of the launchers, with ; between; empty: nvcc compiles them for all GPUs
plugin-wheel: setup ## the wheel ropeexport-plugin in build/wheels, for those without nvcc
	TENSORRT_INCLUDE_DIR=$$($(BIN)/python -c \
	  'from ropeexport.trt.plugin_build import header_folder as folder; print(folder())') \
	  $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheels \
	  $(if $(PLUGIN_OBJECTS),--config-settings "cmake.define.ROPEEXPORT_LAUNCH_OBJECTS=$(PLUGIN_OBJECTS)") \
	  ./plugins

gpu-test: setup ## on a machine with an NVIDIA GPU: exactness, sanitizer, engines, bench
	$(BIN)/python -m benchmarks.gpu

bench: setup ## the CPU's side-by-side measurements, four runs, and docs/benchmarks.md of them
	$(BIN)/python -m benchmarks.cpu
	$(BIN)/python -m benchmarks.page

long: setup ## what CI has no time for: the table of models, mutation, onnx's cases, attacks
	$(BIN)/python -m benchmarks.models
	$(MAKE) mutation
	$(MAKE) node-cases
	$(MAKE) attack-long

node-cases: setup ## onnx's own cases through fuse, inspect, lint and check; docs/node_cases.md
	$(BIN)/python scripts/node_cases.py

mutation: setup ## break fusion's guards and the bounds, place by place: tests must notice; docs/mutation.md
	$(BIN)/python scripts/mutation.py

genai: build/genai/.ready ## onnxruntime-genai in build/genai, for `make test-tools`

build/genai/.ready:
	$(PYTHON) -m venv build/genai
	build/genai/bin/python -m pip install --quiet 'onnxruntime-genai==0.18.0'
	touch $@

optimum: build/optimum/.ready ## optimum-onnx in build/optimum, for `ropeexport bench` too: it holds transformers back

build/optimum/.ready:
	$(PYTHON) -m venv build/optimum
	build/optimum/bin/python -m pip install --quiet 'torch==2.13.0'
	build/optimum/bin/python -m pip install --quiet 'optimum-onnx[onnxruntime]==0.1.0' \
	  'diffusers==0.35.2'
	touch $@

others: build/others/.ready ## packages with RoPE of their own in build/others, beside ropeexport, for `make test-tools`

# torchtune asks for torchao and does not say so; its 0.18 has not what torchtune imports of it
build/others/.ready: constraints.txt
	$(PYTHON) -m venv build/others
	build/others/bin/python -m pip install --quiet --constraint constraints.txt \
	  --config-settings editable_mode=compat --editable '.[export,report]' cloudpickle onnxruntime
	build/others/bin/python -m pip install --quiet --constraint constraints.txt \
	  'fair-esm==2.0.0' 'rotary-embedding-torch==0.9.1' 'timm==1.0.31' 'torchao==0.17.0' \
	  'torchtune==0.6.1' 'x-transformers==2.31.10'
	touch $@

clean: ## what the targets above made
	rm -rf $(VENV) build out
