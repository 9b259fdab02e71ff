package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"example.org/odometer"
)

// hostKey is a host's key pair.
func hostKey(t *testing.T) (nkeys.KeyPair, odometer.Key) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pair, odometer.Key(public)
}

// enrolBody is what a host sends that wants to be let in.
func enrolBody(t *testing.T, pair nkeys.KeyPair, key odometer.Key, agent odometer.AgentID, token *string) string {
	t.Helper()
	proof, err := pair.Sign(odometer.EnrolStatement(agent, key))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(EnrolRequest{Agent: agent, Key: key, Proof: base64.StdEncoding.EncodeToString(proof), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// keyPair is a key pair that is the same in every test.
type keyPair struct {
	pair   nkeys.KeyPair
	public odometer.Key
}

func exampleKey(n byte) keyPair {
	pair, err := nkeys.FromRawSeed(nkeys.PrefixByteUser, bytes.Repeat([]byte{n}, 32))
	if err != nil {
		panic(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		panic(err)
	}
	return keyPair{pair, odometer.Key(public)}
}

// proof is the signature by which who has the key shows that it wants to be agent.
func (k keyPair) proof(agent odometer.AgentID) []byte {
	proof, err := k.pair.Sign(odometer.EnrolStatement(agent, k.public))
	if err != nil {
		panic(err)
	}
	return proof
}

// letIn lets two hosts in and one consumer, and creates a one-time token for a
// third host. Their names begin with prefix.
func letIn(t *testing.T, f *Fixture, prefix string) {
	t.Helper()
	for n := range 3 {
		agent := odometer.AgentID(fmt.Sprint(prefix, "host-", n+1))
		_, secret, err := f.Accounts.CreateEnrolment(t.Context(), byHand, agent, false, Now.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if n == 2 {
			continue
		}
		key := exampleKey(byte(n + 1))
		if _, _, err := f.Accounts.Enrol(t.Context(), odometer.EnrolRequest{Agent: agent, Key: key.public, Proof: key.proof(agent), Secret: secret, Remote: "192.0.2.7"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.Accounts.CreateConsumer(t.Context(), byHand, prefix+"reports", "", exampleKey(4).public); err != nil {
		t.Fatal(err)
	}
}

// TestAHostIsEnrolledOverHTTP goes from the one-time token to the revocation.
func TestAHostIsEnrolledOverHTTP(t *testing.T) {
	f := NewFixture(t)
	var log bytes.Buffer
	f.Deps.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	rt := serverOf(t, f.Deps)
	call := func(pattern, path, body string, want int, says string) (answer string) {
		t.Helper()
		headers := []string{"Content-Type", "application/json"}
		if !strings.HasSuffix(path, "/enrol") {
			headers = append(headers, "Authorization", "Bearer secret")
		}
		method, _, _ := strings.Cut(pattern, " ")
		w := send(rt, method, path, body, headers...)
		answer = w.Body.String()
		if w.Code != want || !strings.Contains(answer, says) {
			t.Errorf("%s %s: got %d %s, want %d and %q", pattern, body, w.Code, answer, want, says)
		}
		return answer
	}
	const create, enrol, show, revoke, list = "POST /api/v1/enrolments", "POST /api/v1/hosts/enrol", "GET /api/v1/hosts/{id}", "DELETE /api/v1/hosts/{id}", "GET /api/v1/hosts"
	const enrolPath, createPath = "/api/v1/hosts/enrol", "/api/v1/enrolments"

	w := call(create, createPath, `{"agent_id":"host.7","expires_at":"+2h"}`, 201, `"state":"valid"`)
	var created CreatedEnrolment
	if err := json.Unmarshal([]byte(w), &created); err != nil {
		t.Fatal(err)
	}
	pair, key := hostKey(t)
	other, otherKey := hostKey(t)
	in := enrolBody(t, pair, key, "host.7", &created.Secret)
	call(enrol, enrolPath, enrolBody(t, pair, key, "host.8", &created.Secret), 403, "is for host host.7")
	w = call(enrol, enrolPath, in, 200, `"queue_url":"nats://127.0.0.1:4222"`)
	for _, again := range []string{in, enrolBody(t, pair, key, "host.7", nil)} {
		if got := call(enrol, enrolPath, again, 200, ""); got != w {
			t.Errorf("asked again: got %s, want %s", got, w)
		}
	}
	call(enrol, enrolPath, enrolBody(t, other, otherKey, "host.7", &created.Secret), 403, "not accepted")
	call(enrol, enrolPath, enrolBody(t, other, otherKey, "host.7", nil), 403, "not enrolled here")
	call("GET /api/v1/enrolments", createPath, "", 200, `"used_by":"host.7"`)

	call(create, createPath, `{"agent_id":"host.7"}`, 409, "is enrolled since")
	call(create, createPath, `{"agent_id":"host.7","replace":true}`, 201, `"replace":true`)
	call(create, createPath, `{"replace":true}`, 400, "$.replace")
	call(create, createPath, `{"agent_id":"a b"}`, 400, "$.agent_id")
	call(create, createPath, `{"expires_at":"-1h"}`, 400, "$.expires_at")
	call(create, createPath, `{"expires_at":"+90d"}`, 400, "30 days")
	call(create, createPath, `{"agent":"x"}`, 400, "unknown field")
	w = call(create, createPath, `{}`, 201, `"agent_id":null`)
	var open CreatedEnrolment
	if err := json.Unmarshal([]byte(w), &open); err != nil {
		t.Fatal(err)
	}
	call("DELETE /api/v1/enrolments/{id}", createPath+"/"+string(open.ID), "", 200, `"state":"revoked"`)
	call("DELETE /api/v1/enrolments/{id}", createPath+"/enr_aaaaaaaaaaaaaaaa", "", 404, "")
	call("DELETE /api/v1/enrolments/{id}", createPath+"/tok_aaaaaaaaaaaaaaaa", "", 400, "enr_")
	call(enrol, enrolPath, enrolBody(t, other, otherKey, "host.9", &open.Secret), 403, "not accepted")

	call(enrol, enrolPath, `{"agent_id":"a b","public_key":"U","proof":""}`, 400, "$.public_key")
	call(enrol, enrolPath, `{"agent_id":"a","public_key":"`+string(key)+`","proof":"?"}`, 400, "")
	call(enrol, enrolPath, `{"agent_id":"a","public_key":"`+string(key)+`","proof":""}`, 403, "not proven")
	call(enrol, enrolPath, `{"agent_id":"`+strings.Repeat("x", maxEnrolBytes)+`"}`, 413, "")
	call(enrol, enrolPath, ``, 400, "")

	call(list, "/api/v1/hosts?limit=1", "", 200, `"state":"enrolled"`)
	call(show, "/api/v1/hosts/host.7", "", 200, string(key))
	call(show, "/api/v1/hosts/host.8", "", 404, "")
	call(revoke, "/api/v1/hosts/host.8", "", 404, "")
	call(revoke, "/api/v1/hosts/host.7", "", 200, `"state":"revoked"`)
	call(revoke, "/api/v1/hosts/host.7", "", 200, `"state":"revoked"`)
	call(enrol, enrolPath, in, 403, "was revoked")
	call(show, "/api/v1/hosts/host.7", "", 200, `"state":"revoked"`)
	w = call("GET /api/v1/audit-log", "/api/v1/audit-log", "", 200, `"host host.7"`)

	for _, secret := range []string{created.Secret, open.Secret} {
		if strings.Contains(w, secret[4:]) || strings.Contains(log.String(), secret[4:]) {
			t.Error("got a secret in the audit log or in the log")
		}
	}
	f.Deps.Hosts = nil
	rt = serverOf(t, f.Deps)
	for pattern := range decisions {
		if strings.Contains(pattern, "/hosts") || strings.Contains(pattern, "/enrolments") {
			_, path := target(pattern)
			body := map[bool]string{true: in, false: ""}[path == enrolPath]
			call(pattern, path, body, 404, "accounts")
		}
	}
	f = NewFixture(t)
	f.Deps.QueueURL = nil
	rt = serverOf(t, f.Deps)
	call(enrol, enrolPath, in, 404, "queue that agents could reach")
}

// TestAConsumerIsCreatedOverHTTP and revoked.
func TestAConsumerIsCreatedOverHTTP(t *testing.T) {
	f := NewFixture(t)
	rt := serverOf(t, f.Deps)
	_, key := hostKey(t)
	call := func(pattern, path, body string, want int, says string) string {
		t.Helper()
		method, _, _ := strings.Cut(pattern, " ")
		w := send(rt, method, path, body, "Authorization", "Bearer secret", "Content-Type", "application/json")
		answer := w.Body.String()
		if w.Code != want || !strings.Contains(answer, says) {
			t.Errorf("%s %s: got %d %s, want %d and %q", pattern, body, w.Code, answer, want, says)
		}
		return answer
	}
	const create, list, revoke, path = "POST /api/v1/consumers", "GET /api/v1/consumers", "DELETE /api/v1/consumers/{id}", "/api/v1/consumers"
	call(list, path, "", 200, `{"consumers":[]}`)
	var made Consumer
	if err := json.Unmarshal([]byte(call(create, path, `{"name":"billing","org_id":"acme","public_key":"`+string(key)+`"}`, 201, `"org_id":"acme"`)), &made); err != nil {
		t.Fatal(err)
	}
	call(create, path, `{"name":"again","public_key":"`+string(key)+`"}`, 409, "another's")
	call(create, path, `{"name":"","org_id":"a b","public_key":"x"}`, 400, "$.public_key")
	call(create, path, ``, 400, "")
	call(list, path, "", 200, `"state":"valid"`)
	call(revoke, path+"/"+string(made.ID), "", 200, `"state":"revoked"`)
	call(revoke, path+"/con_aaaaaaaaaaaaaaaa", "", 404, "")
	call(revoke, path+"/x", "", 400, "con_")
	call(list, path, "", 200, `"state":"revoked"`)
	f.Deps.Consumers = nil
	rt = serverOf(t, f.Deps)
	call(list, path, "", 404, "accounts")
	call(create, path, `{}`, 404, "accounts")
	call(revoke, path+"/"+string(made.ID), "", 404, "accounts")
}

func TestHostsArePagedOverHTTP(t *testing.T) {
	f := NewFixture(t)
	for _, id := range []odometer.AgentID{"a", "b", "ç*"} {
		_, secret, err := f.Accounts.CreateEnrolment(t.Context(), byHand, id, false, Now.Add(1e9))
		if err != nil {
			t.Fatal(err)
		}
		pair, key := hostKey(t)
		if w := send(serverOf(t, f.Deps), "POST", "/api/v1/hosts/enrol", enrolBody(t, pair, key, id, &secret), "Content-Type", "application/json"); w.Code != 200 {
			t.Fatalf("enrol %s: got %d %s", id, w.Code, w.Body)
		}
	}
	var got []odometer.AgentID
	for path := "/api/v1/hosts?limit=2"; path != ""; {
		w := do(serverOf(t, f.Deps), "GET", path)
		var page HostsAnswer
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		for _, h := range page.Hosts {
			got = append(got, h.Agent)
		}
		if path = ""; page.Next != nil {
			path = strings.TrimSuffix(strings.TrimPrefix(w.Header().Get("Link"), "<"), `>; rel="next"`)
		}
	}
	if len(got) != 3 || got[0] != "a" || got[2] != "ç*" {
		t.Errorf("got %q, want all three", got)
	}
}
