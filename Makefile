# make sweep: the experiment on generated pictures, with its report.   make test: lint, types, tests.
# make test-slow: the README's commands, clusters, kills, the real pictures.   make bench: rates beside the floor.
# make faults: 50 kills, full disks, damaged files and races, with a table of what was survived; forty minutes.
# Both set up .venv first, once; all that is needed beforehand is Python 3.10 to 3.13, pip and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: sweep test test-slow faults bench lint
sweep: .venv/ready
	$(BIN)/python -m mlp_sweep --multirun activation=relu,scaled activation.r=2,4,62 'seed=range(0,6)'

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: .venv/launchers
	$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

faults: .venv/ready
	$(BIN)/python -m tests.faults --kills 50

bench: .venv/ready
	$(BIN)/python -m benchmarks.throughput

# Apart, since Hydra imports every launcher that is installed at every start, and Ray alone takes two seconds.
.venv/launchers: .venv/ready
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[joblib,submitit,ray,optuna]'
	touch $@

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@
