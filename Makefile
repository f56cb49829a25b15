# `make respond`: hear a reply. `make test`: what CI runs. `make demo`: talk to it in the browser.
# `make test-all`: also the tests that take minutes. `make torture`: every stage, killed twenty times.
# `make scorecard`: every figure of docs/scorecard.md again; with DATA=FOLDER also those that need data. It goes on.
# `make docs`: the pages of docs/ as a site, in `site`; a broken link is an error.
# `make test-gpu`: what only a GPU runs, in minutes; it prints the card, versions and figures.
# `make update`: the newest versions of everything, tested, into constraints.txt. `make test-lowest`: the lower bounds
# of pyproject.toml, tested.
PYTHON ?= python3
BIN := .venv/bin
# Every optional part that one environment can hold (vLLM brings a torch of its own).
EVERYTHING := dev,bigvgan,kokoro,wandb,speaker,quality,quantized
PYTEST := -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal -r s

.PHONY: respond demo docs scorecard test test-all test-gpu torture update test-lowest clean

respond: .venv/installed
	$(BIN)/usdm respond input=usdm/assets/question.wav output=reply.wav trace=reply.json

demo: .venv/installed
	$(BIN)/usdm demo

docs: .venv/installed-dev
	$(BIN)/mkdocs build --strict

scorecard: .venv/installed-dev
	$(BIN)/usdm make_model experiment=scorecard
	$(if $(DATA),$(BIN)/usdm make_model experiment=scorecard_data data=$(DATA),@echo "DATA=FOLDER adds what needs data")

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python $(PYTEST) -m 'not slow and not gpu'

test-all: .venv/installed-dev
	$(BIN)/python $(PYTEST)

test-gpu: .venv/installed-dev
	$(BIN)/usdm doctor
	$(BIN)/python -m pytest -m gpu -r sP --durations=0

torture: .venv/installed-dev
	$(BIN)/python tests/torture.py --kills 20 --seed 0

update:
	rm -rf .venv-update
	$(PYTHON) -m venv .venv-update
	.venv-update/bin/python -m pip install --quiet --editable '.[$(EVERYTHING)]'
	.venv-update/bin/python $(PYTEST)
	.venv-update/bin/python .ci/constraints.py installed > constraints.txt.part
	mv constraints.txt.part constraints.txt

test-lowest:
	rm -rf .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) .ci/constraints.py lowest dev > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[dev]'
	.venv-lowest/bin/python $(PYTEST)

clean:
	rm -rf .venv .venv-update .venv-lowest dist build site .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/installed
