# Needs Python 3.11 or newer and nothing else. What it makes lies in .venv, what runs writes to ./data.

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
CODE := app learners scripts sluice tests

# Set PYTHON to choose the interpreter; otherwise the first of these that is new enough.
PYTHONS := $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup run test demo check lint bench bench-compare format lock clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV) ## Install everything into .venv, and stop there

run: $(RUNTIME) ## Set up what is missing and serve on http://127.0.0.1:8000
	@exec $(BIN)/sluice serve

test: $(DEV) ## Set up what is missing and run the tests
	$(BIN)/python -m pytest -n auto --dist loadfile

demo: $(RUNTIME) ## Play a small shop into a running service, and show what it learns
	@$(BIN)/python -m scripts.demo $(if $(URL),--url $(URL))

check: lint test ## All that CI runs: format, lint, types, imports, tests

lint: $(DEV) ## The part of check that runs nothing of ours
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV) ## Run the benchmarks: the parts, then whole requests beside what HTTP alone costs
	$(BIN)/python -m pytest tests/benchmarks -m benchmark --benchmark-only
	$(BIN)/python -m scripts.bench --json bench.json

bench-compare: $(DEV) ## Fail if something costs more than in the last release, beside the same floors
	$(BIN)/python -m scripts.bench --items 10000 --items 100000 --rounds 5 --requests 1000 --compare

format: $(DEV) ## Rewrite the code as check wants it
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

# The locks name no index, so they work with whatever index pip is set up for. Needs uv.
LOCK := uv pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate
lock: ## Pin the dependencies anew (needs uv)
	$(LOCK) --group build --output-file requirements.lock
	$(LOCK) --group dev --constraints requirements.lock --output-file requirements-dev.lock

clean: ## Remove what was installed and cached; ./data stays
	rm -rf $(VENV) dist .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache \
		.ruff_cache .schemathesis
	find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +

# ── the environment ───────────────────────────────────────────────────────────────────────────────

# uv if there is one, else venv with its own pip, else venv with the system's pip.
define make_venv
	python=; \
	for candidate in $(PYTHONS); do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
		then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo "Sluice needs Python 3.11 or newer; none of these is: $(PYTHONS)." >&2; \
		echo "Install one (Debian: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$python --version). This takes about a minute, once."; \
	if command -v uv >/dev/null; then uv venv --quiet --clear --python "$$($$python -c 'import sys; print(sys.executable)')" $(VENV); \
	elif $$python -c 'import ensurepip' 2>/dev/null; then $$python -m venv --clear $(VENV); \
	elif $$python -m pip --version >/dev/null 2>&1; then $$python -m venv --clear --without-pip $(VENV); \
	else \
		echo "This Python can make no virtual environment: it has neither ensurepip nor pip." >&2; \
		echo "Install its venv package (Debian: apt-get install python3-venv), then try again." >&2; \
		exit 1; \
	fi
endef

# $(call install,ARGUMENTS)
define install
	if command -v uv >/dev/null; then uv pip install --quiet --python $(BIN)/python $(1); \
	elif $(BIN)/python -m pip --version >/dev/null 2>&1; then $(BIN)/python -m pip install --quiet $(1); \
	else for candidate in $(PYTHONS); do \
		if $$candidate -m pip --version >/dev/null 2>&1; \
		then exec $$candidate -m pip --python $(BIN)/python install --quiet $(1); fi; \
	done; exit 1; fi
endef

.DELETE_ON_ERROR:

$(VENV)/pyvenv.cfg:
	@$(make_venv)

# The project itself comes last, editable, built by the pinned backend: nothing unpinned is fetched.
$(RUNTIME): requirements.lock pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "Installing what Sluice needs."
	@$(call install,--no-deps --require-hashes -r requirements.lock)
	@$(call install,--no-deps --no-build-isolation --editable .)
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.lock
	@echo "Installing what the checks and tests need."
	@$(call install,--no-deps --require-hashes -r requirements-dev.lock)
	@touch $@
