# Every target sets up .venv by itself; only Python 3.11+ and make are needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# How many processes run the suite. Much of it waits: two more than two cores have to do.
WORKERS ?= 4
# The longest files first (tests/order.py), not those of the most tests.
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: install sdk demo quick test weigh coverage check format generate bench clean

install: .venv/.installed

.venv/.installed: pyproject.toml deploy/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c deploy/constraints.txt -e '.[dev]'
	@touch $@

# The platforms' own clients and workers, which tests/sdk runs as they are, the web frameworks and
# linters of packages for tests/deploy, and the linters and the fuzzer that tests/reference holds the
# OpenAPI document against: each in an environment of its own. Needs npm beside Python.
sdk: .sdk/.installed

PACKAGED := tests/deploy/package.json tests/deploy/package-lock.json
REFERENCE := tests/reference/package.json tests/reference/package-lock.json
.sdk/.installed: tests/sdk/requirements.txt tests/sdk/requirements-cog.txt \
		tests/sdk/package.json tests/sdk/package-lock.json \
		tests/deploy/requirements.txt $(PACKAGED) tests/reference/requirements.txt $(REFERENCE)
	$(PYTHON) -m venv --clear .sdk/python
	.sdk/python/bin/pip install --quiet --disable-pip-version-check -r tests/sdk/requirements.txt
	$(PYTHON) -m venv --clear .sdk/cog
	.sdk/cog/bin/pip install --quiet --disable-pip-version-check -r tests/sdk/requirements-cog.txt
	mkdir -p .sdk/node
	cp tests/sdk/package.json tests/sdk/package-lock.json .sdk/node/
	npm ci --prefix .sdk/node --silent --no-audit --no-fund
	$(PYTHON) -m venv --clear .sdk/tools
	.sdk/tools/bin/pip install --quiet --disable-pip-version-check -r tests/deploy/requirements.txt
	mkdir -p .sdk/frameworks
	cp $(PACKAGED) .sdk/frameworks/
	npm ci --prefix .sdk/frameworks --silent --no-audit --no-fund
	$(PYTHON) -m venv --clear .sdk/reference
	.sdk/reference/bin/pip install --quiet --disable-pip-version-check -r tests/reference/requirements.txt
	mkdir -p .sdk/linters
	cp $(REFERENCE) .sdk/linters/
	npm ci --prefix .sdk/linters --silent --no-audit --no-fund
	@touch $@

demo: install
	@$(BIN)/dispatcher demo

# While working: what neither waits nor needs a process of its own or PostgreSQL, of both halves.
quick: install
	$(BIN)/pytest -m quick $(PARALLEL)

test: install
	$(BIN)/pytest $(PARALLEL)

# The same, and how long each file takes is written down, for the order in which they run.
weigh: install
	$(BIN)/pytest $(PARALLEL) --weigh

# The same suite, slower by a third; fails under the floor that pyproject.toml sets, unless there is
# no PostgreSQL to run its half of the stores on.
NO_FLOOR := from tests.dispatcher.postgres.server import available as a; print("" if a() else "--fail-under=0")
coverage: install
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report $$($(BIN)/python -c '$(NO_FLOOR)')

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The client for ordinary code, out of the one for asyncio; a test holds it to that.
generate: install
	$(BIN)/python -m tests.dispatcher.client.generate

bench: install
	$(BIN)/python -m tests.bench

clean:
	rm -rf .venv .sdk .mypy_cache .pytest_cache .ruff_cache .coverage build *.egg-info
