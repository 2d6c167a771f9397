# Targets a developer types. CI runs `make test lint` through .ci/run.

GO ?= go
export CGO_ENABLED ?= 0
# Pebble picks a C library for zstd when cgo is on, as it is under -race.
RACE = CGO_ENABLED=1 $(GO) test -race -tags pebblegozstd

.PHONY: build test race lint bench clean packages fuzz

build:
	$(GO) build -o posthouse ./cmd/posthouse

packages:
	scripts/test-packages

# Everything, for real: unit, property, whole-program and differential tests.
test: packages
	$(GO) test -timeout 10m ./...

# The packages that share memory between goroutines, under the race detector.
race: packages
	$(RACE) -timeout 10m ./internal/...

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
