package sampler

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
)

// stillClock stands still between the test's steps. The watch for ends looks at
// it too.
type stillClock struct {
	mu sync.Mutex
	at odometer.Moment
}

func newStillClock() *stillClock {
	// Ten minutes past an hour, so that none begins unless the test wants it.
	return &stillClock{at: odometer.Moment{Boot: SystemClock{}.Now().Boot, Wall: time.Date(2026, 3, 1, 12, 10, 0, 0, time.UTC).UnixMicro()}}
}

func (c *stillClock) Now() odometer.Moment {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *stillClock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at.Boot += d.Microseconds()
	c.at.Wall += d.Microseconds()
}

// TestVMDiskIOWithoutExitRecords reads a tree, of which no exit record tells.
func TestVMDiskIOWithoutExitRecords(t *testing.T) {
	s := openVMs(t, func(o *VMsOptions) { o.Root, o.Period = t.TempDir(), 30*time.Second })
	if s.ioEvery != 0 {
		t.Errorf("disk I/O is read every %v only, and what comes after is lost at the end", s.ioEvery)
	}
}

// TestVMDiskIOByTurns has a guest write before each of 30 samples, a second
// apart, and counts those that tell of it: six in a period and one every 5 s.
// What is told at the edge of an hour, where owner or state change, and at the
// end, is as of then.
func TestVMDiskIOByTurns(t *testing.T) {
	needRoot(t)
	const samples, size = 30, 64 << 10
	for _, c := range []struct {
		period time.Duration
		want   int
	}{
		{0, samples},
		{time.Second, samples},
		{12 * time.Second, samples / 2},
		{30 * time.Second, samples / 5},
		{time.Hour, samples / 5},
	} {
		t.Run(fmt.Sprint("a period of ", c.period), func(t *testing.T) {
			clock := newStillClock()
			g := startGuest(t, 0)
			s := openVMs(t, func(o *VMsOptions) { o.Clock, o.Period = clock, c.period })
			m := machineOf(g, "vm-1")
			s.Update([]odometer.VM{m})
			image := filepath.Join(imageDir(t), "disk.img")
			tell := func() odometer.Reading {
				list := readings(t, s)
				return list[len(list)-1]
			}
			told := counter(tell(), odometer.DiskWrite, "")
			use := func() uint64 {
				g.do("write %s %d", image, size)
				_, wrote := processIO(t, g.pid())
				return wrote
			}
			fresh := 0
			for range samples {
				wrote := use()
				clock.step(time.Second)
				switch now := counter(tell(), odometer.DiskWrite, ""); {
				case now.Value == wrote:
					fresh++
					told = now
				case now != told:
					t.Fatalf("got %+v, want %+v again or %d", now, told, wrote)
				}
			}
			if fresh != c.want {
				t.Errorf("%d of %d samples read it, want %d", fresh, samples, c.want)
			}
			for _, edge := range []struct {
				name string
				make func()
			}{
				{"an hour begins", func() { clock.step(time.Hour - 10*time.Minute - samples*time.Second) }},
				{"the owner is another", func() { m.Owner.User = "u-2"; s.Update([]odometer.VM{m}) }},
				{"it is paused", func() { m.State = odometer.Paused; s.Update([]odometer.VM{m}) }},
			} {
				wrote := use()
				edge.make()
				if got := counter(tell(), odometer.DiskWrite, ""); got.Value != wrote {
					t.Errorf("%s: got %d written, want %d", edge.name, got.Value, wrote)
				}
				clock.step(time.Microsecond)
			}
			wrote := use()
			g.kill()
			s.Update(nil)
			if last := tell(); !last.Final || counter(last, odometer.DiskWrite, "").Value != wrote {
				t.Errorf("got %+v at the end, want %d written", last, wrote)
			}
		})
	}
}
