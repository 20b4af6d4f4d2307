# make demo    train DPO and GANPO-DPO on the same real pairs, evaluate and rank them
# make test    the test suite                make check   lint, format and types
# make docs    write the generated pages of docs/ from the registry and the commands
# make clean   remove the environment and the tools' caches; what was run stays in $(OUT)

PYTHON ?= python3
VENV ?= .venv
OUT ?= .advalign
DEMO_FLAGS ?= --methods dpo,ganpo_dpo --max-pairs 40 --micro-batch-size 1 --max-length 384 --held-out-pairs 30 \
	--num-prompts 32 --max-new-tokens 128
# Two processes of one thread each; a file's tests stay in one process, where they share what is slow to make
PYTEST_FLAGS ?= -n 2 --dist loadfile

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: demo test check format docs clean
.DEFAULT_GOAL := test

demo: $(STAMP)
	@$(PY) -m benchmarks.run $(DEMO_FLAGS) --out $(OUT)

test: $(STAMP)
	@OMP_NUM_THREADS=1 $(PY) -m pytest $(PYTEST_FLAGS)

check: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(STAMP)
	$(PY) -m tests.documents

$(STAMP): pyproject.toml constraints.txt environment.py
	@command -v $(PYTHON) >/dev/null || { echo "missing: Python 3.11 or later; on Debian and Ubuntu: sudo apt install python3 python3-venv" >&2; exit 2; }
	@$(PYTHON) environment.py $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
