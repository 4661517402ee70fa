# Two commands: `make demo` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2

.PHONY: demo test test-all test-clients lint serve bench clean

demo: $(VENV)/.installed
	@$(BIN)/branchwork demo

test: $(VENV)/.installed
	$(BIN)/pytest -n $(JOBS) --dist worksteal -q -m "not slow and not gpu and not clients"

test-all: $(VENV)/.installed
	HYPOTHESIS_PROFILE=new $(BIN)/pytest -n $(JOBS) --dist worksteal -q -m "not gpu and not clients"

# The clients' own requirements pull much: they get an environment beside the main one.
test-clients: $(VENV)-clients/.installed
	$(VENV)-clients/bin/pytest -q -m clients tests/clients

$(VENV)-clients/.installed: pyproject.toml tests/clients/requirements.txt
	@test -d $(VENV)-clients || $(PYTHON) -m venv $(VENV)-clients
	@$(VENV)-clients/bin/pip install -q --disable-pip-version-check -e ".[test]" -r tests/clients/requirements.txt
	@touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(VENV)/.installed
	$(BIN)/branchwork serve

bench: $(VENV)/.installed
	$(BIN)/branchwork bench

$(VENV)/.installed: pyproject.toml
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing branchwork and what it needs into $(VENV) (once; a few minutes)"
	@$(BIN)/pip install -q --disable-pip-version-check -e ".[test]"
	@echo "compiling the kernels (once; half a minute)"
	@$(BIN)/branchwork compile
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
