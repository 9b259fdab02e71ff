package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// The exit codes, which the package's documentation explains.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 4
	exitForbidden   = 5
	exitInterrupted = 130 // as shells have it for SIGINT
)

// failure is an error with what to do about it and an exit code. Without an
// err nothing is printed: the command has said it already.
type failure struct {
	code int
	err  error
	next string // the next step for a person, "" where the error says it
}

func (f *failure) Error() string {
	switch {
	case f.err == nil:
		return ""
	case f.next == "":
		return f.err.Error()
	default:
		return f.err.Error() + "; " + f.next
	}
}

func (f *failure) Unwrap() error { return f.err }

// advise says what to do about err.
func advise(err error, next string, args ...any) error {
	return &failure{code: exitFailed, err: err, next: fmt.Sprintf(next, args...)}
}

// misuse says that the command line or the configuration is wrong.
func misuse(err error) error {
	if err == nil {
		return nil
	}
	return &failure{code: exitUsage, err: err}
}

// silent ends with a code and says nothing more.
func silent(code int) error { return &failure{code: code} }

// exitCode returns the code that err stands for.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code
	}
	if _, ok := errors.AsType[*client.UnreachableError](err); ok {
		return exitUnreachable
	}
	if p, ok := errors.AsType[*api.Problem](err); ok && (p.Status == http.StatusUnauthorized || p.Status == http.StatusForbidden) {
		return exitForbidden
	}
	if errors.Is(err, context.Canceled) {
		return exitInterrupted
	}
	return exitFailed
}

// arguments makes what a [cobra.PositionalArgs] refuses a misuse with a hint.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return misuse(fmt.Errorf("%s: %w; `%s --help` tells more", cmd.Name(), err, cmd.CommandPath()))
		}
		return nil
	}
}

// whyNot returns what is wrong with what was given, without the kind of error.
func whyNot(err error) string {
	return strings.TrimSuffix(err.Error(), ": "+odometer.ErrInvalid.Error())
}
