# `make demo` shows the relay at work, `make test` checks everything. Both install what they need: as root on Debian.
STEPS := lint sanity docs unit fuzz integration molecule bench

.PHONY: help demo test setup reference clean $(STEPS)

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' Makefile | column -t -s '|'

demo: ## Build two sites behind NAT and a relay in containers, run the playbook on them, measure, clean up
	@tests/lab/demo/run

test: ## Everything below, with a table of times at the end; what no test times is run side by side
	@tests/checks/run setup lint,sanity,docs+unit,fuzz integration molecule bench

setup: ## Install what the tests need: Debian packages, and Python tools and collections into build/
	@tests/lab/setup

lint: ## Style and types: ruff, mypy, shellcheck, yamllint, ansible-lint
	@tests/checks/lint

sanity: ## Ansible's own checks: ansible-test, Galaxy's importer, documentation, changelog, installation
	@tests/checks/sanity

docs: ## The documentation's pages into build/docs/html; each warning is an error
	@tests/checks/docs

unit: ## Unit tests, with the newest and the oldest supported Ansible
	@tests/checks/unit

fuzz: ## Fuzz every parser for a bounded time
	@tests/fuzz/run

integration: ## The services with stock WireGuard over network namespaces, the backends of port_forward, the plays
	@tests/checks/integration

molecule: ## The roles on containers behind real NAT routers
	@tests/lab/molecule

bench: ## Speed and memory, side by side with others
	@build/venv/bin/python -m pytest tests/bench

reference: ## Write what is made of other files: tables in the roles' READMEs, peer-relay's manual page and completion
	@build/venv/bin/python tests/checks/reference.py
	@build/venv/bin/python tests/checks/manual.py

clean: ## Remove the lab's containers, and everything below build/
	@tests/lab/clean
	@rm -rf build
