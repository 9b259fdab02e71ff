package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/api"
)

func newUserIdentity(s streams) *cobra.Command {
	parent := &cobra.Command{Use: "identity", Short: "Who a user is to an OpenID issuer", Args: cobra.ArbitraryArgs, RunE: group}
	parent.AddCommand(newIdentityAdd(s), newIdentityList(s), newIdentityRemove(s))
	return parent
}

func newIdentityAdd(s streams) *cobra.Command {
	var c peopleConfig
	var ask api.IdentityRequest
	cmd := &cobra.Command{
		Use:   "add USER",
		Short: "Say which user somebody is to whom an issuer gives tokens",
		Long: `Say which user somebody is to whom an OpenID issuer gives tokens. A token of the
issuer's that names the subject stands for the user from then on, where the server
accepts the issuer's tokens: odometer serve --oidc-issuer.`,
		Example: `  odometer user identity add u-ada --issuer https://login.example.org --subject 248289761001`,
		Args:    arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			user := odometer.UserID(args[0])
			if bad := errors.Join(wrong("USER", odometer.ValidUserID(user)), wrong("--issuer", odometer.ValidIssuer(ask.Issuer)), wrong("--subject", odometer.ValidSubject(ask.Subject))); bad != nil {
				return misuse(bad)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			i, err := server.AddIdentity(cmd.Context(), user, ask)
			if err != nil {
				return err
			}
			return show(&c, s, i, identityColumns, identityCells(&i))
		},
		ValidArgsFunction: c.completeUser,
	}
	cmd.Flags().StringVar(&ask.Issuer, "issuer", "", "the address by which the issuer calls itself: iss of its tokens")
	cmd.Flags().StringVar(&ask.Subject, "subject", "", "what it calls the user: sub of its tokens")
	c.common(cmd.Flags(), s)
	return cmd
}

func newIdentityList(s streams) *cobra.Command {
	var c peopleConfig
	cmd := &cobra.Command{
		Use:   "list USER",
		Short: "List who a user is to issuers of tokens",
		Long:  `List who a user is to issuers of tokens, by issuer and subject.`,
		Args:  arguments(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			user := odometer.UserID(args[0])
			if err := wrong("USER", odometer.ValidUserID(user)); err != nil {
				return misuse(err)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			answer, err := server.Identities(cmd.Context(), user)
			if err != nil {
				return err
			}
			if c.JSON {
				return printJSON(s.out, answer)
			}
			return printList(s, fmt.Sprintf("There is none yet: odometer user identity add %s --issuer URL --subject SUBJECT", printable(args[0])), identityColumns, answer.Identities, identityCells)
		},
		ValidArgsFunction: c.completeUser,
	}
	c.common(cmd.Flags(), s)
	return cmd
}

func newIdentityRemove(s streams) *cobra.Command {
	var c peopleConfig
	cmd := &cobra.Command{
		Use:   "remove USER ID",
		Short: "End that a user is somebody to an issuer, at once",
		Long: `End that a user is somebody to an issuer, at once: tokens of the issuer's that name
the subject do not stand for the user any more. ID is as the list has it.`,
		Args: arguments(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			user := odometer.UserID(args[0])
			if bad := errors.Join(wrong("USER", odometer.ValidUserID(user)), wrong("ID", odometer.ValidTokenID(args[1]))); bad != nil {
				return misuse(bad)
			}
			server, err := c.client()
			if err != nil {
				return err
			}
			i, err := server.RemoveIdentity(cmd.Context(), user, odometer.TokenID(args[1]))
			if err != nil {
				return err
			}
			return show(&c, s, i, identityColumns, identityCells(&i))
		},
		ValidArgsFunction: c.completeUser,
	}
	c.common(cmd.Flags(), s)
	return cmd
}

var identityColumns = []column{
	{"ID", "id", false}, {"USER", "user_id", false}, {"ISSUER", "issuer", false}, {"SUBJECT", "subject", false}, {"CREATED", "created_at", false}, {"CREATED BY", "created_by", false},
}

// identityCells are the values of identityColumns.
func identityCells(i *api.Identity) []cell {
	return []cell{plain(string(i.ID)), plain(string(i.User)), plain(i.Issuer), plain(i.Subject), instant(i.CreatedAt), plain(i.CreatedBy)}
}
