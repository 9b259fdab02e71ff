// Mutants proves the proofs: it plants bugs, one at a time, and demands that
// each is caught. A test that passes over a program with a bug in it, and an
// auditor that calls a forged ledger good, are worth nothing; this command
// finds them out.
//
//	go run ./mutants              every bug
//	go run ./mutants -sample 20   every forgery, and 20 of the code's bugs
//	go run ./mutants -list        what would be planted
//
// There are two kinds of bug.
//
// Forgeries change a copy of a ledger behind its back: a row deleted, doubled,
// altered, moved, with the hash chain mended over it. They stand in package
// audit's tests, beside the story that they forge, and are caught by what the
// audit says of the copy: [forgeries] runs them and lists each with the
// finding that gave it away.
//
// Code bugs change the program: one text of one file becomes another, and a
// test by name must fail that passes without. They are planted with the Go
// command's -overlay, so that the product has neither hooks nor build tags for
// them and no file of the tree is touched; see [bug].
//
// The exit code is 0 when every bug was caught, 1 otherwise. A bug that does
// not compile, whose text the file no longer has exactly once, or whose test
// does not pass without it, proves nothing and counts as not caught.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	sample int    // code bugs to plant, 0 for all
	seed   uint64 // of the sample
	only   *regexp.Regexp
	forge  bool
	list   bool
	jobs   int
}

func parse(args []string, errs io.Writer) (o options, err error) {
	f := flag.NewFlagSet("mutants", flag.ContinueOnError)
	f.SetOutput(errs)
	f.IntVar(&o.sample, "sample", 0, "plant only so many of the code's bugs, chosen by -seed; 0 plants all")
	f.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()/86400), "of the sample; today's day by default, so that every day takes other ones")
	f.BoolVar(&o.forge, "forgeries", true, "forge ledgers too, not only the code")
	f.BoolVar(&o.list, "list", false, "print what would be planted and plant nothing")
	f.IntVar(&o.jobs, "jobs", 2, "code bugs to plant at once")
	only := f.String("only", "", "plant only bugs whose name, file or test matches this regular expression")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.jobs < 1 {
		return o, fmt.Errorf("-jobs %d: at least one is needed", o.jobs)
	}
	o.only, err = regexp.Compile(*only)
	return o, err
}

// Where the module lies, from where `go run ./mutants` is called.
const root = "."

func run(ctx context.Context, args []string, out, errs io.Writer) (ok bool, err error) {
	o, err := parse(args, errs)
	if err != nil {
		return false, err
	}
	chosen := choose(bugs(), o)
	if o.list {
		for _, b := range chosen {
			fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", b.name, b.file, planted(b), b.test)
		}
		return true, nil
	}
	start := time.Now()
	tally := &tally{out: out}
	var forged []result
	if o.forge {
		if forged, err = forgeries(ctx, root, o.only); err != nil {
			return false, err
		}
	}
	for _, r := range forged {
		tally.add(r)
	}
	if err := plant(ctx, root, chosen, o.jobs, tally.add); err != nil {
		return false, err
	}
	if o.sample > 0 && len(chosen) < len(bugs()) {
		fmt.Fprintf(out, "a sample of %d of %d code bugs, seed %d\n", len(chosen), len(bugs()), o.seed)
	}
	fmt.Fprintf(out, "%d planted: %d forgeries, %d bugs in the code; %d caught, %d not, in %.0f s\n",
		tally.caught+tally.missed, len(forged), len(chosen), tally.caught, tally.missed, time.Since(start).Seconds())
	return tally.missed == 0 && tally.caught > 0, nil
}

// choose returns the bugs that o asks for, in the order of their files.
func choose(all []bug, o options) []bug {
	all = slices.DeleteFunc(all, func(b bug) bool {
		return !o.only.MatchString(b.name) && !o.only.MatchString(b.file) && !o.only.MatchString(b.test)
	})
	if o.sample > 0 && o.sample < len(all) {
		r := rand.New(rand.NewPCG(o.seed, 0))
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:o.sample]
	}
	slices.SortStableFunc(all, func(a, b bug) int { return cmp.Compare(filepath.Dir(a.file), filepath.Dir(b.file)) })
	return all
}

// result is what became of one bug.
type result struct {
	name, where, planted string
	by                   string // what caught it, or should have
	missed               string // why it is not caught, "" where it is
	took                 time.Duration
}

// tally prints results as they come, one line each, and counts them.
type tally struct {
	out            io.Writer
	mu             sync.Mutex
	caught, missed int
}

func (t *tally) add(r result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	verdict := "caught"
	if r.missed == "" {
		t.caught++
	} else {
		t.missed++
		verdict = "NOT CAUGHT (" + r.missed + ")"
	}
	what := r.name
	if r.planted != "" {
		what += ": " + r.planted
	}
	fmt.Fprintf(t.out, "%s by %s | %s | %s | %.1f s\n", verdict, r.by, r.where, what, r.took.Seconds())
}
