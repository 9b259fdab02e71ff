package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// auditActions are what can be done, by what it is done with.
var auditActions = []string{
	"change", "channel", "consumer", "enrolment", "entry", "host", "instance", "login", "member", "organization", "quarantine", "threshold", "token", "user",
}

// auditLogConfig is what `odometer audit-log` is told.
type auditLogConfig struct {
	serverFlags
	client.AuditQuery
	JSON bool
}

func newAuditLog(s streams) *cobra.Command {
	var c auditLogConfig
	cmd := &cobra.Command{
		Use:   "audit-log",
		Short: "Show who changed what, when and from where",
		Long: `Show who changed what, when and from where, the newest first: tokens, users,
organisations, members, hosts, consumers, whose a machine is, entries that were
reversed and events that were released from quarantine.

What was refused is there too, summed up by the minute: changes that their token did
not allow, or of what there is not (change.refused), and tokens that are not known, by
the address that they came from (login.refused).

Lines are added and never changed. The proof that the sums are right is another
thing: odometer audit.`,
		Example: `  odometer audit-log --from -24h
  odometer audit-log --actor u-ada --action member
  odometer audit-log --action login.refused --json`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Limit < 0 {
				return misuse(fmt.Errorf("--limit %d: a number from 1, or 0 for all", c.Limit))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			var answer api.AuditLogAnswer
			q := c.AuditQuery
			answer.Log, answer.Next, err = pagesOf(c.Limit, func(after string, most int) ([]api.AuditLine, *string, error) {
				q.After, q.Limit = after, most
				page, err := server.AuditLog(cmd.Context(), q)
				return page.Log, page.Next, err
			})
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return showAuditLog(s, answer)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.Actor, "actor", "", "only what this token's holder did: its name or id, or the id of its user")
	flags.StringVar(&c.Action, "action", "", "only this, such as token.create, or all that is done with a thing, such as token")
	flags.StringVar(&c.Object, "object", "", "only what was done to this")
	flags.StringVar(&c.From, "from", "", "only from then on, such as -24h, 2026-01-31 or RFC 3339")
	flags.StringVar(&c.To, "to", "", "only before")
	flags.IntVar(&c.Limit, "limit", api.DefaultPage, "at most so many; 0 for all")
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(flags, s.env)
	return cmd
}

var auditLogColumns = []column{
	{"AT", "at", false}, {"ACTOR", "actor", false}, {"TOKEN", "token_id", false}, {"USER", "user_id", false}, {"FROM", "remote", false},
	{"ACTION", "action", false}, {"OBJECT", "object", false}, {"DETAIL", "detail", false},
}

func showAuditLog(s streams, a api.AuditLogAnswer) error {
	err := printList(s, "", auditLogColumns, a.Log, func(l *api.AuditLine) []cell {
		return []cell{
			instant(l.At), plain(l.Actor), optional(l.Token), optional(l.User), plain(l.Remote), plain(string(l.Action)), plain(l.Object), plain(l.Detail),
		}
	})
	if err == nil && a.Next != nil && s.outTTY {
		_, err = fmt.Fprintln(s.out, "There are more: --limit 0 shows all.")
	}
	return err
}
