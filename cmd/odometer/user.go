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

func newUser(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "user", Short: "Users, who see what they used", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newUserCreate(s), newUserList(s), newUserShow(s), newUserUpdate(s), newUserDelete(s), newUserIdentity(s))
	return parent
}

func newUserCreate(s streams) *cobra.Command {
	var c peopleConfig
	cmd := &cobra.Command{
		Use:   "create ID",
		Short: "Create a user",
		Long: `Create a user. ID is what usage names as its user, as --user-id of an agent does, and
is for good: what was used under it stays the user's own, also when he is deleted.
Name and address can be changed and erased. The user asks the server with a token:
odometer token create NAME --user ID.`,
		Example: `  odometer user create u-ada --name "Ada Lovelace" --email ada@example.org`,
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ask := api.UserRequest{ID: odometer.UserID(args[0]), UserChange: api.UserChange{Name: c.Name, Email: c.Email}}
			if ask.Name == "" {
				ask.Name = args[0]
			}
			if bad := errors.Join(wrong("ID", odometer.ValidUserID(ask.ID)), wrong("--name", odometer.ValidName(ask.Name)), wrong("--email", odometer.ValidEmail(c.Email))); bad != nil {
				return misuse(bad)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			u, err := server.CreateUser(cmd.Context(), ask)
			if err != nil {
				return err
			}
			return show(&c, s, u, userColumns, userCells(&u))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&c.Name, "name", "", "for people (default: ID)")
	cmd.Flags().StringVar(&c.Email, "email", "", "e-mail address")
	c.common(cmd.Flags(), s)
	return cmd
}

func newUserList(s streams) *cobra.Command {
	var c peopleConfig
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the users that the token sees",
		Long: `List the users that the token sees, in the order of their ids: the administrator's
all, a user's himself.`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.checkLimit(); err != nil {
				return err
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := allUsers(cmd.Context(), server, c.Limit)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return printList(s, "There is no user yet: odometer user create ID --name NAME", userColumns, answer.Users, userCells)
		},
	}
	cmd.Flags().IntVar(&c.Limit, "limit", 0, "at most so many; 0 for all")
	c.common(cmd.Flags(), s)
	return cmd
}

func allUsers(ctx context.Context, server *client.Client, limit int) (a api.UsersAnswer, err error) {
	a.Users, a.Next, err = pagesOf(limit, func(after string, most int) ([]api.User, *string, error) {
		page, err := server.Users(ctx, after, most)
		return page.Users, page.Next, err
	})
	return a, err
}

// newUserOne makes a command that does something with one user and shows him.
func newUserOne(s streams, c *peopleConfig, use, short, long string, do func(*cobra.Command, *client.Client, odometer.UserID) (api.User, error)) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Args: arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := odometer.UserID(args[0])
			if err := wrong("ID", odometer.ValidUserID(id)); err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			u, err := do(cmd, server, id)
			if err != nil {
				return stale(err)
			}
			return show(c, s, u, userColumns, userCells(&u))
		},
		ValidArgsFunction: c.completeUser,
	}
}

func newUserShow(s streams) *cobra.Command {
	var c peopleConfig
	cmd := newUserOne(s, &c, "show ID", "Show one user", `Show one user. The administrator is shown one that is deleted, too.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.UserID) (api.User, error) {
			return server.User(cmd.Context(), id)
		})
	c.common(cmd.Flags(), s)
	return cmd
}

func newUserUpdate(s streams) *cobra.Command {
	var c peopleConfig
	cmd := newUserOne(s, &c, "update ID", "Give a user another name or address", `Give a user another name or address; what is not named stays. The administrator does,
and the user himself. --email "" erases the address.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.UserID) (u api.User, err error) {
			named, mailed := cmd.Flags().Changed("name"), cmd.Flags().Changed("email")
			bad := wrong("--email", odometer.ValidEmail(c.Email))
			if named {
				bad = errors.Join(wrong("--name", odometer.ValidName(c.Name)), bad)
			}
			if !named && !mailed {
				bad = errors.New("nothing is to be changed; --name or --email says what")
			}
			if bad != nil {
				return u, misuse(bad)
			}
			if u, err = server.User(cmd.Context(), id); err != nil {
				return u, err
			}
			ask := api.UserChange{Name: u.Name, Email: u.Email}
			if named {
				ask.Name = c.Name
			}
			if mailed {
				ask.Email = c.Email
			}
			return server.UpdateUser(cmd.Context(), id, u.Version, ask)
		})
	cmd.Flags().StringVar(&c.Name, "name", "", "the user's other name")
	cmd.Flags().StringVar(&c.Email, "email", "", "the user's other e-mail address")
	c.common(cmd.Flags(), s)
	return cmd
}

func newUserDelete(s streams) *cobra.Command {
	var c peopleConfig
	cmd := newUserOne(s, &c, "delete ID", "Delete a user, for good", `Delete a user, for good: tokens are revoked and memberships end, at once. Name and
address are erased; the id stays taken and the usage stays as it is. The last owner of
an organisation is not deleted: make another one first.`,
		func(cmd *cobra.Command, server *client.Client, id odometer.UserID) (u api.User, err error) {
			if u, err = server.User(cmd.Context(), id); err != nil {
				return u, err
			}
			return server.DeleteUser(cmd.Context(), id, u.Version)
		})
	c.common(cmd.Flags(), s)
	return cmd
}

// completeUser completes the id of a user.
func (c *serverFlags) completeUser(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.complete(cmd.Context(), func(ctx context.Context, server *client.Client) (words []string, err error) {
		page, err := server.Users(ctx, "", api.MaxPage)
		for _, u := range page.Users {
			words = append(words, cobra.CompletionWithDesc(string(u.ID), u.Name))
		}
		return words, err
	})
}

var userColumns = []column{
	{"ID", "id", false}, {"NAME", "name", false}, {"E-MAIL", "email", false}, {"VERSION", "version", true},
	{"CREATED", "created_at", false}, {"UPDATED", "updated_at", false}, {"DELETED", "deleted_at", false},
}

// userCells are the values of userColumns.
func userCells(u *api.User) []cell {
	return []cell{plain(string(u.ID)), plain(u.Name), plain(u.Email), plain(fmt.Sprint(u.Version)), instant(u.CreatedAt), instant(u.UpdatedAt), moment(u.DeletedAt)}
}
