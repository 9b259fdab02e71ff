package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"example.org/odometer"
	"example.org/odometer/audit"
	"example.org/odometer/ledger"
)

// auditRate measures how many events a second are audited, of 20 thousand
// instances at 200 hosts. The limit is to read the journal and to hash it.
func auditRate(b *bench) error {
	instances, ticks := 20_000, 100
	if b.quick {
		instances, ticks = 1000, 20
	}
	dir := b.place("audit")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	events, err := fillLedger(filepath.Join(dir, "ledger.db"), newHosts(instances, false), ticks)
	if err != nil {
		return err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as `odometer audit` does
	begin := time.Now()
	report, err := audit.Run(context.Background(), audit.Options{DataDir: dir})
	took := time.Since(begin)
	switch {
	case err != nil:
		return err
	case !report.OK || report.Events != int64(events):
		return fmt.Errorf("the audit says ok %t of %d events, want ok of %d", report.OK, report.Events, events)
	}
	begin = time.Now()
	if err := hashJournal(filepath.Join(dir, "ledger.db")); err != nil {
		return err
	}
	b.rate("audit", float64(events)/took.Seconds(), "events/s", float64(events)/time.Since(begin).Seconds())
	return nil
}

// fillLedger commits what hosts send for some periods to a new ledger, and
// returns how many events that were.
func fillLedger(path string, f *hosts, ticks int) (events int, err error) {
	ctx := context.Background()
	l, err := ledger.Open(ctx, ledger.Options{Path: path})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	for range ticks {
		var batch []odometer.Frame
		for h := range f.count() {
			fr := f.frame(h)
			data, err := fr.Encode()
			if err != nil {
				return events, err
			}
			decoded, err := odometer.DecodeFrame(data)
			if err != nil {
				return events, err
			}
			batch = append(batch, *decoded)
			events += len(fr.Records)
		}
		f.tick++
		if _, _, err := l.Commit(ctx, batch); err != nil {
			return events, err
		}
	}
	return events, nil
}

func hashJournal(path string) error {
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.Query(`SELECT body, result FROM journal ORDER BY id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	h := sha256.New()
	for rows.Next() {
		var body, result sql.RawBytes
		if err := rows.Scan(&body, &result); err != nil {
			return err
		}
		h.Write(body)
		h.Write(result)
	}
	return rows.Err()
}
