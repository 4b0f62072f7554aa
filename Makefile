# Everything is set up on the first call and again when its inputs change; a machine needs Python ≥ 3.11 and nothing else.
# A read-only checkout works too: make demo VENV=/elsewhere/venv RESULTS=/elsewhere/results
PYTHON  ?= python3
VENV    ?= .venv
RESULTS ?= results
ENGINE  ?= relief
# cuda: for an NVIDIA GPU, 3 GB more
TORCH   ?= cpu
BIN     := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install weights demo test test-unit test-integration test-system test-postgres test-long check format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## Install the pinned versions and the test tools into .venv

LOCKS := requirements.lock requirements-cpu.lock requirements-cuda.lock tests/requirements.lock
$(VENV)/installed: $(LOCKS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	@set -e; mkdir -p $(VENV); exec 9> $(VENV)/.lock; \
	if command -v flock > /dev/null && ! flock --nonblock 9; then echo "Waiting for another installation …"; flock 9; fi; \
	if [ -f $@ ] && [ -z "$$(find $^ -newer $@)" ]; then exit 0; fi; \
	$(PYTHON) -m venv $(VENV); \
	echo "Installing the pinned versions into $(VENV); torch alone is a few hundred MB …"; \
	install="$(BIN)/pip --disable-pip-version-check install --quiet --no-deps"; \
	$$install --require-hashes --requirement requirements.lock & \
	$$install --require-hashes --requirement tests/requirements.lock; \
	: "PyTorch has no separate CPU build for this machine, or its index cannot be reached: the registry's build"; \
	$$install --require-hashes --retries 1 --requirement requirements-$(TORCH).lock 2> /dev/null \
	    || $$install --require-hashes --requirement requirements-cuda.lock; \
	wait $$!; \
	$$install --no-build-isolation --editable .; \
	$(BIN)/pip check > /dev/null; \
	touch $@

weights: install ## Fetch the small background model that the demo and the tests use
	@$(BIN)/worker weights fetch u2netp

demo: weights ## Make 3D models of sample photos through the real daemon, and a page to look at them
	@$(BIN)/worker demo --engine $(ENGINE) --results "$(RESULTS)"

# Four files at a time on two cores, since many tests wait for a process; in the order of tests/conftest.py, whose first take longest.
PYTEST = $(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
PROCESSES := 4
test-unit: PROCESSES := 2

test: weights ## Run all tests but the long ones
	$(PYTEST)

test-unit: weights ## Run the tests that need no database and no other process: a minute
	$(PYTEST) -m "unit and not long"

test-integration: weights ## Run the tests with Postgres, but no daemon
	$(PYTEST) -m "integration and not long"

test-system: weights ## Run the tests of whole processes: daemons, the demo, systemd
	$(PYTEST) -m "system and not long"

BINARIES ?= /usr/lib/postgresql/15/bin
test-postgres: install ## Run the tests of the queue on another Postgres, set up as Supabase's: BINARIES=/its/bin
	WORKER_TEST_POSTGRES="$(BINARIES)" $(PYTEST) tests/database/test_migrations.py tests/jobs/test_queue.py tests/jobs/test_row.py \
	    tests/jobs/test_app_table.py tests/jobs/test_claim_at_scale.py

test-long: weights ## Run the tests that take minutes each, one after the other
	$(BIN)/python -m pytest -m long -o faulthandler_timeout=1800

check: install ## Lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: install ## Put the code into its form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove what the above made
	rm -rf .venv .worker results .mypy_cache .pytest_cache .ruff_cache .hypothesis
