PYTHON_ENV = .venv/bin/python

.PHONY: setup demo demo-classification test test-slow lint
setup:
	@tools/setup_env.sh

demo: setup
	@$(PYTHON_ENV) tools/demo.py

demo-classification: setup
	@$(PYTHON_ENV) tools/demo_classification.py

# two processes of one thread each: faster on 2 cores than one process of two
test: setup
	@OMP_NUM_THREADS=1 $(PYTHON_ENV) -m pytest -n 2 --dist worksteal

test-slow: setup
	@$(PYTHON_ENV) -m pytest -m slow

lint: setup
	@$(PYTHON_ENV) -m ruff check . && $(PYTHON_ENV) -m ruff format --check .
