# The study's commands. Each sets up .venv when it is missing or the lock changed.
PYTHON ?= python3
PROFILE ?= demo
# A name that xir looks up in params/ and params/variations/: neither make nor the shell may read anything in it.
override PROFILE := $(value PROFILE)
export PROFILE
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
export PYTHONUTF8 = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: help study test lint lab figures notebooks clean
help:  ## show this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

# torch comes first and alone: another package's open range would otherwise choose the build.
$(VENV)/.installed: requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON); install Python >= 3.11 or give PYTHON=..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"make: {sys.executable} is Python {v[0]}.{v[1]}; 3.11 or newer is needed, give PYTHON=...")'
	@rm -f $@
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

study: $(VENV)/.installed  ## run a profile from data to report: make study [PROFILE=demo] [JOBS=2]
	$(BIN)/xir study --params "$$PROFILE" --jobs $(JOBS)

# One thread for each worker: two workers with two threads each on two cores wait for one another, and comparisons took four
# times as long. A file's tests stay in one worker, which remembers what was compared.
test: export OMP_NUM_THREADS = 1
test: lint  ## lint, type check, pytest, and nbval on the committed notebooks
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile
	$(BIN)/python -m pytest --nbval-lax --nbval-cell-timeout=300 notebooks

lint: $(VENV)/.installed  ## ruff, ruff format, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lab: $(VENV)/.installed  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

figures: $(VENV)/.installed  ## copy a finished profile's results and figures into figures/PROFILE
	$(BIN)/xir publish --params "$$PROFILE"

notebooks: $(VENV)/.installed  ## execute the committed notebooks in place with their defaults, outputs included
	$(BIN)/xir notebooks notebooks

clean:  ## remove the environment; what runs made stays in build/
	rm -rf $(VENV)
