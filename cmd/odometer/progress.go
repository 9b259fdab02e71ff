package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

const (
	// barEvery is how often a bar is drawn anew: as often as an eye follows.
	barEvery = 100 * time.Millisecond
	// lineEvery is how often a log gets a line: seldom enough to read later.
	lineEvery = 10 * time.Second
	barWidth  = 24
)

// progress shows how far a long work has come, on standard error: a bar for a
// person, a line now and then for a log. It is used by one goroutine.
type progress struct {
	w       io.Writer
	tty     bool
	started time.Time
	shown   time.Time
	width   int // of what the bar last wrote
}

func newProgress(s streams) *progress {
	now := time.Now()
	return &progress{w: s.err, tty: s.errTTY, started: now, shown: now}
}

// restart begins another part of the work, whose rest is not to be guessed from
// the time that the one before took.
func (p *progress) restart() { p.started = time.Now() }

// set says that done of all is done; note is added. All 0 means that nobody
// knows. It shows it when it is time.
func (p *progress) set(done, all int64, note string) {
	every := lineEvery
	if p.tty {
		every = barEvery
	}
	if now := time.Now(); now.Sub(p.shown) >= every {
		p.show(now, done, all, note)
	}
}

func (p *progress) show(now time.Time, done, all int64, note string) {
	p.shown = now
	part := 0.0
	if all > 0 {
		part = min(1, float64(done)/float64(all))
	}
	left := ""
	if took := now.Sub(p.started); part > 0.01 && part < 1 {
		left = " · " + time.Duration(float64(took)/part*(1-part)).Round(time.Second).String() + " left"
	}
	if !p.tty {
		fmt.Fprintf(p.w, "%3.0f%% %s%s\n", part*100, note, left)
		return
	}
	full := int(part * barWidth)
	line := fmt.Sprintf("[%s%s] %3.0f%% %s%s", strings.Repeat("#", full), strings.Repeat(" ", barWidth-full), part*100, note, left)
	pad := max(0, p.width-len(line))
	fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", pad))
	p.width = len(line)
}

// end takes the bar away, so that what follows begins at a clean line.
func (p *progress) end() {
	if p.tty && p.width > 0 {
		fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.width))
		p.width = 0
	}
}
