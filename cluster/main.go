// Command cluster lets happen to the queue what happens to queues, with real
// NATS servers under load, and shows that the ledger loses nothing.
//
//	agents                     cluster of three, streams with three copies              server
//
//	spool ─▶ publisher ─link─▶ n1 ◀─link─▶ n2 ◀─link─▶ n3 ◀─link─ receiver ─▶ ingest ─▶ ledger ─▶ feed
//	  ▲                                                                                  │
//	  └────────────────────────────────── receipts ──────────────────────────────────────┘
//
// Everything but the events themselves is the program's own: spools,
// publishers, receiver, ledger, receipts and feed. Every connection goes
// through a link that can stand still, pass one way only or be cut in the
// middle of a message. A seeded schedule of faults happens one after the other
// while events pour in; after each of them everything measured until then has
// to be receipted. In the end the ledger is compared with the truth, the topic
// USAGE with the ledger, and the auditor looks at both. What the queue had
// acknowledged and never delivered is counted: without it nothing was proved.
//
// Beside that, the embedded queue forgets what it stored, at random moments;
// and a herd of agents comes back at once when the server was away.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// faultsAtOnce is how many faults happen to one cluster before everything is
// checked and another begins.
var faultsAtOnce = 2 * len(faults)

// amnesiasAtOnce is the same for an embedded queue.
const amnesiasAtOnce = 100

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var p program
	flag.IntVar(&p.rounds, "rounds", faultsAtOnce, "how many faults happen to a cluster of three; 0 for none")
	flag.StringVar(&p.only, "only", "", "only faults whose name matches this `expression`")
	flag.IntVar(&p.amnesias, "forget", amnesiasAtOnce, "how many times the embedded queue forgets; 0 for never")
	flag.IntVar(&p.agents, "herd", 2000, "how many agents come back at once; 0 for none")
	flag.Uint64Var(&p.seed, "seed", uint64(time.Now().UnixNano()), "of the schedule")
	flag.StringVar(&p.binary, "nats-server", "", "run this nats-server `program` as three processes, and kill them with kill -9")
	verbose := flag.Bool("v", false, "say what the parts log")
	flag.BoolVar(&p.keep, "keep", false, "keep the directory")
	flag.Parse()
	p.log = slog.New(slog.DiscardHandler)
	if *verbose {
		p.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if err := p.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// program is what the command is told.
type program struct {
	rounds, amnesias, agents int
	seed                     uint64
	binary, only             string
	keep                     bool
	log                      *slog.Logger
}

func (p *program) run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "odometer-cluster-")
	if err != nil {
		return err
	}
	if p.keep {
		fmt.Fprintln(out, "in", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	fmt.Fprintf(out, "seed %d\n", p.seed)
	begun := time.Now()
	o := options{
		Seed: p.seed, Hosts: 5, Instances: 8, Tick: 40 * time.Millisecond, Apart: 12 * time.Second, Binary: p.binary, Log: p.log,
		Progress: func(what string) { fmt.Fprintf(out, "%6.0f s | %s\n", time.Since(begun).Seconds(), what) },
	}
	var errs []error
	series := func(name string, rounds, atOnce int, kinds []string, one func(context.Context, options) (*figures, error)) {
		if rounds == 0 {
			return
		}
		all := newFigures()
		for n := 0; n*atOnce < rounds && ctx.Err() == nil; n++ {
			o := o
			o.Seed, o.Rounds, o.Dir = p.seed+uint64(n), min(atOnce, rounds-n*atOnce), filepath.Join(dir, fmt.Sprint(name, "-", n+1))
			f, err := one(ctx, o)
			if f != nil {
				all.add(f)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s, seed %d: %w", name, o.Seed, err))
			}
			if !p.keep {
				errs = append(errs, os.RemoveAll(o.Dir))
			}
		}
		all.print(out, kinds)
		if ctx.Err() == nil {
			errs = append(errs, all.proves(kinds))
		}
	}
	kinds, err := matching(p.only)
	if err != nil {
		return err
	}
	series("cluster", p.rounds, faultsAtOnce, names(kinds), func(ctx context.Context, o options) (*figures, error) { return run(ctx, o, kinds) })
	series("embedded", p.amnesias, amnesiasAtOnce, amnesias, forget)
	if p.agents > 0 && ctx.Err() == nil {
		o.Dir = filepath.Join(dir, "herd")
		h, err := stampede(ctx, o, p.agents)
		if err != nil {
			errs = append(errs, fmt.Errorf("herd: %w", err))
		} else {
			h.print(out)
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// matching returns the faults whose name matches an expression.
func matching(expression string) (list []fault, err error) {
	x, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	for _, f := range faults {
		if x.MatchString(f.name) {
			list = append(list, f)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no fault matches %q: there are %s", expression, strings.Join(names(faults), "; "))
	}
	return list, nil
}

func names(list []fault) (names []string) {
	for _, f := range list {
		names = append(names, f.name)
	}
	return names
}

// proves returns why a run proves nothing: a kind of fault that never
// happened, or a queue that never forgot.
func (f *figures) proves(kinds []string) error {
	var never []string
	for _, k := range kinds {
		if f.Reached[k] == 0 {
			never = append(never, k)
		}
	}
	if len(never) > 0 {
		return fmt.Errorf("the run proves nothing: never reached: %s", strings.Join(never, "; "))
	}
	if f.Forgotten == 0 {
		return errors.New("the run proves nothing: the queue has forgotten no frame that it had acknowledged")
	}
	return nil
}
