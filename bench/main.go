// Command bench measures the figures that Odometer is held to and prints one
// line for each:
//
//	name value unit | limit value | ratio
//
// The limit is what the bare parts do with the same data on the same machine
// in the same run, and - where there is none; the ratio says how near the
// figure comes to it, 1 being the limit. What counts is the ratio, since the
// machine may be busy. Nothing here passes or fails by time.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"slices"
)

// figures are what can be measured, in the order in which it is. A figure
// stands in a file of its own and may print several lines, which begin with
// its name.
var figures = slices.Concat([]figure{
	{"ingest_100k", ingestRate("ingest_100k", 100_000, 6, ingestOptions{})},
	{"ingest_1m", ingestRate("ingest_1m", 1_000_000, 2, ingestOptions{})},
	{"ingest_checkpoints", ingestRate("ingest_checkpoints", 100_000, 3, ingestOptions{checkpoints: true})},
	{"ingest_everything", ingestRate("ingest_everything", 100_000, 3, ingestOptions{everything: true})},
	{"ingest_history", historyRate},
	{"growth", growth},
	{"latency", latency},
	{"bytes", sizes},
	{"memory_100k", memory("memory_100k", 100_000)},
	{"memory_1m", memory("memory_1m", 1_000_000)},
	{"audit", auditRate},
	{"spool_recovery", recoveryTime},
	{"ready", readyTime},
	{"sample_1000", sampleCost},
	{"tick_1000", tickTime},
	{"agent_1000", agentMemory},
	{"owner_lookup", ownerLookups},
	{"threshold_check", thresholdChecks},
	{"ingest_thresholds", ingestThresholds},
	{"notify", notifications},
	{"alert", alertLatency},
	{"month_close", closeOfMonth},
}, exportFigures(), questionFigures(), []figure{{"http_usage", httpUsage}})

// figure is what is measured under one name.
type figure struct {
	name    string
	measure func(*bench) error
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("bench: ")
	only := flag.String("only", "", "measure the figures whose name matches this `regexp`")
	quick := flag.Bool("quick", false, "measure less of everything: to see that it works, not for the figures")
	history := flag.String("history", "", "keep the ledger with a history in this `file`, and use it when it is there")
	profile := flag.String("cpuprofile", "", "write a CPU profile of everything to this `file`")
	flag.Parse()
	chosen, err := regexp.Compile(*only)
	if err != nil {
		log.Fatal(err)
	}
	if err := run(chosen, *quick, *history, *profile); err != nil {
		log.Fatal(err)
	}
}

func run(chosen *regexp.Regexp, quick bool, history, profile string) (err error) {
	dir, err := os.MkdirTemp("", "odometer-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if profile != "" {
		f, err := os.Create(profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	b := &bench{quick: quick, historyFile: history, dir: dir}
	measured := 0
	for _, f := range figures {
		if !chosen.MatchString(f.name) {
			continue
		}
		if err := f.measure(b); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		measured++
	}
	if measured == 0 {
		return errors.New("no figure has such a name")
	}
	return nil
}

// bench is one run.
type bench struct {
	quick       bool
	historyFile string // made when it is first asked for
	dir         string // for what the figures keep; removed at the end
	built       string // the real program, when it was asked for
	n           int
}

// place returns a path within the run's directory that was not given out
// before.
func (b *bench) place(name string) string {
	b.n++
	return filepath.Join(b.dir, fmt.Sprintf("%d-%s", b.n, name))
}

// note prints what is worth knowing and no figure.
func (b *bench) note(format string, args ...any) { fmt.Printf("# "+format+"\n", args...) }

// rate prints a figure of which more is better. Limit 0 stands for none.
func (b *bench) rate(name string, value float64, unit string, limit float64) {
	b.line(name, value, unit, limit, value/limit)
}

// cost prints a figure of which less is better. Limit 0 stands for none.
func (b *bench) cost(name string, value float64, unit string, limit float64) {
	b.line(name, value, unit, limit, limit/value)
}

func (b *bench) line(name string, value float64, unit string, limit, ratio float64) {
	if limit == 0 {
		fmt.Printf("%-28s %12s %-9s | limit %12s | %5s\n", name, number(value), unit, "-", "-")
		return
	}
	fmt.Printf("%-28s %12s %-9s | limit %12s | %5.2f\n", name, number(value), unit, number(limit), ratio)
}

// number shows three digits of what is small and whole numbers of the rest.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
