# Everything starts from a machine that has Python >= 3.10 and make, nothing else:
#   make demo     the main job: what stochastic attention does to a small, really trained model
#   make test     the tests
#   make bench    kernels and whole models against stock attention
#   make lint     ruff, as in CI
#   make wheel    dist/*.whl and dist/*.tar.gz
# PYTHON=python3.12 picks the interpreter; ARGS="..." is handed to the command that runs.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
ARGS ?=

BIN = $(VENV)/bin
READY = $(VENV)/.ready
# -qq hides everything but errors.
INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# Every test worker has one thread: more would only wait for each other. So it is for the demo's small model.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test bench lint wheel setup clean

demo: $(READY)
	$(ONE_THREAD) $(BIN)/attnpatch-eval run $(ARGS)

test: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

bench: $(READY)
	$(BIN)/attnpatch bench kernels $(ARGS)
	$(BIN)/attnpatch bench model $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

wheel: $(READY)
	$(BIN)/python -m build --no-isolation

setup: $(READY)

# torch goes in first, by its pinned version, so that nothing else chooses one.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "attnpatch needs Python >= 3.10, and '$(PYTHON)' is not one. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV): a few minutes, once."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) torch
	@$(INSTALL) -e '.[all]'
	@touch $@

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis
