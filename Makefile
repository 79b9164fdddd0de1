# Needs Python >= 3.11, git and make. Every target sets up .venv first, which is quick when nothing changed.
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: help setup run test lint format bench eval train lock
help: ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: ## Create .venv from the lock
	@tools/setup.sh

run: setup ## Start the service on http://127.0.0.1:8000
	@$(BIN)/genadapter serve

test: setup ## Every test that needs no GPU, real vLLM and Valkey included
	$(PYTEST)

.PHONY: test-scheduled
test-scheduled: setup ## Tests that take long or fetch more from the package registry
	GENADAPTER_TEST_SCHEDULED=1 $(PYTEST) tests/docs

lint: setup ## Format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup ## Rewrite files as `make lint` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## The benchmarks
	$(BIN)/genadapter bench

train: setup ## Train the shipped generator (resumes)
	$(BIN)/genadapter train generator/training/configs/smollm2-135m-instruct.toml

eval: setup ## The paper's uses with the shipped generator and the baselines, within an hour: docs/results.md
	$(BIN)/genadapter eval all --limit 16 --minutes 40 --report docs/results.md

lock: setup ## Resolve locks/cpu.txt anew
	tools/lock.sh

.PHONY: fuzz chaos kills soak audit
fuzz: setup ## Thousands of requests and documents made to break it (FUZZ_CASES: how many of each kind)
	FUZZ_CASES=$${FUZZ_CASES:-400} $(PYTEST) -s tests/contract/test_schema.py tests/contract/test_fuzz.py tests/hostile \
	  tests/integration/test_hostile_requests.py

chaos: setup ## Store and engine killed, paused, slowed under load (CHAOS_MINUTES, CHAOS_SEED)
	@$(BIN)/python -m tests.chaos

kills: setup ## The service killed while it makes adapters (CHAOS_CREATES, CHAOS_SEED)
	@$(BIN)/python -m tests.chaos kills

soak: setup ## The same load for long: nothing may grow (SOAK_MINUTES)
	@$(BIN)/python -m tests.chaos soak

audit: setup ## Known vulnerabilities of the locked packages (asks the package index)
	@tools/audit.sh

.PHONY: check-deploy check-containers check-live demo-cluster
check-deploy: ## Images, manifests, rules and dashboards, as far as no cluster is needed
	@tools/check_deploy.sh

check-containers: setup ## docker-compose.yml's services as their containers would run them, without Docker (root; see its head)
	@$(BIN)/python -m tools.cluster.containers

check-live: setup ## Every query of dashboards and rules against a running system and a real Prometheus
	@$(BIN)/python -m tools.cluster.live

demo-cluster: setup ## Two of each role and two engines behind nginx; one of each is killed under load (DEMO_PAUSE)
	@$(BIN)/python -m tools.cluster.demo
