package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"example.org/odometer"
)

// Readings come from a file, in its order.
type Readings interface {
	// Next puts the next reading into r and returns io.EOF after the last.
	Next(r *odometer.Reading) error
	Line() int     // of what Next gave last, from 1
	Offset() int64 // bytes read up to its end
}

const (
	// Batches of this many records or bytes cost one fsync: enough that the
	// fsync no longer counts, few enough that they are a small part of a
	// segment.
	batchRecords = 1000
	batchBytes   = 256 << 10
	eventBytes   = 1100 // what an event's JSON takes, about

	progressEvery = 1 << 12 // readings
	retryFirst    = 100 * time.Millisecond
	retryMax      = 5 * time.Second
	// retries is how often an error of the spool that is not for want of room
	// is tried again.
	retries = 5
)

// ReplayOptions of [Replay]. Meter and Spool are required.
type ReplayOptions struct {
	Meter Meter // with named epochs, so that the file's ids are its own
	Spool Spool
	// Past is the error of Meter.Observe for a reading that is not later than
	// the last one of its instance: it has been metered before the replay was
	// killed. Such readings are counted as skipped.
	Past   error
	Logger *slog.Logger
	// OnRefused is told of each reading that the meter refused.
	OnRefused func(source, line int, err error)
	// OnProgress is told now and then, and after each source.
	OnProgress func(Progress)
}

// Progress of a replay.
type Progress struct {
	Source  int   // index of the one being read
	Line    int   // of that source
	Offset  int64 // bytes of that source
	Read    int64 // readings of all sources
	Skipped int64 // metered before
	Refused int64
	Records int64 // stored
}

// Replay meters the readings of the sources, one after another, as fast as the
// spool takes them, and closes what is open after the last. When it returns nil
// everything is in the spool. When it is killed, or the context ends, what was
// stored stays, and another Replay with the same spool and sources goes on from
// there: with the same ids, since no period is closed before its time.
//
// Where the spool has a method WaitRoom(context.Context) error, Replay waits for
// room with it instead of filling the spool up.
func Replay(ctx context.Context, o ReplayOptions, sources ...Readings) (Progress, error) {
	if o.Meter == nil || o.Spool == nil {
		return Progress{}, fmt.Errorf("replay needs a meter and a spool: %w", odometer.ErrInvalid)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &replay{ReplayOptions: o}
	for _, state := range o.Spool.Checkpoints() {
		if err := o.Meter.Restore(state); err != nil {
			return r.p, fmt.Errorf("go on from the spool: %w", err)
		}
	}
	for i, source := range sources {
		r.p.Source = i
		if err := r.run(ctx, source); err != nil {
			return r.p, err
		}
	}
	if err := o.Meter.Flush(r.collect); err != nil {
		return r.p, fmt.Errorf("close the open periods: %w", err)
	}
	if err := r.store(ctx); err != nil {
		return r.p, err
	}
	r.progress()
	return r.p, nil
}

type replay struct {
	ReplayOptions
	p       Progress
	pending []odometer.Record
	bytes   int
}

func (r *replay) run(ctx context.Context, source Readings) error {
	var reading odometer.Reading
	for {
		err := source.Next(&reading)
		if errors.Is(err, io.EOF) {
			r.p.Line, r.p.Offset = source.Line(), source.Offset()
			r.progress()
			return r.store(ctx)
		}
		if err != nil {
			// What was read before stays counted.
			return errors.Join(err, r.store(ctx))
		}
		r.p.Read++
		switch err := r.Meter.Observe(&reading, r.collect); {
		case err == nil:
		case r.Past != nil && errors.Is(err, r.Past):
			r.p.Skipped++
		default:
			r.p.Refused++
			r.Logger.Warn("refused and left out", "source", r.p.Source, "line", source.Line(), "err", err)
			if r.OnRefused != nil {
				r.OnRefused(r.p.Source, source.Line(), err)
			}
		}
		if len(r.pending) >= batchRecords || r.bytes >= batchBytes {
			if err := r.store(ctx); err != nil {
				return err
			}
		}
		if r.p.Read%progressEvery == 0 {
			r.p.Line, r.p.Offset = source.Line(), source.Offset()
			r.progress()
			if err := ctx.Err(); err != nil {
				return errors.Join(err, r.store(ctx))
			}
		}
	}
}

func (r *replay) progress() {
	if r.OnProgress != nil {
		r.OnProgress(r.p)
	}
}

func (r *replay) collect(rec odometer.Record) {
	r.pending = append(r.pending, rec)
	if r.bytes += len(rec.Checkpoint); rec.Event != nil {
		r.bytes += eventBytes
	}
}

// store puts what is pending into the spool. It waits for room for as long as
// the context lets it.
func (r *replay) store(ctx context.Context) error {
	if len(r.pending) == 0 {
		return nil
	}
	if w, ok := r.Spool.(interface{ WaitRoom(context.Context) error }); ok {
		if err := w.WaitRoom(ctx); err != nil && ctx.Err() == nil {
			return fmt.Errorf("wait for room in the spool: %w", err)
		}
	}
	wait := retryFirst
	for attempt := 1; ; attempt++ {
		stored, rest, err := appendRecords(r.Spool, r.pending, func(err error) {
			r.p.Refused++
			r.Logger.Error("a record is refused by the spool", "err", err)
		})
		r.p.Records += int64(len(stored))
		if err == nil {
			break
		}
		r.pending = rest
		if full := errors.Is(err, odometer.ErrUnavailable); !full && attempt > retries {
			return fmt.Errorf("store %d records: %w", len(rest), err)
		}
		r.Logger.Warn("the spool takes no records; trying again", "records", len(rest), "in", wait, "err", err)
		if slept := (realClock{}).Sleep(ctx, wait); slept != nil {
			return errors.Join(slept, err)
		}
		wait = min(2*wait, retryMax)
	}
	clear(r.pending)
	r.pending, r.bytes = r.pending[:0], 0
	return nil
}
