package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// channelConfig is what `odometer channel` is told.
type channelConfig struct {
	peopleConfig
	Holder     string
	Kind       string
	URL        string
	URLFile    string
	To         []string
	Events     []string
	Disabled   bool
	SecretFile string
	BearerFile string
	State      string
	Keep       time.Duration
	All        bool
}

func newChannel(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "channel", Short: "Who is told of what thresholds find, and how", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newChannelCreate(s), newChannelList(s), newChannelShow(s), newChannelUpdate(s), newChannelTest(s), newChannelDelete(s), newChannelDeliveries(s), newChannelRetry(s), newChannelRotate(s))
	return parent
}

// describe registers the flags that describe a channel.
func (c *channelConfig) describe(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&c.URL, "url", "", "address of a webhook, of slack and of an alertmanager; other users can see it on a command line, so prefer --url-file where it has a secret in it")
	flags.StringVar(&c.URLFile, "url-file", "", "file that holds the address")
	flags.StringSliceVar(&c.To, "to", nil, "e-mail address; may be repeated")
	flags.StringSliceVar(&c.Events, "event", nil, "what a webhook is told: usage, threshold_violation; may be repeated (default: threshold_violation)")
	flags.StringVar(&c.BearerFile, "bearer-file", "", "file that holds the token that an alertmanager asks for; '' for none")
	flags.BoolVar(&c.Disabled, "disabled", false, "it is told nothing for now")
	cmd.RegisterFlagCompletionFunc("event", cobra.FixedCompletions(words([]odometer.EventKind{odometer.EventUsage, odometer.EventViolation}), cobra.ShellCompDirectiveNoFileComp))
}

// given changes a channel to what the flags say that are given.
func (c *channelConfig) given(cmd *cobra.Command, d *api.ChannelChange) error {
	has := cmd.Flags().Changed
	if c.URL != "" && c.URLFile != "" {
		return misuse(errors.New("--url and --url-file are both given; one of them is enough"))
	}
	if has("url") {
		d.URL = c.URL
	}
	if c.URLFile != "" {
		text, err := readPrivate("file of the address", c.URLFile)
		if err != nil {
			return err
		}
		d.URL = string(bytes.TrimSpace(text))
	}
	if has("to") {
		d.To = c.To
	}
	if has("event") {
		d.Events = nil
		for _, e := range c.Events {
			d.Events = append(d.Events, odometer.EventKind(e))
		}
	}
	if has("bearer-file") { // '' for no token
		text, err := secretIn("file of the token", c.BearerFile)
		if err != nil {
			return err
		}
		d.Bearer = &text
	}
	if has("disabled") {
		d.Enabled = new(!c.Disabled)
	}
	return nil
}

// secretIn returns what a file holds that only its owner reads, "" for no file.
func secretIn(what, path string) (string, error) {
	if path == "" {
		return "", nil
	}
	text, err := readPrivate(what, path)
	return string(bytes.TrimSpace(text)), err
}

func newChannelCreate(s streams) *cobra.Command {
	var c channelConfig
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a channel, and show the secret of a webhook, once",
		Long: `Create a channel: a webhook, which is sent CloudEvents and signs them by Standard Webhooks;
slack, which is sent messages to a webhook that is compatible with Slack's; email;
alertmanager, which is that of Prometheus (API v2); or log, the server's own. Thresholds
name it by its id: odometer threshold create NAME --notify ID.

Addresses inside are refused unless the server was started with --notify-allow.

The secret of a webhook is shown this once, unless --secret-file gives one. On a pipe it
alone goes to standard output, and what it belongs to, to standard error.`,
		Example: `  (umask 077; odometer channel create billing --kind webhook --url https://billing.example/odometer > billing.secret)
  odometer channel create duty --kind email --to duty@example.org`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			ask := api.ChannelRequest{Kind: odometer.ChannelKind(c.Kind)}
			ask.Name = args[0]
			if ask.User, ask.Org, err = boundTo(c.Holder); err == nil && c.Kind == "" {
				err = errors.New("--kind is needed: " + joinWords(odometer.ChannelKinds))
			}
			if err = errors.Join(wrong("NAME", odometer.ValidName(args[0])), err, oneOf("kind", c.Kind, odometer.ChannelKinds)); err != nil {
				return misuse(err)
			}
			if err := c.given(cmd, &ask.ChannelChange); err != nil {
				return err
			}
			if ask.Secret, err = secretIn("file of the secret", c.SecretFile); err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			made, err := server.CreateChannel(cmd.Context(), ask)
			if err != nil {
				return err
			}
			switch {
			case c.JSON:
				return printJSON(s.out, made)
			case made.Secret == nil || ask.Secret != "":
				return printLines(s, channelColumns, channelCells(&made.Channel))
			case s.outTTY:
				if err := printLines(s, channelColumns, channelCells(&made.Channel)); err != nil {
					return err
				}
				_, err = fmt.Fprintf(s.out, "%-13s %s\nkeep it now: it is not shown again\n", "secret", *made.Secret)
				return err
			}
			fmt.Fprintf(s.err, "%s (%s): %s\n", made.ID, printable(made.Name), made.Kind)
			_, err = fmt.Fprintln(s.out, *made.Secret)
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&c.Kind, "kind", "", "how it tells: "+joinWords(odometer.ChannelKinds))
	cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(words(odometer.ChannelKinds), cobra.ShellCompDirectiveNoFileComp))
	c.describe(cmd)
	cmd.Flags().StringVar(&c.Holder, "holder", "", holderHelp)
	cmd.Flags().StringVar(&c.SecretFile, "secret-file", "", "file that holds the secret of a webhook, whsec_… (default: a new one)")
	c.common(cmd.Flags(), s)
	return cmd
}

// newChannelOne makes a command that does something with one channel and shows it.
func newChannelOne(s streams, c *channelConfig, use, short, long string, do func(*cobra.Command, *client.Client, odometer.ChannelID) (api.Channel, error)) *cobra.Command {
	return newOfChannel(s, c, use, short, long, func(cmd *cobra.Command, server *client.Client, id odometer.ChannelID) error {
		d, err := do(cmd, server, id)
		if err != nil {
			return stale(err)
		}
		return show(&c.peopleConfig, s, d, channelColumns, channelCells(&d))
	})
}

// newOfChannel makes a command whose first argument is the id of a channel.
func newOfChannel(s streams, c *channelConfig, use, short, long string, do func(*cobra.Command, *client.Client, odometer.ChannelID) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wrong("ID", odometer.ValidChannelID(args[0])); err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			return do(cmd, server, odometer.ChannelID(args[0]))
		},
		ValidArgsFunction: c.completeChannel,
	}
}

func newChannelShow(s streams) *cobra.Command {
	var c channelConfig
	cmd := newChannelOne(s, &c, "show ID", "Show one channel", `Show one channel, without a secret.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.ChannelID) (api.Channel, error) {
			return server.Channel(cmd.Context(), id)
		})
	c.common(cmd.Flags(), s)
	return cmd
}

func newChannelUpdate(s streams) *cobra.Command {
	var c channelConfig
	cmd := newChannelOne(s, &c, "update ID", "Change a channel", `Change a channel: what no flag says stays as it is. --disabled has it told nothing for now;
--disabled=false again, also where the server disabled it itself.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.ChannelID) (d api.Channel, err error) {
			if d, err = server.Channel(cmd.Context(), id); err != nil {
				return d, err
			}
			ask := api.ChannelChange{Name: d.Name, Enabled: &d.Enabled, To: d.To, Events: d.Events}
			if d.URL != nil {
				ask.URL = *d.URL
			}
			if c.Name != "" {
				ask.Name = c.Name
			}
			if err := c.given(cmd, &ask); err != nil {
				return d, err
			}
			return server.UpdateChannel(cmd.Context(), id, d.Version, ask)
		})
	cmd.Flags().StringVar(&c.Name, "name", "", "its other name")
	c.describe(cmd)
	c.common(cmd.Flags(), s)
	return cmd
}

func newChannelDelete(s streams) *cobra.Command {
	var c channelConfig
	cmd := newChannelOne(s, &c, "delete ID", "Delete a channel", `Delete a channel, and show what it was. What waits for it is not sent any more. One that
thresholds name is refused.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.ChannelID) (d api.Channel, err error) {
			if d, err = server.Channel(cmd.Context(), id); err == nil {
				_, err = server.DeleteChannel(cmd.Context(), id, d.Version)
			}
			return d, err
		})
	c.common(cmd.Flags(), s)
	return cmd
}

func newChannelList(s streams) *cobra.Command {
	var c channelConfig
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the channels that the token sees",
		Long:  `List the channels that the token sees, in the order of their ids, without secrets.`,
		Args:  arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := misuse(oneOf("kind", c.Kind, odometer.ChannelKinds)); err != nil {
				return err
			}
			if err := c.checkLimit(); err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			var a api.ChannelsAnswer
			a.Channels, a.Next, err = pagesOf(c.Limit, func(after string, most int) ([]api.Channel, *string, error) {
				page, err := server.Channels(cmd.Context(), client.AlertQuery{Holder: c.Holder, Kind: c.Kind, After: after, Limit: most})
				return page.Channels, page.Next, err
			})
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, a)
			}
			return printList(s, "There is no channel: odometer channel create NAME --kind webhook --url URL", channelColumns, a.Channels, channelCells)
		},
	}
	cmd.Flags().StringVar(&c.Holder, "holder", "", "only those of this one's: operator, user:ID or org:ID")
	cmd.Flags().StringVar(&c.Kind, "kind", "", "only those of this kind")
	cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(words(odometer.ChannelKinds), cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	c.common(cmd.Flags(), s)
	return cmd
}

func newChannelTest(s streams) *cobra.Command {
	var c channelConfig
	cmd := newOfChannel(s, &c, "test ID", "Send a message to a channel, now", `Send a message to a channel, now, and say how that went. It fails where the receiver does.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.ChannelID) error {
			a, err := server.TestChannel(cmd.Context(), id)
			if err != nil {
				return err
			}
			if err := show(&c.peopleConfig, s, a, attemptColumns, attemptCells(&a)); err != nil {
				return err
			}
			if a.Error != nil {
				return fmt.Errorf("channel %s was not told: %s", id, printable(*a.Error))
			}
			return nil
		})
	c.common(cmd.Flags(), s)
	return cmd
}

// deliveryStates are what has become of deliveries.
var deliveryStates = []odometer.DeliveryState{odometer.DeliveryWaiting, odometer.DeliveryDelivered, odometer.DeliveryDead}

func newChannelDeliveries(s streams) *cobra.Command {
	var c channelConfig
	cmd := &cobra.Command{
		Use:   "deliveries ID [DELIVERY]",
		Short: "What was sent to a channel, or waits",
		Long: `What was sent to a channel, or waits, the newest first; or with the id of a delivery each of
its attempts. Those that were given up are dead: odometer channel retry sends them again.`,
		Args: arguments(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			bad := errors.Join(wrong("ID", odometer.ValidChannelID(args[0])), oneOf("state", c.State, deliveryStates))
			if len(args) == 2 {
				bad = errors.Join(bad, wrong("DELIVERY", odometer.ValidDeliveryID(args[1])))
			}
			if bad != nil {
				return misuse(bad)
			}
			if err := c.checkLimit(); err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			id := odometer.ChannelID(args[0])
			if len(args) == 2 {
				a, err := server.Attempts(cmd.Context(), id, odometer.DeliveryID(args[1]))
				if err != nil {
					return err
				}
				if c.JSON {
					return printJSON(s.out, a)
				}
				return printList(s, "It was not tried yet.", attemptColumns, a.Attempts, attemptCells)
			}
			var a api.DeliveriesAnswer
			a.Deliveries, a.Next, err = pagesOf(c.Limit, func(after string, most int) ([]api.Delivery, *string, error) {
				page, err := server.Deliveries(cmd.Context(), id, c.State, after, most)
				return page.Deliveries, page.Next, err
			})
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, a)
			}
			return printList(s, "Nothing was sent, and nothing waits.", deliveryColumns, a.Deliveries, deliveryCells)
		},
		ValidArgsFunction: c.completeChannel,
	}
	cmd.Flags().StringVar(&c.State, "state", "", "only those that are waiting, delivered or dead")
	cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(words(deliveryStates), cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	c.common(cmd.Flags(), s)
	return cmd
}

func newChannelRetry(s streams) *cobra.Command {
	var c channelConfig
	cmd := &cobra.Command{
		Use:   "retry ID DELIVERY",
		Short: "Send again what was given up",
		Long:  `Send again what was given up: one delivery, or with --all every one of the channel's.`,
		Args:  arguments(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			bad := wrong("ID", odometer.ValidChannelID(args[0]))
			delivery := odometer.DeliveryID("")
			switch {
			case len(args) == 2 && c.All:
				bad = errors.Join(bad, errors.New("both DELIVERY and --all are given; one of them is enough"))
			case len(args) == 2:
				delivery = odometer.DeliveryID(args[1])
				bad = errors.Join(bad, wrong("DELIVERY", odometer.ValidDeliveryID(args[1])))
			case !c.All:
				bad = errors.Join(bad, errors.New("DELIVERY is missing; --all is every one that was given up"))
			}
			if bad != nil {
				return misuse(bad)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			a, err := server.Retry(cmd.Context(), odometer.ChannelID(args[0]), delivery)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, a)
			}
			_, err = fmt.Fprintf(s.out, "%d deliveries wait for their turn again\n", a.Retried)
			return err
		},
		ValidArgsFunction: c.completeChannel,
	}
	cmd.Flags().BoolVar(&c.All, "all", false, "everything that was given up")
	c.common(cmd.Flags(), s)
	return cmd
}

func newChannelRotate(s streams) *cobra.Command {
	var c channelConfig
	cmd := newOfChannel(s, &c, "rotate ID", "Give a webhook another secret, and show it, once", `Give a webhook another secret, and show it this once. The one before signs beside it for a
while, so that nobody has to change both ends in the same moment. On a pipe the secret alone
goes to standard output.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.ChannelID) error {
			ask := api.SecretRotation{}
			if cmd.Flags().Changed("keep") {
				ask.KeepSeconds = new(int64(c.Keep / time.Second))
			}
			a, err := server.RotateSecret(cmd.Context(), id, ask)
			if err != nil {
				return err
			}
			switch {
			case c.JSON:
				return printJSON(s.out, a)
			case s.outTTY:
				_, err = fmt.Fprintf(s.out, "%-13s %s\nkeep it now: it is not shown again; the one before signs beside it until %s\n", "secret", a.Secret, instant(a.Until).Text)
			default:
				fmt.Fprintf(s.err, "%s has another secret; the one before signs beside it until %s\n", a.Channel, a.Until.UTC().Format(time.RFC3339))
				_, err = fmt.Fprintln(s.out, a.Secret)
			}
			return err
		})
	cmd.Flags().DurationVar(&c.Keep, "keep", 24*time.Hour, "how long the secret of before signs beside the new one")
	c.common(cmd.Flags(), s)
	return cmd
}

// completeChannel completes the id of a channel.
func (c *serverFlags) completeChannel(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
		page, err := server.Channels(ctx, client.AlertQuery{Limit: api.MaxPage})
		for _, d := range page.Channels {
			words = append(words, cobra.CompletionWithDesc(string(d.ID), d.Name))
		}
		return words, err
	})
}

var channelColumns = []column{
	{"ID", "id", false}, {"NAME", "name", false}, {"KIND", "kind", false}, {"OF", "holder", false}, {"TELLS", "target", false}, {"EVENTS", "event_types", false},
	{"STATE", "state", false}, {"VERSION", "version", true},
}

// channelCells are the values of channelColumns.
func channelCells(d *api.Channel) []cell {
	target := joinWords(d.To)
	if d.URL != nil {
		target = *d.URL
	}
	state := "enabled"
	if !d.Enabled {
		state = "disabled"
	}
	if d.Problem != nil {
		state += ": " + *d.Problem
	}
	return []cell{
		plain(string(d.ID)), plain(d.Name), plain(string(d.Kind)), plain(holderText(d.User, d.Org)), plain(target), plain(joinWords(d.Events)),
		plain(state), plain(fmt.Sprint(d.Version)),
	}
}

var attemptColumns = []column{
	{"AT", "at", false}, {"STATUS", "status", true}, {"TOOK", "latency_ms", true}, {"ANSWER", "answer", false}, {"ERROR", "error", false},
}

// attemptCells are the values of attemptColumns.
func attemptCells(a *api.Attempt) []cell {
	status, why := "", ""
	if a.Status != nil {
		status = fmt.Sprint(*a.Status)
	}
	if a.Error != nil {
		why = *a.Error
	}
	return []cell{instant(a.At), plain(status), {decimal(a.LatencyMS) + " ms", fmt.Sprint(a.LatencyMS)}, plain(a.Answer), plain(why)}
}

var deliveryColumns = []column{
	{"ID", "id", false}, {"TELLS", "event_type", false}, {"SUBJECT", "subject", false}, {"EVENTS", "events", true}, {"STATE", "state", false}, {"ATTEMPTS", "attempts", true},
	{"CREATED", "created_at", false}, {"NEXT", "next_at", false}, {"DONE", "done_at", false}, {"LAST", "last", false},
}

// deliveryCells are the values of deliveryColumns.
func deliveryCells(d *api.Delivery) []cell {
	kind, last := "test", ""
	if d.EventType != nil {
		kind = string(*d.EventType)
	}
	if d.Last != nil {
		if last = "told"; d.Last.Error != nil {
			last = *d.Last.Error
		}
	}
	return []cell{
		plain(string(d.ID)), plain(kind), plain(d.Subject), plain(fmt.Sprint(d.Events)), plain(string(d.State)), plain(fmt.Sprint(d.Attempts)),
		instant(d.CreatedAt), moment(d.NextAt), moment(d.DoneAt), plain(last),
	}
}
