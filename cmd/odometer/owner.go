package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// ownerConfig is what `odometer instance owner` and `import` are told.
type ownerConfig struct {
	instanceConfig
	api.OwnershipRequest
	org string
}

func newInstanceOwner(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "owner", Short: "Whose a machine is, and was", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newOwnerList(s), newOwnerAssign(s))
	return parent
}

var ownershipColumns = []column{{"FROM", "from", false}, {"UNTIL", "until", false}, {"USER", "user_id", false}, {"ORG", "org_id", false}}

func ownershipCells(p *api.OwnershipPeriod) []cell {
	until := plain("")
	if p.Until != nil {
		until = instant(*p.Until)
	}
	return []cell{instant(p.From), until, plain(string(p.User)), plain(orEmpty(p.Org))}
}

func orEmpty(org *odometer.OrgID) string {
	if org == nil {
		return ""
	}
	return string(*org)
}

func newOwnerList(s streams) *cobra.Command {
	var c ownerConfig
	cmd := &cobra.Command{
		Use:   "list INSTANCE",
		Short: "Show who owned a machine when",
		Long: `Show who owned a machine when, as it was recorded. Where nothing is recorded its
usage is charged to whom its events name. INSTANCE is its id.`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: c.completeInstance,
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := server.Ownership(cmd.Context(), odometer.InstanceID(args[0]))
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return printList(s, fmt.Sprintf("It is not recorded whose %s is: odometer instance owner assign %s --user USER --cause TEXT", args[0], args[0]), ownershipColumns, answer.Ownership, ownershipCells)
		},
	}
	c.common(cmd.Flags(), s)
	return cmd
}

func (c *ownerConfig) common(flags *pflag.FlagSet, s streams) {
	flags.SortFlags = false
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(flags, s.env)
}

func newOwnerAssign(s streams) *cobra.Command {
	var c ownerConfig
	cmd := &cobra.Command{
		Use:   "assign INSTANCE --user USER --cause TEXT",
		Short: "Say whose a machine is, from when to when",
		Long: `Say whose a machine is, from when to when: from now on and for good, where nothing
else is said. What it uses then is charged to that user and organisation, whatever
its agent names. An event in which the owner changes is split there by time.

What was used in that time already, and charged to others, is moved: for each hour
two corrections, out of one account and into the other. The entries themselves stay.
Who decided it, and the cause, are kept in the ledger's journal.

Where later changes are recorded, --until says how long this is to hold: they stay,
or "forever" has them go. --user unassigned makes it nobody's.`,
		Example: `  odometer instance owner assign vm-7 --user u-ada --org acme --cause "sold, contract 17"
  odometer instance owner assign vm-7 --user u-bob --from 2026-11-01T00:00:00Z --cause "sold" --dry-run`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: c.completeInstance,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("org") {
				c.OwnershipRequest.Org = new(odometer.OrgID(c.org))
			}
			switch {
			case c.OwnershipRequest.User == "":
				return misuse(errors.New("--user says whose it is; unassigned for nobody's"))
			case c.Cause == "":
				return misuse(errors.New("--cause says why, for whoever reads the corrections"))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			change, err := server.Assign(cmd.Context(), odometer.InstanceID(args[0]), c.OwnershipRequest)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, change)
			}
			return showChange(s, &change)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar((*string)(&c.OwnershipRequest.User), "user", "", "whose it is")
	flags.StringVar(&c.org, "org", "", "of which organisation")
	flags.StringVar(&c.OwnershipRequest.From, "from", "", "since when: RFC 3339, or relative such as -2d (default: now)")
	flags.StringVar(&c.Until, "until", "", `until when, or "forever"`)
	flags.StringVar(&c.Cause, "cause", "", "why, in one line")
	flags.BoolVar(&c.DryRun, "dry-run", false, "change nothing, and say what would be")
	c.common(flags, s)
	return cmd
}

// showChange says what an assignment did, or would do.
func showChange(s streams, c *api.OwnershipChange) error {
	would, until := "is", "for good"
	if c.DryRun {
		would = "would be"
	}
	if c.Until != nil {
		until = "until " + instant(*c.Until).Raw
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s from %s %s\n", c.Instance, would, owns(c.User, c.Org), instant(c.From).Raw, until)
	for i := range c.Replaces {
		p := &c.Replaces[i]
		to := "for good"
		if p.Until != nil {
			to = "until " + instant(*p.Until).Raw
		}
		fmt.Fprintf(&b, "  in place of %s from %s %s\n", owns(p.User, p.Org), instant(p.From).Raw, to)
	}
	for i := range c.Moved {
		m := &c.Moved[i]
		fmt.Fprintf(&b, "  moved from %s to %s: cpu %s, memory %s GiB-h, out %s\n", owns(m.FromUser, m.FromOrg), owns(m.ToUser, m.ToOrg),
			amountOf(odometer.CPU, &m.Usage), amountOf(odometer.Memory, &m.Usage), amountOf(odometer.NetworkEgress, &m.Usage))
	}
	if c.Corrections > 0 {
		fmt.Fprintf(&b, "  %d corrections\n", c.Corrections)
	}
	_, err := io.WriteString(s.out, b.String())
	return err
}

func owns(user odometer.UserID, org *odometer.OrgID) string {
	if org == nil {
		return string(user)
	}
	return string(*org) + "/" + string(user)
}

func amountOf(q odometer.Quantity, r *api.Row) string {
	if !r.Known.Has(q) {
		return "unknown"
	}
	return humanAmount(q, r.Totals[q].Float64())
}

// importColumns are what a file of owners may have; the first two it must have.
var importColumns = []string{"instance", "user", "org", "from", "until", "cause"}

func newInstanceImport(s streams) *cobra.Command {
	var c ownerConfig
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Say whose many machines are, from a CSV file",
		Long: `Say whose many machines are. FILE is CSV with a first line that names its columns:
instance and user, and where there are any of org, from, until and cause, which mean
what they do for "instance owner assign". - is standard input.

The whole file is read and checked before anything is changed. --dry-run asks the
server what would become of each line. Lines are then taken one by one, and where one
is refused the rest is still taken: the file can be imported again, since what is so
already changes nothing.`,
		Example: `  odometer instance import owners.csv --cause "first import" --dry-run`,
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := readOwners(cmd.InOrStdin(), args[0], &c)
			if err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			return importOwners(cmd.Context(), s, server, list, c.JSON)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.Cause, "cause", "", "why, in one line, where the file does not say it")
	flags.BoolVar(&c.DryRun, "dry-run", false, "change nothing, and say what would be")
	c.common(flags, s)
	return cmd
}

// ownerLine is one line of a file of owners.
type ownerLine struct {
	number   int
	instance odometer.InstanceID
	ask      api.OwnershipRequest
}

// readOwners reads a file of owners. All that is wrong with it is told at once.
func readOwners(from io.Reader, name string, c *ownerConfig) ([]ownerLine, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	at := map[string]int{}
	var list []ownerLine
	err := readCSV(name, from, func(head []string) error {
		var bad []error
		for i, column := range head {
			if _, twice := at[column]; twice || !slices.Contains(importColumns, column) {
				bad = append(bad, fmt.Errorf("%s: column %q: each of %s is possible, once", name, column, strings.Join(importColumns, ", ")))
			}
			at[column] = i
		}
		for _, column := range importColumns[:2] {
			if _, ok := at[column]; !ok {
				bad = append(bad, fmt.Errorf("%s: there is no column %s", name, column))
			}
		}
		return errors.Join(bad...)
	}, func(number int, fields []string) error {
		get := func(column string) string {
			if i, ok := at[column]; ok {
				return fields[i]
			}
			return ""
		}
		l := ownerLine{number: number, instance: odometer.InstanceID(get("instance"))}
		l.ask = api.OwnershipRequest{User: odometer.UserID(get("user")), From: get("from"), Until: get("until"), Cause: get("cause"), DryRun: c.DryRun}
		if org := get("org"); org != "" {
			l.ask.Org = new(odometer.OrgID(org))
		}
		if l.ask.Cause == "" {
			l.ask.Cause = c.Cause
		}
		wrongs := errors.Join(wrong("instance", odometer.ValidID("instance", string(l.instance))), wrong("user", odometer.ValidID("user", string(l.ask.User))))
		if l.ask.Org != nil {
			wrongs = errors.Join(wrongs, wrong("org", odometer.ValidID("org", string(*l.ask.Org))))
		}
		if l.ask.Cause == "" {
			wrongs = errors.Join(wrongs, errors.New("cause: neither the line nor --cause says why"))
		}
		list = append(list, l)
		return wrongs
	})
	return list, err
}

// imported is what `instance import --json` says of each line.
type imported struct {
	Line     int                  `json:"line"`
	Instance odometer.InstanceID  `json:"instance_id"`
	Change   *api.OwnershipChange `json:"change,omitempty"`
	Error    string               `json:"error,omitempty"`
}

func importOwners(ctx context.Context, s streams, server *client.Client, list []ownerLine, asJSON bool) error {
	refused, moved := 0, 0
	all := make([]imported, 0, len(list))
	for _, l := range list {
		change, err := server.Assign(ctx, l.instance, l.ask)
		line := imported{Line: l.number, Instance: l.instance}
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			refused++
			line.Error = err.Error()
			if !asJSON {
				fmt.Fprintf(s.err, "line %d, %s: %v\n", l.number, l.instance, err)
			}
		} else {
			line.Change = &change
			moved += change.Corrections
			if !asJSON {
				if err := showChange(s, &change); err != nil {
					return err
				}
			}
		}
		all = append(all, line)
	}
	if asJSON {
		if err := printJSON(s.out, all); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintf(s.out, "%d lines, %d refused, %d corrections\n", len(list), refused, moved); err != nil {
		return err
	}
	if refused > 0 {
		return fmt.Errorf("%d of %d lines were refused", refused, len(list))
	}
	return nil
}
