package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
)

// quarantineConfig is what `odometer quarantine` is told.
type quarantineConfig struct {
	serverFlags
	Limit int
	JSON  bool
}

func newQuarantine(s streams) *cobra.Command {
	var c quarantineConfig
	list := &cobra.Command{
		Use:   "list",
		Short: "List what was received and not booked, newest first, and why",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Limit < 1 || c.Limit > api.MaxPage {
				return misuse(fmt.Errorf("--limit %d: a number from 1 to %d is expected", c.Limit, api.MaxPage))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			items, err := server.Quarantine(cmd.Context(), c.Limit)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, api.QuarantineAnswer{Items: items})
			}
			return showQuarantine(s, items)
		},
	}
	list.Flags().IntVar(&c.Limit, "limit", defaultEventLimit, "at most so many")
	list.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(list.Flags(), s.env)

	release := &cobra.Command{
		Use:   "release ID",
		Short: "Book an event from the quarantine after all, in the name of the token's holder",
		Long: `Book an event from the quarantine after all. ID is as "quarantine list" shows it,
such as 17-3. That it was released, and by whom, is kept in the ledger's journal.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			partition, no, err := parseQuarantineID(args[0])
			if err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			result, err := server.Release(cmd.Context(), partition, no)
			if err != nil {
				return err
			}
			if c.JSON {
				err = printJSON(s.out, result)
			} else {
				_, err = fmt.Fprintln(s.out, strings.TrimSpace(fmt.Sprintf("%s: %s %s", result.EventID, result.Outcome, result.Detail)))
			}
			if err == nil && result.Outcome == odometer.Quarantined {
				err = silent(exitFailed)
			}
			return err
		},
	}
	release.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(release.Flags(), s.env)

	parent := &cobra.Command{Use: "quarantine", Short: "What was received and not booked", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(list, release)
	return parent
}

// parseQuarantineID reads "partition-number".
func parseQuarantineID(s string) (partition int, no int64, err error) {
	p, n, _ := strings.Cut(s, "-")
	partition, err1 := strconv.Atoi(p)
	no, err2 := strconv.ParseInt(n, 10, 64)
	if err1 != nil || err2 != nil || partition < 0 || partition >= odometer.Partitions || no < 1 {
		return 0, 0, fmt.Errorf("%q is no id of the quarantine, such as 17-3; `odometer quarantine list` shows them", s)
	}
	return partition, no, nil
}

func showQuarantine(s streams, items []api.QuarantineItem) error {
	columns := []column{
		{"ID", "id", false}, {"AT", "at", false}, {"REASON", "reason", false},
		{"EVENT", "event_id", false}, {"INSTANCE", "instance_id", false}, {"DETAIL", "detail", false},
	}
	var rows [][]cell
	for _, it := range items {
		rows = append(rows, []cell{
			plain(fmt.Sprintf("%d-%d", it.Partition, it.No)), instant(it.At), plain(it.Reason),
			plain(it.EventID), plain(string(it.Instance)), plain(it.Detail),
		})
	}
	if len(items) == 0 && s.outTTY {
		_, err := fmt.Fprintln(s.out, "The quarantine is empty: everything that was received is booked or waits for its turn.")
		return err
	}
	return printTable(s.out, s.outTTY, columns, rows)
}
