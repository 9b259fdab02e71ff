package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// readyTime measures how long `odometer serve` takes from its start until it
// says that it is ready: with an empty data directory, and with the ledger of
// a fleet with a history.
func readyTime(b *bench) error {
	program, err := b.program()
	if err != nil {
		return err
	}
	history, err := b.historyPath()
	if err != nil {
		return err
	}
	for _, c := range []struct{ name, ledger string }{{"ready_empty", ""}, {"ready_history", history}} {
		times := 5
		if b.quick {
			times = 1
		}
		var took []time.Duration
		for range times {
			dir := b.place("data")
			if err := os.Mkdir(dir, 0o700); err != nil {
				return err
			}
			if c.ledger != "" {
				if err := copyFile(filepath.Join(dir, "ledger.db"), c.ledger); err != nil {
					return err
				}
			}
			one, err := median(1, func() error { return untilReady(program, dir) })
			if err := errors.Join(err, os.RemoveAll(dir)); err != nil {
				return err
			}
			took = append(took, one)
		}
		slices.Sort(took)
		b.cost(c.name, took[times/2].Seconds()*1000, "ms", 0)
	}
	return nil
}

// untilReady starts a server, returns when it is ready, and kills it.
func untilReady(program, dir string) error {
	p, err := serving(program, dir)
	if err == nil {
		p.kill()
	}
	return err
}
