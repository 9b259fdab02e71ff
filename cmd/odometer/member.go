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

func newOrgMember(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "member", Short: "Who is a member of an organisation, and as what", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newMemberAdd(s), newMemberList(s), newMemberSet(s), newMemberRemove(s))
	return parent
}

// roleHelp is what the roles are, for a person.
const roleHelp = `  owner    everything, owners and deletion among it
  admin    the usage of all, the name, members but owners
  billing  the usage of all
  member   what is his own
`

// newMemberOne makes a command that does something with one member and shows it.
func newMemberOne(s streams, c *peopleConfig, use, short, long string, withRole bool, do func(context.Context, *client.Client, odometer.OrgID, odometer.UserID) (api.Member, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: use + " ORG USER", Short: short, Long: long,
		Args: arguments(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			org, user := odometer.OrgID(args[0]), odometer.UserID(args[1])
			bad := errors.Join(wrong("ORG", odometer.ValidOrgID(org)), wrong("USER", odometer.ValidUserID(user)))
			if withRole {
				bad = errors.Join(bad, wrong("--role", odometer.ValidRole(odometer.Role(c.Role))))
			}
			if bad != nil {
				return misuse(bad)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			m, err := do(cmd.Context(), server, org, user)
			if err != nil {
				return stale(err)
			}
			return show(c, s, m, memberColumns, memberCells(&m))
		},
		ValidArgsFunction: c.completeMember,
	}
	if withRole {
		cmd.Flags().StringVar(&c.Role, "role", "", "owner, admin, billing or member")
		cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]cobra.Completion{
			string(odometer.RoleOwner), string(odometer.RoleAdmin), string(odometer.RoleBilling), string(odometer.RoleMember),
		}, cobra.ShellCompDirectiveNoFileComp))
	}
	c.common(cmd.Flags(), s)
	return cmd
}

func newMemberAdd(s streams) *cobra.Command {
	var c peopleConfig
	return newMemberOne(s, &c, "add", "Make a user a member of an organisation", `Make a user a member of an organisation, as

`+roleHelp+`
Owners and admins add whom they see in any of their organisations; anybody else is
added by the administrator.`, true,
		func(ctx context.Context, server *client.Client, org odometer.OrgID, user odometer.UserID) (api.Member, error) {
			return server.AddMember(ctx, org, api.MemberRequest{User: user, MemberChange: api.MemberChange{Role: odometer.Role(c.Role)}})
		})
}

func newMemberSet(s streams) *cobra.Command {
	var c peopleConfig
	return newMemberOne(s, &c, "set", "Give a member another role", `Give a member another role:

`+roleHelp+`
The last owner of an organisation stays one.`, true,
		func(ctx context.Context, server *client.Client, org odometer.OrgID, user odometer.UserID) (m api.Member, err error) {
			if m, err = server.Member(ctx, org, user); err != nil {
				return m, err
			}
			return server.SetMember(ctx, org, user, m.Version, odometer.Role(c.Role))
		})
}

func newMemberRemove(s streams) *cobra.Command {
	var c peopleConfig
	return newMemberOne(s, &c, "remove", "End a membership, at once", `End a membership, at once: the user no longer sees what is the organisation's. What
is his own he still sees. Everybody may end his own. The last owner of an organisation
stays.`, false,
		func(ctx context.Context, server *client.Client, org odometer.OrgID, user odometer.UserID) (m api.Member, err error) {
			if m, err = server.Member(ctx, org, user); err != nil {
				return m, err
			}
			return server.RemoveMember(ctx, org, user, m.Version)
		})
}

func newMemberList(s streams) *cobra.Command {
	var c peopleConfig
	cmd := &cobra.Command{
		Use:   "list ORG",
		Short: "List the members of an organisation that the token sees",
		Long: `List the members of an organisation that the token sees, in the order of their ids:
its owners and admins see all, everybody himself.`,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			org := odometer.OrgID(args[0])
			if err := wrong("ORG", odometer.ValidOrgID(org)); err != nil {
				return misuse(err)
			}
			if err := c.checkLimit(); err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := allMembers(cmd.Context(), server, org, c.Limit)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return printList(s, fmt.Sprintf("No member of %s is seen: odometer org member add %[1]s USER --role ROLE", printable(args[0])), memberColumns, answer.Members, memberCells)
		},
		ValidArgsFunction: c.completeOrg,
	}
	cmd.Flags().IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	c.common(cmd.Flags(), s)
	return cmd
}

func allMembers(ctx context.Context, server *client.Client, org odometer.OrgID, limit int) (a api.MembersAnswer, err error) {
	a.Members, a.Next, err = pagesOf(limit, func(after string, most int) ([]api.Member, *string, error) {
		page, err := server.Members(ctx, org, after, most)
		return page.Members, page.Next, err
	})
	return a, err
}

// completeMember completes an organisation and then a user.
func (c *serverFlags) completeMember(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return c.completeUser(cmd, nil, word)
	}
	return c.completeOrg(cmd, args, word)
}

var memberColumns = []column{
	{"ORG", "org_id", false}, {"USER", "user_id", false}, {"ROLE", "role", false}, {"VERSION", "version", true},
	{"CREATED", "created_at", false}, {"UPDATED", "updated_at", false},
}

// memberCells are the values of memberColumns.
func memberCells(m *api.Member) []cell {
	return []cell{plain(string(m.Org)), plain(string(m.User)), plain(string(m.Role)), plain(fmt.Sprint(m.Version)), instant(m.CreatedAt), instant(m.UpdatedAt)}
}
