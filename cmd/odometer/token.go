package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// tokenConfig is what `odometer token` is told.
type tokenConfig struct {
	serverFlags
	Scopes  []string
	User    string
	Org     string
	Expires string
	Limit   int
	JSON    bool
}

func newToken(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "token", Short: "Tokens of services and users, and what each may do", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newTokenCreate(s), newTokenList(s), newTokenShow(s), newTokenRevoke(s))
	return parent
}

func newTokenCreate(s streams) *cobra.Command {
	var c tokenConfig
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a token and show it, once",
		Long: `Create a token, by which a service or a user asks the server for what its scopes
allow:

  read          usage, events, instances, status, health, metrics
  events:write  send events over HTTP
  admin         everything, tokens among it
  account       of a user's token: change what the user may

With --user the token is the user's: it sees what is his own and what his roles give,
and has the scopes read and account at most. With --org it sees that organisation
alone, and has the scope read. A user makes tokens of his own with a token that has
the scope account.

The token is shown this once: the server keeps a hash of it. On a pipe it alone
goes to standard output, and what it is to standard error. NAME is for people, and
is recorded with what the token's holder decides.`,
		Example: `  odometer token create billing --scope read --expires 90d
  odometer token create laptop --user u-ada --scope read,account
  (umask 077; odometer token create sender --scope events:write > sender.token)`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask, err := c.request(args[0], time.Now())
			if err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			created, err := server.CreateToken(cmd.Context(), ask)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, created)
			}
			if s.outTTY {
				if err := showToken(s, created.Token); err != nil {
					return err
				}
				_, err = fmt.Fprintf(s.out, "%-13s %s\nkeep it now: it is not shown again\n", "token", created.Secret)
				return err
			}
			fmt.Fprintf(s.err, "%s (%s): %s\n", created.ID, printable(created.Name), odometer.JoinScopes(created.Scopes, ", "))
			_, err = fmt.Fprintln(s.out, created.Secret)
			return err
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringSliceVar(&c.Scopes, "scope", nil, "what it may do: "+odometer.JoinScopes(odometer.Scopes, ", ")+"; may be repeated")
	flags.StringVar(&c.User, "user", "", "the user whose it is")
	flags.StringVar(&c.Org, "org", "", "the organisation that the service is bound to")
	flags.StringVar(&c.Expires, "expires", "", "after what time it is no longer valid, such as 90d or 12h, or when, such as 2027-01-31 (default: never)")
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(flags, s.env)
	scopes := []cobra.Completion{
		cobra.CompletionWithDesc(string(odometer.ScopeRead), "usage, events, instances, status, health, metrics"),
		cobra.CompletionWithDesc(string(odometer.ScopeWriteEvents), "send events over HTTP"),
		cobra.CompletionWithDesc(string(odometer.ScopeAdmin), "everything"),
		cobra.CompletionWithDesc(string(odometer.ScopeAccount), "of a user: change what the user may"),
	}
	cmd.RegisterFlagCompletionFunc("scope", cobra.FixedCompletions(scopes, cobra.ShellCompDirectiveNoFileComp))
	cmd.RegisterFlagCompletionFunc("user", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return c.completeUser(cmd, nil, "")
	})
	cmd.RegisterFlagCompletionFunc("org", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return c.completeOrg(cmd, nil, "")
	})
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// request checks what was asked for, all of it. A length of time is counted by the
// server's clock.
func (c *tokenConfig) request(name string, now time.Time) (ask api.TokenRequest, _ error) {
	var wrong []error
	add := func(flag string, err error) {
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %s", flag, whyNot(err)))
		}
	}
	add("NAME", odometer.ValidTokenName(name))
	ask.Name = name
	for _, s := range c.Scopes {
		ask.Scopes = append(ask.Scopes, odometer.Scope(s))
	}
	var bound odometer.Bound
	if c.User != "" {
		bound.User = odometer.UserID(c.User)
		ask.User = &bound.User
		add("--user", odometer.ValidUserID(bound.User))
	}
	if c.Org != "" {
		bound.Org = odometer.OrgID(c.Org)
		ask.Org = &bound.Org
		add("--org", odometer.ValidOrgID(bound.Org))
	}
	// Whose the token is that asks is the server's to know: a user needs to name nobody.
	if bound == (odometer.Bound{}) && slices.Contains(ask.Scopes, odometer.ScopeAccount) {
		bound.User = "?"
	}
	add("--scope", odometer.ValidScopes(bound, ask.Scopes))
	if when := c.Expires; when != "" {
		if _, err := api.ParseTime("+"+when, now); err == nil {
			when = "+" + when
		}
		at, err := api.ParseTime(when, now)
		if err == nil && !at.After(now) {
			err = fmt.Errorf("%s is past", at.Format(time.RFC3339))
		}
		add("--expires", err)
		ask.ExpiresAt = &when
	}
	return ask, errors.Join(wrong...)
}

func newTokenList(s streams) *cobra.Command {
	var c tokenConfig
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the tokens that were created, expired and revoked ones too",
		Long: `List the tokens that were created, in that order, expired and revoked ones too: a
user his own, the administrator all.
The administrator's own token, in admin.token of the server's data directory, is
none of them.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Limit < 0 {
				return misuse(fmt.Errorf("--limit %d: a number from 1, or 0 for all", c.Limit))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := allTokens(cmd.Context(), server, c.Limit)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return showTokens(s, answer)
		},
	}
	cmd.Flags().IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	return cmd
}

func newTokenShow(s streams) *cobra.Command {
	return newTokenOne(s, "show ID", "Show one token, without its secret", "Show one token, without its secret. ID is as \"token list\" shows it.",
		(*client.Client).TokenOf, showToken)
}

func newTokenRevoke(s streams) *cobra.Command {
	return newTokenOne(s, "revoke ID", "Revoke a token, for good and at once", `Revoke a token, for good: no request is let through with it any more. ID is as
"token list" shows it. Revoking a token again changes nothing.`,
		(*client.Client).RevokeToken, func(s streams, t api.Token) error {
			_, err := fmt.Fprintf(s.out, "%s (%s) is revoked since %s\n", t.ID, printable(t.Name), moment(t.RevokedAt).Text)
			return err
		})
}

// newTokenOne makes a command that does something with one token and shows it.
func newTokenOne(s streams, use, short, long string, do func(*client.Client, context.Context, odometer.TokenID) (api.Token, error), show func(streams, api.Token) error) *cobra.Command {
	var c tokenConfig
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args:              arguments(cobra.ExactArgs(1)),
		ValidArgsFunction: c.completeToken,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := odometer.ValidTokenID(args[0]); err != nil {
				return misuse(fmt.Errorf("%s; `odometer token list` shows them", whyNot(err)))
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			t, err := do(server, cmd.Context(), odometer.TokenID(args[0]))
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, t)
			}
			return show(s, t)
		},
	}
	cmd.Flags().BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(cmd.Flags(), s.env)
	return cmd
}

// completeToken completes the id of a token.
func (c *tokenConfig) completeToken(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
		answer, err := allTokens(ctx, server, 0)
		for _, t := range answer.Tokens {
			words = append(words, cobra.CompletionWithDesc(string(t.ID), t.Name))
		}
		return words, err
	})
}

// allTokens returns as many tokens as limit says, 0 for all.
func allTokens(ctx context.Context, server *client.Client, limit int) (a api.TokensAnswer, err error) {
	a.Tokens, a.Next, err = pagesOf(limit, func(after string, most int) ([]api.Token, *string, error) {
		page, err := server.Tokens(ctx, after, most)
		return page.Tokens, page.Next, err
	})
	return a, err
}

var tokenColumns = []column{
	{"ID", "id", false}, {"NAME", "name", false}, {"USER", "user_id", false}, {"ORG", "org_id", false}, {"SCOPES", "scopes", false}, {"STATE", "state", false},
	{"CREATED", "created_at", false}, {"BY", "created_by", false}, {"EXPIRES", "expires_at", false}, {"LAST USED", "last_used_at", false}, {"REVOKED", "revoked_at", false},
}

// tokenCells are the values of tokenColumns.
func tokenCells(t *api.Token) []cell {
	scopes := cell{odometer.JoinScopes(t.Scopes, ", "), odometer.JoinScopes(t.Scopes, ",")}
	return []cell{
		plain(string(t.ID)), plain(t.Name), optional(t.User), optional(t.Org), scopes, plain(t.State),
		instant(t.CreatedAt), plain(t.CreatedBy), moment(t.ExpiresAt), moment(t.LastUsed), moment(t.RevokedAt),
	}
}

func showTokens(s streams, a api.TokensAnswer) error {
	return printList(s, "No token was created yet: odometer token create NAME --scope read", tokenColumns, a.Tokens, tokenCells)
}

func showToken(s streams, t api.Token) error { return printLines(s, tokenColumns, tokenCells(&t)) }
