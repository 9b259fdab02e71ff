package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// What a shell completes: commands and flags by themselves, and here the values that an
// argument or a flag may have, where its command has not said so.

// argumentWords complete the arguments of commands, by their paths.
func argumentWords(s streams) map[string]cobra.CompletionFunc {
	return map[string]cobra.CompletionFunc{
		"odometer replay":             completeFiles,
		"odometer instance import":    completeFiles,
		"odometer backup":             completeDirs,
		"odometer restore":            completeDirs,
		"odometer consumer revoke":    ofServer(s, (*serverFlags).completeConsumer),
		"odometer host revoke-token":  ofServer(s, (*serverFlags).completeEnrolment),
		"odometer quarantine release": ofServer(s, (*serverFlags).completeQuarantined),
	}
}

// flagWords complete the values of flags, by their names.
func flagWords(s streams) map[string]cobra.CompletionFunc {
	these := func(list ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp)
	}
	words := map[string]cobra.CompletionFunc{
		"data-dir":  completeDirs,
		"action":    these(auditActions...),
		"log-level": these("debug", "info", "warn", "error"),
		"source":    these(sourceAuto, sourceMachine, sourceVMs, sourceMachine+","+sourceVMs),
		"agent": valueOf(s, func(c *serverFlags, cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return (&hostConfig{serverFlags: *c}).completeHost(cmd, args, word)
		}),
		"instance": valueOf(s, (*serverFlags).completeInstance),
		"org":      valueOf(s, (*serverFlags).completeOrg),
		"owner":    valueOf(s, (*serverFlags).completeUser),
		"user":     valueOf(s, (*serverFlags).completeUser),
	}
	for _, name := range []string{"config", "enroll", "nats-token-file", "smtp-password-file", "thresholds", "secret-file", "bearer-file", "url-file", "tls-ca", "tls-cert", "tls-key", "token-file", "vm-file"} {
		words[name] = completeFiles
	}
	return words
}

func completeFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

func completeDirs(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// completing has the commands below root complete what they can.
func completing(root *cobra.Command, s streams) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	arguments, values := argumentWords(s), flagWords(s)
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if f := arguments[cmd.CommandPath()]; f != nil && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = f
		}
		cmd.LocalFlags().VisitAll(func(flag *pflag.Flag) {
			if _, has := cmd.GetFlagCompletionFunc(flag.Name); !has && values[flag.Name] != nil {
				cmd.RegisterFlagCompletionFunc(flag.Name, values[flag.Name]) // fails for what has one
			}
		})
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// valueOf completes the value of a flag as ofServer does an argument.
func valueOf(s streams, complete completer) cobra.CompletionFunc {
	f := ofServer(s, complete)
	return func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return f(cmd, nil, word)
	}
}

// completer completes an argument by what a server knows.
type completer = func(*serverFlags, *cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// ofServer completes what is known to the server that the command would ask.
func ofServer(s streams, complete completer) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if err := loadSettings(cmd.Flags(), s.env); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		value := func(name string) string {
			if flag := cmd.Flags().Lookup(name); flag != nil {
				return flag.Value.String()
			}
			return ""
		}
		c := serverFlags{Server: value("server"), Token: value("token"), TokenFile: value("token-file"), DataDir: value("data-dir")}
		c.TLSCA = value("tls-ca")
		return complete(&c, cmd, args, word)
	}
}

// completeWithin bounds how long a shell waits for words.
const completeWithin = 2 * time.Second

// complete asks the server for words that a shell may complete, each with what it
// is after a tab. Where it does not answer there are none.
func (c *serverFlags) complete(ctx context.Context, ask func(context.Context, *client.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	const nothing = cobra.ShellCompDirectiveNoFileComp
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	if c.settings != nil && c.settings() != nil { // a shell completes before they are read
		return nil, nothing
	}
	server, err := c.client()
	if err != nil {
		return nil, nothing
	}
	words, err := ask(ctx, server)
	if err != nil {
		return nil, nothing
	}
	return harmless(words), nothing
}

// harmless leaves out what a shell would not take as it stands: names come from
// whoever chose them, and bash puts the common beginning of several on the command
// line without quotes. What is said of each is for the eye.
func harmless(words []string) []string {
	var list []string
	for _, w := range words {
		word, about, described := strings.Cut(w, "\t")
		if word == "" || strings.ContainsRune("-=%", rune(word[0])) || strings.ContainsFunc(word, func(r rune) bool { return r < 0x80 && !strings.ContainsRune(plainInShells, r) }) {
			continue
		}
		if described {
			word = cobra.CompletionWithDesc(word, printable(about))
		}
		list = append(list, word)
	}
	return list
}

// plainInShells are the characters of ASCII that mean themselves.
const plainInShells = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=,"

func (c *serverFlags) completeConsumer(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
		answer, err := server.Consumers(ctx)
		for _, a := range answer.Consumers {
			words = append(words, cobra.CompletionWithDesc(string(a.ID), a.Name))
		}
		return words, err
	})
}

func (c *serverFlags) completeEnrolment(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
		answer, err := server.Enrolments(ctx, api.MaxPage)
		for _, e := range answer.Enrolments {
			words = append(words, cobra.CompletionWithDesc(string(e.ID), e.State))
		}
		return words, err
	})
}

func (c *serverFlags) completeQuarantined(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
		items, err := server.Quarantine(ctx, api.MaxPage)
		for _, i := range items {
			if i.Released == nil {
				words = append(words, cobra.CompletionWithDesc(fmt.Sprintf("%d-%d", i.Partition, i.No), i.Reason))
			}
		}
		return words, err
	})
}
