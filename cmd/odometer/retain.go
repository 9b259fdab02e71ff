package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"example.org/odometer/ledger"
)

// keyFile holds the Ed25519 seed with which the ledger's heads are signed when
// its journal is pruned, in hexadecimal; created at the first use.
const keyFile = "ledger.key"

// keep is how long the journal is kept, in the calendar's units; zero is for
// ever.
type keep struct{ years, months, days int }

// parseKeep reads "13mo", "400d" or "2y"; "" is for ever. A day is the least:
// the journal goes by whole days.
func parseKeep(text string) (keep, error) {
	if text == "" {
		return keep{}, nil
	}
	digits := strings.TrimRight(text, "dmoy")
	n, err := strconv.Atoi(digits)
	if err == nil && n >= 1 && n <= 10000 {
		switch text[len(digits):] {
		case "d":
			return keep{days: n}, nil
		case "mo":
			return keep{months: n}, nil
		case "y":
			return keep{years: n}, nil
		}
	}
	return keep{}, fmt.Errorf("--keep-journal %q: a number of days, months or years is expected, such as 400d, 13mo or 2y", text)
}

// before returns the time before which a day's records go.
func (k keep) before(now time.Time) time.Time {
	return now.UTC().AddDate(-k.years, -k.months, -k.days)
}

// pruneEvery is how often it is looked for days whose time has come.
const pruneEvery = time.Hour

// retain prunes the ledger's journal until ctx is done. What fails is tried
// again an hour later: nothing depends on it but the disk.
func retain(ctx context.Context, l *ledger.Ledger, k keep, key ed25519.PrivateKey, logger *slog.Logger) error {
	for tick := time.NewTicker(pruneEvery); ; {
		r, err := l.Prune(ctx, ledger.PruneOptions{Before: k.before(time.Now()), Key: key})
		switch {
		case err != nil && ctx.Err() == nil:
			logger.Error("the journal is not pruned; trying again in an hour", "err", err)
		case err == nil && r.Records > 0:
			logger.Info("the journal was pruned", "records", r.Records, "partitions", r.Partitions)
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
		}
	}
}

// ledgerKey reads the key that signs heads, making it at the first use.
func ledgerKey(path string) (ed25519.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed) // never fails
		if err := writeFile(path, []byte(hex.EncodeToString(seed)+"\n")); err != nil {
			return nil, fmt.Errorf("make the ledger's key: %w", err)
		}
		return ed25519.NewKeyFromSeed(seed), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the ledger's key: %w", err)
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, advise(fmt.Errorf("%s holds no key", path), "put the right file there, or remove it: heads are then signed with a new key")
	}
	return ed25519.NewKeyFromSeed(seed), nil
}
