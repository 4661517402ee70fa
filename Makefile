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

# Clients disagree about each other's versions: each group has an environment, and all ask the server of the main one.
# CLIENTS_MODEL=random asks weights that were never trained; CLIENTS names some of the groups.
CLIENTS ?= openai2 openai3 frameworks agents programs guidellm lm_eval node browser

test-clients: $(VENV)/.installed $(CLIENTS:%=$(VENV)-clients/%/.installed)
	@failed=; for group in $(CLIENTS); do echo "clients: $$group"; \
	  BRANCHWORK_COMMAND=$(abspath $(BIN)/branchwork) CLIENTS_GROUP=$$group \
	    $(VENV)-clients/$$group/bin/python -m pytest -q -m clients -p no:unraisableexception \
	    tests/clients || failed="$$failed $$group"; done; \
	if [ "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

$(VENV)-clients/node/.installed: tests/clients/node/package.json

$(VENV)-clients/%/.installed: tests/clients/requirements/%.txt tests/clients/requirements/base.txt
	@test -d $(VENV)-clients/$* || $(PYTHON) -m venv $(VENV)-clients/$*
	@$(VENV)-clients/$*/bin/pip install -q --disable-pip-version-check -r $<
	@if [ $* = node ] && command -v npm >/dev/null; then \
	  cp tests/clients/node/package.json $(@D); npm install --silent --no-fund --no-audit --prefix $(@D); fi
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
	@echo "compiling the kernels (once; a minute or two)"
	@$(BIN)/branchwork compile
	@touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info
