package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// usageConfig is what `odometer usage list` is told.
type usageConfig struct {
	serverFlags
	client.UsageQuery
	Booked bool
	JSON   bool
	Output string // ndjson or csv; "" for a table
}

// defaultFrom is what `usage list` shows unasked: a day is what people compare
// with what they remember.
const defaultFrom = "-24h"

// groups are the words that --group-by takes.
var groups = []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg, odometer.ByHour, odometer.ByDay, odometer.ByMonth}

func newUsage(s streams) *cobra.Command {
	var c usageConfig
	list := &cobra.Command{
		Use:   "list",
		Short: "List what was used",
		Long: `List what was used between two times, by time of use, or with --booked by month of
booking: what was booked for a month after it was closed (odometer month close) is
then in the month in which it was booked. --as-of lists what was known at a moment.

Times are RFC 3339 (2026-01-02T15:04:05Z), days (2026-01-02) or relative (-24h,
-7d). What is recorded and what is still open are listed apart.

Days and months begin at midnight in --timezone. Where that is in the middle of an
hour (UTC), as in Asia/Kolkata, the hour is shared by time, and a row with a part of
one is marked as shared; all rows still add up to the unit.

On a terminal the units are a person's: GiB-hours for memory and storage. On a
pipe, and with --json, amounts are exact integers in the units that their names
end in; a quantity that nobody measured is - (null in JSON) and never 0.`,
		Example: `  odometer usage list --from -1h
  odometer usage list --from 2026-01-01 --to 2026-02-01 --group-by user --json
  odometer usage list --from -7d --group-by user --top 20 --top-by memory_mib_s
  odometer usage list --from 2026-01-01 --to 2026-02-01 --group-by instance,day --output csv
  odometer usage list --from -7d --group-by org,user --interval day --timezone Europe/Berlin`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, g := range c.GroupBy {
				if !slices.Contains(groups, odometer.GroupBy(g)) {
					return misuse(fmt.Errorf("--group-by %q: one or several of %s are possible, with commas between", g, joinWords(groups)))
				}
			}
			if err := oneForm(c.Output, c.JSON); err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			c.UsageQuery.By = c.by(cmd.Flags())
			if c.Output != "" {
				x, err := server.ExportUsage(cmd.Context(), c.UsageQuery, c.Output)
				if err != nil {
					return err
				}
				return writeExport(s, x)
			}
			answer, err := server.Usage(cmd.Context(), c.UsageQuery)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return showUsage(s, answer)
		},
	}
	flags := list.Flags()
	flags.SortFlags = false
	spanFlags(flags, &c.From, &c.To, &c.Timezone)
	flags.StringVar(&c.Instance, "instance", "", "only this instance")
	flags.StringVar(&c.User, "user", "", "only what this user is charged")
	flags.StringVar(&c.Org, "org", "", "only what this organisation is charged")
	flags.StringSliceVar(&c.GroupBy, "group-by", []string{string(odometer.ByInstance)}, "one row for each "+joinWords(groups))
	flags.StringVar(&c.Interval, "interval", "", "one row for each hour, day or month, as in --group-by, or total")
	flags.StringSliceVar(&c.Sort, "sort", nil, "sort by these, as --json names them; with - before one downwards")
	flags.IntVar(&c.Top, "top", 0, "only so many rows, those with the most of --top-by; 0 for all")
	flags.StringVar(&c.TopBy, "top-by", "", "what --top goes by, as --json names it (default cpu_us)")
	flags.BoolVar(&c.Booked, "booked", false, "by month of booking, whole months (default: this one)")
	flags.StringVar(&c.AsOf, "as-of", "", "only what was booked up to then")
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	registerOutput(list, &c.Output)
	c.register(flags, s.env)
	list.RegisterFlagCompletionFunc("group-by", cobra.FixedCompletions(words(groups), cobra.ShellCompDirectiveNoFileComp))

	parent := &cobra.Command{Use: "usage", Short: "What was used", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(list, newUsageTop(s))
	return parent
}

// spanFlags declares the time that is asked for.
func spanFlags(flags *pflag.FlagSet, from, to, timezone *string) {
	flags.StringVar(from, "from", defaultFrom, "beginning of the time, included")
	flags.StringVar(to, "to", "now", "end of the time, not included")
	flags.StringVar(timezone, "timezone", "", "where days and months begin, such as Europe/Berlin (default UTC)")
}

// by returns by which time is asked. By booking the server knows which months there are.
func (c *usageConfig) by(flags *pflag.FlagSet) string {
	if !c.Booked {
		return ""
	}
	if !flags.Changed("from") {
		c.From = ""
	}
	if !flags.Changed("to") {
		c.To = ""
	}
	return "booking"
}

func words[T ~string](list []T) []string {
	var s []string
	for _, w := range list {
		s = append(s, string(w))
	}
	return s
}

func joinWords[T ~string](list []T) string { return strings.Join(words(list), ", ") }

// usageColumns are the amounts that a table of usage has, in order.
var usageColumns = []struct {
	title    string
	quantity odometer.Quantity
}{
	{"CPU", odometer.CPU},
	{"MEM GiB-h", odometer.Memory},
	{"DISK GiB-h", odometer.Storage},
	{"OUT", odometer.NetworkEgress},
	{"IN", odometer.NetworkIngress},
	{"READ", odometer.DiskRead},
	{"WRITTEN", odometer.DiskWrite},
	{"GPU", odometer.GPU},
}

// amountColumns are those of the amounts and times of a row.
func amountColumns() (columns []column) {
	for _, c := range usageColumns {
		columns = append(columns, column{Title: c.title, Name: c.quantity.String(), Number: true})
	}
	return append(columns, column{"MEASURED", "measured_s", true}, column{"RECOVERED", "recovered_s", true}, column{"GAP", "gap_s", true})
}

// showUsage prints the recorded rows and the open ones.
func showUsage(s streams, a api.UsageAnswer) error {
	columns := []column{{Title: "", Name: "state"}}
	for _, g := range a.GroupBy {
		name := string(g)
		if slices.Contains([]odometer.GroupBy{odometer.ByHour, odometer.ByDay, odometer.ByMonth}, g) {
			name = "start"
		}
		columns = append(columns, column{Title: strings.ToUpper(string(g)), Name: name})
	}
	columns = append(columns, amountColumns()...)
	zone, err := odometer.LoadZone(a.Timezone)
	if err != nil { // one that is newer than this program
		zone = time.UTC
	}
	if zone != time.UTC {
		columns = append(columns, column{"SHARED", "apportioned", false})
	}
	rows := usageRows("recorded", a.GroupBy, zone, a.Rows)
	rows = append(rows, usageRows("open", a.GroupBy, zone, a.Open)...)
	if err := printTable(s.out, s.outTTY, columns, rows); err != nil || !s.outTTY {
		return err
	}
	_, err = fmt.Fprintf(s.out, "%s to %s %s. ", a.From.In(zone).Format(time.DateTime), a.To.In(zone).Format(time.DateTime), zone)
	switch {
	case len(a.Rows) == 0 && len(a.Open) == 0:
		fmt.Fprintln(s.out, "Nothing was used, or nobody measured it: odometer status")
	case len(a.Rows) == 0:
		fmt.Fprintln(s.out, "Nothing is recorded yet; what is open is recorded when its period closes.")
	default:
		fmt.Fprintln(s.out, "What is open is not part of what is recorded.")
	}
	return err
}

// usageRows are the lines of a table of usage, which ends with what is shared unless
// the zone is UTC. A state of "" stands for a table without one.
func usageRows(state string, by []odometer.GroupBy, zone *time.Location, rows []api.Row) [][]cell {
	var out [][]cell
	for _, r := range rows {
		var line []cell
		if state != "" {
			line = append(line, plain(state))
		}
		for _, g := range by {
			switch g {
			case odometer.ByInstance:
				line = append(line, plain(string(r.Instance)))
			case odometer.ByUser:
				line = append(line, plain(string(r.User)))
			case odometer.ByOrg:
				line = append(line, plain(string(r.Org)))
			default:
				start := time.UnixMicro(r.Start).In(zone)
				line = append(line, cell{start.Format(time.DateTime), start.Format(time.RFC3339Nano)})
			}
		}
		for _, c := range usageColumns {
			if !r.Known.Has(c.quantity) {
				line = append(line, plain(""))
				continue
			}
			total := r.Totals[c.quantity]
			line = append(line, cell{humanAmount(c.quantity, total.Float64()), total.String()})
		}
		measured := r.Totals[odometer.MeasuredTime]
		measured.AddSum(r.Totals[odometer.EstimatedTime])
		measured.SubSum(r.Recovered)
		for _, sum := range []odometer.Sum{measured, r.Recovered, r.Totals[odometer.GapTime]} {
			line = append(line, cell{humanTime(sum.Float64()), wholeSeconds(sum)})
		}
		if zone != time.UTC {
			line = append(line, yes(r.Apportioned))
		}
		out = append(out, line)
	}
	return out
}

// yes is what a table has for something that is so, and nothing otherwise.
func yes(is bool) cell {
	if is {
		return cell{"yes", "true"}
	}
	return plain("")
}

// wholeSeconds cuts a time in microseconds to seconds, as the API's JSON does.
func wholeSeconds(us odometer.Sum) string {
	n, ok := us.Int64()
	if !ok || n < 0 {
		return us.String() + "e-6"
	}
	return fmt.Sprint(n / odometer.SecondMicros)
}
