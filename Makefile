# The verbs of herder. `make demo` and `make test` do all of their own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: help setup demo test test-all check unit integration acceptance acceptance-incus lab lab-down bench-downtime bench-evacuate bench-cluster bench-backup campaign campaign-lxd campaign-backups nights lock clean

help: ## Say what the verbs do
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | column -t -s '|'

setup: $(INSTALLED) ## Make .venv with herder and its tools in it

$(INSTALLED): requirements.lock pyproject.toml
	@sh tests/bootstrap.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

demo: setup ## Empty a real LXD server with 12 running containers into another one; a simulated one where LXD cannot run
	$(BIN)/python -m tests.demo

check: setup ## Lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup ## Tests without network and servers; simulated servers among them
	$(BIN)/pytest tests/unit tests/docs tests/simulator
	$(BIN)/pytest tests/contract -m "not lab"

integration: setup ## Tests with a real Redis, the crash matrix among them
	$(BIN)/pytest tests/integration tests/campaign

acceptance: setup ## Tests with real LXD servers
	$(BIN)/pytest tests/lab tests/acceptance tests/bench
	$(BIN)/pytest tests/contract -m lab

acceptance-incus: export HERDER_LAB_PRODUCT := incus
acceptance-incus: setup ## Acceptance tests with servers of Incus in place of LXD
	$(BIN)/pytest tests/acceptance

test: check ## Everything that must hold: check, unit, integration, acceptance
	$(BIN)/pytest --numprocesses 4 --dist loadscope --durations 40 tests

test-all: check ## The same with all exhaustive tests: a death at each point of each step, on real servers too
	$(BIN)/pytest --exhaustive --numprocesses 4 --dist loadscope tests

lab: setup ## Bring real LXD servers up: s1, s2, d1 and the cluster c1 to c3
	$(BIN)/python -m tests.lab up

lab-down: setup ## Take the lab down and remove all of it
	$(BIN)/python -m tests.lab down

bench-downtime: setup ## How long an instance is down: herder beside lxc stop, move, start
	$(BIN)/python -m tests.bench.downtime

bench-evacuate: setup ## How long an evacuation takes: herder beside lxc move and lxc cluster evacuate
	$(BIN)/python -m tests.bench.evacuate

bench-backup: setup ## What a night of backups costs on which nothing has changed, beside the first one
	$(BIN)/python -m tests.bench.backup

bench-cluster: setup ## How long it takes to empty a cluster member: herder beside lxc cluster evacuate
	$(BIN)/python -m tests.bench.cluster

campaign: setup ## Random crashes on simulated servers: SEEDS=1000
	$(BIN)/python -m tests.campaign --seeds $(or $(SEEDS),1000)

campaign-lxd: setup ## Evacuate real containers while workers, Redis and LXD daemons are killed: ROUNDS=50
	$(BIN)/python -m tests.acceptance.campaign --rounds $(or $(ROUNDS),50)

campaign-backups: setup ## Back real containers up while workers, Redis, daemons, connections and pools fail: BLOWS=200
	$(BIN)/python -m tests.acceptance.backup_campaign --blows $(or $(BLOWS),200)

nights: setup ## Back real containers and their volumes up for 30 nights, and compare every generation that is kept
	$(BIN)/python -m tests.acceptance.nights

lock: setup ## Write requirements.lock anew from pyproject.toml
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate \
		--no-header --no-emit-index-url --no-emit-find-links --extra dev pyproject.toml --output-file requirements.lock

clean: ## Remove what the other verbs made in the checkout
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
