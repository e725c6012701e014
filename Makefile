# devicecloud: `make demo` shows it at work, `make test` proves it.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X github.com/opticworks/devicecloud.Version=$(VERSION)
SIM     ?= 1
# further arguments for `make sim` and `make bench`
ARGS    ?=

.PHONY: demo run sim build test bench fuzz soak lint clean help

demo: build ## the cloud and 25 simulated devices on this machine, and what to try next (SIM=0: no devices)
	@SIM=$(SIM) exec bin/devicecloud demo

run: build ## the cloud alone, in dev mode, with its data in ./data
	@exec bin/devicecloud serve --dev

sim: build ## the simulator alone, against `make run`; needs ADMIN_EMAIL and ADMIN_PASSWORD (ARGS='--devices 100')
	@exec bin/firmware-sim --devices 25 --url mqtts://localhost:8883 --ca data/ca.pem \
		--api http://127.0.0.1:8080 --state data/fleet.json $(ARGS)

build: ## bin/devicecloud and bin/firmware-sim
	@mkdir -p bin
	@go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/devicecloud ./firmware-sim

# e2e takes longest, so it begins first. Most of its tests wait for a program, a limit or
# a second to pass, each beside a cloud of its own: 8 of them keep two processors busy
# without making anybody late. Those that measure times run alone.
test: ## installs what the tests need where it is missing, then runs all of them with the race detector
	@./scripts/test-deps.sh
	go test -race -shuffle=on -count=1 -timeout 15m -parallel 8 ./e2e ./...
	@if [[ "$${CI:-}" == true ]]; then ./scripts/fuzz.sh "$${FUZZTIME:-10s}"; fi

bench: ## what it costs, against bare mochi, mosquitto and a naive server (ARGS='-short', ARGS='-only memory')
	@mkdir -p bin
	@go build -trimpath -o bin/ ./bench
	@bin/bench $(ARGS)

fuzz: ## a minute of each fuzz target (FUZZTIME=10m for longer)
	@./scripts/fuzz.sh "$${FUZZTIME:-1m}"

soak: ## the long fault schedules: hours, not minutes
	@./scripts/test-deps.sh
	DEVICECLOUD_SOAK=1 go test -race -shuffle=on -count=1 -timeout 24h -parallel 8 -v ./e2e/...

lint: ## gofumpt, go vet, staticcheck, file lengths, and no path or address of one machine in any file
	@./scripts/lint.sh

clean: ## removes what was built; ./data stays
	rm -rf bin .tools e2e/node_modules

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
