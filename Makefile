# `make respond`: hear a reply. `make test`: what CI runs. `make demo`: talk to it in the browser.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: respond demo test clean

respond: .venv/installed
	$(BIN)/usdm respond input=usdm/assets/question.wav output=reply.wav trace=reply.json

demo: .venv/installed
	$(BIN)/usdm demo

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

clean:
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/installed
