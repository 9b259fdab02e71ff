package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// hostConfig is what `odometer host` is told.
type hostConfig struct {
	serverFlags
	ID      string
	Replace bool
	Expires string
	Limit   int
	JSON    bool
}

func newHosts(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "host", Short: "Hosts that agents run on: let one in, list them, put one out", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newHostEnrollToken(s), newHostList(s), newHostShow(s), newHostRevoke(s), newHostTokens(s), newHostRevokeToken(s))
	return parent
}

func newHostEnrollToken(s streams) *cobra.Command {
	var c hostConfig
	cmd := &cobra.Command{
		Use:   "enroll-token",
		Short: "Create a one-time token that lets a host in, and show it, once",
		Long: `Create a one-time token that lets one host in, and the command to give there. The
host makes a key of its own at its first start, which never leaves it; the token is
then used up.

The token is shown this once: the server keeps a hash of it. On a pipe it alone goes
to standard output, and the rest to standard error. The command reads it from
standard input, since everybody on a machine can see the arguments of a process.

--id says which host it is for; without it any may use it whose name no other has.
With --replace the host that has that name is put out when the token is used.`,
		Example: `  odometer host enroll-token --id host-7
  odometer host enroll-token --expires 10m
  odometer host enroll-token --id host-7 --replace`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ask, err := c.request(time.Now())
			if err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			created, err := server.CreateEnrolment(cmd.Context(), ask)
			if err != nil {
				return err
			}
			return c.showCreated(s, server.Server, &created)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.ID, "id", "", "the host that it is for (default: any that is not there yet)")
	flags.BoolVar(&c.Replace, "replace", false, "put out the host that has this name, when the token is used")
	flags.StringVar(&c.Expires, "expires", "1h", "after what time it is no longer valid, such as 10m or 7d, or when; at most 30 days")
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(flags, s.env)
	return cmd
}

// request checks what was asked for, all of it. A length of time is counted by the
// server's clock.
func (c *hostConfig) request(now time.Time) (ask api.EnrolmentRequest, _ error) {
	wrong := []error{checkID("id", c.ID, false)}
	if c.ID != "" {
		ask.Agent = new(odometer.AgentID(c.ID))
	} else if c.Replace {
		wrong = append(wrong, errors.New("--replace needs --id, which says what host is to be replaced"))
	}
	when := c.Expires
	if _, err := api.ParseTime("+"+when, now); err == nil {
		when = "+" + when
	}
	if at, err := api.ParseTime(when, now); err != nil {
		wrong = append(wrong, fmt.Errorf("--expires: %s", whyNot(err)))
	} else if !at.After(now) {
		wrong = append(wrong, fmt.Errorf("--expires: %s is past", at.Format(time.RFC3339)))
	}
	ask.Replace, ask.ExpiresAt = c.Replace, &when
	return ask, errors.Join(wrong...)
}

// agentCommand is the command to give on the new host.
func (c *hostConfig) agentCommand(server string) string {
	words := []string{"odometer agent --server", server}
	if c.ID != "" {
		words = append(words, "--id", quoted(c.ID))
	}
	if c.TLSCA != "" {
		words = append(words, "--tls-ca", quoted(c.TLSCA))
	}
	return strings.Join(append(words, "--enroll -"), " ")
}

// quoted is a word as a shell reads it.
func quoted(word string) string {
	if word != "" && strings.Trim(word, plainInShells) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func (c *hostConfig) showCreated(s streams, server string, created *api.CreatedEnrolment) error {
	command := c.agentCommand(server)
	if c.JSON {
		return printJSON(s.out, struct {
			*api.CreatedEnrolment
			Command string `json:"command"`
		}{created, command})
	}
	who := "any host that is not there yet"
	if created.Agent != nil {
		who = "host " + printable(string(*created.Agent))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s lets in %s, once, until %s\n", created.ID, who, created.ExpiresAt.UTC().Format(time.RFC3339))
	fmt.Fprintf(&b, "give this command on the host, and the token on its standard input:\n\n  %s\n\n", printable(command))
	if u, err := url.Parse(server); err == nil && loopback(u.Hostname()) {
		b.WriteString("with the address in --server by which that host reaches this server\n")
	}
	if s.outTTY {
		fmt.Fprintf(&b, "token  %s\nkeep it now: it is not shown again\n", created.Secret)
		_, err := s.out.Write([]byte(b.String()))
		return err
	}
	fmt.Fprint(s.err, b.String())
	_, err := fmt.Fprintln(s.out, created.Secret)
	return err
}

func newHostList(s streams) *cobra.Command {
	var c hostConfig
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the hosts that were let in, those that were put out too",
		Long: `List the hosts that were let in by a one-time token, in order of their names, those
that were put out too. Agents that come with the administrator's token are none of
them.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Limit < 0 {
				return misuse(fmt.Errorf("--limit %d: a number from 1, or 0 for all", c.Limit))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := allHosts(cmd.Context(), server, c.Limit)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return printList(s, "No host was let in yet: odometer host enroll-token", hostColumns, answer.Hosts, hostCells)
		},
	}
	cmd.Flags().IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	return cmd
}

// allHosts returns as many hosts as limit says, 0 for all.
func allHosts(ctx context.Context, server *client.Client, limit int) (a api.HostsAnswer, err error) {
	a.Hosts, a.Next, err = pagesOf(limit, func(after string, most int) ([]api.Host, *string, error) {
		page, err := server.Hosts(ctx, after, most)
		return page.Hosts, page.Next, err
	})
	return a, err
}

var hostColumns = []column{
	{"ID", "agent_id", false}, {"STATE", "state", false}, {"ENROLLED", "enrolled_at", false}, {"FROM", "remote", false},
	{"BY", "enrolment_id", false}, {"REVOKED", "revoked_at", false}, {"KEY", "public_key", false},
}

// hostCells are the values of hostColumns.
func hostCells(h *api.Host) []cell {
	return []cell{
		plain(string(h.Agent)), plain(h.State), instant(h.EnrolledAt), plain(h.Remote), plain(string(h.Enrolment)), moment(h.RevokedAt), plain(string(h.Key)),
	}
}

func newHostShow(s streams) *cobra.Command {
	return newHostOne(s, "show ID", "Show one host", "Show one host. ID is as \"host list\" shows it.", (*client.Client).Host, func(s streams, h api.Host) error {
		return printLines(s, hostColumns, hostCells(&h))
	})
}

func newHostRevoke(s streams) *cobra.Command {
	return newHostOne(s, "revoke ID", "Put a host out, for good and at once", `Revoke the key of a host: its connection to the queue ends at once, and it is let in
no more. What it used stays in the ledger; what it has not sent yet waits in its
spool. Another one-time token lets it in again, with another key. Revoking a host
again changes nothing.

Where the queue is external, its servers go by what "odometer nats config" prints: see
there.`,
		(*client.Client).RevokeHost, func(s streams, h api.Host) error {
			_, err := fmt.Fprintf(s.out, "host %s is revoked since %s\n", printable(string(h.Agent)), moment(h.RevokedAt).Text)
			return err
		})
}

// newHostOne makes a command that does something with one host and shows it.
func newHostOne(s streams, use, short, long string, do func(*client.Client, context.Context, odometer.AgentID) (api.Host, error), show func(streams, api.Host) error) *cobra.Command {
	var c hostConfig
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: c.completeHost,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := odometer.ValidID("ID", args[0]); err != nil {
				return misuse(fmt.Errorf("%s; `odometer host list` shows them", whyNot(err)))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			h, err := do(server, cmd.Context(), odometer.AgentID(args[0]))
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, h)
			}
			return show(s, h)
		},
	}
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	return cmd
}

// completeHost completes the id of a host.
func (c *hostConfig) completeHost(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
		answer, err := allHosts(ctx, server, 0)
		for _, h := range answer.Hosts {
			words = append(words, cobra.CompletionWithDesc(string(h.Agent), h.State))
		}
		return words, err
	})
}

var enrolmentColumns = []column{
	{"ID", "id", false}, {"HOST", "agent_id", false}, {"REPLACES", "replace", false}, {"STATE", "state", false}, {"CREATED", "created_at", false},
	{"BY", "created_by", false}, {"EXPIRES", "expires_at", false}, {"USED", "used_at", false}, {"BY HOST", "used_by", false}, {"REVOKED", "revoked_at", false},
}

func newHostTokens(s streams) *cobra.Command {
	var c hostConfig
	cmd := &cobra.Command{
		Use:   "tokens",
		Short: "List the one-time tokens of hosts, the newest first",
		Long:  "List the one-time tokens of hosts, the newest first, without their secrets: those that were used, expired or were revoked too.",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Limit < 1 || c.Limit > api.MaxPage {
				return misuse(fmt.Errorf("--limit %d: a number from 1 to %d", c.Limit, api.MaxPage))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := server.Enrolments(cmd.Context(), c.Limit)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return printList(s, "", enrolmentColumns, answer.Enrolments, func(e *api.Enrolment) []cell {
				return []cell{
					plain(string(e.ID)), optional(e.Agent), plain(fmt.Sprint(e.Replace)), plain(e.State), instant(e.CreatedAt),
					plain(e.CreatedBy), instant(e.ExpiresAt), moment(e.UsedAt), optional(e.UsedBy), moment(e.RevokedAt),
				}
			})
		},
	}
	cmd.Flags().IntVar(&c.Limit, "limit", api.DefaultPage, "at most so many")
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	return cmd
}

func newHostRevokeToken(s streams) *cobra.Command {
	var c hostConfig
	cmd := &cobra.Command{
		Use:   "revoke-token ID",
		Short: "Revoke a one-time token that was not used yet",
		Long:  `Revoke a one-time token: it lets no host in any more. ID is as "host tokens" shows it. One that was used is left as it is: "host revoke" puts the host out.`,
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := odometer.ValidEnrolmentID(args[0]); err != nil {
				return misuse(fmt.Errorf("%s; `odometer host tokens` shows them", whyNot(err)))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			e, err := server.RevokeEnrolment(cmd.Context(), odometer.EnrolmentID(args[0]))
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, e)
			}
			_, err = fmt.Fprintf(s.out, "%s is %s\n", e.ID, e.State)
			return err
		},
	}
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	return cmd
}
