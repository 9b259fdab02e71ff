package main

import (
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"example.org/odometer"
	"example.org/odometer/spool"
)

// recoveryTime measures how long an agent takes to open a spool of 1 GiB,
// which it reads and verifies in full. The limit is to read the same bytes and
// to sum them, on one core.
func recoveryTime(b *bench) error {
	size := int64(1 << 30)
	if b.quick {
		size >>= 5
	}
	dir := b.place("spool")
	records, err := fillSpool(dir, size)
	if err != nil {
		return err
	}
	begin := time.Now()
	s, err := spool.Open(spool.Options{Dir: dir})
	took := time.Since(begin)
	if err != nil {
		return err
	}
	stats := s.Stats()
	if err := s.Close(); err != nil {
		return err
	}
	if stats.Unacked != records || stats.Corrupt != 0 {
		return fmt.Errorf("%d records of %d were found, %d positions are corrupt", stats.Unacked, records, stats.Corrupt)
	}
	begin = time.Now()
	if err := sumFiles(dir); err != nil {
		return err
	}
	b.cost("spool_recovery", took.Seconds(), "s", time.Since(begin).Seconds())
	b.note("spool_recovery: %d MiB in %d segments, %d records", stats.Bytes>>20, stats.Segments, records)
	return nil
}

// fillSpool appends what agents append until the spool has size bytes, and
// returns how many records that were.
func fillSpool(dir string, size int64) (int64, error) {
	s, err := spool.Open(spool.Options{Dir: dir})
	if err != nil {
		return 0, err
	}
	f := newHosts(1000, true)
	var n int64
	for s.Stats().Bytes < size {
		var batch []odometer.Record
		for h := range f.count() {
			batch = append(batch, f.frame(h).Records...)
		}
		f.tick++
		if err := s.Append(batch); err != nil {
			return n, err
		}
		n += int64(len(batch))
	}
	return n, s.Close()
}

// sumFiles reads each file of a directory and sums it.
func sumFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	buf := make([]byte, 1<<20)
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		sum := uint32(0)
		for err == nil {
			var n int
			n, err = f.Read(buf)
			sum = crc32.Update(sum, table, buf[:n])
		}
		f.Close()
		if err != io.EOF {
			return err
		}
	}
	return nil
}
