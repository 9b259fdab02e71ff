package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/queue"
)

// consumerConfig is what `odometer consumer` is told.
type consumerConfig struct {
	serverFlags
	Org  string
	JSON bool
}

func newConsumer(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "consumer", Short: "Who may read the ledger's topic, such as a billing system", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newConsumerCreate(s), newConsumerList(s), newConsumerRevoke(s))
	return parent
}

func newConsumerCreate(s streams) *cobra.Command {
	var c consumerConfig
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Let a billing system read the topic, and show its key, once",
		Long: `Let a billing system read the topic, by a key of its own, and do nothing else: all of
it, or with --org the entries of one organisation.

The key is made here and shown this once: the server is sent its public half. On a
pipe the key alone goes to standard output, as a file that clients of NATS take for
an nkey's seed, and what they need to know to standard error: where the queue is, the
name of the durable consumer that is made for it in the stream USAGE, and where it has to
have its answers sent. Who reads everything has a place of the same name in VIOLATIONS,
which has what thresholds find.`,
		Example: `  (umask 077; odometer consumer create billing > billing.nk)
  (umask 077; odometer consumer create billing-acme --org o-acme > acme.nk)`,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			wrong := []error{checkID("org", c.Org, false)}
			if err := odometer.ValidTokenName(args[0]); err != nil {
				wrong = append(wrong, fmt.Errorf("NAME: %s", whyNot(err)))
			}
			if err := errors.Join(wrong...); err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			key, seed, err := queue.NewKey()
			if err != nil {
				return err
			}
			ask := api.ConsumerRequest{Name: args[0], Key: key.Public()}
			if c.Org != "" {
				ask.Org = new(odometer.OrgID(c.Org))
			}
			created, err := server.CreateConsumer(cmd.Context(), ask)
			if err != nil {
				return err
			}
			where := ""
			if address, err := server.Queue(cmd.Context()); err == nil { // the consumer is there without it
				where = reachable(address, server.Server)
			}
			if c.JSON {
				return printJSON(s.out, struct {
					api.Consumer
					Queue string `json:"queue_url"`
					Inbox string `json:"inbox_prefix"`
					Seed  string `json:"seed"`
				}{created, where, queue.InboxPrefix(created.ID), string(seed)})
			}
			about := s.err
			if s.outTTY {
				about = s.out
			}
			what := "all entries"
			if created.Org != nil {
				what = "the entries of " + printable(string(*created.Org))
			}
			fmt.Fprintf(about, "%s (%s) may read %s\n", created.ID, printable(created.Name), what)
			fmt.Fprintf(about, "queue %s, stream %s, durable consumer %s, inbox prefix %s\n", where, queue.UsageStream, created.ID, queue.InboxPrefix(created.ID))
			if s.outTTY {
				fmt.Fprintln(about, "keep its key now, it is not shown again:")
			}
			_, err = fmt.Fprintf(s.out, "-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n", seed)
			return err
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.Org, "org", "", "organisation whose entries it reads (default: all)")
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(flags, s.env)
	return cmd
}

var consumerColumns = []column{
	{"ID", "id", false}, {"NAME", "name", false}, {"ORG", "org_id", false}, {"STATE", "state", false},
	{"CREATED", "created_at", false}, {"BY", "created_by", false}, {"REVOKED", "revoked_at", false}, {"KEY", "public_key", false},
}

func newConsumerList(s streams) *cobra.Command {
	var c consumerConfig
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the consumers of the topic, those that were revoked too",
		Long:  "List the consumers of the topic in the order in which they were created, those that were revoked too. Who reads it with the administrator's token is none of them.",
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := server.Consumers(cmd.Context())
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return printList(s, "No consumer was created yet: odometer consumer create NAME", consumerColumns, answer.Consumers, func(a *api.Consumer) []cell {
				return []cell{
					plain(string(a.ID)), plain(a.Name), optional(a.Org), plain(a.State), instant(a.CreatedAt), plain(a.CreatedBy), moment(a.RevokedAt), plain(string(a.Key)),
				}
			})
		},
	}
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	return cmd
}

func newConsumerRevoke(s streams) *cobra.Command {
	var c consumerConfig
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a consumer, for good and at once",
		Long: `Revoke a consumer: its connection ends at once, it is let in no more, and its place in
the topic goes. ID is as "consumer list" shows it. Revoking one again changes nothing.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := odometer.ValidConsumerID(args[0]); err != nil {
				return misuse(fmt.Errorf("%s; `odometer consumer list` shows them", whyNot(err)))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			a, err := server.RevokeConsumer(cmd.Context(), odometer.ConsumerID(args[0]))
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, a)
			}
			_, err = fmt.Fprintf(s.out, "%s (%s) is revoked since %s\n", a.ID, printable(a.Name), moment(a.RevokedAt).Text)
			return err
		},
	}
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	return cmd
}
