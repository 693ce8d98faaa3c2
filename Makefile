# The jobs of this project; `make help` lists them.

GO ?= go
# A local copy of the Go vulnerability database, for machines without a network: a directory or a file:// URL.
VULNDB ?=
# Inputs for each fuzz target, or a time: with a time the last input may be cut off and counted as a failure.
FUZZTIME ?= 30000x
TESTFLAGS ?=
FAULTS ?=

GOFUMPT = mvdan.cc/gofumpt@v0.12.0
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
DEADCODE = golang.org/x/tools/cmd/deadcode@v0.52.0
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.8.0

.DEFAULT_GOAL := help
.PHONY: help run test faults check bench demo build redis format tidy vet staticcheck deadcode architecture fuzz vulnerabilities

help: ## list the jobs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

build: ## build bin/pulsegate
	$(GO) build -o bin/pulsegate ./cmd/pulsegate

run: build ## serve on what this machine has, loopback callbacks allowed; prints a token and three curl lines to try
	./bin/pulsegate serve --allow-callback loopback --allow-http --try

demo: build ## watch three bots, one of them dying, in half a minute
	./bin/pulsegate demo

bench: build redis ## measure the gateway beside a bare relay on this machine
	./bin/pulsegate bench

test: redis ## every test, with the race detector, on a real redis-server as well
	$(GO) test -race -shuffle=on -p 1 -timeout 40m $(TESTFLAGS) ./...
	@echo "make test: all tests passed"

faults: redis ## every row of the fault checklist in full size, with what each measured; FAULTS="--markdown FILE" keeps the table
	$(GO) run ./cmd/faults $(FAULTS)

redis: # a redis-server on the PATH, installed where there is none and it may
	@bash .ci/redis

check: format tidy vet staticcheck deadcode architecture fuzz vulnerabilities ## everything about the code but its tests
	@echo "make check: all checks passed"

format:
	@echo "gofumpt"; out=$$($(GO) run $(GOFUMPT) -l .) || exit 1; \
	if [ -n "$$out" ]; then echo "not as gofumpt writes it:"; echo "$$out"; exit 1; fi

tidy:
	$(GO) mod tidy -diff

vet:
	$(GO) vet ./...
	$(GO) fix -diff ./...

staticcheck:
	$(GO) run $(STATICCHECK) -checks "inherit,ST1000,ST1016,ST1020,ST1021,ST1022" ./...

deadcode:
	@echo "deadcode"; out=$$($(GO) run $(DEADCODE) -test ./...) || exit 1; \
	if [ -n "$$out" ]; then echo "nothing reaches:"; echo "$$out"; exit 1; fi

architecture:
	$(GO) test -run 'Architecture' ./cmd/pulsegate

fuzz:
	@bash .ci/fuzz $(FUZZTIME)

vulnerabilities:
	@VULNDB="$(VULNDB)" bash .ci/vulnerabilities $(GOVULNCHECK)
