# Targets a developer types. CI runs `make test lint` through .ci/run.

GO ?= go
export CGO_ENABLED ?= 0
# Pebble picks a C library for zstd when cgo is on, as it is under -race.
RACE = CGO_ENABLED=1 $(GO) test -race -tags pebblegozstd

.PHONY: build test race race-e2e lint bench clean packages fuzz

build:
	$(GO) build -o posthouse ./cmd/posthouse

packages:
	scripts/test-packages

# Everything, for real: unit, property, whole-program and differential tests.
test: packages
	$(GO) test -timeout 10m ./...

# Everything in one process, under the race detector. Whole-program tests run
# another process, which the detector would not see: "make race-e2e" builds
# that one with it.
race: packages
	$(RACE) -timeout 10m $$($(GO) list ./internal/... | grep -v /e2e)

race-e2e: packages
	CGO_ENABLED=1 POSTHOUSE_BUILD_FLAGS="-race -tags=pebblegozstd" $(GO) test -timeout 20m ./internal/e2e/...

lint:
	test -z "$$(gofmt -l cmd internal bench)" || { gofmt -l cmd internal bench; exit 1; }
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod gofumpt -l cmd internal bench | { ! grep .; }
	$(GO) tool -modfile=tools/go.mod staticcheck ./...

# Side by side with the real Postfix; see bench/README.md.
bench: packages
	$(GO) run ./bench

# A minute for each fuzz target.
FUZZTIME ?= 60s
fuzz:
	scripts/fuzz $(FUZZTIME)

clean:
	rm -f posthouse
