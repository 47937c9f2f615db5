# What one does with a checkout of bide: `make help` lists it.
#
# Every target makes what it needs: .venv under the checkout, the pinned tools
# of its group (the groups are in pyproject.toml, the versions in
# constraints.txt), and bide itself, built as a wheel and installed as a user
# would install it. Stamp files in .venv and target make the next call quick;
# a changed source builds again.
#
# What is tested is built by cargo's profile dev, the wheel and the Rust tests
# alike, so that nothing is compiled twice; what is measured or published is
# built by the profile release. (The profiles are in Cargo.toml.)
#
#   make PYTHON=/path/to/python3 test     another interpreter (delete .venv first)
#   make test PYTEST="-k journal"         only some of the Python tests
#   make test CARGO_TEST="-p bide-core"   only some of the Rust tests
#   make test-python PROFILE=release      the Python tests with the wheel as it is published

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST ?=
# The bindings have no Rust tests, and would be compiled a second time for that.
CARGO_TEST ?= --workspace --exclude bide-py
PROFILE ?= dev
# A test waits more than it computes: more of them at a time than there are processors.
WORKERS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) + 1)))
BENCH ?=
SEEDS ?= 10000
FIRST ?= 0
PREEMPTIONS ?= 3
FUZZ_SECONDS ?= 60
KILLS ?= 1000
EVENTS ?= 1000

# The crates look at this interpreter's headers. Naming it keeps cargo from
# building them again when the PATH changes.
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python

# Nothing is built a second time in CI: what would make that quicker is not written.
ifdef CI
export CARGO_INCREMENTAL := 0
endif

# What the wheel is made of; directories too, so that a deleted file counts.
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust -path '*/target' -prune -o -print)
WHEEL_SOURCES := pyproject.toml $(RUST_SOURCES) \
	$(shell find python -name __pycache__ -prune -o -print)

.PHONY: help
help: ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | expand -t 14

.PHONY: demo
demo: $(STAMP)/bide-$(PROFILE) $(STAMP)/group-demo ## watch a workflow be killed while it waits, go on and finish
	$(BIN)/python -m examples.demo

.PHONY: demo-many
demo-many: $(STAMP)/bide-$(PROFILE) ## watch four runners on one PostgreSQL be killed and stopped, and its server crash
	$(BIN)/python -m examples.demo_many

.PHONY: test
test: test-rust test-python ## run all tests

# Unless CARGO_TEST says which targets: all with tests. The examples are modules of a test too, and need not be built twice.
RUST_TARGETS := $(if $(filter --lib --bin% --test% --example% --bench%,$(CARGO_TEST)),,--lib --bins --tests)

.PHONY: test-rust
test-rust: $(STAMP)/group-test-rust ## run the Rust tests alone
	scripts/postgres run $(BIN)/cargo-nextest nextest run --locked --no-tests warn $(CARGO_TEST) $(RUST_TARGETS)
	$(if $(RUST_TARGETS),cargo test --locked --doc $(CARGO_TEST))

.PHONY: test-python
test-python: $(STAMP)/bide-$(PROFILE) $(STAMP)/group-demo $(STAMP)/group-test .venv-pythons/stamp ## run the Python tests alone
	scripts/postgres run scripts/test-python $(BIN)/python $(WORKERS) $(PYTEST)

# Apart from the others: Ray is 240 MB, and its cluster listens on all addresses.
.PHONY: test-ray
test-ray: $(STAMP)/bide-$(PROFILE) $(STAMP)/group-test ## run the tests of bide.Ray, which installs Ray, in a network namespace
	if $(PIP) install --constraint constraints.txt --group test-ray; then
		scripts/test-ray $(BIN)/python $(PYTEST)
	else
		echo "Ray cannot be installed here: its tests are skipped"
	fi

.PHONY: soak
soak: soak-worlds soak-kills soak-postgres soak-models soak-fuzz soak-valgrind ## what make test does in small, for as long as one likes; parts: soak-…

.PHONY: soak-worlds
soak-worlds: $(STAMP)/venv ## play simulated worlds: make soak-worlds SEEDS=100000 [FIRST=0]
	cargo run --locked --release -p bide-testkit --example soak -- $(SEEDS) $(FIRST)

.PHONY: soak-kills
soak-kills: $(STAMP)/bide-$(PROFILE) $(STAMP)/group-test ## kill processes at random moments: make soak-kills KILLS=1000 [SEED=4711]
	$(BIN)/python tests/kills.py $(KILLS) $(SEED)

.PHONY: soak-postgres
soak-postgres: $(STAMP)/bide-$(PROFILE) $(STAMP)/group-test ## torture runners on a PostgreSQL: make soak-postgres EVENTS=1000 [SEED=4711]
	scripts/postgres run $(BIN)/python tests/postgres_torture.py $(EVENTS) $(SEED)

.PHONY: soak-models
soak-models: ## the models of the scheduler with more preemptions: make soak-models PREEMPTIONS=4
	LOOM_MAX_PREEMPTIONS=$(PREEMPTIONS) cargo test --locked -p bide-sched --lib models

.PHONY: soak-fuzz
soak-fuzz: ## fuzz the stored formats, guided by coverage: make soak-fuzz FUZZ_SECONDS=3600
	scripts/fuzz $(FUZZ_SECONDS)

.PHONY: soak-valgrind
soak-valgrind: $(STAMP)/venv ## run the Rust tests under valgrind, if there is one
	scripts/valgrind

# Each tool is a target, so that `make --keep-going lint` shows what all of them say.
LINTS := lint-rustfmt lint-clippy lint-features lint-structure lint-ruff lint-mypy lint-basedpyright lint-stubtest
.PHONY: lint $(LINTS)
lint: $(LINTS) ## check format, lints and types

lint-rustfmt:
	cargo fmt --all --check

lint-clippy: $(STAMP)/venv
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p bide-py -- -D warnings # what is published, without the features of tests

lint-features:
	scripts/check-features

lint-structure: $(STAMP)/venv
	$(BIN)/python scripts/import-circles

lint-ruff: $(STAMP)/group-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# These modules are not type-checked: what they import is not installed by this target, or they are wrong on purpose.
lint-mypy: $(STAMP)/bide-$(PROFILE) $(STAMP)/group-demo $(STAMP)/group-test $(STAMP)/group-lint
	$(BIN)/mypy --strict --exclude '((dbos|dagron|sayiir|cairnq|dask)_rows|chart|typing_cases/wrong)\.py' python/bide tests examples benchmarks

lint-basedpyright: $(STAMP)/bide-$(PROFILE) $(STAMP)/group-demo $(STAMP)/group-test $(STAMP)/group-lint
	$(BIN)/basedpyright --pythonpath $(BIN)/python python

lint-stubtest: $(STAMP)/bide-$(PROFILE) $(STAMP)/group-lint
	$(BIN)/python -m mypy.stubtest bide._core

.PHONY: format
format: $(STAMP)/group-lint ## put Rust and Python sources in their format
	cargo fmt --all
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(STAMP)/bide-release $(STAMP)/group-demo ## print the table of measurements, side by side in one run
	$(BIN)/python -m benchmarks $(BENCH)

.PHONY: bench-peers
bench-peers: $(STAMP)/bide-release $(STAMP)/group-demo .venv-peers/stamp ## the same with rows of other engines
	$(BIN)/python -m benchmarks --peers $(BENCH)

# With the durability that a server has as it is installed: each commit is synced.
.PHONY: bench-postgres
bench-postgres: $(STAMP)/bide-release $(STAMP)/group-demo .venv-peers/stamp ## bide beside DBOS on one PostgreSQL: make bench-postgres BENCH="wide chain"
	url=$$(scripts/postgres start target/bench-postgres "fsync = on" "shared_buffers = '512MB'" "max_wal_size = '4GB'")
	trap 'scripts/postgres stop target/bench-postgres' EXIT
	$(BIN)/python -m benchmarks.postgres "$$url" $(BENCH)

.PHONY: bench-rust
bench-rust: $(STAMP)/venv ## measure the Rust side alone: closures beside bare tokio, and the stores
	cargo bench --locked -p bide-executor --bench closures
	cargo bench --locked -p bide-store --bench store

# The wheel has no symbols: this is the same extension with them, beside the same Python sources.
.PHONY: profile
profile: $(STAMP)/bide-release ## count the instructions of a task, a hop, a run, a wait and a poll; needs valgrind
	cargo build --locked --release -p bide-py
	rm -rf target/profile-python
	mkdir -p target/profile-python
	cp -r python/bide target/profile-python/
	cp target/release/libbide_core_py.so target/profile-python/bide/_core.abi3.so
	PYTHONPATH=target/profile-python $(BIN)/python -m benchmarks.instructions

.PHONY: bench-take-over
bench-take-over: $(STAMP)/bide-release ## how long after a SIGKILL another process goes on with the run
	$(BIN)/python -m benchmarks.take_over

.PHONY: chart
chart: $(STAMP)/group-chart ## draw benchmarks/chart.svg from what make bench measured last
	$(BIN)/python -m benchmarks.chart

# What is published. The tests use a wheel that is linked for this machine, which needs no second toolchain.
.PHONY: wheel
wheel: $(STAMP)/group-wheel ## build the wheel to publish, for any Linux since 2014, into target/dist
	rm -rf target/dist
	PATH="$(CURDIR)/$(BIN):$$PATH" CARGO_TARGET_DIR=target/manylinux $(BIN)/maturin build --release --locked --zig \
		--compatibility manylinux2014 --interpreter $(BIN)/python --out target/dist

.PHONY: clean
clean: ## delete everything that make has made
	rm -rf target $(VENV) .venv-peers .venv-pythons .pytest_cache .mypy_cache .ruff_cache .hypothesis

# --- how the above comes to be ------------------------------------------------

$(STAMP)/venv:
	@python=$${PYTHON:-$$(scripts/find-python 3.11)}
	echo "creating $(VENV) with $$python"
	rm -rf $(VENV)
	"$$python" -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --upgrade pip
	mkdir -p $(STAMP)
	touch $@

# One group of pyproject.toml's [dependency-groups].
$(STAMP)/group-%: constraints.txt pyproject.toml | $(STAMP)/venv
	@echo "installing what $* needs into $(VENV)"
	$(PIP) install --constraint constraints.txt --group $*
	touch $@

# The wheel of a profile of cargo's, dev or release. The one that is tested asks its dependencies for what the Rust tests
# ask them for: see the feature in rust/py/Cargo.toml.
target/wheels/%/stamp: $(WHEEL_SOURCES) | $(STAMP)/group-build
	@echo "building bide's wheel for this machine, profile $*"
	rm -rf target/wheels/$*
	$(BIN)/maturin build --profile $* $(if $(filter dev,$*),--features as-tested) --locked --interpreter $(BIN)/python \
		--out target/wheels/$*
	touch $@

# A wheel of the same version is not installed over the old one: take that away first.
$(STAMP)/bide-%: target/wheels/%/stamp constraints.txt | $(STAMP)/venv
	@echo "installing bide's wheel of the profile $* into $(VENV)"
	rm -f $(STAMP)/bide-*
	$(PIP) --quiet --quiet uninstall --yes bide
	$(PIP) install --constraint constraints.txt target/wheels/$*/*.whl
	touch $@

# Stamps stay, also those that only pattern rules name.
.SECONDARY:

# The other CPythons at hand, for the tests of interpreter exit.
.venv-pythons/stamp: constraints.txt scripts/make-pythons scripts/find-python
	@scripts/make-pythons
	touch $@

.PHONY: pythons
pythons: .venv-pythons/stamp ## make an environment for each CPython at hand, for the tests of interpreter exit

# Other engines, only for bench-peers, each apart from bide and from each other.
.venv-peers/stamp: benchmarks/peers.txt scripts/find-python
	@scripts/install-peers
	touch $@
