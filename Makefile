# make test is what CI runs; see CONTRIBUTING.md.

.PHONY: build test lint race fuzz proof proof-sim proof-crash proof-mutants proof-fuzz bench corruption mutants sweep power soak sim cluster guests accuracy

build:
	go build -o odometer ./cmd/odometer

# Many tests wait for machines and clusters that they started: -p 4 gives two cores
# something to do meanwhile.
test:
	./scripts/prepare
	$(MAKE) --no-print-directory lint
	go test -p 4 -timeout 15m ./...
	go test -tags nvml -run NVML ./sampler
	$(MAKE) --no-print-directory race
	$(MAKE) --no-print-directory proof

lint:
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	go vet ./...
	go vet -tags nvml ./sampler
	go tool staticcheck ./...
	./scripts/vuln

# What runs in this process, with the race detector. Not what only starts other
# programs, goes one step at a time, or does the same thousands of times. All of it
# is slower, so that what waits for an answer wants a processor.
ONE_STEP := Bit|Corruption|Forged|CountedOnceInAnyOrder|UsageIsTheFold|UsageIsCut|ReversalsAddUp|ReversalsArePruned|AFullDiskForAWeek
ONE_STEP := $(ONE_STEP)|ADamagedRecordIsNotRead|PowerCuts|TornTail|EveryCall|SilentEpochs|IsInterrupted|Golden|FleetIsPaged
ONE_STEP := $(ONE_STEP)|ForeignIsAbsent|ForEveryPrincipal|AreCurrent|OpenAPIIsCurrent|ExamplesAreAnswered|OwnersAddUp
ONE_STEP := $(ONE_STEP)|WhoIsCharged|OwnersAreFound|OlderVersionIsRestored|BringsEverythingBack|BackedUpWithItsBase|LifecycleIsTheFold
ONE_STEP := $(ONE_STEP)|NoNumberIsGiven|AssignmentThatFails|EpochIsHandedOver|MigrationKeeps|MigratedTables|PrunedHourIsNotSplit
ONE_STEP := $(ONE_STEP)|ExportHoldsFewRows|MonthsAddUp|Disagreements|FewEntriesAreFound|AMonthIsNotClosed|StatementsStay|RevisionsAreOf
ONE_STEP := $(ONE_STEP)|WhoMayGrant|WhatEachRoleMayChange|RestoreRefuses|RandomStories|Spilled|EveryWriteFails|FollowsFromTheEntries|WhoSeesAViolation
ONE_STEP := $(ONE_STEP)|^Test(Reverse|Watermark|Pruning)$$

race:
	go test -p 3 -race -short -timeout 15m -skip '$(ONE_STEP)' \
		$$(go list ./... | grep -vE '/(bench|cluster|crash|crash/trace|e2e|internal/guest|mutants|sim)$$')

# The quick forms of the targets below: samples, of which each prints how many
# there were to choose from.
# The sweep waits for half of its time, so that the others go on beside it; what is
# measured is measured alone.
proof:
	$(MAKE) --no-print-directory -j 4 -O proof-crash proof-fuzz proof-sim proof-mutants
	go run ./bench -quick

proof-sim:
	go run ./sim -seeds 2000

proof-crash:
	go run ./crash sweep -sample 240
	go run ./crash power -sample 150 -whole 5

proof-mutants:
	go run ./mutants -sample 6

proof-fuzz:
	FUZZTIME=300ms ./scripts/fuzz

fuzz:
	FUZZTIME=$${FUZZTIME:-1m} ./scripts/fuzz

# One line a figure, beside the bare limits measured in the same run.
bench:
	go run ./bench

# Flips every bit of a small ledger, in its rows and in its file.
corruption:
	go test -count=1 -timeout 6h -v -run 'TestEveryBitOfTheJournal|TestBitsOfTheTables|TestBitsOfTheFile' ./audit -every-bit
	go test -count=1 -v -run 'TestADamagedRecordIsNotRead' ./ledger

# Plants every bug of the table and demands that each is caught.
mutants:
	go run ./mutants

# Kills the real program at every call that changes a file.
sweep:
	go run ./crash sweep

# Cuts the power at every call of a recorded server run, and of many runs of the
# spool, in every way.
power:
	go run ./crash power
	go test ./spool -run 'PowerCuts|Bit' -long -v -timeout 60m

# Kills server, agents and an external queue at random for a while.
soak:
	go run ./crash soak -for $${SOAKTIME:-10m}

# The whole pipeline on fake time, by seeds: make sim SEEDS=100000 SEED=1
sim:
	go run ./sim -seeds $${SEEDS:-2000} -seed $${SEED:-1}

# Lets happen to the queue what happens to queues: first to servers in this
# process, then to three of their own that are killed with kill -9.
cluster:
	go run ./cluster -rounds $${ROUNDS:-216} -forget $${FORGET:-1000} -herd $${HERD:-10000}
	dir=$$(mktemp -d) && trap 'rm -r $$dir' EXIT && go build -o $$dir/nats-server github.com/nats-io/nats-server/v2 && \
	go run ./cluster -rounds $${ROUNDS:-216} -forget 0 -herd 0 -nats-server $$dir/nats-server

# Boots a guest on every backend that the harness has, alone and under libvirt.
guests:
	go test -count=1 -v ./internal/guest -all

# Meters real virtual machines and prints what was measured beside the truth,
# with every backend, and with thirty machines under libvirt one of which hangs.
accuracy:
	go test -count=1 -v -timeout 30m -run '^(TestVMGuest.*|TestVMBurn|TestVMGPUTime|TestVMOnCgroupV2)$$' ./sampler -all
	go test -count=1 -v -timeout 30m -run '^TestAGuest' ./e2e -all
