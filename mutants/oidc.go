package main

// issuerBugs accept what an issuer of tokens did not sign for us, or no longer stands.
var issuerBugs = []bug{
	{"a token of an issuer's for anybody is accepted", "account/issuer.go",
		`&oidc.Config{ClientID: o.Audience, `,
		`&oidc.Config{ClientID: o.Audience, SkipClientIDCheck: true, `,
		"account.TestATokenOfAnIssuer"},
	{"a token of any issuer is accepted that our keys sign", "account/issuer.go",
		`SkipExpiryCheck: true}`,
		`SkipExpiryCheck: true, SkipIssuerCheck: true}`,
		"account.TestAClaimNamesWhoComes"},
	{"a key that the issuer withdrew is accepted on", "account/issuerkeys.go",
		`		clear(i.verified)
	}
	return nil
`, `	}
	return nil
`,
		"account.TestTheIssuersKeysChange"},
	{"a token of an issuer's outlives who it stands for", "account/issuer.go",
		`c.User, c.Scopes, c.Memberships = user, v.userMay, members
`,
		`c.User, c.Scopes, c.Memberships, there = user, v.userMay, members, true
`,
		"account.TestWhoComesByAnIssuerIsDeleted"},
	{"a token of an issuer's lives as long as it says", "account/issuer.go",
		`life <= 0 || life > MaxTokenLife`,
		`life <= 0`,
		"account.TestATokenOfAnIssuer"},
	{"a logout is a token", "account/issuerkeys.go",
		`t != "jwt" && t != "at+jwt"`,
		`t == ""`,
		"account.TestATokenOfAnIssuer"},
	{"keys of an issuer that is away never age", "account/issuerkeys.go",
		`!i.fetched.IsZero() && now.Sub(i.fetched) <= maxStale`,
		`!i.fetched.IsZero()`,
		"account.TestTheIssuersKeysChange"},
	{"the issuer's answers have no end", "account/issuerkeys.go",
		`http.MaxBytesReader(nil, answer.Body, maxAnswer)`,
		`http.MaxBytesReader(nil, answer.Body, maxAnswer<<20)`,
		"account.TestAnIssuerThatLies"},
	{"a token that an issuer signed is not hidden", "access.go",
		`strings.Contains(s, "eyJ")`,
		`strings.Contains(s, "eyJ.")`,
		"odometer.TestSecretsAreHidden"},
}
