PYTHON_ENV = .venv/bin/python

.PHONY: setup demo test test-slow lint
setup:
	@tools/setup_env.sh

demo: setup
	@$(PYTHON_ENV) tools/demo.py

test: setup
	@$(PYTHON_ENV) -m pytest

test-slow: setup
	@$(PYTHON_ENV) -m pytest -m slow

lint: setup
	@$(PYTHON_ENV) -m ruff check . && $(PYTHON_ENV) -m ruff format --check .
