# Each target makes its own virtual environment in .venv, with the tested versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard csrc/*)
DEMO_ARGS ?=
BENCH_ARGS ?=
FUZZ_SCALE ?= 24
FUZZ_SECONDS ?= 60
SANITIZE_ARGS ?=

.PHONY: demo test fuzz fuzz-readers mutate bench sanitize lint types docs check format wheel clean

demo: $(VENV)/demo
	mkdir -p out
	$(BIN)/nc-fast demo --out out/demo.png $(DEMO_ARGS)

# Two workers; the GPU kernels run in Triton's interpreter, on CPU tensors.
test: $(VENV)/test
	TRITON_INTERPRET=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report=term --cov-fail-under=95 $(PYTEST_ARGS)

# Mutants live in mutants/, a copy; `mutmut results` and `mutmut show NAME` say which survived.
mutate: $(VENV)/mutate
	rm -rf mutants
	$(BIN)/mutmut run --max-children 2

# Random inputs, 24 times as many as in the tests; then files that Atheris makes, FUZZ_SECONDS for each reader.
fuzz: $(VENV)/test
	NC_FAST_FUZZ_SCALE=$(FUZZ_SCALE) TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/hardening/test_fuzz*.py --numprocesses 2 $(PYTEST_ARGS)

fuzz-readers: $(VENV)/fuzz
	mkdir -p out
	set -e; for reader in idx idx-gz npz moments-npz moments-safetensors; do \
		FUZZ_ARTIFACTS=out/ $(BIN)/python tests/hardening/fuzz_readers.py $$reader -max_total_time=$(FUZZ_SECONDS); done

bench: $(VENV)/bench
	mkdir -p out
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-json=out/benchmarks.json $(BENCH_ARGS)
	$(BIN)/python benchmarks/report.py out/benchmarks.json

# Sanitizers, valgrind and strict warnings for the C++; needs g++ and valgrind, and uses clang++ where there is one.
sanitize: $(VENV)/dev
	$(BIN)/python tests/hardening/sanitize.py $(SANITIZE_ARGS)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.hpp csrc/*.cpp

types: $(VENV)/dev
	$(BIN)/mypy

# A broken link, a name that cannot be imported or a malformed docstring fails. Generated pages are written anew: old ones would stay.
docs: $(VENV)/docs
	rm -rf docs/generated out/docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --nitpicky --quiet --jobs 2 --doctree-dir out/doctrees docs out/docs

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.hpp csrc/*.cpp

check: lint types docs test

wheel: $(VENV)/dev
	$(BIN)/python -m build --outdir dist .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/%: $(VENV)/bin/python $(SOURCES)
	$(INSTALL) --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) .nox build dist mutants out docs/generated *.egg-info nc_fast/*.so .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
