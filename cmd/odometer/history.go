package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"example.org/odometer/api"
)

// historyConfig is what `odometer instance history` is told.
type historyConfig struct {
	serverFlags
	From, To string
	Limit    int
	JSON     bool
}

func newInstanceHistory(s streams) *cobra.Command {
	var c historyConfig
	cmd := &cobra.Command{
		Use:   "history INSTANCE",
		Short: "Show what happened to a machine",
		Long: `Show what happened to a machine, in order of time: when it was found, started,
stopped, crashed, paused, resumed, rebooted, moved, resized or deleted, and which
devices came and went. It is what agents told with its usage, and stays when the
machine is gone. INSTANCE is its id, or its name where no other machine has the
same.`,
		Example: `  odometer instance history web
  odometer instance history 5d0c7b0e-9e0f-4b66-8d2b-3c6a0a1f2e01 --from -7d --json`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: c.completeInstance,
		RunE: func(cmd *cobra.Command, args []string) error {
			if c.Limit < 1 || c.Limit > api.MaxPage {
				return misuse(fmt.Errorf("--limit %d: a number from 1 to %d is expected", c.Limit, api.MaxPage))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			id, err := instanceNamed(cmd.Context(), server, args[0])
			if err != nil {
				return err
			}
			answer, err := server.Lifecycle(cmd.Context(), id, c.From, c.To, c.Limit)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return showHistory(s, answer)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.From, "from", "", "beginning of the time, included (default: the first that is known)")
	flags.StringVar(&c.To, "to", "", "end of the time, not included (default: no end)")
	flags.IntVar(&c.Limit, "limit", defaultEventLimit, "at most so many, the newest")
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(flags, s.env)
	return cmd
}

func showHistory(s streams, a api.LifecycleAnswer) error {
	columns := []column{{"AT", "at", false}, {"WHAT", "what", false}, {"DEVICE", "device", false}, {"HOST", "agent_id", false}, {"DETAIL", "detail", false}}
	var rows [][]cell
	for _, h := range a.Lifecycle {
		rows = append(rows, []cell{instant(h.At), plain(string(h.What)), plain(h.Device), plain(string(h.Agent)), plain(h.Detail)})
	}
	if len(rows) == 0 && s.outTTY {
		_, err := fmt.Fprintf(s.out, "Nobody told what happened to %s; its usage is there: odometer usage list --instance %s\n", printable(string(a.Instance)), printable(string(a.Instance)))
		return err
	}
	if err := printTable(s.out, s.outTTY, columns, rows); err != nil || !s.outTTY || !a.More {
		return err
	}
	_, err := fmt.Fprintf(s.out, "There is more before: --limit, or --to %s\n", a.Lifecycle[0].At.Format("2006-01-02T15:04:05.999999Z"))
	return err
}
