package api

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"example.org/odometer"
	"example.org/odometer/account"
)

// TestWhoComesFromAnIssuer is known as the user who he is here, does what that user
// may, and is named in the audit log by his identity. His token is in no answer and in
// no line of the log.
func TestWhoComesFromAnIssuer(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var idp *httptest.Server
	idp = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1"}}})
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"issuer": idp.URL, "jwks_uri": idp.URL + "/keys"})
	}))
	defer idp.Close()
	var log bytes.Buffer
	f := NewFixture(t)
	f.Deps.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	issuer, err := account.NewIssuer(f.Accounts, account.IssuerOptions{URL: idp.URL, Audience: "odometer", Clock: f.Deps.Clock})
	if err != nil {
		t.Fatal(err)
	}
	go issuer.Run(t.Context())
	f.Deps.Auth = Authenticators{Tokens{HashToken("admin", "secret")}, f.Accounts, issuer}
	h := serverOf(t, f.Deps)
	if _, err := f.Accounts.CreateUser(t.Context(), byHand, odometer.Once{}, odometer.User{ID: "u-ada", Name: "Ada"}); err != nil {
		t.Fatal(err)
	}
	const content = "Content-Type"
	made := send(h, "POST", "/api/v1/users/u-ada/identities", `{"issuer":"`+idp.URL+`","subject":"s-17"}`, "Authorization", "Bearer secret", content, odometer.ContentJSON)
	var who Identity
	if err := json.Unmarshal(made.Body.Bytes(), &who); made.Code != http.StatusCreated || err != nil {
		t.Fatalf("got %d %s, %v", made.Code, made.Body, err)
	}
	if w := send(h, "POST", "/api/v1/users/u-ada/identities", `{"issuer":"login","subject":""}`, "Authorization", "Bearer secret", content, odometer.ContentJSON); w.Code != 400 ||
		!strings.Contains(w.Body.String(), "$.issuer") || !strings.Contains(w.Body.String(), "$.subject") {
		t.Errorf("what is no identity: got %d %s", w.Code, w.Body)
	}
	token := func(subject string) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
		if err != nil {
			t.Fatal(err)
		}
		claims, _ := json.Marshal(map[string]any{"iss": idp.URL, "aud": "odometer", "sub": subject, "iat": Now.Unix(), "exp": Now.Unix() + 600})
		jws, err := signer.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		text, err := jws.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	ada, stranger := token("s-17"), token("s-18")
	ask := func(secret, method, target, body string) *httptest.ResponseRecorder {
		return send(h, method, target, body, "Authorization", "Bearer "+secret, content, odometer.ContentJSON, "If-Match", "*")
	}
	for end := time.Now().Add(30 * time.Second); ask(ada, "GET", "/api/v1/me", "").Code != 200; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("got him refused for 30 s")
		}
	}
	me := ask(ada, "GET", "/api/v1/me", "").Body.String()
	for _, part := range []string{`"id":"` + string(who.ID) + `"`, `"user_id":"u-ada"`, `"expires_at":"2026-01-02T15:14:05Z"`} {
		if !strings.Contains(me, part) {
			t.Errorf("got %s, want %s in it", me, part)
		}
	}
	for _, c := range []struct {
		secret, method, target, body string
		want                         int
	}{
		{ada, "PUT", "/api/v1/users/u-ada", `{"name":"Ada King"}`, 200},
		{ada, "GET", "/api/v1/users/u-ada/identities", "", 200},
		{ada, "POST", "/api/v1/users/u-ada/identities", `{"issuer":"` + idp.URL + `","subject":"s-18"}`, 403},
		{ada, "POST", "/api/v1/tokens", `{"name":"long","scopes":["read"],"expires_at":"+1h"}`, 403},
		{ada, "POST", "/api/v1/tokens", `{"name":"short","scopes":["read"],"expires_at":"+5m"}`, 201},
		{ada, "GET", "/api/v1/instances/" + ada, "", 400},
		{ada, "GET", "/api/v1/status", "", 403},
		{stranger, "GET", "/api/v1/me", "", 401},
		{ada + "x", "GET", "/api/v1/me", "", 401},
	} {
		w := ask(c.secret, c.method, c.target, c.body)
		if w.Code != c.want {
			t.Errorf("%s %.40s: got %d %s, want %d", c.method, c.target, w.Code, w.Body, c.want)
		}
		if answer := w.Body.String(); strings.Contains(answer, ada[:30]) || strings.Contains(answer, strings.Split(ada, ".")[1][:30]) {
			t.Errorf("%s %.40s: the answer repeats the token", c.method, c.target)
		}
	}
	list, err := f.Accounts.AuditLog(t.Context(), 0, 2)
	if err != nil || list[1].Action != odometer.ActionUserUpdate || list[1].Token != who.ID || list[1].User != "u-ada" {
		t.Errorf("got the log %+v, %v, want it with his identity", list, err)
	}
	if _, err := f.Accounts.DeleteUser(t.Context(), byHand, "u-ada", odometer.AnyVersion); err != nil {
		t.Fatal(err)
	}
	if w := ask(ada, "GET", "/api/v1/me", ""); w.Code != 401 {
		t.Errorf("who is deleted: got %d", w.Code)
	}
	if text := log.String(); strings.Contains(text, ada[:30]) || strings.Contains(text, strings.Split(ada, ".")[1]) {
		t.Error("the log has a token in it")
	}
}
