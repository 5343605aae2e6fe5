# make sweep: the experiment on generated pictures, with its report.   make test: lint, types, tests.
# Both set up .venv first, once; all that is needed beforehand is Python 3.10 to 3.13, pip and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: sweep test bench lint
sweep: .venv/ready
	$(BIN)/python -m mlp_sweep --multirun activation=relu,scaled activation.r=2,4,62

test: lint
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: .venv/ready
	$(BIN)/python -m benchmarks.throughput

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@
