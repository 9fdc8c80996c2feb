# Everything starts from a fresh clone with Python 3.11 or newer and a C compiler:
#     make demo         install, train two small models, print a table, draw the loss curves
#     make test         install with the test tools, run the tests (ten minutes)
#     make test-slow    the long tests
#     make contract     what docs/contract.md does not have yet, from the tests of what torch promises
#                       (an hour for all of it: make contract MISSING=)
#     make verify       every shipped rule on every target against the interpreter, of what
#                       docs/zoo/checked.json does not have yet (an hour or two: DTYPE=bfloat16 ...)
#     make bench        race the shipped rules against torch and others on this machine's cores
#     make page         fill the tables of README.md and docs/performance.md from benchmarks/results
#     make gpu          the tests and the measurements that need an accelerator
#     make lint, fmt    check, mend style and types
# Variables: PYTHON (the interpreter that makes .venv), VENV, PIP_FLAGS (see constraints.txt), WORKERS.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
PIP_FLAGS ?=
MISSING ?= --missing
DTYPE ?= float32

RUN := $(VENV)/bin/python
# Without --no-compile pip translates 15,000 files, two minutes, of which most are never imported;
# the first import of a file does it, and keeps the result even where the environment says not to.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(RUN) -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt \
	$(PIP_FLAGS)
DEMO := $(VENV)/installed-demo
TEST := $(VENV)/installed-test

.PHONY: demo test test-slow contract verify bench page gpu lint fmt clean distclean
.DELETE_ON_ERROR:

demo: $(DEMO)
	$(RUN) examples/train.py

test: $(TEST)
	$(RUN) -m pytest -q -n $(WORKERS) --dist loadgroup

test-slow: $(TEST)
	$(RUN) -m pytest -q -n $(WORKERS) --dist loadgroup -m slow

contract: $(TEST)
	$(RUN) -m pytest -q -n $(WORKERS) --dist loadgroup -m "contract and not gpu" --contract $(MISSING)

verify: $(TEST)
	$(RUN) -m pytest -q -m slow tests/verify/test_shipped.py --checked $(MISSING) -k $(DTYPE)
	$(RUN) -m optdsl zoo pages -o docs

bench: $(DEMO)
	$(RUN) -m optdsl bench

page: $(TEST)
	$(RUN) -m benchmarks.page

gpu: $(TEST)
	$(RUN) -m pytest -q -m gpu tests/triton
	$(RUN) -m benchmarks.gpu

lint: $(TEST)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

fmt: $(TEST)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "optdsl needs Python 3.11 or newer; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# An install is repeated when what it was made from is newer than its stamp.
$(DEMO): pyproject.toml constraints.txt | $(RUN)
	$(PIP) -e '.[demo]'
	@touch $@

$(TEST): pyproject.toml constraints.txt | $(RUN)
	$(PIP) -e '.[test]'
	@touch $@ $(DEMO)

clean:
	rm -rf build dist examples/out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
