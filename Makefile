# Two commands: `make demo` and `make test`. Both make .venv when it is missing or out of date.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
REQUIREMENTS := setup.py requirements.lock
JOBS ?= auto

.PHONY: demo test test-engines fuzz lint types docs lock wheel clean

demo: $(VENV)/.installed
	$(BIN)/imgembed demo

test: $(VENV)/.installed-test lint types
	$(BIN)/python -m pytest -m "not engine" -n $(JOBS) --dist loadfile

# Engines that are programs of their own, fetched once into a folder of the user's; those that are
# not to be had are skipped, and the tests say which and why.
ENGINES ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/imgembed/engines
BEAM := 2.77.0
FLINK := 2.2
FLINK_JAR := beam-runners-flink-$(FLINK)-job-server
FLINK_LIBRARIES := apache-flink-libraries==2.2.1

test-engines: $(VENV)/.installed-test
	mkdir -p $(ENGINES)
	test -x $(ENGINES)/prism || ! command -v go >/dev/null || \
	  GOBIN=$(ENGINES) go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM) || \
	  echo "prism could not be built"
	# -C: Maven compares the jar with the checksum that Central has of it.
	test -f $(ENGINES)/$(FLINK_JAR)-$(BEAM).jar || ! command -v mvn >/dev/null || \
	  mvn -q -B -C dependency:copy -DoutputDirectory=$(ENGINES) \
	    -Dartifact=org.apache.beam:$(FLINK_JAR):$(BEAM) >/dev/null || \
	  echo "Maven Central gives no $(FLINK_JAR) $(BEAM)"
	# The cluster, 300 MB, only where there is something to submit to it.
	test ! -f $(ENGINES)/$(FLINK_JAR)-$(BEAM).jar || \
	  $(BIN)/pip download --quiet --no-deps --dest $(ENGINES) $(FLINK_LIBRARIES)
	IMGEMBED_ENGINES=$(ENGINES) $(BIN)/python -m pytest -m engine -rs tests/test_engines.py

# Malformed input by the thousand, other cases each time; what fails prints how to have it again.
CASES ?= 10000
MINUTES ?= 60

fuzz: $(VENV)/.installed-test
	IMGEMBED_FUZZ=$(CASES) timeout $(MINUTES)m $(BIN)/python -m pytest tests/test_fuzz_*.py

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

# The references of commands and settings, from the program itself; a test compares them.
docs: $(VENV)/.installed
	$(BIN)/python -m cli.reference docs

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "imgembed needs Python 3.10 to 3.13: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The lock file names every package, so that the same versions are installed in a year.
$(VENV)/.installed: $(REQUIREMENTS) | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[test]'
	touch $@

# Resolves the newest versions that setup.py allows, for every Python that it allows.
lock: $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra test --no-annotate \
	  --no-header setup.py -o requirements.lock

wheel: $(VENV)/.installed
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
