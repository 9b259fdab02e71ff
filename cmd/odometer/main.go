// Odometer meters virtual machines for billing.
//
// This package is the door to the house: it reads the configuration, joins the
// rooms to one another in the order in which the data walks (serve.go,
// agent.go, replay.go), and shows people what the rooms say. It decides
// nothing about usage.
//
// # Exit codes
//
//	0  done, and what was examined holds
//	1  failed; of audit, doctor and rebuild: something does not hold
//	2  wrongly used: an unknown command, flag, key or value; of audit: it could not run
//	4  the server does not answer
//	5  the server does not accept the token
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"golang.org/x/term"
)

// Version is what `odometer version` says. The build's commit is added to it
// where the Go tool has recorded one.
const Version = "0.1.0"

func main() {
	// The first signal asks for an orderly end; after it the default action
	// is back, so that a second one ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:], streams{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.LookupEnv,
		outTTY: term.IsTerminal(int(os.Stdout.Fd())),
		errTTY: term.IsTerminal(int(os.Stderr.Fd())),
	})
	os.Exit(code)
}

// streams are what a command talks to.
type streams struct {
	in             io.Reader // nil for nothing
	out, err       io.Writer
	env            func(string) (string, bool)
	outTTY, errTTY bool // a person is looking
}

// run carries out one command line and returns the exit code. Everything that
// went wrong is on err, one line each.
func run(ctx context.Context, args []string, s streams) int {
	root := newRoot(s)
	root.SetArgs(args)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	for _, e := range flatten(err) {
		if text := oneLine(e); text != "" {
			fmt.Fprintln(s.err, "odometer: "+text)
		}
	}
	return exitCode(err)
}

// flatten returns the errors that were joined into err, none for nil.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if f, ok := err.(*failure); ok && f.next == "" {
		return flatten(f.err)
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || err.Error() != errors.Join(joined.Unwrap()...).Error() {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// oneLine folds a text that others broke into lines.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// versionText is the version with the commit it was built from, where known.
func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Version
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = " and changes"
		}
	}
	if revision == "" {
		return Version
	}
	return Version + " (" + revision + dirty + ")"
}
