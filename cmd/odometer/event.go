package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// eventConfig is what `odometer event` is told.
type eventConfig struct {
	serverFlags
	Instance string
	User     string
	Org      string
	From, To string
	After    string // a cursor
	Limit    int
	Cause    string // of a reversal
	JSON     bool
	Output   string // ndjson or csv: all of it, as a stream; "" for a table
}

const (
	// defaultEventLimit fits a few screens.
	defaultEventLimit = 100
	// followAgain is when `event follow` connects again.
	followAgain = 2 * time.Second
)

func newEvent(s streams) *cobra.Command {
	var c eventConfig
	common := func(cmd *cobra.Command) {
		flags := cmd.Flags()
		flags.SortFlags = false
		flags.StringVar(&c.Instance, "instance", "", "only of this instance")
		flags.StringVar(&c.User, "user", "", "only what this user is charged")
		flags.StringVar(&c.Org, "org", "", "only what this organisation is charged")
		flags.StringVar(&c.After, "after", "", "only what was booked after this cursor")
		flags.BoolVar(&c.JSON, "json", false, "as JSON, one entry a line")
		c.register(flags, s.env)
	}
	list := &cobra.Command{
		Use:   "list",
		Short: "List entries of the ledger in the order in which they were booked",
		Long: `List entries of the ledger in the order in which they were booked, oldest first.

The cursor of the last entry is printed at the end (on standard error where the
output goes to a pipe): --after continues there.

With --output csv or ndjson all that is booked is written, however much it is; the
cursor leads to what is booked later.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Limit < 1 {
				return misuse(fmt.Errorf("--limit %d: a number from 1 is expected", c.Limit))
			}
			if err := oneForm(c.Output, c.JSON); err != nil {
				return err
			}
			if c.Output == "" {
				return listEvents(cmd.Context(), s, c)
			}
			if !cmd.Flags().Changed("limit") {
				c.Limit = 0
			}
			return exportEvents(cmd.Context(), s, c)
		},
	}
	common(list)
	registerOutput(list, &c.Output)
	list.Flags().StringVar(&c.From, "from", "", "only usage after this time")
	list.Flags().StringVar(&c.To, "to", "", "only usage before this time")
	list.Flags().IntVar(&c.Limit, "limit", defaultEventLimit, "at most so many; with --output all, unless it is given")

	follow := &cobra.Command{
		Use:     "follow",
		Aliases: []string{"tail"},
		Short:   "Print entries as they are booked, until interrupted",
		Long: `Print entries as they are booked, until interrupted. Without --after it begins
with what is booked from now on. Where the connection is lost it is made again, and
goes on where it was.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return followEvents(cmd.Context(), s, c) },
	}
	common(follow)

	reverse := &cobra.Command{
		Use:   "reverse ENTRY --cause TEXT",
		Short: "Take back what an entry booked, in the name of the token's holder",
		Long: `Take back what an entry booked. ENTRY is as "event list" shows it, such as 17-42.

A correction is booked that is exactly the entry's negation, to the same owner
for the same time; the entry itself stays. Who reversed it, and the cause, are
kept in the ledger's journal. An entry can be reversed once. A correction is an
entry too: reversing it books the original again.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := odometer.ParseEntryID(args[0])
			if err != nil {
				return misuse(fmt.Errorf("%q is no entry, such as 17-42; `odometer event list` shows them", args[0]))
			}
			if c.Cause == "" {
				return misuse(errors.New("--cause says why, for whoever reads the correction"))
			}
			return reverseEntry(cmd.Context(), s, c, id)
		},
	}
	reverse.Flags().StringVar(&c.Cause, "cause", "", "why, in one line")
	reverse.Flags().BoolVar(&c.JSON, "json", false, "the correction as JSON")
	c.register(reverse.Flags(), s.env)

	parent := &cobra.Command{Use: "event", Short: "Entries of the ledger, one by one", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(list, follow, reverse)
	return parent
}

// reverseEntry reverses an entry and says by which.
func reverseEntry(ctx context.Context, s streams, c eventConfig, id odometer.EntryID) error {
	server, err := c.client()
	if err != nil {
		return err
	}
	raw, err := server.Reverse(ctx, id, c.Cause)
	if err != nil {
		return err
	}
	if c.JSON {
		_, err := fmt.Fprintf(s.out, "%s\n", raw)
		return err
	}
	e, err := odometer.DecodeEntry(raw)
	if err != nil {
		return fmt.Errorf("read an entry that the server sent: %w", err)
	}
	_, err = fmt.Fprintf(s.out, "%s: reversed by %s, used by %s and charged to %s\n", id, e.ID, e.Event.Instance, e.Event.Owner.User)
	return err
}

func listEvents(ctx context.Context, s streams, c eventConfig) error {
	server, err := c.client()
	if err != nil {
		return err
	}
	p := newEventPrinter(s, c.JSON)
	q := client.EventQuery{Instance: c.Instance, User: c.User, Org: c.Org, From: c.From, To: c.To, After: c.After}
	for left := c.Limit; left > 0; {
		q.Limit = min(left, api.MaxPage)
		page, err := server.Events(ctx, q)
		if err != nil {
			return err
		}
		if err := p.print(page.Events); err != nil {
			return err
		}
		left -= len(page.Events)
		q.After = page.Cursor
		if page.Next == nil {
			break
		}
	}
	return p.end(q.After)
}

// exportEvents writes all entries, or as many as are asked for.
func exportEvents(ctx context.Context, s streams, c eventConfig) error {
	server, err := c.client()
	if err != nil {
		return err
	}
	q := client.EventQuery{Instance: c.Instance, User: c.User, Org: c.Org, From: c.From, To: c.To, After: c.After, Limit: c.Limit}
	x, err := server.ExportEvents(ctx, q, c.Output)
	if err == nil {
		err = writeExport(s, x)
	}
	if err != nil || x.Cursor == "" {
		return err
	}
	_, err = fmt.Fprintf(s.err, "continue with --after %s\n", x.Cursor)
	return err
}

// followEvents prints what is booked after c.After, or from now on.
func followEvents(ctx context.Context, s streams, c eventConfig) error {
	server, err := c.client()
	if err != nil {
		return err
	}
	q := client.EventQuery{Instance: c.Instance, User: c.User, Org: c.Org, After: c.After}
	p := newEventPrinter(s, c.JSON)
	for began := false; ; began = true {
		stream, err := server.Stream(ctx, q)
		if err == nil {
			began = true
			err = p.follow(stream)
			q.After = stream.Last
			stream.Close()
		}
		if p.failed != nil {
			return p.failed
		}
		if ctx.Err() != nil {
			return p.end(q.After)
		}
		if final, ok := errors.AsType[*api.Problem](err); ok && final.Status != http.StatusServiceUnavailable || !began {
			return errors.Join(err, p.end(q.After))
		}
		select {
		case <-ctx.Done():
			return p.end(q.After)
		case <-time.After(followAgain):
		}
	}
}

// follow prints what a stream tells until it ends, and returns why.
func (p *eventPrinter) follow(stream *client.Stream) error {
	var some []json.RawMessage // what came together
	for {
		entry, err := stream.Next()
		if entry != nil {
			some = append(some, entry)
		}
		if err == nil && (len(some) == 0 || stream.Ready() && len(some) < api.MaxPage) {
			continue
		}
		if p.failed = p.print(some); p.failed != nil || err != nil {
			return err
		}
		some = some[:0]
	}
}

// eventPrinter prints entries page by page.
type eventPrinter struct {
	s      streams
	json   bool
	headed bool
	failed error // of printing, while something is followed
}

func newEventPrinter(s streams, asJSON bool) *eventPrinter { return &eventPrinter{s: s, json: asJSON} }

// What the tables of entries show; the rest is in the JSON form.
var eventColumns = []column{
	{"BOOKED", "booked_at", false}, {"ENTRY", "entry_id", false}, {"KIND", "kind", false},
	{"INSTANCE", "instance_id", false}, {"USER", "user_id", false}, {"USED UNTIL", "used_at", false},
	{"TIME", "elapsed_us", true}, {"CPU", "cpu_us", true}, {"MEM GiB-h", "memory_mib_s", true},
	{"OUT", "network_egress_bytes", true}, {"IN", "network_ingress_bytes", true}, {"SOURCE", "source_event_id", false},
}

func (p *eventPrinter) print(events []json.RawMessage) error {
	var rows [][]cell
	for _, raw := range events {
		if p.json {
			if _, err := fmt.Fprintf(p.s.out, "%s\n", raw); err != nil {
				return err
			}
			continue
		}
		e, err := odometer.DecodeEntry(raw)
		if err != nil {
			return fmt.Errorf("read an entry that the server sent: %w", err)
		}
		u := &e.Event.Usage
		row := []cell{
			instant(time.UnixMicro(e.BookedAt)), plain(e.ID.String()), plain(string(e.Kind)),
			plain(string(e.Event.Instance)), plain(string(e.Event.Owner.User)), instant(time.UnixMicro(e.Event.Span.End)),
			{humanTime(float64(u.Elapsed())), fmt.Sprint(u.Elapsed())},
		}
		for _, q := range []odometer.Quantity{odometer.CPU, odometer.Memory, odometer.NetworkEgress, odometer.NetworkIngress} {
			if !u.Known.Has(q) {
				row = append(row, plain(""))
				continue
			}
			row = append(row, cell{humanAmount(q, float64(u.Vector[q])), fmt.Sprint(u.Vector[q])})
		}
		rows = append(rows, append(row, plain(e.SourceEventID)))
	}
	if p.json || len(rows) == 0 && p.headed {
		return nil
	}
	if p.headed && !p.s.outTTY {
		return printBody(p.s.out, rows)
	}
	p.headed = true
	return printTable(p.s.out, p.s.outTTY, eventColumns, rows)
}

// end says where to go on.
func (p *eventPrinter) end(cursor string) error {
	if cursor == "" {
		return nil
	}
	to := p.s.err
	if p.s.outTTY && !p.json {
		to = p.s.out
	}
	_, err := fmt.Fprintf(to, "continue with --after %s\n", cursor)
	return err
}
