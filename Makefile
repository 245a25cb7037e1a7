# Every target sets .venv up from nothing; only make and Python 3.11 or newer are needed.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11 python3.14,$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(p))))
VENV := .venv
BIN := $(VENV)/bin
SOURCES := mcl_clip training eval demo benchmarks tests

# make test OPEN_CLIP=DIR: the source tree of another open_clip before the installed one.
HOST := $(if $(OPEN_CLIP),$(abspath $(or $(wildcard $(OPEN_CLIP)/src),$(OPEN_CLIP))))

# A process of tests to each core, at most four; the tests of a file share its fixtures.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

.PHONY: help install demo test test-long test-minimums lint bench bench-gpu study study-emoji study-images clean

help:
	@echo "make install    .venv with mcl_clip and everything it needs (about 6 GB: torch brings CUDA)"
	@echo "make demo       generated data -> three stages -> fused model -> runs/demo/report.html (CPU)"
	@echo "make test       the test suite (CPU)        make test-long   the same, thorough property and kill tests"
	@echo "make test OPEN_CLIP=DIR   with another open_clip's source        make test-minimums   with the oldest versions"
	@echo "make lint       ruff and mypy               make bench       every benchmark, one line of JSON each"
	@echo "make bench-gpu  what only a CUDA device can say, at most 8 minutes -> docs/results-gpu.json, docs/results-gpu.md"
	@echo "make study      does it work? MCL against controls of equal compute -> docs/study/"
	@echo "make study-images  the same on images alone, SimCLR -> docs/study-images/"
	@echo "make study-emoji  the same on real drawings, fetched with npm -> docs/study-emoji/"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; name one with make PYTHON=/path/to/python3" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python -m demo --output runs/demo

test: $(VENV)/.installed-dev
	@test -z "$(HOST)" || test -d "$(HOST)/open_clip" || { echo "error: $(OPEN_CLIP) holds no open_clip" >&2; exit 2; }
	$(if $(HOST),PYTHONPATH=$(HOST)) $(BIN)/python -m pytest $(PARALLEL)

test-long: $(VENV)/.installed-dev
	MCL_TEST_PROFILE=long $(BIN)/python -m pytest $(PARALLEL)

.venv-minimums/.installed: setup.cfg constraints-minimums.txt | $(BIN)/python
	$(BIN)/python -m venv .venv-minimums
	.venv-minimums/bin/python -m pip install --quiet --constraint constraints-minimums.txt --editable ".[dev]"
	@touch $@

test-minimums: .venv-minimums/.installed
	.venv-minimums/bin/python -m pytest $(PARALLEL)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	@for name in loss "loss --objective simclr" bucketing pack planner clustering fused_inference train_step \
		"train_step --objective simclr" input_pipeline "input_pipeline --views 2" queue retrieval zero_shot linear_probe; do \
		echo "# $$name" >&2; $(BIN)/python -m benchmarks.$$name --json || exit 1; done

bench-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.gpu

study: $(VENV)/.installed-study
	$(BIN)/python -m benchmarks.suppression all

$(VENV)/.installed-study: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[study]"
	@touch $@

study-emoji: $(VENV)/.installed-study
	$(BIN)/python -m benchmarks.emoji all

study-images: $(VENV)/.installed-study
	$(BIN)/python -m benchmarks.emoji data
	$(BIN)/python -m benchmarks.images all

clean:
	rm -rf $(VENV) .venv-minimums build *.egg-info
