package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
)

// statusConfig is what `odometer status` is told.
type statusConfig struct {
	serverFlags
	JSON bool
}

func newStatus(s streams) *cobra.Command {
	var c statusConfig
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the server is",
		Long: `Show how the server is: its parts, its ledger, its agents. The exit code is 0
when every part is well and 1 when one is not.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := c.client()
			if err != nil {
				return err
			}
			status, err := server.Status(cmd.Context())
			if err != nil {
				return err
			}
			if c.JSON {
				err = printJSON(s.out, status)
			} else {
				err = showStatus(s, server.Server, status)
			}
			if err == nil && status.Health.Status != api.OK {
				err = silent(exitFailed)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	return cmd
}

func showStatus(s streams, server string, st api.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "odometer %s at %s, up %s, %s\n", st.Version, server, (time.Duration(st.UptimeSeconds) * time.Second).String(), st.Health.Status)
	for _, name := range slices.Sorted(maps.Keys(st.Health.Components)) {
		c := st.Health.Components[name]
		detail := ""
		if c.Details != nil {
			detail = "  " + *c.Details
		}
		fmt.Fprintf(&b, "  %-15s %-9s%s\n", name, c.Status, detail)
	}
	l := st.Ledger
	fmt.Fprintf(&b, "ledger %s (generation %d): %d entries of %d instances in %d epochs", l.ID, l.Generation, l.Entries, l.Instances, l.Epochs)
	if l.LastCommit != nil {
		fmt.Fprintf(&b, ", last commit %s", l.LastCommit.UTC().Format(time.RFC3339))
	}
	if l.JournalFrom != nil {
		fmt.Fprintf(&b, ", journal from %s", l.JournalFrom.UTC().Format(time.DateOnly))
	}
	fmt.Fprintf(&b, "\nevents %d received", l.Counts["received"])
	for i, o := range odometer.Outcomes {
		sep := " + "
		if i == 0 {
			sep = " = "
		}
		fmt.Fprintf(&b, "%s%d %s", sep, l.Counts[string(o)], o)
	}
	b.WriteByte('\n')
	for _, a := range st.Agents {
		seen := "never"
		if a.LastSeen != nil {
			seen = a.LastSeen.UTC().Format(time.RFC3339)
		}
		described := ""
		if a.Instances != nil {
			described = ", " + count(int64(*a.Instances), "instance", "instances")
		}
		disagrees := ""
		if a.OwnerDisagreements > 0 {
			disagrees = ", named another owner than is recorded in " + count(int64(a.OwnerDisagreements), "event", "events")
		}
		fmt.Fprintf(&b, "agent %s: %d records committed, %d periods open%s, last seen %s%s\n", printable(string(a.ID)), a.Position, a.Open, described, seen, disagrees)
	}
	for i := range st.Conflicts {
		fmt.Fprintln(&b, conflictText(&st.Conflicts[i]))
	}
	_, err := s.out.Write([]byte(b.String()))
	return err
}
