package main

import (
	"slices"
	"testing"

	"github.com/spf13/cobra"
)

// TestWhatAShellWouldRunIsNotOffered, nor what it would take for a flag, a pattern or
// several words.
func TestWhatAShellWouldRunIsNotOffered(t *testing.T) {
	got := harmless([]string{
		"web-1\tA", "h1:vm-7", "u-äöü", "a@b.example", "x\t$(touch y)\x1b[2J",
		"", "\tz", "-x", "--help", "=ls", "%1", "$(touch y)", "`touch y`", "a;b", "a|b", "a&b", "a b", "a*", "a?", "[a]", "~", "a'b", `a"b`, `a\b`, "{a,b}", "a>b", "#a", "!a", "(a)", "a\nb", "\x1b[2J",
	})
	want := []string{"web-1\tA", "h1:vm-7", "u-äöü", "a@b.example", "x\t$(touch y)?[2J"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestEveryWordThatIsCompletedIsOne looks at the names by which completions are found.
func TestEveryWordThatIsCompletedIsOne(t *testing.T) {
	root := newRoot(streams{env: noEnv})
	for path := range argumentWords(streams{env: noEnv}) {
		if !slices.ContainsFunc(commandsOf(root), func(c *cobra.Command) bool { return c.CommandPath() == path && c.ValidArgsFunction != nil }) {
			t.Errorf("%s is no command", path)
		}
	}
	for name := range flagWords(streams{env: noEnv}) {
		if !slices.ContainsFunc(commandsOf(root), func(c *cobra.Command) bool {
			_, completes := c.GetFlagCompletionFunc(name)
			return completes
		}) {
			t.Errorf("--%s is no flag", name)
		}
	}
}

// commandsOf are a command and all below it.
func commandsOf(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, commandsOf(sub)...)
	}
	return all
}
