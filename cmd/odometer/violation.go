package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

func newViolation(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "violation", Short: "What was reached of thresholds", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newViolationList(s), newViolationShow(s))
	return parent
}

// filterViolations registers what every list of violations takes.
func filterViolations(cmd *cobra.Command, c *peopleConfig, q *client.ViolationQuery) {
	flags := cmd.Flags()
	flags.StringVar(&q.Instance, "instance", "", "only this machine")
	flags.StringVar(&q.User, "user", "", "only what is this user's")
	flags.StringVar(&q.Org, "org", "", "only what is this organisation's")
	flags.StringVar(&q.Level, "level", "", "only this level")
	flags.StringVar(&q.Standing, "standing", "", "only those that are open, recovered or retracted now")
	flags.StringVar(&q.Resource, "resource", "", "only what watches this")
	flags.StringVar(&q.From, "from", "", "only what was reached from then on, RFC 3339 or such as -24h")
	flags.StringVar(&q.To, "to", "", "only what was reached before")
	flags.IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	cmd.RegisterFlagCompletionFunc("standing", cobra.FixedCompletions(words(standings), cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("resource", cobra.FixedCompletions(words(api.Resources), cobra.ShellCompDirectiveNoFileComp))
}

// listViolations prints what ask answers, page by page.
func listViolations(s streams, c *peopleConfig, q client.ViolationQuery, ask func(context.Context, *client.Client, client.ViolationQuery) (api.ViolationsAnswer, error), ctx context.Context) error {
	bad := errors.Join(oneOf("standing", q.Standing, standings), oneOf("resource", q.Resource, api.Resources))
	for flag, text := range map[string]string{"from": q.From, "to": q.To} {
		if text != "" {
			_, err := api.ParseTime(text, time.Now())
			bad = errors.Join(bad, wrong("--"+flag, err))
		}
	}
	if bad != nil {
		return misuse(bad)
	}
	if err := c.checkLimit(); err != nil {
		return err
	}
	server, err := c.client()
	if err != nil {
		return err
	}
	var a api.ViolationsAnswer
	a.Violations, a.Next, err = pagesOf(c.Limit, func(after string, most int) ([]api.Violation, *string, error) {
		q.After, q.Limit = after, most
		page, err := ask(ctx, server, q)
		return page.Violations, page.Next, err
	})
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, a)
	}
	return printList(s, "Nothing was reached.", violationColumns, a.Violations, violationCells)
}

func newViolationList(s streams) *cobra.Command {
	var c peopleConfig
	var q client.ViolationQuery
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what was reached of thresholds",
		Long: `List what was reached of thresholds by machines whose usage the token sees, the newest
first, each as it is now.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Threshold != "" {
				if err := wrong("--threshold", odometer.ValidThresholdID(q.Threshold)); err != nil {
					return misuse(err)
				}
			}
			return listViolations(s, &c, q, func(ctx context.Context, server *client.Client, q client.ViolationQuery) (api.ViolationsAnswer, error) {
				return server.Violations(ctx, q)
			}, cmd.Context())
		},
	}
	cmd.Flags().StringVar(&q.Threshold, "threshold", "", "only of this threshold")
	cmd.RegisterFlagCompletionFunc("threshold", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return c.completeThreshold(cmd, nil, word)
	})
	filterViolations(cmd, &c, &q)
	c.common(cmd.Flags(), s)
	return cmd
}

func newViolationShow(s streams) *cobra.Command {
	var c peopleConfig
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show what became of a violation",
		Long:  `Show what became of a violation: each of its changes, the first first.`,
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wrong("ID", odometer.ValidViolationID(args[0])); err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			a, err := server.Violation(cmd.Context(), odometer.ViolationID(args[0]))
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, a)
			}
			return printList(s, "", changeColumns, a.Changes, changeCells)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c.common(cmd.Flags(), s)
	return cmd
}

var violationColumns = []column{
	{"ID", "violation_id", false}, {"THRESHOLD", "threshold_name", false}, {"LEVEL", "level", false}, {"WHO", "subject", false}, {"VALUE", "value", true}, {"LIMIT", "limit", true},
	{"UNIT", "unit", false}, {"REACHED", "crossed_at", false}, {"NOW", "standing", false}, {"SINCE", "changed_at", false},
}

// violationCells are the values of violationColumns.
func violationCells(v *api.Violation) []cell {
	return []cell{
		plain(string(v.ID)), plain(v.Name), plain(v.Level), plain(subjectOf(v)), exact(v.Value), exact(v.Limit),
		plain(string(v.Unit)), moment(v.Crossed), plain(string(v.Standing)), moment(v.Changed),
	}
}

// exact is a number that a program is given as it is.
func exact(f float64) cell { return cell{decimal(f), fmt.Sprint(f)} }

// subjectOf names whose value it is.
func subjectOf(v *api.Violation) string {
	switch {
	case v.Instance != nil:
		return string(*v.Instance)
	case v.User != nil:
		return "user:" + string(*v.User)
	case v.Org != nil:
		return "org:" + string(*v.Org)
	}
	return "all"
}

var changeColumns = []column{
	{"CHANGE", "change", true}, {"AT", "changed_at", false}, {"STANDING", "standing", false}, {"BEFORE", "before", true}, {"VALUE", "value", true}, {"LIMIT", "limit", true},
	{"UNIT", "unit", false}, {"REACHED", "crossed_at", false}, {"ENDED", "ended_at", false}, {"FOUND", "detected_at", false}, {"EVENT", "event_id", false},
}

// changeCells are the values of changeColumns.
func changeCells(v *api.Violation) []cell {
	event := "" // that did this change
	if by := cmp.Or(v.EndedBy, v.Event); by != nil {
		event = *by
	}
	return []cell{
		plain(fmt.Sprint(v.Change)), moment(v.Changed), plain(string(v.Standing)), exact(v.Before), exact(v.Value), exact(v.Limit),
		plain(string(v.Unit)), moment(v.Crossed), moment(v.Ended), moment(v.Detected), plain(event),
	}
}
