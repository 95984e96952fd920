# Everything a newcomer types. A machine needs Python >= 3.11 and make; nothing else is installed by hand.
PYTHON ?= python3
# Tests start hundreds of processes, and images often forbid Python to keep what it compiled: twice the time of each start.
export PYTHONDONTWRITEBYTECODE :=
VENV := .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.runs
TESTS := $(VENV)/.tests
AOT := $(VENV)/kafka.aot
UV := $(BIN)/uv
CODE := $(wildcard schemas services tests bench)
# Test files go side by side, each worker with a broker of its own: mostly they wait, so there are more than cores.
WORKERS ?= 4
SIDE_BY_SIDE := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: setup dev check test lint format bench soak schemas chart lock clean

setup: $(TESTS)

# pip checks every hash. The project itself is linked in place, so an edit needs no new setup. What the services need is in
# requirements.txt, which the image is built from; requirements-broker.txt has Java and Kafka's fetcher beside that.
$(RUNS): requirements-broker.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("rejoinder needs Python >= 3.11; name one: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-broker.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# What only developing takes, many times as much, waits until somebody does.
$(TESTS): $(RUNS) requirements-dev.txt
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.txt
	@touch $@

# The tests start dozens of brokers; Java keeps what all these starts have in common. Without it they only take longer.
$(AOT): $(TESTS) services/broker/jgo.lock.toml
	-@$(BIN)/python -m tests.brokers > /dev/null

# `exec`: Ctrl-C and SIGTERM reach rejoinder itself, not a shell in between.
dev: $(RUNS)
	@exec $(BIN)/rejoinder dev $(ARGS)

# Sets in the same order in every run: a seed that is played within a test then plays alike each time.
check test soak: export PYTHONHASHSEED := 0

# What needs no broker: for whoever is in the middle of a change.
check: setup
	@REJOINDER_TEST_KAFKA=none exec $(BIN)/pytest $(SIDE_BY_SIDE) tests/unit tests/property tests/contract/test_log.py $(ARGS)

test: setup $(AOT)
	@exec $(BIN)/pytest $(SIDE_BY_SIDE) $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/vulture
	$(BIN)/codespell

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	@exec $(BIN)/python -m bench $(ARGS)

# What takes too long for every change: many more seeds of the simulation, the suites of which `make test` runs a
# part, then thousands of responses under fire.
LONG := tests/simulation tests/reliability tests/property tests/integration/test_held.py tests/integration/test_webhooks.py \
	tests/integration/test_analytics.py tests/conformance/test_openapi.py
soak: setup $(AOT)
	$(BIN)/python -m tests.simulation --seeds 3000
	REJOINDER_SOAK=1 $(BIN)/pytest $(SIDE_BY_SIDE) $(LONG)
	@exec $(BIN)/python -m tests.reliability.soak $(ARGS)

# The published schemas anew, after a change of a record, a route or a check of a request.
schemas: $(RUNS)
	$(BIN)/python -m services.published $(ARGS)

# New pins for the dependencies of pyproject.toml. Pins name no registry: pip asks the one that it is set up for.
LOCK := $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --upgrade \
	--extra analytics --extra traces pyproject.toml
lock: setup
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) --group build --output-file requirements.txt
	$(LOCK) --extra broker --group build --constraints requirements.txt --output-file requirements-broker.txt
	$(LOCK) --extra broker --group dev --constraints requirements-broker.txt --output-file requirements-dev.txt
	$(BIN)/python -c "from services.broker.jars import write_lock; write_lock()"

# Lints the Helm chart, and makes anew what it takes from the code and the plain manifests that are made of it. Helm is a Go
# module; where there is no Go, a helm of the machine's own will do.
HELM := $(BIN)/helm
chart: setup $(if $(shell command -v go),$(HELM))
	$(BIN)/python -m tests.chart

$(HELM): | $(TESTS)
	GOBIN=$(abspath $(BIN)) CGO_ENABLED=0 go install -trimpath -ldflags='-s -w' helm.sh/helm/v4/cmd/helm@v4.3.1

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
