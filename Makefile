# Every target is safe to repeat, and sets up what it needs.
PYTHON := .venv/bin/python

.PHONY: help setup run test test-matrix soak check fuzz bench lock clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 12

setup:  ## make .venv with the locked requirements
	@scripts/setup.sh

run: setup  ## show the whole job on a containerd of its own; IMAGE=name@digest for another image
	@$(PYTHON) -m scripts.demo $(IMAGE)

test: setup  ## all checks and tests, on real daemons
	@python3 scripts/fetch_tools.py --for test
	@$(MAKE) --no-print-directory check
	@$(PYTHON) -m pytest -q

test-matrix: setup  ## the tests that need a containerd on 1.6, 1.7 and 2.1, with two snapshotters
	@python3 scripts/fetch_tools.py --for matrix
	@$(PYTHON) -m scripts.test_matrix

soak: setup  ## many kills, a 5 GB image: what takes a quarter of an hour
	@python3 scripts/fetch_tools.py --for test
	@$(PYTHON) -m pytest -q --soak --timeout 3600 -s tests/integration/test_trouble.py \
	  tests/integration/test_crashes_and_crowds.py tests/integration/test_memory.py \
	  tests/integration/test_layout_crowds.py

check: setup  ## formatting, lint, types, import rules, generated files
	@$(PYTHON) -m ruff format --check -q .
	@$(PYTHON) -m ruff check -q .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-cache | tail -n 2
	@python3 scripts/generate_api.py --check
	@python3 scripts/build_pause.py

fuzz: setup  ## look for new counter-examples, for some minutes
	@HYPOTHESIS_PROFILE=fuzz $(PYTHON) -m pytest -q tests/unit --timeout 1800

bench: setup  ## measure against containerd's own client and others, and write docs/benchmarks.md
	@python3 scripts/fetch_tools.py --for bench
	@$(PYTHON) -m bench

lock: setup  ## resolve the requirements again
	@.venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url --no-emit-find-links --no-annotate --group test --group check \
	  --upgrade pyproject.toml -o requirements.txt

clean:  ## remove everything that was made here
	rm -rf .venv .tools .images .hypothesis .*_cache
