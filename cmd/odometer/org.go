package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// peopleConfig is what `odometer org` and `odometer user` are told.
type peopleConfig struct {
	serverFlags
	Name  string
	Email string
	Owner string
	Role  string
	Limit int
	JSON  bool
}

// common registers what every command about people has.
func (c *peopleConfig) common(flags *pflag.FlagSet, s streams) {
	flags.SortFlags = false
	flags.BoolVar(&c.JSON, "json", false, "as JSON")
	c.register(flags, s.env)
}

// wrong says what is wrong with an argument or a flag, without the kind of error.
func wrong(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s", what, whyNot(err))
}

// show prints one thing as JSON, for a program, or in lines.
func show[T any](c *peopleConfig, s streams, v T, columns []column, cells []cell) error {
	if c.JSON {
		return printJSON(s.out, v)
	}
	return printLines(s, columns, cells)
}

// pagesOf returns as much of a list as limit says, 0 for all, and where it goes on.
func pagesOf[T any](limit int, ask func(after string, most int) ([]T, *string, error)) ([]T, *string, error) {
	all := []T{}
	for after := ""; ; {
		most := api.MaxPage
		if limit > 0 {
			most = min(limit-len(all), api.MaxPage)
		}
		page, next, err := ask(after, most)
		if err != nil {
			return all, nil, err
		}
		all = append(all, page...)
		if next == nil || len(all) == limit {
			return all, next, nil
		}
		after = *next
	}
}

// checkLimit refuses a number that is no limit.
func (c *peopleConfig) checkLimit() error {
	if c.Limit < 0 {
		return misuse(fmt.Errorf("--limit %d: a number from 1, or 0 for all", c.Limit))
	}
	return nil
}

// stale says what to do where somebody else was faster.
func stale(err error) error {
	if errors.Is(err, odometer.ErrStale) {
		return advise(err, "look at what it is now, and try again")
	}
	return err
}

func newOrg(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "org", Short: "Organisations and their members", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newOrgCreate(s), newOrgList(s), newOrgShow(s), newOrgUpdate(s), newOrgDelete(s), newOrgMember(s))
	return parent
}

func newOrgCreate(s streams) *cobra.Command {
	var c peopleConfig
	cmd := &cobra.Command{
		Use:   "create ID",
		Short: "Create an organisation",
		Long: `Create an organisation. ID is what usage names as its organisation, as --org-id of
an agent does, and is for good: what was used under it stays its own, also when it
is deleted. Its members see its usage as their roles say (docs/access.md).`,
		Example: `  odometer org create acme --name "Acme & Co" --owner u-ada`,
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask := api.OrganisationRequest{ID: odometer.OrgID(args[0]), Name: c.Name, Owner: odometer.UserID(c.Owner)}
			if ask.Name == "" {
				ask.Name = args[0]
			}
			bad := errors.Join(wrong("ID", odometer.ValidOrgID(ask.ID)), wrong("--name", odometer.ValidName(ask.Name)))
			if c.Owner != "" {
				bad = errors.Join(bad, wrong("--owner", odometer.ValidUserID(ask.Owner)))
			}
			if bad != nil {
				return misuse(bad)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			o, err := server.CreateOrganisation(cmd.Context(), ask)
			if err != nil {
				return err
			}
			return show(&c, s, o, orgColumns, orgCells(&o))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&c.Name, "name", "", "for people (default: ID)")
	cmd.Flags().StringVar(&c.Owner, "owner", "", "the user who is its first owner")
	c.common(cmd.Flags(), s)
	cmd.RegisterFlagCompletionFunc("owner", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return c.completeUser(cmd, nil, "")
	})
	return cmd
}

func newOrgList(s streams) *cobra.Command {
	var c peopleConfig
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the organisations that the token sees",
		Long: `List the organisations that the token sees, in the order of their ids: the
administrator's all, a user's those that he is a member of.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.checkLimit(); err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := allOrgs(cmd.Context(), server, c.Limit)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return printList(s, "There is no organisation yet: odometer org create ID --name NAME --owner USER", orgColumns, answer.Organisations, orgCells)
		},
	}
	cmd.Flags().IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	c.common(cmd.Flags(), s)
	return cmd
}

func allOrgs(ctx context.Context, server *client.Client, limit int) (a api.OrganisationsAnswer, err error) {
	a.Organisations, a.Next, err = pagesOf(limit, func(after string, most int) ([]api.Organisation, *string, error) {
		page, err := server.Organisations(ctx, after, most)
		return page.Organisations, page.Next, err
	})
	return a, err
}

// newOrgOne makes a command that does something with one organisation and shows
// it.
func newOrgOne(s streams, c *peopleConfig, use, short, long string, do func(context.Context, *client.Client, odometer.OrgID) (api.Organisation, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := odometer.OrgID(args[0])
			if err := wrong("ID", odometer.ValidOrgID(id)); err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			o, err := do(cmd.Context(), server, id)
			if err != nil {
				return stale(err)
			}
			return show(c, s, o, orgColumns, orgCells(&o))
		},
		ValidArgsFunction: c.completeOrg,
	}
	return cmd
}

func newOrgShow(s streams) *cobra.Command {
	var c peopleConfig
	cmd := newOrgOne(s, &c, "show ID", "Show one organisation", `Show one organisation. The administrator is shown one that is deleted, too.`,
		func(ctx context.Context, server *client.Client, id odometer.OrgID) (api.Organisation, error) {
			return server.Organisation(ctx, id)
		})
	c.common(cmd.Flags(), s)
	return cmd
}

func newOrgUpdate(s streams) *cobra.Command {
	var c peopleConfig
	cmd := newOrgOne(s, &c, "update ID", "Give an organisation another name", `Give an organisation another name. Its owners and admins do, and the administrator.`,
		func(ctx context.Context, server *client.Client, id odometer.OrgID) (o api.Organisation, err error) {
			if err := wrong("--name", odometer.ValidName(c.Name)); err != nil {
				return o, misuse(err)
			}
			if o, err = server.Organisation(ctx, id); err != nil {
				return o, err
			}
			return server.UpdateOrganisation(ctx, id, o.Version, api.OrganisationChange{Name: c.Name})
		})
	cmd.Flags().StringVar(&c.Name, "name", "", "its other name")
	c.common(cmd.Flags(), s)
	return cmd
}

func newOrgDelete(s streams) *cobra.Command {
	var c peopleConfig
	cmd := newOrgOne(s, &c, "delete ID", "Delete an organisation, for good", `Delete an organisation, for good: nobody is its member any more, and tokens that are
bound to it are revoked, at once. Its name is erased; its id stays taken and its usage
stays as it is. Its owners do, and the administrator.`,
		func(ctx context.Context, server *client.Client, id odometer.OrgID) (o api.Organisation, err error) {
			if o, err = server.Organisation(ctx, id); err != nil {
				return o, err
			}
			return server.DeleteOrganisation(ctx, id, o.Version)
		})
	c.common(cmd.Flags(), s)
	return cmd
}

// completeOrg completes the id of an organisation.
func (c *serverFlags) completeOrg(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
		page, err := server.Organisations(ctx, "", api.MaxPage)
		for _, o := range page.Organisations {
			words = append(words, cobra.CompletionWithDesc(string(o.ID), o.Name))
		}
		return words, err
	})
}

var orgColumns = []column{
	{"ID", "id", false}, {"NAME", "name", false}, {"VERSION", "version", true},
	{"CREATED", "created_at", false}, {"UPDATED", "updated_at", false}, {"DELETED", "deleted_at", false},
}

// orgCells are the values of orgColumns.
func orgCells(o *api.Organisation) []cell {
	return []cell{plain(string(o.ID)), plain(o.Name), plain(fmt.Sprint(o.Version)), instant(o.CreatedAt), instant(o.UpdatedAt), moment(o.DeletedAt)}
}
