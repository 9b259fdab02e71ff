package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// grantConfig is what `odometer instance grant` is told.
type grantConfig struct {
	peopleConfig
	Level   string
	Since   string
	Expires string
}

func newInstanceGrant(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "grant", Short: "Who else may see a machine", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newGrantAdd(s), newGrantList(s), newGrantSet(s), newGrantRemove(s))
	return parent
}

// levelHelp is what the levels are, for a person.
const levelHelp = `  owner     also gives grants up to manager
  manager   also gives grants up to operator
  operator  sees the machine
  readonly  sees the machine
`

// newGrantOne makes a command that does something with one grant and shows it.
func newGrantOne(s streams, c *grantConfig, use, short, long string, withLevel bool, do func(context.Context, *client.Client, odometer.InstanceID, odometer.UserID) (api.Grant, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: use + " INSTANCE USER", Short: short, Long: long,
		Args: arguments(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			instance, user := odometer.InstanceID(args[0]), odometer.UserID(args[1])
			bad := errors.Join(wrong("INSTANCE", odometer.ValidID("instance", args[0])), wrong("USER", odometer.ValidUserID(user)))
			if withLevel {
				bad = errors.Join(bad, wrong("--level", odometer.ValidLevel(odometer.Level(c.Level))))
			}
			if bad != nil {
				return misuse(bad)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			g, err := do(cmd.Context(), server, instance, user)
			if err != nil {
				return stale(err)
			}
			return show(&c.peopleConfig, s, g, grantColumns, grantCells(&g))
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return c.completeUser(cmd, nil, word)
			}
			return c.completeInstance(cmd, args, word)
		},
	}
	if withLevel {
		cmd.Flags().StringVar(&c.Level, "level", "", "owner, manager, operator or readonly")
		cmd.RegisterFlagCompletionFunc("level", cobra.FixedCompletions([]cobra.Completion{
			string(odometer.LevelOwner), string(odometer.LevelManager), string(odometer.LevelOperator), string(odometer.LevelReadOnly),
		}, cobra.ShellCompDirectiveNoFileComp))
		cmd.Flags().StringVar(&c.Expires, "expires", "", "when it ends, RFC 3339 or such as +90d (default: never)")
	}
	return cmd
}

// change is what the grant is to be.
func (c *grantConfig) change() api.GrantChange {
	ask := api.GrantChange{Level: odometer.Level(c.Level)}
	if c.Expires != "" {
		ask.ExpiresAt = &c.Expires
	}
	return ask
}

func newGrantAdd(s streams) *cobra.Command {
	var c grantConfig
	cmd := newGrantOne(s, &c, "add", "Let a user see a machine that is not his", `Let a user see a machine that is not his, from a moment on, with a level:

`+levelHelp+`
Each sees its usage, entries, lifecycle and what is open (docs/access.md). Its owner
gives it, as it is recorded, the owners and admins of the organisation whose it is, and
who has a higher level on it; the administrator to anybody. It ends when the machine
changes hands, unless the administrator gave it.`, true,
		func(ctx context.Context, server *client.Client, instance odometer.InstanceID, user odometer.UserID) (api.Grant, error) {
			return server.AddGrant(ctx, instance, api.GrantRequest{User: user, Since: c.Since, GrantChange: c.change()})
		})
	cmd.Example = `  odometer instance grant add vm-1 u-bob --level readonly --since -30d --expires +90d`
	cmd.Flags().StringVar(&c.Since, "since", "", "what is used from then on is seen, RFC 3339 or such as -30d (default: from this hour on)")
	c.common(cmd.Flags(), s)
	return cmd
}

func newGrantSet(s streams) *cobra.Command {
	var c grantConfig
	cmd := newGrantOne(s, &c, "set", "Give a grant another level and another end", `Give a grant another level and another end: without --expires it does not end by
itself.

`+levelHelp, true,
		func(ctx context.Context, server *client.Client, instance odometer.InstanceID, user odometer.UserID) (g api.Grant, err error) {
			if g, err = server.Grant(ctx, instance, user); err != nil {
				return g, err
			}
			return server.SetGrant(ctx, instance, user, g.Version, c.change())
		})
	c.common(cmd.Flags(), s)
	return cmd
}

func newGrantRemove(s streams) *cobra.Command {
	var c grantConfig
	cmd := newGrantOne(s, &c, "remove", "End a grant, at once", `End a grant, at once: nothing is seen by it any more. Everybody may end his own.`, false,
		func(ctx context.Context, server *client.Client, instance odometer.InstanceID, user odometer.UserID) (g api.Grant, err error) {
			if g, err = server.Grant(ctx, instance, user); err != nil {
				return g, err
			}
			return server.EndGrant(ctx, instance, user, g.Version)
		})
	c.common(cmd.Flags(), s)
	return cmd
}

func newGrantList(s streams) *cobra.Command {
	var c grantConfig
	cmd := &cobra.Command{
		Use:   "list INSTANCE",
		Short: "List the grants on a machine that the token sees",
		Long: `List the grants on a machine that the token sees, in the order of their users' ids.
INSTANCE is its id.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := wrong("INSTANCE", odometer.ValidID("instance", args[0])); err != nil {
				return misuse(err)
			}
			if err := c.checkLimit(); err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := allGrants(cmd.Context(), server, odometer.InstanceID(args[0]), c.Limit)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return printList(s, fmt.Sprintf("No grant on %s is seen: odometer instance grant add %[1]s USER --level LEVEL", printable(args[0])), grantColumns, answer.Grants, grantCells)
		},
		ValidArgsFunction: c.completeInstance,
	}
	cmd.Flags().IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	c.common(cmd.Flags(), s)
	return cmd
}

func allGrants(ctx context.Context, server *client.Client, instance odometer.InstanceID, limit int) (a api.GrantsAnswer, err error) {
	a.Grants, a.Next, err = pagesOf(limit, func(after string, most int) ([]api.Grant, *string, error) {
		page, err := server.Grants(ctx, instance, after, most)
		return page.Grants, page.Next, err
	})
	return a, err
}

var grantColumns = []column{
	{"INSTANCE", "instance_id", false}, {"USER", "user_id", false}, {"LEVEL", "level", false}, {"SINCE", "since", false}, {"EXPIRES", "expires_at", false},
	{"OF USER", "of_user_id", false}, {"OF ORG", "of_org_id", false}, {"GIVEN BY", "given_by", false}, {"VERSION", "version", true},
}

// grantCells are the values of grantColumns.
func grantCells(g *api.Grant) []cell {
	orNone := func(user *odometer.UserID) string {
		if user == nil {
			return ""
		}
		return string(*user)
	}
	return []cell{
		plain(string(g.Instance)), plain(string(g.User)), plain(string(g.Level)), instant(g.Since), moment(g.ExpiresAt),
		plain(orNone(g.OfUser)), plain(orEmpty(g.OfOrg)), plain(orNone(g.GivenBy)), plain(fmt.Sprint(g.Version)),
	}
}
