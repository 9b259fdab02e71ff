package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"example.org/odometer"
	"example.org/odometer/queue"
	"example.org/odometer/spool"
)

// latency measures how long it takes from an event's Append to the spool until
// its receipt has come back to the agent: ten hosts, each of which stores the
// events of 100 instances once a second, a thousand events a second. The limit
// is to sync the same bytes three times, one after the other, as spool, queue
// and ledger must: to a file each.
func latency(b *bench) error {
	const agents = 10
	rounds := 30
	if b.quick {
		rounds = 3
	}
	p, err := newPipeline(b.place("pipeline"), ingestOptions{})
	if err != nil {
		return err
	}
	f := newHosts(agents*perFrame, true)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var group errgroup.Group
	spools := make([]*timedSpool, agents)
	for i := range spools {
		s, err := spool.Open(spool.Options{Dir: b.place("spool")})
		if err != nil {
			return err
		}
		defer s.Close()
		spools[i] = &timedSpool{Spool: s}
		pub := queue.NewPublisher(p.conn, spools[i], queue.PublisherOptions{Agent: f.host(i)})
		group.Go(func() error { return pub.Run(ctx) })
	}
	tick := time.NewTicker(time.Second / agents)
	defer tick.Stop()
	for range rounds {
		for i, s := range spools {
			<-tick.C
			if err := s.append(f.frame(i).Records); err != nil {
				return err
			}
		}
		f.tick++
	}
	for _, s := range spools {
		for begin := time.Now(); s.waiting(); time.Sleep(10 * time.Millisecond) {
			if time.Since(begin) > time.Minute {
				return fmt.Errorf("%d events are not receipted after a minute", len(s.began))
			}
		}
	}
	stop()
	if err := group.Wait(); err != nil {
		return err
	}
	if err := p.close(); err != nil {
		return err
	}
	var took []time.Duration
	for _, s := range spools {
		took = append(took, s.took...)
	}
	fr := f.frame(0)
	data, err := fr.Encode()
	if err != nil {
		return err
	}
	bare, err := syncs(b, 3, data, len(took))
	if err != nil {
		return err
	}
	slices.Sort(took)
	slices.Sort(bare)
	for _, q := range []struct {
		name string
		part int
	}{{"latency_p50", 50}, {"latency_p99", 99}} {
		at := (len(took) - 1) * q.part / 100
		b.cost(q.name, took[at].Seconds()*1000, "ms", bare[at].Seconds()*1000)
	}
	b.note("latency: of %d frames of %d events; the publisher waits %s for more of a tick to come", len(took), perFrame, queue.DefaultLinger)
	return nil
}

// timedSpool is a spool that knows how long each record took to be receipted.
type timedSpool struct {
	*spool.Spool
	mu    sync.Mutex
	began []appended
	took  []time.Duration // of each Append
}

type appended struct {
	last  uint64 // position
	began time.Time
}

func (s *timedSpool) append(rs []odometer.Record) error {
	s.mu.Lock()
	s.began = append(s.began, appended{rs[len(rs)-1].Position, time.Now()})
	s.mu.Unlock()
	return s.Append(rs)
}

// Ack passes a receipt on to the spool.
func (s *timedSpool) Ack(r odometer.Receipt) error {
	s.mu.Lock()
	for len(s.began) > 0 && s.began[0].last <= r.Position {
		s.took = append(s.took, time.Since(s.began[0].began))
		s.began = s.began[1:]
	}
	s.mu.Unlock()
	return s.Spool.Ack(r)
}

func (s *timedSpool) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.began) > 0
}

// syncs appends data to so many files, one after the other, and syncs each; it
// returns how long that took, each of n times.
func syncs(b *bench, count int, data []byte, n int) ([]time.Duration, error) {
	dir := b.place("syncs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range count {
		f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files = append(files, f)
	}
	var took []time.Duration
	for range n {
		begin := time.Now()
		for _, f := range files {
			if _, err := f.Write(data); err != nil {
				return nil, err
			}
			if err := f.Sync(); err != nil {
				return nil, err
			}
		}
		took = append(took, time.Since(begin))
		time.Sleep(10 * time.Millisecond) // as seldom as the measured ones, or nearly
	}
	return took, nil
}
