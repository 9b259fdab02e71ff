package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"example.org/odometer/api/client"
)

// outputs are what --output takes.
var outputs = []string{client.CSV, client.NDJSON}

// registerOutput gives a command that lists the flag --output.
func registerOutput(cmd *cobra.Command, output *string) {
	flags := cmd.Flags()
	flags.Var(wordValue{output, outputs}, "output", "all of it, written as it comes: "+joinWords(outputs))
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
}

// wordValue is a flag that is one of some words.
type wordValue struct {
	text  *string
	words []string
}

func (v wordValue) String() string {
	if v.text == nil {
		return ""
	}
	return *v.text
}

func (v wordValue) Type() string { return "form" }

func (v wordValue) Set(s string) error {
	for _, w := range v.words {
		if s == w {
			*v.text = s
			return nil
		}
	}
	return fmt.Errorf("one of %s is possible", joinWords(v.words))
}

// oneForm refuses --output with --json.
func oneForm(output string, asJSON bool) error {
	if output != "" && asJSON {
		return misuse(errors.New("both --output and --json are given; --output ndjson has an object a line"))
	}
	return nil
}

// writeExport writes an export to the output as it comes.
func writeExport(s streams, x *client.Export) error {
	defer x.Lines.Close()
	if _, err := io.Copy(s.out, x.Lines); err != nil {
		return fmt.Errorf("what is written is not all: %w", err)
	}
	return nil
}
