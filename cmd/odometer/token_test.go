package main

import (
	"context"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/api"
)

// TestTokensForAPerson creates, lists, shows and revokes a token on a terminal.
func TestTokensForAPerson(t *testing.T) {
	accounts, err := account.OpenAccounts(t.Context(), account.AccountsOptions{Path: filepath.Join(t.TempDir(), ledgerFile)})
	if err != nil {
		t.Fatal(err)
	}
	defer accounts.Close()
	server := httptest.NewServer(api.NewServer(api.Deps{Auth: api.Tokens{api.HashToken("admin", "secret")}, Tokens: accounts, Audit: accounts}))
	defer server.Close()
	say := func(args ...string) string {
		t.Helper()
		var out, errs strings.Builder
		if code := run(context.Background(), append(args, "--server", server.URL, "--token", "secret"), streams{out: &out, err: &errs, outTTY: true, env: noEnv}); code != 0 {
			t.Fatalf("%v: exit code %d: %s", args, code, errs.String())
		}
		return out.String()
	}
	matches := func(what, got, want string) {
		t.Helper()
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: got\n%s\nwant it to match %s", what, got, want)
		}
	}
	matches("none", say("token", "list"), `^No token was created yet: odometer token create`)
	created := say("token", "create", "billing", "--scope", "read,events:write", "--expires", "90d")
	matches("created", created, `(?s)^id +tok_\w{16}\nname +billing\nuser +-\norg +-\nscopes +read, events:write\nstate +valid\n.*\nexpires +20.*\nlast used +-\nrevoked +-\ntoken +odm_\w{58}\nkeep it now: it is not shown again\n$`)
	id := regexp.MustCompile(`tok_\w{16}`).FindString(created)
	list := say("token", "list")
	matches("list", list, `(?m)^ID +NAME +USER +ORG +SCOPES +STATE +CREATED +BY +EXPIRES +LAST USED +REVOKED$`)
	matches("list", list, `(?m)^`+id+`  billing  -     -    read, events:write  valid  +20`)
	if shown := say("token", "show", id); strings.Contains(shown, "odm_") || !strings.HasPrefix(created, shown) {
		t.Errorf("show: got\n%s\nwant what was created, without the secret", shown)
	}
	matches("revoked", say("token", "revoke", id), `^`+id+` \(billing\) is revoked since 20`)
}

// pages answers with tokens by pages, as the server does.
type pages struct{ api.TokenAdmin }

func (pages) Tokens(_ context.Context, _ odometer.Caller, after odometer.TokenID, limit int) (list []odometer.Token, err error) {
	for n := range 2500 {
		if id := odometer.TokenID(fmt.Sprintf("tok_%s", letters(n))); id > after && len(list) < limit {
			list = append(list, odometer.Token{ID: id, Name: "t", Scopes: []odometer.Scope{odometer.ScopeRead}})
		}
	}
	return list, nil
}

// letters writes a number in 16 letters.
func letters(n int) string {
	b := []byte("aaaaaaaaaaaaaaaa")
	for i := len(b) - 1; n > 0; i-- {
		b[i] += byte(n % 26)
		n /= 26
	}
	return string(b)
}

func TestAllPagesOfTokensAreAskedFor(t *testing.T) {
	server := httptest.NewServer(api.NewServer(api.Deps{Auth: api.Tokens{api.HashToken("admin", "secret")}, Tokens: pages{}}))
	defer server.Close()
	c := newClient(server.URL, "secret", nil)
	for limit, want := range map[int]int{0: 2500, 1: 1, 1000: 1000, 1001: 1001, 2500: 2500, 9999: 2500} {
		all, err := allTokens(t.Context(), c, limit)
		if err != nil || len(all.Tokens) != want || (all.Next != nil) != (want < 2500) {
			t.Errorf("limit %d: got %d tokens, next %v, %v, want %d", limit, len(all.Tokens), all.Next, err, want)
		}
	}
}
