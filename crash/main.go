package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/term"
)

const usage = `usage: crash sweep|power|soak [flags]; crash sweep -h says more
`

func main() {
	os.Setenv("ODOMETER_SOURCE", "machine") // the same calls whatever runs on this host
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	var err error
	switch os.Args[1] {
	case "sweep":
		err = sweepCommand(ctx, os.Args[2:])
	case "power":
		err = powerCommand(ctx, os.Args[2:])
	case "soak":
		err = soakCommand(ctx, os.Args[2:])
	case "nats": // the external queue of a soak
		err = serveNATS(ctx, os.Args[2:])
	default:
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		os.Exit(1)
	}
}

// progress is where progress is shown: on a terminal only.
func progress() io.Writer {
	if term.IsTerminal(int(os.Stderr.Fd())) {
		return os.Stderr
	}
	return nil
}

func sweepCommand(ctx context.Context, args []string) error {
	o := sweepOptions{Out: os.Stdout, Progress: progress()}
	flags := flag.NewFlagSet("sweep", flag.ExitOnError)
	flags.IntVar(&o.Sample, "sample", 0, "kill at so many points of all runs, evenly spread; 0 for every point")
	flags.Uint64Var(&o.Seed, "seed", 0, "which points a sample takes")
	flags.IntVar(&o.Parallel, "parallel", max(2, runtime.NumCPU()), "attempts at once")
	list := flags.Bool("list", false, "list the calls of each run, too")
	only := flags.String("run", "", "only the run of this name")
	flags.Parse(args)
	if *list {
		o.List = os.Stdout
	}
	all, err := allRuns()
	if err != nil {
		return err
	}
	o.Runs = slices.DeleteFunc(all, func(r *run) bool { return *only != "" && r.name != *only })
	if len(o.Runs) == 0 {
		return fmt.Errorf("there is no run %q", *only)
	}
	return sweep(ctx, o)
}

func powerCommand(ctx context.Context, args []string) error {
	o := powerOptions{Out: os.Stdout, Progress: progress()}
	flags := flag.NewFlagSet("power", flag.ExitOnError)
	flags.IntVar(&o.Sample, "sample", 0, "cut the power so often, evenly spread; 0 for after every call, with every fate")
	flags.IntVar(&o.From, "from", 0, "only after this call and later ones")
	flags.IntVar(&o.To, "to", 0, "only after this call and earlier ones; 0 for all")
	flags.IntVar(&o.Whole, "whole", 10, "start the whole program on one of so many states; 0 for none")
	flags.Uint64Var(&o.Seed, "seed", 0, "which states a sample takes, and what is drawn at random in them")
	flags.IntVar(&o.Parallel, "parallel", max(2, runtime.NumCPU()), "states at once")
	flags.StringVar(&o.Keep, "keep", "", "directory for the states that are not recovered from")
	flags.Parse(args)
	return power(ctx, o)
}

func soakCommand(ctx context.Context, args []string) error {
	o := soakOptions{Out: os.Stdout, Progress: progress()}
	flags := flag.NewFlagSet("soak", flag.ExitOnError)
	flags.DurationVar(&o.For, "for", 10*time.Minute, "how long to kill")
	flags.Uint64Var(&o.Seed, "seed", 1, "of the load, and of what is killed when")
	flags.IntVar(&o.Feeders, "feeders", 2, "replays at once")
	flags.Parse(args)
	s, err := soak(ctx, o)
	if err == nil {
		fmt.Fprintln(o.Out, s)
	}
	return err
}
