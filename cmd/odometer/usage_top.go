package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// usageTopConfig is what `odometer usage top` is told.
type usageTopConfig struct {
	serverFlags
	client.TopQuery
	JSON bool
}

// ranked are who may be ranked.
var ranked = []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg}

func newUsageTop(s streams) *cobra.Command {
	var c usageTopConfig
	cmd := &cobra.Command{
		Use:   "top",
		Short: "List who used most",
		Long: `List who used most between two times, by time of use, of what is recorded.

On a pipe, and with --json, amounts are exact integers.`,
		Example: `  odometer usage top --by memory
  odometer usage top --of org --by egress --from 2026-01-01 --to 2026-02-01 -n 20`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case !slices.Contains(api.TopWords(), c.By):
				return misuse(fmt.Errorf("--by %q: one of %s is possible", c.By, strings.Join(api.TopWords(), ", ")))
			case !slices.Contains(ranked, odometer.GroupBy(c.Of)):
				return misuse(fmt.Errorf("--of %q: one of %s is possible", c.Of, joinWords(ranked)))
			case c.N < 1:
				return misuse(fmt.Errorf("-n %d: a number from 1", c.N))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := server.Top(cmd.Context(), c.TopQuery)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			by := []odometer.GroupBy{odometer.GroupBy(answer.Of)}
			columns := append([]column{{Title: strings.ToUpper(answer.Of), Name: answer.Of}}, amountColumns()...)
			return printTable(s.out, s.outTTY, columns, usageRows("", by, time.UTC, answer.Rows))
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.By, "by", api.TopWords()[0], "what they have most of: "+strings.Join(api.TopWords(), ", "))
	flags.StringVar(&c.Of, "of", string(odometer.ByInstance), "who they are: "+joinWords(ranked))
	flags.IntVarP(&c.N, "number", "n", 10, "how many")
	spanFlags(flags, &c.From, &c.To, &c.Timezone)
	flags.StringVar(&c.Instance, "instance", "", "only of this instance")
	flags.StringVar(&c.User, "user", "", "only of what this user is charged")
	flags.StringVar(&c.Org, "org", "", "only of what this organisation is charged")
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(flags, s.env)
	cmd.RegisterFlagCompletionFunc("by", cobra.FixedCompletions(api.TopWords(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("of", cobra.FixedCompletions(words(ranked), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
