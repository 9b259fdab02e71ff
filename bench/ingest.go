package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// ingestRate measures how fast events get from the publication of their frame
// to a durable commit of the ledger, in one process, with fsync at both ends
// and frames of 100 events. The limit is the slower of the bare parts:
// JetStream storing the same frames, and SQLite storing the same open state.
func ingestRate(name string, instances, ticks int, o ingestOptions) func(*bench) error {
	return func(b *bench) error {
		if b.quick {
			instances, ticks = instances/50, 2
		}
		frames, rows, err := newHosts(instances, o.checkpoints).packed(ticks)
		if err != nil {
			return err
		}
		js, err := bareJetStream(b.place("jetstream"), frames)
		if err != nil {
			return fmt.Errorf("bare JetStream: %w", err)
		}
		sq, err := bareSQLite(b.place("bare.db"), rows)
		if err != nil {
			return fmt.Errorf("bare SQLite: %w", err)
		}
		took, cpu, err := pipelineTime(b, frames, len(rows), o)
		if err != nil {
			return err
		}
		rate := func(d time.Duration) float64 { return float64(len(rows)) / d.Seconds() }
		b.rate(name, rate(took), "events/s", min(rate(js), rate(sq)))
		b.note("%s: bare JetStream %.0f events/s, bare SQLite %.0f rows/s; %.1f µs of processor time an event", name, rate(js), rate(sq), cpu)
		return nil
	}
}

// ingestOptions say what an ingest figure is measured with.
type ingestOptions struct {
	checkpoints bool   // in every event, as a real agent sends them
	everything  bool   // TLS, the topic USAGE, and questions asked meanwhile
	ledger      string // to go on with; "" for a new one
}

// pipelineTime returns how long a new pipeline takes to commit frames with so
// many events, and the processor time an event in µs, of the publishing side
// too.
func pipelineTime(b *bench, frames []packedFrame, events int, o ingestOptions) (took time.Duration, cpu float64, err error) {
	p, err := newPipeline(b.place("pipeline"), o)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	before := cpuTime()
	if took, err = p.take(frames, events); err != nil {
		return 0, 0, err
	}
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
	frames, rows, err := newHosts(b.history().instances, false).packed(ticks)
	if err != nil {
		return err
	}
	empty, _, err := pipelineTime(b, frames, len(rows), ingestOptions{})
	if err != nil {
		return err
	}
	full, _, err := pipelineTime(b, frames, len(rows), ingestOptions{ledger: copied})
	if err != nil {
		return err
	}
	b.rate("ingest_history", float64(len(rows))/full.Seconds(), "events/s", float64(len(rows))/empty.Seconds())
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
	if _, err := io.Copy(f, data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
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
		measure := func(frames []packedFrame, events int) float64 {
			before := cpuTime()
			if _, e := p.take(frames, events); e != nil {
				err = errors.Join(err, e)
			}
			return float64((cpuTime() - before).Nanoseconds()) / 1000 / float64(events)
		}
		frames, first, err2 := f.packed(1)
		if err = errors.Join(err, err2); err == nil {
			b.cost("cost_open_"+c.name, measure(frames, len(first)), "µs/event", 0)
		}
		frames, rows, err2 := f.packed(c.ticks - 1)
		if err = errors.Join(err, err2); err == nil {
			goOn := measure(frames, len(rows))
			before := cpuTime()
			if _, err = bareSQLite(b.place("bare.db"), append(first, rows...)); err == nil {
				bare := float64((cpuTime() - before).Nanoseconds()) / 1000 / float64(len(first)+len(rows))
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
