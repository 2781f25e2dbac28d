# `make demo` and `make test` set up everything they need on a machine with Python, gcc and git.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Exact, since mmcv is compiled against it.
TORCH := torch==2.13.0
MMCV := onedl-mmcv==2.3.6

.PHONY: setup demo test check format clean

demo: $(VENV)/.ready
	$(BIN)/python benchmarks/demo.py

# Two processes, a file of tests each, as fixtures are shared within a file; more threads would be in their way.
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(VENV)/.ready

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install setuptools wheel ninja numpy
	$(BIN)/python -m pip install $(TORCH)
	touch $@

# The fork of mmcv is a source package that compiles against the torch it finds. Isolated from torch it
# would leave out its operators without a word.
$(VENV)/.mmcv: $(VENV)/.torch
	@echo "== compiling mmcv: about 7 minutes on two cores, once; pip keeps the wheel =="
	@start=$$(date +%s); ( while sleep 30; do echo "   still compiling mmcv, $$(( $$(date +%s) - start )) s"; done ) & \
	  ticker=$$!; trap "kill $$ticker 2>/dev/null" EXIT; \
	  $(BIN)/python -m pip install --no-build-isolation $(MMCV)
	@# A cached wheel may have been compiled against another torch.
	$(BIN)/python -c "import mmcv._ext" || \
	  $(BIN)/python -m pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps $(MMCV)
	$(BIN)/python -c "import mmcv._ext"
	touch $@

$(VENV)/.ready: $(VENV)/.mmcv pyproject.toml
	$(BIN)/python -m pip install -e ".[detection,cpu,rtx,report,bench,dev]"
	touch $@

clean:
	rm -rf build demo
