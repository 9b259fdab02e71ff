package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
)

// console tells a person, or a log, what `odometer serve` is doing.
type console struct {
	w       io.Writer
	tty     bool
	logger  *slog.Logger
	started time.Time
	hint    string // a command to try once something is recorded, "" for none

	mu     sync.Mutex
	closed []closedPeriod // stored in the spool, not yet known to be recorded

	// Of the goroutine of run, and of whoever calls stopped after it.
	periods int
	entries int64 // of the ledger, when last told
	width   int   // of the open line on the terminal
	tried   bool  // the hint was given
}

// closedPeriod is a period on its way to the ledger.
type closedPeriod struct {
	event    odometer.Event
	position uint64 // of the spool; 0 until run has asked
}

func newConsole(s streams, logger *slog.Logger) *console {
	return &console{w: s.out, tty: s.outTTY, logger: logger, started: time.Now()}
}

// header says what runs, and where.
func (c *console) header(instance, owner, dataDir, url, nats string) {
	if !c.tty {
		c.logger.Info("serving", "version", Version, "instance", instance, "owner", owner, "data", dataDir, "api", url, "queue", nats)
		return
	}
	if instance == "" {
		fmt.Fprintf(c.w, "odometer %s · without an agent of its own\n", Version)
	} else {
		fmt.Fprintf(c.w, "odometer %s · metering this machine as %q · owner: %s\n", Version, instance, owner)
	}
	fmt.Fprintf(c.w, "data   %-24s  api %s\n", dataDir, url)
}

// period is told of each period that was stored; it must not block.
func (c *console) period(e *odometer.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = append(c.closed, closedPeriod{event: *e})
}

// watched is what the console looks at.
type watched struct {
	open    func() []*odometer.Event
	stored  func() uint64 // the last position of the spool
	commits func() uint64 // the position that is receipted
	entries func() int64  // of the ledger; negative where this process does not know
	backlog func() int64  // records without a receipt
}

// consoleEvery is how often the console looks: the open line changes at every
// sample, and what was recorded is told while it is news.
const consoleEvery = 500 * time.Millisecond

// run tells what happens until ctx is done.
func (c *console) run(ctx context.Context, w watched) error {
	tick := time.NewTicker(consoleEvery)
	defer tick.Stop()
	c.entries = w.entries()
	said := false
	for {
		select {
		case <-ctx.Done():
			c.wipe()
			return nil
		case <-tick.C:
		}
		c.recorded(w)
		if said && !c.tty {
			continue // what is open is told once, and a look at it copies all of it
		}
		open := w.open()
		if len(open) == 0 {
			continue
		}
		switch {
		case c.tty:
			c.openLine(open[0])
		case !said:
			c.logger.Info("metering", "open", summary(open[0]))
		}
		said = true
	}
}

// recorded tells the periods that the ledger has by now.
func (c *console) recorded(w watched) {
	c.mu.Lock()
	stored := w.stored()
	var done []closedPeriod
	for i := range c.closed {
		if c.closed[i].position == 0 {
			c.closed[i].position = stored
		}
	}
	commits := w.commits()
	for len(c.closed) > 0 && c.closed[0].position <= commits {
		done, c.closed = append(done, c.closed[0]), c.closed[1:]
	}
	c.mu.Unlock()
	for _, p := range done {
		c.periods++
		now := w.entries()
		if c.tty {
			c.wipe()
			booked := ""
			if now >= 0 {
				booked = " · " + count(now-c.entries, "entry", "entries")
			}
			fmt.Fprintf(c.w, "%s  period %d recorded: %s%s · backlog %d\n", c.clock(), c.periods, summary(&p.event), booked, w.backlog())
			if c.hint != "" && !c.tried {
				c.tried = true
				fmt.Fprintf(c.w, "try    %s     (same user: token found by itself)\n", c.hint)
			}
		} else {
			attrs := []any{"period", c.periods, "event", p.event.ID(), "usage", summary(&p.event), "backlog", w.backlog()}
			if now >= 0 {
				attrs = append(attrs, "entries", now-c.entries)
			}
			c.logger.Info("period recorded", attrs...)
		}
		c.entries = now
	}
}

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// openLine shows the open period, in the place of what it showed before.
func (c *console) openLine(e *odometer.Event) {
	line := fmt.Sprintf("%s  %s    (open)", c.clock(), summary(e))
	n := len([]rune(line))
	fmt.Fprintf(c.w, "\r%s%s", line, strings.Repeat(" ", max(0, c.width-n)))
	c.width = n
}

func (c *console) wipe() {
	if c.width > 0 {
		fmt.Fprintf(c.w, "\r%s\r", strings.Repeat(" ", c.width))
		c.width = 0
	}
}

// clock is the time since the start: "00:02", "1:02:03".
func (c *console) clock() string {
	s := int(time.Since(c.started).Seconds())
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}

// stopped says what was still recorded, and where the process stopped.
func (c *console) stopped(w watched, p stopPoint) {
	c.recorded(w)
	if !c.tty {
		attrs := []any{"position", p.position, "committed", p.committed, "backlog", p.backlog}
		if p.entries >= 0 {
			attrs = append(attrs, "entries", p.entries, "feed_behind", p.behind)
		}
		c.logger.Info("stopped", attrs...)
		return
	}
	topic := ""
	if p.entries >= 0 {
		topic = fmt.Sprintf(" · %s · topic %d behind", count(p.entries, "entry", "entries"), p.behind)
	}
	rest := "everything is recorded"
	if p.backlog > 0 {
		rest = "what is not recorded waits in the spool for the next start"
	}
	fmt.Fprintf(c.w, "stopped at position %d, committed %d · backlog %d%s · %s\n", p.position, p.committed, p.backlog, topic, rest)
}

// stopPoint is where a process stopped.
type stopPoint struct {
	position, committed uint64 // of the spool
	backlog             int64  // records without a receipt
	entries             int64  // of the ledger; negative where this process does not know
	behind              int64  // entries that the topic does not have
}
