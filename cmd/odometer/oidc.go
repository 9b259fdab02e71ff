package main

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"example.org/odometer"
)

// oidcFlags say which OpenID issuer's tokens a server accepts beside its own.
type oidcFlags struct {
	Issuer    string // "" for none
	Audience  string // whom its tokens must be meant for
	UserClaim string // that names a user; "" where identities alone decide
	OrgClaim  string // that names an organisation, of whom is no user; "" for none
}

func (c *oidcFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.Issuer, "oidc-issuer", "", "accept tokens of this OpenID issuer, https://…, too")
	flags.StringVar(&c.Audience, "oidc-audience", "", "whom its tokens must be meant for: aud, such as the id that this server has there")
	flags.StringVar(&c.UserClaim, "oidc-user-claim", "", "the claim that is the id of a user (default: none; odometer user identity add says who is whom)")
	flags.StringVar(&c.OrgClaim, "oidc-org-claim", "", "the claim that is the id of an organisation, in tokens that name no user (default: none)")
}

// check returns all that is wrong.
func (c *oidcFlags) check() error {
	var errs []error
	if c.Issuer == "" {
		for name, value := range map[string]string{"oidc-audience": c.Audience, "oidc-user-claim": c.UserClaim, "oidc-org-claim": c.OrgClaim} {
			if value != "" {
				errs = append(errs, fmt.Errorf("--%s is for tokens of an issuer; --oidc-issuer names none", name))
			}
		}
		return errors.Join(errs...)
	}
	if err := odometer.ValidIssuer(c.Issuer); err != nil {
		errs = append(errs, fmt.Errorf("--oidc-issuer: %s", whyNot(err)))
	}
	if c.Audience == "" {
		errs = append(errs, errors.New("--oidc-audience is missing: without it a token that the issuer gave for any other service would be accepted"))
	}
	if c.UserClaim != "" && c.UserClaim == c.OrgClaim {
		errs = append(errs, errors.New("--oidc-user-claim and --oidc-org-claim name the same claim"))
	}
	return errors.Join(errs...)
}
