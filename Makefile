# make up: a running cluster, mounted. make test: everything is checked. The rest is in README.md.
MOUNT ?= ./mnt
DATA ?= ./var
DATANODES ?=
REPLICAS ?=
PREFIX ?= /usr/local
TESTS ?= tests
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 8 ? n + 1 : 8)))
MINUTES ?= 20
SEEDS ?= 1000
FROM ?= 0
SOAK_OPTIONS ?=
PEERS ?=
BENCH_OPTIONS ?=

BIN := .venv/bin
UP_OPTIONS := $(if $(DATANODES),--datanodes $(DATANODES)) $(if $(REPLICAS),--replicas $(REPLICAS))

.PHONY: help up down test lint bench sim soak setup setup-dev install clean

help:
	@echo 'make up       install what is missing, start a cluster in $(DATA), mount it at $(MOUNT)'
	@echo '              (MOUNT=DIR DATA=DIR DATANODES=3 REPLICAS=2)'
	@echo 'make down     unmount and stop it; the data stays'
	@echo 'make test     install what is missing and run all tests (TESTS=tests/unit for some,'
	@echo '              WORKERS=0 for one after another)'
	@echo 'make lint     only the style and type checks'
	@echo 'make sim      simulate clusters in which everything goes wrong (SEEDS=1000 FROM=0)'
	@echo 'make soak     as root: write to a cluster while everything of it breaks and is mended, then check it'
	@echo '              (MINUTES=20; SOAK_OPTIONS="--engine postgres" for three coordinators)'
	@echo 'make bench    measure a mount beside a local directory and other file systems'
	@echo '              (PEERS="moosefs glusterfs juicefs seaweedfs sshfs"; BENCH_OPTIONS=--help tells more)'
	@echo 'make install  install cairnfs and mount.cairnfs for all users (as root, PREFIX=/usr/local)'
	@echo 'make clean    remove what was built; the data stays'

up: setup
	@$(BIN)/cairnfs up --data '$(DATA)' --mount '$(MOUNT)' $(UP_OPTIONS)

down:
	@if [ -x $(BIN)/cairnfs ]; then $(BIN)/cairnfs down --data '$(DATA)'; else echo 'nothing runs'; fi

test: lint
	@case '$(TESTS)' in tests|*containers*) [ "$$(id -u)" -ne 0 ] || scripts/setup.sh containers || true;; esac
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(TESTS)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: setup-dev
	.venv/bin/python -m tests.soak --minutes $(MINUTES) $(SOAK_OPTIONS)

sim: setup-dev
	$(BIN)/python -m tests.sim --seeds '$(SEEDS)' --from '$(FROM)'

bench: setup
	$(BIN)/python bench/run.py --peers '$(PEERS)' $(BENCH_OPTIONS)

setup:
	@scripts/setup.sh

setup-dev:
	@scripts/setup.sh dev

install: setup
	@mkdir -p '$(PREFIX)/bin' '$(PREFIX)/lib' && [ -w '$(PREFIX)/bin' ] && [ -w '$(PREFIX)/lib' ] || \
		{ echo 'make install: cannot write to $(PREFIX); run it as root' >&2; exit 1; }
	.venv/bin/python -m venv --clear '$(PREFIX)/lib/cairnfs'
	'$(PREFIX)/lib/cairnfs/bin/python' -m pip install --quiet --disable-pip-version-check .
	ln -sf ../lib/cairnfs/bin/cairnfs '$(PREFIX)/bin/cairnfs'
	'$(PREFIX)/bin/cairnfs' install-mount-helper

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find fusefs -name '*.so' -delete
