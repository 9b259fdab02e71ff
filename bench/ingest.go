package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"example.org/odometer"
)

// ingestRate measures how fast events get from the publication of their frame
// to a durable commit of the ledger, in one process, with fsync at both ends
// and frames of 100 events, of a fleet whose every instance has sent an event
// before. The limit is the slower of the bare parts: JetStream storing the same
// frames, and SQLite storing the same open state over the one before.
func ingestRate(name string, instances, ticks int, o ingestOptions) func(*bench) error {
	return func(b *bench) error {
		if b.quick {
			instances, ticks = instances/50, 2
		}
		f := newHosts(instances, o.checkpoints)
		known, before, err := f.packed(1)
		if err != nil {
			return err
		}
		frames, states, err := f.packed(ticks - 1)
		if err != nil {
			return err
		}
		js, err := bareJetStream(b.place("jetstream"), frames)
		if err != nil {
			return fmt.Errorf("bare JetStream: %w", err)
		}
		sq, err := bareSQLite(b.place("bare.db"), before, states)
		if err != nil {
			return fmt.Errorf("bare SQLite: %w", err)
		}
		p, err := newPipeline(b.place("pipeline"), o)
		if err != nil {
			return err
		}
		took, cpu, err := p.rate(known, frames, len(states))
		if err := errors.Join(err, p.close()); err != nil {
			return err
		}
		rate := func(d time.Duration) float64 { return float64(len(states)) / d.Seconds() }
		b.rate(name, rate(took), "events/s", min(rate(js), rate(sq)))
		b.note("%s: bare JetStream %.0f events/s, bare SQLite %.0f states/s; %.1f µs of processor time an event", name, rate(js), rate(sq), cpu)
		if o.everything {
			b.note("%s: the topic had %d of %d entries when the ledger had all", name, p.published, len(before)+len(states))
		}
		return nil
	}
}

// ingestOptions say what an ingest figure is measured with.
type ingestOptions struct {
	checkpoints bool   // in every event, as a real agent sends them
	everything  bool   // TLS, the topic USAGE, and questions asked meanwhile
	ledger      string // to go on with; "" for a new one
	thresholds  []odometer.Threshold
}

// rate has the pipeline take the frames by which the fleet becomes known, does
// the ledger's upkeep, and returns how long the pipeline takes to commit the
// others, with so many events, and the processor time an event in µs, of the
// publishing side too.
func (p *pipeline) rate(known, frames []packedFrame, events int) (took time.Duration, cpu float64, err error) {
	if _, err := p.take(known, len(known)*perFrame); err != nil {
		return 0, 0, err
	}
	if err := p.ledger.Tick(context.Background()); err != nil {
		return 0, 0, err
	}
	before := cpuTime()
	if took, err = p.take(frames, events); err != nil {
		return 0, 0, err
	}
	p.look()
	return took, float64((cpuTime() - before).Nanoseconds()) / 1000 / float64(events), nil
}

// historyRate measures ingest on a ledger with a history; the limit is the
// same on an empty one.
func historyRate(b *bench) error {
	path, err := b.historyPath()
	if err != nil {
		return err
	}
	copied := b.place("history-copy.db")
	if err := copyFile(copied, path); err != nil {
		return err
	}
	ticks := 20
	if b.quick {
		ticks = 2
	}
	f := newHosts(b.history().instances, false)
	known, _, err := f.packed(1)
	if err != nil {
		return err
	}
	frames, states, err := f.packed(ticks)
	if err != nil {
		return err
	}
	var rates []float64
	for _, o := range []ingestOptions{{}, {ledger: copied}} {
		p, err := newPipeline(b.place("pipeline"), o)
		if err != nil {
			return err
		}
		took, _, err := p.rate(known, frames, len(states))
		if err := errors.Join(err, p.close()); err != nil {
			return err
		}
		rates = append(rates, float64(len(states))/took.Seconds())
	}
	b.rate("ingest_history", rates[1], "events/s", rates[0])
	return nil
}

func copyFile(to, from string) error {
	data, err := os.Open(from)
	if err != nil {
		return err
	}
	defer data.Close()
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, data)
	return errors.Join(err, f.Sync(), f.Close()) // what is measured next is not to wait for this
}

// growth measures the processor time that an event costs as the number of
// instances grows: of those that open their epoch and of those that go on. The
// limit is what the bare store takes to write the state of those that go on.
func growth(b *bench) error {
	for _, c := range []struct {
		name             string
		instances, ticks int
	}{{"10k", 10_000, 30}, {"100k", 100_000, 4}, {"1m", 1_000_000, 2}} {
		if b.quick {
			c.instances, c.ticks = c.instances/50, 2
		}
		f := newHosts(c.instances, false)
		p, err := newPipeline(b.place("pipeline"), ingestOptions{})
		if err != nil {
			return err
		}
		cpu := func(do func() error, events int) float64 {
			before := cpuTime()
			err = errors.Join(err, do())
			return float64((cpuTime() - before).Nanoseconds()) / 1000 / float64(events)
		}
		take := func(frames []packedFrame, events int) float64 {
			return cpu(func() error { _, err := p.take(frames, events); return err }, events)
		}
		frames, first, err2 := f.packed(1)
		if err = errors.Join(err, err2); err == nil {
			if open := take(frames, len(first)); err == nil {
				b.cost("cost_open_"+c.name, open, "µs/event", 0)
			}
		}
		frames, states, err2 := f.packed(c.ticks - 1)
		if err = errors.Join(err, err2); err == nil {
			goOn := take(frames, len(states))
			place := b.place("bare.db")
			_, err2 := bareSQLite(place, first, nil)
			err = errors.Join(err, err2)
			bare := cpu(func() error { _, err := bareSQLite(place, nil, states); return err }, len(states))
			if err == nil {
				b.cost("cost_go_on_"+c.name, goOn, "µs/event", bare)
			}
		}
		if err = errors.Join(err, p.close()); err != nil {
			return err
		}
	}
	return nil
}

// cpuTime returns the processor time that the process has used.
func cpuTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // cannot fail
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
