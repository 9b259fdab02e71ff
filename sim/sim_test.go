package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// once runs a seed and fails the test with what did not hold.
func once(t *testing.T, seed uint64) result {
	t.Helper()
	r := simulate(seed, memoryDir(), nil)
	if len(r.broken) > 0 {
		var b bytes.Buffer
		r.report(&b)
		t.Error(b.String())
	}
	return r
}

// The seeds that failed once hold.
func TestSeeds(t *testing.T) {
	f, err := os.Open("seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		number, why, _ := strings.Cut(line, " ")
		var seed uint64
		if _, err := fmt.Sscan(number, &seed); err != nil || why == "" {
			t.Fatalf("seeds.txt: %q is no seed with its reason", line)
		}
		rows++
		t.Run(number, func(t *testing.T) {
			t.Parallel()
			once(t, seed)
		})
	}
	if rows == 0 {
		t.Error("seeds.txt has no seed")
	}
}

// Some hundred seeds hold, and reach every kind of fault.
func TestSimulation(t *testing.T) {
	seeds := 200
	if testing.Short() || raceEnabled { // one goroutine at a time: there is no race to find
		seeds = 60
	}
	var out, log bytes.Buffer
	c := campaign{first: 1_000_000, seeds: seeds, check: 20, workers: 2, dir: memoryDir(), out: &out, log: &log}
	if c.run() != 0 {
		t.Errorf("%s%s", log.String(), out.String())
	}
	t.Log(out.String())
}

// The same seed goes the same way, and another another.
func TestTheSameSeedGoesTheSameWay(t *testing.T) {
	for seed := uint64(1); seed <= 5; seed++ {
		a, b, other := once(t, seed), once(t, seed), once(t, seed+100)
		if a.trace != b.trace {
			t.Errorf("seed %d: trace %016x, then %016x", seed, a.trace, b.trace)
		}
		if a.trace == other.trace {
			t.Errorf("seeds %d and %d have the same trace", seed, seed+100)
		}
	}
}
