# make demo   set up and train the default to a score above the behaviour policy
# make test   set up and run the linter, the type checker and every test that is not slow
# make check  set up and run the others: whole sweeps, compilers, long runs, other schedulers
# make docs   set up and write the site of docs/ to site/
PYTHON ?= python3
PIP_OPTIONS ?=
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: demo test check docs lint setup speed clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| (echo "error: Reverie needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_OPTIONS) \
		--constraint constraints.txt ".[test]"
	# The checkout is the program: a copy of it would grow old.
	$(BIN)/python -m pip uninstall --quiet --yes reverie
	mkdir -p .typed && ln -sfn .. .typed/reverie
	touch $@

demo: setup
	$(BIN)/python train.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tests start interpreters by the dozen: what they compile is kept, whatever the environment says.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

test: lint
	$(PYTEST) -m "not slow"

check: setup
	$(PYTEST) -m slow

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

speed: setup
	$(BIN)/python -m benchmarks.speed

clean:
	rm -rf $(VENV) .typed site .mypy_cache .ruff_cache .pytest_cache
