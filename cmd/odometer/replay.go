package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/agent"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
	"example.org/odometer/meter"
	"example.org/odometer/sampler"
	"example.org/odometer/spool"
)

// replayConfig is what `odometer replay` is told.
type replayConfig struct {
	JSON     bool
	LogLevel string
	remoteFlags
}

const (
	// everyReading closes a period at each reading of a replay. The periods
	// make the events' ids, and those must be the same each time that a file
	// is replayed, also when it has grown meanwhile.
	everyReading = 0
	// serverPatience is how long a replay waits for a server that does not
	// answer before it has begun; after that it waits as long as it takes.
	serverPatience = 30 * time.Second
)

func newReplay(s streams) *cobra.Command {
	var c replayConfig
	cmd := &cobra.Command{
		Use:   "replay FILE.ndjson…",
		Short: "Meter readings from files",
		Long: `Meter readings from files, as an agent meters a machine's, and end when the
server's ledger has receipted everything. A line is a reading

  {"time":"2026-01-01T00:00:30Z","host":"h1","instance":"vm-1","epoch":"e1",
   "state":"running","cpu_us":1000000,"net_tx_bytes":1,"memory_mib":512}

or a mark, {"event":"started","time":…,"host":…,"instance":…,"epoch":…}.
The same file counts once however often it is replayed, and a replay that was
killed goes on where it stopped when it is run again.`,
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return replay(cmd.Context(), s, c, args) },
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	c.remoteFlags.register(flags, s.env, "replay", "directory for what has no receipt yet, and for where it stopped")
	flags.BoolVar(&c.JSON, "json", false, "what was done, as JSON")
	flags.StringVar(&c.LogLevel, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

// replayed is what a replay did.
type replayed struct {
	Files     int    `json:"files"`
	Readings  int64  `json:"readings"`
	Skipped   int64  `json:"skipped"` // metered before
	Refused   int64  `json:"refused"`
	Records   int64  `json:"records"`   // stored by this run
	Committed uint64 `json:"committed"` // position up to which the ledger has the spool
	Seconds   string `json:"seconds"`
}

// replay runs
//
//	files ─▶ meter ─▶ spool ─▶ publisher ═▶ the server
func replay(ctx context.Context, s streams, c replayConfig, names []string) (err error) {
	confine()
	begin := time.Now()
	to, err := c.complete()
	if err != nil {
		return err
	}
	logger, err := newLogger(streams{out: s.err}, c.LogLevel)
	if err != nil {
		return misuse(err)
	}
	files, size, err := openAll(names)
	if err != nil {
		return misuse(err)
	}
	defer closeAll(files)
	dir, err := lockDataDir(c.OwnDir, "replay")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.release()) }()
	if err := dir.create("replay"); err != nil {
		return err
	}
	box, err := spool.Open(spool.Options{Dir: dir.file(spoolDir), Logger: logger})
	if err != nil {
		return fmt.Errorf("open the spool: %w", err)
	}
	defer func() { err = errors.Join(err, box.Close()) }()
	// A name for each spool, so that replays of several people do not meet.
	up := newUplink(to, odometer.AgentID("replay-"+box.ID()[:12]), box, logger)
	if err := up.answers(ctx); err != nil {
		return err
	}

	run, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	sending := newPhase(run, "the publisher", fail)
	sending.run("publisher", up.run)
	bar := newProgress(s)
	sizes := make([]int64, len(files))
	sources := make([]agent.Readings, len(files))
	for i, f := range files {
		sources[i] = sampler.NewReplay(f, names[i])
		if i > 0 {
			sizes[i] = sizes[i-1] + fileSize(files[i-1])
		}
	}
	p, readErr := agent.Replay(run, agent.ReplayOptions{
		Meter: meter.New(meter.Options{Interval: everyReading, Named: true}),
		Spool: box, Past: meter.ErrPast, Logger: logger,
		OnRefused: func(source, line int, err error) {
			bar.end()
			fmt.Fprintf(s.err, "odometer: %s:%d: %v; left out\n", names[source], line, err)
		},
		OnProgress: func(p agent.Progress) {
			bar.set(sizes[p.Source]+p.Offset, size, fmt.Sprintf("%d readings · %d records committed", p.Read, box.Stats().Acked))
		},
	}, sources...)
	// What was read before an error is worth its receipts all the same.
	waitErr := awaitReceipts(run, box, func() bool { return !up.stats().LastReceipt.IsZero() }, bar)
	bar.end()
	endErr := sending.end(stopWithin)
	if ctx.Err() == nil && run.Err() != nil {
		return context.Cause(run)
	}
	st := box.Stats()
	if ctx.Err() != nil {
		return &failure{code: exitInterrupted, err: fmt.Errorf("stopped after %d readings: %d records wait for a receipt", p.Read, st.Unacked), next: "run the same command again to go on"}
	}
	if err := errors.Join(readErr, waitErr, endErr); err != nil {
		return err
	}
	done := replayed{
		Files: len(names), Readings: p.Read, Skipped: p.Skipped, Refused: p.Refused, Records: p.Records, Committed: st.Acked,
		Seconds: fmt.Sprintf("%.3f", time.Since(begin).Seconds()),
	}
	if c.JSON {
		err = printJSON(s.out, done)
	} else {
		_, err = fmt.Fprintf(s.out, "replayed %s: %d readings (%d metered before, %d refused), %d records committed in %s s\n",
			count(int64(len(names)), "file", "files"), p.Read, p.Skipped, p.Refused, p.Records, done.Seconds)
	}
	if err == nil && p.Refused > 0 {
		err = silent(exitFailed)
	}
	return err
}

// answers returns nil when the server answers and takes the token. It waits a
// little for one that is about to start.
func (u *uplink) answers(ctx context.Context) error {
	for deadline := time.Now().Add(serverPatience); ; {
		_, err := u.address(ctx)
		_, away := errors.AsType[*client.UnreachableError](err)
		if p, ok := errors.AsType[*api.Problem](err); ok && p.Status == http.StatusServiceUnavailable {
			away = true
		}
		if err == nil || !away || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(askFirst):
		}
	}
}

// hearWithin bounds how long a replay with nothing left to send waits for the
// ledger to confirm it.
const hearWithin = 10 * time.Second

// awaitReceipts returns when the ledger has everything that lies in the spool.
// What earlier runs were told is not enough: the ledger may have been restored
// from a backup since, and then wants it again.
func awaitReceipts(ctx context.Context, box *spool.Spool, heard func() bool, bar *progress) error {
	first := box.Stats()
	bar.restart()
	for deadline := time.Now().Add(hearWithin); ; {
		st := box.Stats()
		if st.Unacked == 0 && (heard() || time.Now().After(deadline)) {
			return nil
		}
		bar.set(int64(st.Acked-min(st.Acked, first.Acked)), int64(st.Last-min(st.Last, first.Acked)), fmt.Sprintf("%d records wait for their receipt", st.Unacked))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// openAll opens every file and says of each that cannot be opened why.
func openAll(names []string) (files []*os.File, size int64, err error) {
	var errs []error
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		files = append(files, f)
		if info, err := f.Stat(); err == nil && info.IsDir() {
			errs = append(errs, fmt.Errorf("%s is a directory, not a file of readings", name))
		}
		size += fileSize(f)
	}
	if err := errors.Join(errs...); err != nil {
		closeAll(files)
		return nil, 0, err
	}
	return files, size, nil
}

func fileSize(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return 0
	}
	return info.Size()
}

func closeAll[T io.Closer](files []T) {
	for _, f := range files {
		f.Close()
	}
}
