package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// monthConfig is what `odometer month` is told.
type monthConfig struct {
	peopleConfig
	api.MonthCloseRequest
	Org, Month string
	Text       bool
}

func newMonth(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "month", Short: "Closed months and their statements", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newMonthClose(s), newMonthList(s), newMonthStatements(s), newMonthShow(s))
	return parent
}

var statementColumns = []column{
	{"STATEMENT", "id", false}, {"MONTH", "month", false}, {"ORG", "org_id", false}, {"CLOSED", "closed_at", false}, {"BY", "closed_by", false},
	{"LINES", "lines_total", true}, {"MISSING", "missing_total", true}, {"SHA-256", "sha256", false},
}

func statementCells(i *api.StatementSummary) []cell {
	return []cell{
		plain(i.ID), plain(i.Month), plain(orEmpty(i.Org)), instant(i.ClosedAt), plain(i.ClosedBy), plain(strconv.Itoa(i.Lines)), plain(strconv.Itoa(i.Missing)), plain(i.SHA256),
	}
}

var missingColumns = []column{
	{"MISSING", "kind", false}, {"INSTANCE", "instance_id", false}, {"HOST", "agent_id", false}, {"FROM", "from", false}, {"TO", "to", false}, {"AMOUNT", "amount", true},
}

func missingCells(m *api.MissingItem) []cell {
	cells := []cell{plain(string(m.Kind)), plain(""), plain(""), plain(""), plain(""), plain(strconv.FormatInt(m.Amount, 10))}
	if m.Instance != nil {
		cells[1] = plain(string(*m.Instance))
	}
	if m.Host != nil {
		cells[2] = plain(string(*m.Host))
	}
	if m.From != nil && m.To != nil {
		cells[3], cells[4] = instant(*m.From), instant(*m.To)
	}
	return cells
}

func newMonthClose(s streams) *cobra.Command {
	var c monthConfig
	cmd := &cobra.Command{
		Use:   "close MONTH",
		Short: "Close a month, for good",
		Long: `Close a month (UTC), such as 2026-11, for good: for all for whom it is open, or with
--org for one organisation. Each organisation's usage becomes a statement that never
changes. What is booked for the month later is an adjustment of the month in which
it is booked.

It is refused while something may be missing: times that nobody measured, events
that are held, in quarantine or on their way, and hosts that were not heard of up to
the end of the month. --dry-run lists all of that, --accept-gaps closes the month
all the same, and the statements name it. Who closed it, and the cause, are kept in
the ledger's journal.`,
		Example: `  odometer month close 2026-11 --dry-run
  odometer month close 2026-11 --org acme --accept-gaps --cause "host-7 burnt down"`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			month, err := odometer.ParseMonth(args[0])
			if err != nil {
				return misuse(err)
			}
			if cmd.Flags().Changed("org") {
				c.MonthCloseRequest.Org = new(odometer.OrgID(c.Org))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := server.CloseMonth(cmd.Context(), month, c.MonthCloseRequest)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return showClosed(s, &answer)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVar(&c.Org, "org", "", "for this organisation alone (default: for all for whom it is open)")
	flags.BoolVar(&c.AcceptGaps, "accept-gaps", false, "although something is missing")
	flags.StringVar(&c.Cause, "cause", "", "why, in one line (default: the month is over)")
	flags.BoolVar(&c.DryRun, "dry-run", false, "change nothing, and say what would be and what is missing")
	c.common(flags, s)
	return cmd
}

func showClosed(s streams, a *api.MonthCloseAnswer) error {
	if err := printList(s, "", statementColumns, a.Statements, statementCells); err != nil {
		return err
	}
	if len(a.Missing) > 0 && (a.DryRun || s.outTTY) {
		if err := printList(s, "", missingColumns, a.Missing, missingCells); err != nil {
			return err
		}
	}
	if !s.outTTY {
		return nil
	}
	text := a.Month + " is closed.\n"
	switch {
	case a.DryRun && a.MissingTotal > 0:
		text = fmt.Sprintf("%s would not be closed: %d things are missing. --accept-gaps closes it all the same.\n", a.Month, a.MissingTotal)
	case a.DryRun:
		text = a.Month + " would be closed.\n"
	}
	_, err := io.WriteString(s.out, text)
	return err
}

func newMonthList(s streams) *cobra.Command {
	var c monthConfig
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the months that are closed, and for whom",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := c.client()
			if err != nil {
				return err
			}
			var answer api.MonthsAnswer
			answer.Months, answer.Next, err = pagesOf(0, func(after string, most int) ([]api.Month, *string, error) {
				page, err := server.Months(cmd.Context(), after, most)
				return page.Months, page.Next, err
			})
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			columns := []column{{"MONTH", "month", false}, {"FOR", "for", false}, {"CLOSED", "closed_at", false}, {"STATEMENTS", "statements", true}}
			return printList(s, "No month is closed: odometer month close MONTH --dry-run", columns, answer.Months, func(m *api.Month) []cell {
				whom := "everybody"
				if !m.Everybody {
					whom = joinWords(m.Orgs)
				}
				return []cell{plain(m.Month), plain(whom), instant(m.ClosedAt), plain(strconv.Itoa(m.Number))}
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c.common(cmd.Flags(), s)
	return cmd
}

func newMonthStatements(s streams) *cobra.Command {
	var c monthConfig
	cmd := &cobra.Command{
		Use:   "statements",
		Short: "List the statements of closed months, the newest first",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.checkLimit(); err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := allStatements(cmd.Context(), server, &c)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return printList(s, "", statementColumns, answer.Statements, statementCells)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVar(&c.Month, "month", "", "only of this month")
	flags.StringVar(&c.Org, "org", "", "only of this organisation")
	flags.IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	c.common(flags, s)
	return cmd
}

func allStatements(ctx context.Context, server *client.Client, c *monthConfig) (answer api.StatementsAnswer, err error) {
	answer.Statements, answer.Next, err = pagesOf(c.Limit, func(after string, most int) ([]api.StatementSummary, *string, error) {
		page, err := server.Statements(ctx, c.Month, c.Org, after, most)
		return page.Statements, page.Next, err
	})
	return answer, err
}

func newMonthShow(s streams) *cobra.Command {
	var c monthConfig
	cmd := &cobra.Command{
		Use:   "show STATEMENT",
		Short: "Show what an organisation used in a month, as it was stated when that was closed",
		Long: `Show what an organisation used in a month, as it was stated when that was closed.
STATEMENT is its id. --text shows the text that its hash is of, whose form
docs/billing.md says: sha256sum gives the hash again.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := c.client()
			if err != nil {
				return err
			}
			if c.Text {
				text, err := server.StatementText(cmd.Context(), args[0])
				if err == nil {
					_, err = s.out.Write(text)
				}
				return err
			}
			answer, err := server.Statement(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return showStatement(s, &answer)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&c.Text, "text", false, "the text that its hash is of")
	c.common(cmd.Flags(), s)
	return cmd
}

func showStatement(s streams, a *api.StatementAnswer) error {
	columns := []column{{"MONTH", "month", false}, {"USER", "user", false}, {"INSTANCE", "instance", false}}
	for _, c := range usageColumns {
		columns = append(columns, column{Title: c.title, Name: c.quantity.String(), Number: true})
	}
	rows := make([][]cell, len(a.Usage))
	for i := range a.Usage {
		l := &a.Usage[i]
		rows[i] = []cell{plain(l.Month), plain(string(l.Usage.User)), plain(string(l.Usage.Instance))}
		for _, c := range usageColumns {
			amount := plain("")
			if l.Usage.Known.Has(c.quantity) {
				total := l.Usage.Totals[c.quantity]
				amount = cell{humanAmount(c.quantity, total.Float64()), total.String()}
			}
			rows[i] = append(rows[i], amount)
		}
	}
	if err := printTable(s.out, s.outTTY, columns, rows); err != nil || !s.outTTY {
		return err
	}
	_, err := fmt.Fprintf(s.out, "%s of %s, closed at %s by %s: %s. %d things were accepted as missing.\nSHA-256 %s\n",
		a.Month, ofWhom(a.Org), a.ClosedAt.UTC().Format(time.DateTime), a.ClosedBy, a.Cause, a.Missing, a.SHA256)
	return err
}

func ofWhom(org *odometer.OrgID) string {
	if org == nil {
		return "users without an organisation"
	}
	return string(*org)
}

// backlogWait is how long a month that is to be closed waits for what lies in the queue
// when that is asked for: a healthy ledger takes it in less than a second.
const backlogWait = 5 * time.Second

// months closes months when what lay in the queue is committed.
type months struct {
	*parts
}

// CloseMonth closes a month, to which what is still in the queue may belong.
func (m months) CloseMonth(ctx context.Context, c odometer.MonthClose) (odometer.MonthClosed, error) {
	c.Backlog = m.backlog(ctx, backlogWait)
	return m.ledger.CloseMonth(ctx, c)
}

func (m months) ClosedMonths(ctx context.Context, seen odometer.View) ([]odometer.ClosedMonth, error) {
	return m.ledger.ClosedMonths(ctx, seen)
}

func (m months) Statements(ctx context.Context, q odometer.StatementQuery) ([]odometer.StatementInfo, error) {
	return m.ledger.Statements(ctx, q)
}

func (m months) Statement(ctx context.Context, seen odometer.View, id string) (*odometer.Statement, []byte, error) {
	return m.ledger.Statement(ctx, seen, id)
}

// backlog returns what of the messages that are in the queue now is not committed after
// a while. Where the queue cannot be asked it is not known how many there are.
func (m months) backlog(ctx context.Context, wait time.Duration) []odometer.Missing {
	before := m.ingest.Stats().Frames
	left := int64(-1)
	if conn := m.conn(); conn != nil {
		ask, cancel := context.WithTimeout(ctx, backlogWithin)
		defer cancel()
		if n, err := conn.Backlog(ask); err == nil {
			left = int64(n)
		}
	}
	return uncommitted(ctx, left, func() int64 { return m.ingest.Stats().Frames - before }, wait)
}

// uncommitted waits until so many messages are taken, -1 where that is not known, and
// says that they are missing where they are not after a while.
func uncommitted(ctx context.Context, messages int64, taken func() int64, wait time.Duration) []odometer.Missing {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for messages >= 0 && taken() < messages && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-again.C:
		}
	}
	if messages >= 0 && taken() >= messages {
		return nil
	}
	return []odometer.Missing{{Kind: odometer.MissingBacklog, Amount: messages}}
}
