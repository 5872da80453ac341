# make demo   a swarm of five processes on this machine learns handwritten digits
# make test   formatting, lint, types, import contracts and tests
# make soak   the slow tests as well, 10,000 swarms under random harm, 10 million hostile packets
# make bench  the benchmarks, with their gates
# make docs   what docs/ says word for word of the code

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# PyTorch is told here too how many threads it may use: five processes share this machine.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test soak bench docs clean

demo: $(VENV)/installed-models
	$(BIN)/gossip demo

test: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist worksteal

soak: $(VENV)/installed-fuzz
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n 2 --dist worksteal -m "slow or not slow"
	$(BIN)/python -m sims.faults --seeds 0:10000 -j 2
	$(BIN)/python benchmarks/fuzz.py --packets 10000000

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/codec.py --check
	$(BIN)/python benchmarks/consensus.py --check
	$(BIN)/python benchmarks/sync.py --check
	$(BIN)/python benchmarks/memory.py --check
	$(BIN)/python benchmarks/endpoint.py --check
	$(BIN)/python benchmarks/overlay.py --check
	$(BIN)/python benchmarks/simulator.py
	$(BIN)/python benchmarks/strangers.py --check
	$(BIN)/python benchmarks/startup.py --check
	$(BIN)/python benchmarks/attacks.py --check
	$(BIN)/python benchmarks/learning.py
	$(BIN)/python benchmarks/tasks.py

docs: $(VENV)/installed-dev
	$(BIN)/python docs/generate.py

# One file for each set of extras says what was installed last; the packages themselves are
# installed editable, so a change of the sources needs no second installation.
$(VENV)/installed-models: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[models]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed-models
	$(PIP) install --constraint constraints.txt --editable '.[models,images,parquet,plots,dev]'
	touch $@

$(VENV)/installed-fuzz: $(VENV)/installed-dev
	$(PIP) install --constraint constraints.txt --editable '.[models,images,parquet,plots,ray,lightning,transformers,keras,tensorboard,onnx,dev,fuzz]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
