# Everything a person types here; `make` alone lists it.
PYTHON ?= python3
BIN := .venv/bin
OPA_VERSION := v1.22.2
export UV_LINK_MODE ?= copy
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo up compose test soak coverage mutants lint type fmt rego bench utility peers servers locks docs clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/.demo ## the main job end to end on this machine, no Docker
	$(BIN)/privacy-gateway demo

up: .venv/.demo ## serve on http://127.0.0.1:8081 (state in ./state)
	$(BIN)/privacy-gateway up --state state

COMPOSE = docker compose -f docker-compose.yml $(if $(STANDIN),-f deploy/compose.standin.yml)

compose: ## the same in containers with PostgreSQL, Redis and OPA (STANDIN=1: no image registry)
	./deploy/secrets.sh
	$(if $(STANDIN),./deploy/standin/build.sh)
	$(COMPOSE) up --build --detach --wait

test: lint type servers ## everything: lint, types, import law, Rego tests, pytest with real servers
	$(BIN)/pytest -n 3 --dist worksteal --durations 15 $(PYTEST_ARGS)

soak: .venv/.dev servers ## hours: 1e5 operations from 16 clients on each database, 1e6 in step with the reference
	nice -n 10 $(BIN)/pytest tests -m soak -s --durations 0 $(PYTEST_ARGS)

PROVEN = accounting policies.verdict policies.strict policies.question \
	privacy_gateway.rdp privacy_gateway.gdp privacy_gateway.replay privacy_gateway.prices privacy_gateway.people
PROOFS = tests/accounting $(addprefix tests/policies/test_,verdict.py strict.py question.py) tests/jobs/test_group_commit.py tests/jobs/test_sweeps.py \
	$(addprefix tests/gateway/test_,shares.py backup.py constraints.py statements.py) \
	$(addprefix tests/client/test_,rdp.py verify.py tampered.py tabular.py apart.py questioned.py rules.py unproven.py)

coverage: .venv/.dev servers ## branch coverage of accounting, ledger, filter and policy decoding; at least 95 %
	$(BIN)/pytest $(PROOFS) -m "not slow and not soak" -q $(addprefix --cov=,$(PROVEN)) \
		--cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=95 $(PYTEST_ARGS)

mutants: .venv/.dev ## hours: mutation testing of the accountant; survivors in .cache/mutants
	$(BIN)/python .ci/mutants.py

lint: .venv/.dev ## ruff and the import law
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

type: .venv/.dev ## mypy --strict
	$(BIN)/mypy

fmt: .venv/.dev ## format Python and Rego
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	@test -x .cache/bin/opa && .cache/bin/opa fmt --write rego || true

rego: servers ## OPA's own checks and tests of the library and the examples
	.cache/bin/opa fmt --list --fail rego
	.cache/bin/opa check --strict rego
	.cache/bin/opa test rego

bench: .venv/.dev ## tables of ratios, JSON in benchmarks/results
	$(BIN)/python -m benchmarks

utility: .venv/.bench ## accuracy by privacy budget and under attack, on real people's data; an hour
	nice $(BIN)/python -m benchmarks utility attacks

peers: .venv/.dev ## opt-in: race TensorFlow Federated, Flower and PyTorch, each in an environment of its own
	$(BIN)/python -m benchmarks peers --full --runs 3

docs: .venv/.demo ## make docs/reference from the code again
	$(BIN)/python -m docs.generate

servers: ## PostgreSQL, Redis and opa, installed where they are missing
	@OPA_VERSION=$(OPA_VERSION) ./.ci/servers

locks: .venv/.uv ## resolve the dependency sets again, with hashes and no hosts
	./.ci/locks
	./.ci/locks-peers

clean: ## remove what `make` made
	rm -rf .venv .cache build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

.venv/.uv: requirements/bootstrap.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11 to 3.13 needed: make PYTHON=…"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $@

# Bytecode is compiled once here: TensorFlow's first import takes less than half the time.
INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode

.venv/.demo: .venv/.uv requirements/demo.txt requirements/data.txt pyproject.toml client/pyproject.toml
	$(INSTALL) --require-hashes -r requirements/demo.txt
	$(INSTALL) --require-hashes --no-deps -r requirements/data.txt
	$(INSTALL) --no-deps --no-build-isolation -e client -e .
	@touch $@

.venv/.dev: .venv/.demo requirements/dev.txt
	$(INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@

.venv/.bench: .venv/.dev requirements/bench.txt
	$(INSTALL) --require-hashes --no-deps -r requirements/bench.txt
	@touch $@
