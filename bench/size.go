package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// sizes measures the bytes on the disk for each event, of a thousand instances
// that send one each half minute for four hours, the meter's state beside each
// as real agents do it: in the spool, with the 8 MiB that it keeps in reserve; in a
// file stream of JetStream, where they lie until the ledger has taken them; and in
// the ledger for good, once the hours are packed. The limit is the
// frame as it travels.
func sizes(b *bench) error {
	instances, ticks := 1000, 480
	if b.quick {
		ticks = 20
	}
	f := newHosts(instances, true)
	frames, states, err := f.packed(ticks)
	if err != nil {
		return err
	}
	packed := 0
	for _, fr := range frames {
		packed += len(fr.data)
	}
	spoolDir, queueDir, ledgerDir := b.place("spool"), b.place("jetstream"), b.place("ledger")
	spooled, err := fillSpool(spoolDir, int64(len(states))*300)
	if err != nil {
		return err
	}
	if _, err := bareJetStream(queueDir, frames); err != nil {
		return err
	}
	if err := packedLedger(ledgerDir, instances, ticks); err != nil {
		return err
	}
	for _, c := range []struct {
		name, dir string
		events    int
	}{{"bytes_spool", spoolDir, int(spooled)}, {"bytes_queue", queueDir, len(states)}, {"bytes_ledger", ledgerDir, len(states)}} {
		n, err := bytesBelow(c.dir)
		if err != nil {
			return err
		}
		b.cost(c.name, float64(n)/float64(c.events), "B/event", float64(packed)/float64(len(states)))
	}
	return nil
}

// packedLedger makes a ledger that has done its upkeep, a day after its last
// event.
func packedLedger(dir string, instances, ticks int) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, "ledger.db")
	if _, err := fillLedger(path, newHosts(instances, true), ticks); err != nil {
		return err
	}
	ctx := context.Background()
	later := time.UnixMicro(hostsStart + int64(ticks)*30*odometer.SecondMicros + odometer.DayMicros)
	l, err := ledger.Open(ctx, ledger.Options{Path: path, Clock: func() time.Time { return later }})
	if err != nil {
		return err
	}
	return errors.Join(l.Tick(ctx), l.Close())
}

// bytesBelow returns the bytes of the files in a directory and below it.
func bytesBelow(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
