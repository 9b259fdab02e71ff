package api

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// tenants is a server with two organisations, of which each has members of several
// roles with a machine each, a user of none, and a machine of nobody's. What is
// whose is told by canaries: texts that only who sees the object may be answered.
type tenants struct {
	*Fixture
	t      *testing.T
	h      checked
	log    bytes.Buffer
	tokens map[string]odometer.TokenID // of each user
	asks   []asker
	stated map[string]odometer.OrgID // statements

	violated map[string]odometer.InstanceID // violations of thresholds that are shared
	held     map[string]string              // violations of others, and whose threshold each is of
	told     map[string]string              // deliveries, after their channels
}

// asker is somebody who makes requests, and what he sees of each kind of object:
// all where it is *.
type asker struct {
	name   string
	secret string
	sees   map[string][]string // by kind
	blind  bool                // he may change what he sees, and not read it
}

func (a *asker) seesIt(kind, id string) bool {
	return slices.Contains(a.sees[kind], id) || slices.Contains(a.sees[kind], "*")
}

// machinesOf are the machines, by their owner.
var machinesOf = []struct {
	vm    odometer.InstanceID
	owner odometer.Owner
}{
	{"vm-o", odometer.Owner{User: "u-owner", Org: "acme"}},
	{"vm-a", odometer.Owner{User: "u-admin", Org: "acme"}},
	{"vm-b", odometer.Owner{User: "u-billing", Org: "acme"}},
	{"vm-m", odometer.Owner{User: "u-member", Org: "acme"}},
	{"vm-p", odometer.Owner{User: "u-plain"}},
	{"vm-y", odometer.Owner{User: "z-owner", Org: "zeta"}},
	{"vm-z", odometer.Owner{User: "z-member", Org: "zeta"}},
	{"vm-n", odometer.Owner{}},
}

func newTenants(t *testing.T) *tenants {
	w := &tenants{Fixture: NewFixture(t), t: t, tokens: map[string]odometer.TokenID{}, stated: map[string]odometer.OrgID{}, violated: map[string]odometer.InstanceID{}, held: map[string]string{}, told: map[string]string{}}
	w.Deps.Logger = slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	now := Now
	w.Deps.Clock = func() time.Time { return now }
	accounts := NewAccounts(t, w.Deps.Clock)
	w.Accounts, w.Deps.Tokens, w.Deps.People, w.Deps.Audit = accounts, accounts, accounts, accounts
	w.Deps.Hosts, w.Deps.Consumers, w.Deps.Grants, w.Deps.Identities = Office{accounts}, accounts, accounts, accounts
	w.Deps.Auth = Authenticators{Tokens{HashToken("admin", "secret")}, accounts}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	for _, org := range []odometer.OrgID{"acme", "zeta"} {
		_, err := accounts.CreateOrganisation(ctx, byHand, odometer.Once{}, odometer.Organisation{ID: org, Name: "canary-" + string(org)}, "")
		must(err)
	}
	roles := map[odometer.UserID]odometer.Role{"u-owner": "owner", "u-admin": "admin", "u-billing": "billing", "u-member": "member", "z-owner": "owner", "z-member": "member"}
	token := func(name string, whose odometer.Bound, expires time.Time, scopes ...odometer.Scope) (odometer.TokenID, string) {
		made, secret, err := accounts.CreateToken(ctx, byHand, odometer.Token{Name: name, Bound: whose, Scopes: scopes, Expires: expires})
		must(err)
		return made.ID, secret
	}
	add := func(name, secret string, sees map[string][]string) {
		w.asks = append(w.asks, asker{name: name, secret: secret, sees: sees})
	}
	for i, m := range machinesOf {
		user := m.owner.User
		if user != "" {
			_, err := accounts.CreateUser(ctx, byHand, odometer.Once{}, odometer.User{ID: user, Name: "canary-" + string(user), Email: "canary-" + string(user) + "@example.org"})
			must(err)
			if m.owner.Org != "" {
				_, err = accounts.AddMember(ctx, byHand, odometer.Once{}, odometer.Membership{Org: m.owner.Org, User: user, Role: roles[user]})
				must(err)
			}
		}
		canary := "canary-" + string(m.vm)
		first, second := SampleEvent(m.vm, 1, m.owner), SampleEvent(m.vm, 2, m.owner)
		first.Agent, second.Agent = odometer.AgentID(canary), odometer.AgentID(canary)
		first.Lifecycle = []odometer.Change{{Kind: odometer.ChangeStarted, At: odometer.Moment{Wall: first.Span.Start + int64(i)}, Detail: canary}}
		w.book(first)
		if m.owner.Org != "" {
			w.book(InDecember(first))
		}
		_, err := w.Assign(ctx, odometer.Ownership{Instance: m.vm, Owner: m.owner.OrUnassigned()}, "admin", canary, false)
		must(err)
		w.Hear(second, Now.Add(-time.Second))
		w.Describe(m.vm, odometer.AgentID(canary), odometer.Running, canary, "rack="+canary)
	}
	w.Describe("vm-z", "canary-vm-z-2", odometer.Running, "canary-vm-z") // in conflict
	december := odometer.MonthOf(Now.AddDate(0, -1, 0).UnixMicro())
	for _, org := range []odometer.OrgID{"acme", "zeta"} {
		closed, err := w.CloseMonth(ctx, odometer.MonthClose{Month: december, Org: &org, AcceptGaps: true, Actor: "admin", Cause: "it is over"})
		must(err)
		w.stated[closed.Statements[0].ID] = org
	}

	kept := w.keep()

	// Who holds a grant: of each level one, one who holds one on every machine, and one
	// to whom a machine of his organisation's was shown in its name.
	given := func(by odometer.Actor, user odometer.UserID, level odometer.Level, instances ...odometer.InstanceID) {
		for _, m := range machinesOf {
			if !slices.Contains(instances, m.vm) {
				continue
			}
			owns := odometer.Ownership{Instance: m.vm, Owner: m.owner.OrUnassigned(), Until: odometer.Forever}
			_, err := accounts.AddGrant(ctx, by, odometer.Once{}, owns, odometer.Grant{Instance: m.vm, User: user, Level: level, Since: Now.Add(-24 * time.Hour)})
			must(err)
		}
	}
	guests := map[odometer.UserID]struct {
		level      odometer.Level
		vms, lists []string // that he sees, and of which he sees every grant
	}{"g-watch": {odometer.LevelReadOnly, nil, nil}}
	for _, m := range machinesOf {
		g := guests["g-watch"]
		g.vms, g.lists = append(g.vms, string(m.vm)), append(g.lists, string(m.vm))
		guests["g-watch"] = g
	}
	for _, level := range odometer.Levels {
		g := guests["g-"+odometer.UserID(level)]
		if g.level, g.vms = level, []string{"vm-o"}; level.Gives(odometer.LevelReadOnly) {
			g.lists = g.vms
		}
		guests["g-"+odometer.UserID(level)] = g
	}
	for user, g := range guests {
		_, err := accounts.CreateUser(ctx, byHand, odometer.Once{}, odometer.User{ID: user, Name: "canary-" + string(user)})
		must(err)
		for _, vm := range g.vms {
			given(byHand, user, g.level, odometer.InstanceID(vm))
		}
		id, secret := token("of "+string(user), odometer.Bound{User: user}, time.Time{}, odometer.ScopeRead, odometer.ScopeAccount)
		w.tokens[string(user)] = id
		add("the guest "+string(user), secret, map[string][]string{"instance": g.vms, "granted": g.lists, "user": {string(user)}, "token": {string(id)}})
	}
	given(odometer.Actor{Caller: odometer.Caller{Bound: odometer.Bound{User: "u-owner"}, Scopes: []odometer.Scope{odometer.ScopeAccount}}}, "u-member", odometer.LevelOperator, "vm-a")

	all := []string{"vm-o", "vm-a", "vm-b", "vm-m"}
	members := []string{"u-owner", "u-admin", "u-billing", "u-member"}
	for user, c := range map[odometer.UserID]struct{ vms, orgs, members []string }{
		"u-owner": {all, []string{"acme"}, members}, "u-admin": {all, []string{"acme"}, members}, "u-billing": {all, []string{"acme"}, []string{"u-billing"}},
		"u-member": {[]string{"vm-m", "vm-a"}, []string{"acme"}, []string{"u-member"}}, "u-plain": {[]string{"vm-p"}, nil, nil},
		"z-owner": {[]string{"vm-y", "vm-z"}, []string{"zeta"}, []string{"z-owner", "z-member"}},
	} {
		id, secret := token("of "+string(user), odometer.Bound{User: user}, time.Time{}, odometer.ScopeRead, odometer.ScopeAccount)
		w.tokens[string(user)] = id
		lists := c.vms
		if user == "u-member" {
			lists = []string{"vm-m"}
		}
		holders := []string{"user:" + string(user)}
		if user != "u-member" { // whose role shows him nothing of what is the organisation's
			for _, org := range c.orgs {
				holders = append(holders, "org:"+org)
			}
		}
		sees := map[string][]string{"holder": holders, "instance": c.vms, "granted": lists, "org": c.orgs, "user": {string(user)}, "token": {string(id)}}
		for _, org := range c.orgs {
			for _, m := range c.members {
				sees["member"] = append(sees["member"], org+"/members/"+m)
			}
		}
		add("the user "+string(user), secret, sees)
	}
	_, service := token("service", odometer.Bound{Org: "acme"}, time.Time{}, odometer.ScopeRead)
	add("the service of acme", service, map[string][]string{"holder": {"org:acme"}, "instance": all, "granted": all, "org": {"acme"}})
	_, operators := token("operator's", odometer.Bound{}, time.Time{}, odometer.ScopeRead)
	add("the operator's service", operators, map[string][]string{"holder": {"*"}, "instance": {"*"}, "granted": {"*"}})
	_, reads := token("reads", odometer.Bound{User: "u-owner"}, time.Time{}, odometer.ScopeRead)
	add("an owner who only reads", reads, map[string][]string{"holder": {"user:u-owner", "org:acme"}, "instance": all, "granted": all, "org": {"acme"}, "user": {"u-owner"}, "member": {"acme/members/u-owner", "acme/members/u-admin", "acme/members/u-billing", "acme/members/u-member"}})
	_, changes := token("changes", odometer.Bound{User: "u-owner"}, time.Time{}, odometer.ScopeAccount)
	add("an owner without the scope read", changes, map[string][]string{"holder": {"user:u-owner", "org:acme"}, "instance": all, "granted": all, "org": {"acme"}, "user": {"u-owner"}, "token": {string(w.tokens["u-owner"])}, "member": {"acme/members/u-owner", "acme/members/u-admin", "acme/members/u-billing", "acme/members/u-member"}})
	w.asks[len(w.asks)-1].blind = true
	_, sends := token("sends", odometer.Bound{}, time.Time{}, odometer.ScopeWriteEvents)
	add("a sender of events", sends, map[string][]string{})
	_, expired := token("expired", odometer.Bound{User: "u-owner"}, Now.Add(time.Hour), odometer.ScopeRead, odometer.ScopeAccount)
	add("an expired token", expired, map[string][]string{})
	id, revoked := token("revoked", odometer.Bound{User: "u-owner"}, time.Time{}, odometer.ScopeRead, odometer.ScopeAccount)
	_, err := accounts.RevokeToken(ctx, byHand, id)
	must(err)
	add("a revoked token", revoked, map[string][]string{})
	_, err = accounts.CreateUser(ctx, byHand, odometer.Once{}, odometer.User{ID: "u-gone", Name: "canary-gone"})
	must(err)
	_, gone := token("gone", odometer.Bound{User: "u-gone"}, time.Time{}, odometer.ScopeRead, odometer.ScopeAccount)
	_, err = accounts.DeleteUser(ctx, byHand, "u-gone", 1)
	must(err)
	add("a user who was deleted", gone, map[string][]string{})
	add("nobody", "", map[string][]string{})
	add("the administrator", "secret", map[string][]string{"holder": {"*"}, "instance": {"*"}, "granted": {"*"}, "org": {"*"}, "user": {"*"}, "member": {"*"}, "token": {"*"}, "host": {"*"}, "enrolment": {"*"}, "consumer": {"*"}})
	for i := range w.asks {
		for holder, ids := range kept {
			if a := &w.asks[i]; a.seesIt("holder", holder) {
				a.sees["threshold"], a.sees["channel"], a.sees["webhook"] = append(a.sees["threshold"], ids[0]), append(a.sees["channel"], ids[1]), append(a.sees["webhook"], ids[2])
			}
		}
	}
	letIn(t, w.Fixture, "canary-")
	now = now.Add(time.Hour)
	w.h = serverOf(t, w.Deps)
	return w
}

// keep has each kind of holder have a threshold, a channel that was told something, and
// a webhook, whose names are canaries, and returns their ids; and each machine a violation.
func (w *tenants) keep() map[string][3]string {
	w.t.Helper()
	ctx, kept := w.t.Context(), map[string][3]string{}
	whole := odometer.Threshold{
		Name: "busy", Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod, Unit: odometer.UnitPercent, Action: odometer.ActionLog,
		Levels: []odometer.ThresholdLevel{{Name: "warning", Value: 80}},
	}
	canary := func(prefix string) string { return "canary-" + ID(prefix, w.Alerts.made+1, 16) }
	for _, holder := range []string{"operator", "org:acme", "org:zeta", "user:u-owner", "user:u-plain", "user:z-owner", "user:u-member"} {
		h, err := holderNamed(holder)
		if err != nil {
			w.t.Fatal(err)
		}
		d := whole
		d.Name, d.Holder = canary("thr_"), h
		d, err = w.Alerts.Create(ctx, byHand, d, odometer.Once{})
		if err != nil {
			w.t.Fatal(err)
		}
		c, _, err := w.Alerts.CreateChannel(ctx, byHand, odometer.Once{}, odometer.Channel{Name: canary("chn_"), Kind: odometer.ChannelEmail, Holder: h}, ChannelSecrets{})
		if err != nil {
			w.t.Fatal(err)
		}
		hook, _, err := w.Alerts.CreateChannel(ctx, byHand, odometer.Once{}, odometer.Channel{Name: canary("chn_"), Kind: odometer.ChannelWebhook, URL: "https://x.example", Holder: h}, ChannelSecrets{})
		if err != nil {
			w.t.Fatal(err)
		}
		kept[holder] = [3]string{string(d.ID), string(c.ID), string(hook.ID)}
		w.told[string(c.ID)] = string(w.Alerts.GiveUp(c.ID, "e"))
		w.held[string(w.Alerts.Violate(d.ID, 0, odometer.Owner(h)))] = string(d.ID)
	}
	for _, m := range machinesOf {
		d := whole
		d.Scope.Instance, d.Shared = m.vm, true
		d, err := w.Alerts.Create(ctx, byHand, d, odometer.Once{})
		if err != nil {
			w.t.Fatal(err)
		}
		w.violated[string(w.Alerts.Violate(d.ID, 0, m.owner.OrUnassigned()))] = m.vm
	}
	return kept
}

// ask makes one request, whose id is always the same.
func (w *tenants) ask(a *asker, method, target, body string) *httptest.ResponseRecorder {
	headers := []string{"X-Request-Id", "r-1", "If-Match", `"999"`}
	if a.secret != "" {
		headers = append(headers, "Authorization", "Bearer "+a.secret)
	}
	if body != "" {
		headers = append(headers, "Content-Type", "application/json")
	}
	return send(w.h, method, target, body, headers...)
}

// wholeOf is all of an answer, with the ids that were sent taken out.
func wholeOf(w *httptest.ResponseRecorder, ids ...string) string {
	var words []string
	for i, id := range ids {
		for _, form := range []string{url.PathEscape(id), url.QueryEscape(id), id} {
			words = append(words, form, fmt.Sprint("ID", i))
		}
	}
	clean, header := strings.NewReplacer(words...), w.Header().Clone()
	if header.Get("ETag") != "" { // it is made of what was asked, ids and all, and of nothing that is anybody's
		header.Set("ETag", "some")
	}
	return fmt.Sprint(w.Code, clean.Replace(fmt.Sprint(header)), clean.Replace(w.Body.String()))
}

// probe is a request about an object: %s is where its id goes.
type probe struct{ kind, method, target, body string }

// aThreshold is one that will not do, so that nobody makes it.
const aThreshold = `{"name":"x","scope":{"all":true},"resource":"cpu","condition":"period","unit":"percent","levels":[]}`

// probes are those of every route that names an object, in its path, a filter or
// the body. What would change something names a version that nothing has.
var probes = []probe{
	{"instance", "GET", "/api/v1/instances/%s", ""},
	{"instance", "GET", "/api/v1/instances/%s/lifecycle", ""},
	{"instance", "GET", "/api/v1/instances/%s/lifecycle?from=2020-01-01&limit=1", ""},
	{"instance", "GET", "/api/v1/usage/instances/%s/current", ""},
	{"instance", "GET", "/api/v1/usage/instances/%s/history", ""},
	{"instance", "GET", "/api/v1/usage/instances/%s/history?interval=day&from=2020-01-01", ""},
	{"instance", "GET", "/api/v1/usage?instance=%s", ""},
	{"instance", "GET", "/api/v1/usage?instance=%s&group_by=user,org,hour", ""},
	{"instance", "GET", "/api/v1/usage?instance=%s&group_by=instance&top=3", ""},
	{"instance", "GET", "/api/v1/usage?instance=%s&interval=day&timezone=Asia/Kolkata&sort=-start&fields=cpu_us,start", ""},
	{"instance", "GET", "/api/v1/usage/top?instance=%s&by=egress", ""},
	{"instance", "GET", "/api/v1/events?instance=%s", ""},
	{"instance", "GET", "/api/v1/events?instance=%s&from=2020-01-01&limit=1", ""},
	{"instance", "GET", "/api/v1/metrics/instances/%s", ""},
	{"instance", "GET", "/api/v1/metrics?instance=%s", ""},
	{"owner", "GET", "/api/v1/metrics?user=%s&sort=-cpu_percent", ""},
	{"tenant", "GET", "/api/v1/metrics?org=%s&fields=instance_id", ""},
	{"name", "GET", "/api/v1/metrics?host=%s", ""},
	{"name", "GET", "/api/v1/instances?name=%s", ""},
	{"name", "GET", "/api/v1/instances?attribute=rack:%s", ""},
	{"name", "GET", "/api/v1/instances?agent=%s", ""},
	{"owner", "GET", "/api/v1/usage?user=%s", ""},
	{"owner", "GET", "/api/v1/usage?user=%s&group_by=org,instance", ""},
	{"owner", "GET", "/api/v1/usage/users/%s/current", ""},
	{"owner", "GET", "/api/v1/usage/users/%s/history?interval=month&timezone=Asia/Kolkata", ""},
	{"owner", "GET", "/api/v1/usage/top?user=%s", ""},
	{"owner", "GET", "/api/v1/instances?user=%s", ""},
	{"owner", "GET", "/api/v1/events?user=%s", ""},
	{"tenant", "GET", "/api/v1/events?org=%s", ""},
	{"instance", "GET", "/api/v1/events?format=csv&instance=%s", ""},
	{"tenant", "GET", "/api/v1/events?format=ndjson&org=%s", ""},
	{"instance", "GET", "/api/v1/usage/stream?after=m0&instance=%s", ""},
	{"owner", "GET", "/api/v1/usage/stream?after=m0&user=%s", ""},
	{"tenant", "GET", "/api/v1/usage/stream?after=m0&org=%s", ""},
	{"instance", "GET", "/api/v1/usage?format=ndjson&group_by=instance,user&instance=%s", ""},
	{"owner", "GET", "/api/v1/usage?format=csv&group_by=org,instance&user=%s", ""},
	{"tenant", "GET", "/api/v1/usage?org=%s", ""},
	{"tenant", "GET", "/api/v1/usage?org=%s&group_by=user,instance", ""},
	{"tenant", "GET", "/api/v1/usage/organizations/%s/current", ""},
	{"tenant", "GET", "/api/v1/usage/organizations/%s/history?interval=day&timezone=Asia/Kathmandu", ""},
	{"tenant", "GET", "/api/v1/usage/top?of=user&org=%s", ""},
	{"tenant", "GET", "/api/v1/instances?org=%s", ""},
	{"org", "GET", "/api/v1/organizations/%s", ""},
	{"org", "PUT", "/api/v1/organizations/%s", `{"name":"x"}`},
	{"org", "DELETE", "/api/v1/organizations/%s", ""},
	{"org", "GET", "/api/v1/organizations/%s/members", ""},
	{"org", "GET", "/api/v1/organizations/%s/members?limit=1", ""},
	{"org", "POST", "/api/v1/organizations/%s/members", `{"user_id":"u-none","role":"member"}`},
	{"org", "GET", "/api/v1/organizations/%s/members/u-none", ""},
	{"member", "GET", "/api/v1/organizations/%s", ""},
	{"member", "PUT", "/api/v1/organizations/%s", `{"role":"member"}`},
	{"member", "DELETE", "/api/v1/organizations/%s", ""},
	{"user", "GET", "/api/v1/users/%s", ""},
	{"user", "PUT", "/api/v1/users/%s", `{"name":"x"}`},
	{"user", "DELETE", "/api/v1/users/%s", ""},
	{"user", "GET", "/api/v1/users/%s/identities", ""},
	{"user", "POST", "/api/v1/users/%s/identities", `{"issuer":"login","subject":"x"}`},
	{"user", "DELETE", "/api/v1/users/%s/identities/tok_aaaaaaaaaaaaaaaa", ""},
	{"token", "GET", "/api/v1/tokens/%s", ""},
	{"other token", "DELETE", "/api/v1/tokens/%s", ""},
	{"addressee", "POST", "/api/v1/organizations/acme/members", `{"user_id":"%s","role":"member"}`},
	{"addressee", "POST", "/api/v1/tokens", `{"name":"x","scopes":["read"],"user_id":"%s"}`},
	{"customer", "POST", "/api/v1/tokens", `{"name":"x","scopes":["read"],"org_id":"%s"}`},
	{"entry", "POST", "/api/v1/entries/%s/reverse", `{"cause":"x"}`},
	{"instance", "PUT", "/api/v1/instances/%s", `{"name":"x","labels":{"a":"b"}}`},
	{"instance", "DELETE", "/api/v1/instances/%s", ""},
	{"instance", "GET", "/api/v1/instances/%s/ownership", ""},
	{"instance", "GET", "/api/v1/instances/%s/grants", ""},
	{"instance", "GET", "/api/v1/instances/%s/grants?limit=1", ""},
	{"instance", "POST", "/api/v1/instances/%s/grants", `{"user_id":"u-nobody","level":"readonly"}`},
	{"granted", "GET", "/api/v1/instances/%s/grants/g-watch", ""},
	{"granted", "PUT", "/api/v1/instances/%s/grants/g-watch", `{"level":"readonly"}`},
	{"granted", "DELETE", "/api/v1/instances/%s/grants/g-watch", ""},
	{"addressee", "POST", "/api/v1/instances/vm-o/grants", `{"user_id":"%s","level":"readonly"}`},
	{"instance", "POST", "/api/v1/instances/%s/ownership", `{"user_id":"u","cause":"x","dry_run":true}`},
	{"statement", "GET", "/api/v1/statements/%s", ""},
	{"billed", "GET", "/api/v1/statements?org=%s", ""},
	{"billed", "GET", "/api/v1/statements?org=%s&month=2025-12&limit=1", ""},
	{"customer", "POST", "/api/v1/months/2025-12/close", `{"org_id":"%s","dry_run":true}`},
	{"item", "POST", "/api/v1/quarantine/%s/release", ""},
	{"host", "GET", "/api/v1/hosts/%s", ""},
	{"host", "DELETE", "/api/v1/hosts/%s", ""},
	{"host", "POST", "/api/v1/hosts/enrol", `{"agent_id":"%s","public_key":"` + string(exampleKey(5).public) + `","proof":""}`},
	{"host", "POST", "/api/v1/enrolments", `{"agent_id":"%s"}`},
	{"enrolment", "DELETE", "/api/v1/enrolments/%s", ""},
	{"consumer", "DELETE", "/api/v1/consumers/%s", ""},
	{"threshold", "GET", "/api/v1/thresholds/%s", ""},
	{"threshold", "PUT", "/api/v1/thresholds/%s", aThreshold},
	{"threshold", "DELETE", "/api/v1/thresholds/%s", ""},
	{"threshold", "GET", "/api/v1/thresholds/%s/violations", ""},
	{"threshold", "POST", "/api/v1/thresholds/%s/test", ""},
	{"addressee", "POST", "/api/v1/thresholds", `{"user_id":"%s",` + aThreshold[1:]},
	{"addressee", "POST", "/api/v1/thresholds/test", `{"user_id":"%s",` + aThreshold[1:]},
	{"keeper", "POST", "/api/v1/thresholds", `{"org_id":"%s",` + aThreshold[1:]},
	{"keeper", "POST", "/api/v1/thresholds/test", `{"org_id":"%s",` + aThreshold[1:]},
	{"keeper", "GET", "/api/v1/thresholds?holder=org:%s", ""},
	{"keeper", "GET", "/api/v1/channels?holder=org:%s&kind=email", ""},
	{"keeper", "GET", "/api/v1/webhooks?holder=org:%s", ""},
	{"violation", "GET", "/api/v1/violations/%s", ""},
	{"instance", "GET", "/api/v1/violations?instance=%s", ""},
	{"owner", "GET", "/api/v1/violations?user=%s", ""},
	{"owner", "GET", "/api/v1/violations?format=csv&user=%s", ""},
	{"instance", "GET", "/api/v1/violations?format=ndjson&instance=%s", ""},
	{"tenant", "GET", "/api/v1/violations?org=%s&fields=level", ""},
	{"channel", "GET", "/api/v1/channels/%s", ""},
	{"channel", "PUT", "/api/v1/channels/%s", `{"name":"x"}`},
	{"channel", "DELETE", "/api/v1/channels/%s", ""},
	{"channel", "POST", "/api/v1/channels/%s/test", ""},
	{"channel", "GET", "/api/v1/channels/%s/deliveries", ""},
	{"delivery", "GET", "/api/v1/channels/%s", ""},
	{"channel", "POST", "/api/v1/channels/%s/retry", `{"delivery_id":"dlv_aaaaaaaaaaaaaaaaaaaaaaaaaa"}`},
	{"channel", "POST", "/api/v1/channels/%s/secret", `{}`},
	{"addressee", "POST", "/api/v1/channels", `{"user_id":"%s","name":"","kind":"email"}`},
	{"keeper", "POST", "/api/v1/channels", `{"org_id":"%s","name":"","kind":"email"}`},
	{"webhook", "GET", "/api/v1/webhooks/%s", ""},
	{"webhook", "PUT", "/api/v1/webhooks/%s", `{"url":"https://x.example","event_types":["usage"]}`},
	{"webhook", "DELETE", "/api/v1/webhooks/%s", ""},
	{"addressee", "POST", "/api/v1/webhooks", `{"user_id":"%s","url":"x","event_types":["usage"]}`},
	{"keeper", "POST", "/api/v1/webhooks", `{"org_id":"%s","url":"x","event_types":["usage"]}`},
	{"customer", "POST", "/api/v1/consumers", `{"name":"x","org_id":"%s","public_key":"` + string(exampleKey(5).public) + `"}`},
}

// ids are the objects of each kind that there are, and some that there are not.
func (w *tenants) ids() (there, absent map[string][]string) {
	there = map[string][]string{"org": {"acme", "zeta"}, "customer": {"acme", "zeta"}, "tenant": {"acme", "zeta"}, "billed": {"acme", "zeta"}, "entry": {"3-1"}, "item": {"3/1"}}
	for _, m := range machinesOf {
		there["instance"] = append(there["instance"], string(m.vm))
		there["granted"] = append(there["granted"], string(m.vm))
		there["name"] = append(there["name"], "canary-"+string(m.vm))
		if u := string(m.owner.User); u != "" {
			there["user"] = append(there["user"], u)
			there["owner"] = append(there["owner"], u)
			if m.owner.Org == "zeta" || u == "u-plain" {
				there["addressee"] = append(there["addressee"], u) // whom nobody of acme sees
			}
			if m.owner.Org != "" {
				there["member"] = append(there["member"], string(m.owner.Org)+"/members/"+u)
			}
		}
	}
	for user, id := range w.tokens {
		there["token"] = append(there["token"], string(id))
		if strings.HasPrefix(user, "z-") {
			there["other token"] = append(there["other token"], string(id))
		}
	}
	for id := range w.stated {
		there["statement"] = append(there["statement"], id)
	}
	there["owner"] = append(there["owner"], string(odometer.Unassigned))
	for id := range w.violated {
		there["violation"] = append(there["violation"], id)
	}
	for id := range w.held {
		there["violation"] = append(there["violation"], id)
	}
	admin := &w.asks[len(w.asks)-1] // who sees all of these
	there["threshold"], there["channel"], there["webhook"] = admin.sees["threshold"], admin.sees["channel"], admin.sees["webhook"]
	there["keeper"] = []string{"acme", "zeta"}
	for channel, delivery := range w.told {
		there["delivery"] = append(there["delivery"], channel+"/deliveries/"+delivery)
	}
	there["host"] = []string{"canary-host-1", "canary-host-2"}
	there["enrolment"], there["consumer"] = w.letIn()
	nobody := []string{"x-none", "äöü", "a%b?c#d", "no.such", "=1+1"}
	absent = map[string][]string{"entry": {"63-999999"}, "item": {"63/999999"}}
	for kind := range there {
		switch kind {
		case "token", "other token":
			absent[kind] = []string{"tok_aaaaaaaaaaaaaaaa", "tok_2222222222222222"}
		case "threshold":
			absent[kind] = []string{"thr_aaaaaaaaaaaaaaaa", "thr_7777777777777777"}
		case "channel", "webhook":
			absent[kind] = []string{"chn_aaaaaaaaaaaaaaaa", "chn_7777777777777777"}
		case "violation":
			absent[kind] = []string{"vio_aaaaaaaaaaaaaaaaaaaaaaaaaa", "vio_77777777777777777777777777"}
		case "delivery":
			absent[kind] = []string{"chn_aaaaaaaaaaaaaaaa/deliveries/dlv_aaaaaaaaaaaaaaaaaaaaaaaaaa", "chn_7777777777777777/deliveries/dlv_77777777777777777777777777"}
		case "statement":
			absent[kind] = []string{"2025-12-aaaaaaaaaaaaaaaa", "2025-11-0123456789abcdef"}
		case "enrolment":
			absent[kind] = []string{"enr_aaaaaaaaaaaaaaaa", "enr_2222222222222222"}
		case "consumer":
			absent[kind] = []string{"con_aaaaaaaaaaaaaaaa", "con_2222222222222222"}
		case "member":
			absent[kind] = []string{"acme/members/x-user", "zeta/members/x-user", "x-org/members/x-user", "y-org/members/y-user"}
		case "entry", "item":
		default:
			absent[kind] = nobody
		}
	}
	return there, absent
}

// letIn are the one-time tokens and the consumers that there are.
func (w *tenants) letIn() (enrolments, consumers []string) {
	w.t.Helper()
	made, err := w.Accounts.Enrolments(w.t.Context(), 10)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range made {
		enrolments = append(enrolments, string(e.ID))
	}
	readers, err := w.Accounts.Consumers(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range readers {
		consumers = append(consumers, string(c.ID))
	}
	return enrolments, consumers
}

// sees tells whether an object is the asker's to see, by the kind of a probe.
func (w *tenants) sees(a *asker, kind, id string) bool {
	switch kind {
	case "name":
		return a.seesIt("instance", strings.TrimPrefix(id, "canary-"))
	case "owner", "tenant":
		for _, m := range machinesOf {
			of := string(m.owner.OrUnassigned().User)
			if kind == "tenant" {
				of = string(m.owner.Org)
			}
			if of == id && a.seesIt("instance", string(m.vm)) {
				return true
			}
		}
		return false
	case "statement", "billed": // who sees all of an organisation's machines, and not by grants
		if strings.HasPrefix(a.name, "the guest ") {
			return false
		}
		org := odometer.OrgID(id)
		if kind == "statement" {
			org = w.stated[id]
		}
		for _, m := range machinesOf {
			if m.owner.Org == org && !a.seesIt("instance", string(m.vm)) {
				return false
			}
		}
		return true
	case "violation":
		if threshold, held := w.held[id]; held {
			return a.seesIt("threshold", threshold)
		}
		return a.seesIt("instance", string(w.violated[id]))
	case "keeper":
		return a.seesIt("holder", "org:"+id)
	case "delivery":
		channel, _, _ := strings.Cut(id, "/")
		return a.seesIt("channel", channel)
	case "addressee":
		return a.seesIt("user", id)
	case "other token":
		return a.seesIt("token", id)
	case "customer", "entry", "item":
		return a.name == "the administrator"
	}
	return a.seesIt(kind, id)
}

// TestForeignIsAbsent makes every request as every kind of caller about every
// object: what he does not see is answered as what there is not, to the byte but for
// the id that he sent, and no answer, header or line of the log has anything in it of
// what is another's.
func TestForeignIsAbsent(t *testing.T) {
	w := newTenants(t)
	there, absent := w.ids()
	lines := func() int {
		log, err := w.Accounts.AuditLog(t.Context(), 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		return len(log)
	}
	before, requests, covered := lines(), 0, map[string]bool{}
	for i := range w.asks {
		a := &w.asks[i]
		ask := func(method, target, body string) *httptest.ResponseRecorder {
			requests++
			r := w.ask(a, method, target, body)
			_, pattern := w.h.mux.Handler(httptest.NewRequest(method, target, nil))
			covered[pattern] = true
			w.leaksNothing(a, method+" "+target, r)
			return r
		}
		for _, p := range probes {
			if a.name == "the administrator" && (slices.Contains([]string{"host", "enrolment", "consumer"}, p.kind) && p.method != "GET" || p.kind == "addressee" || p.kind == "customer" || p.kind == "other token" || p.kind == "entry" || p.kind == "item") {
				continue // he may, and would
			}
			methods := []string{p.method}
			if p.method == "GET" && !strings.HasPrefix(a.name, "the guest ") { // who differ in what they see alone
				methods = append(methods, "HEAD")
			}
			for _, method := range methods {
				fill := func(id string) *httptest.ResponseRecorder {
					if !strings.Contains(p.target, "%s") {
						return ask(method, p.target, fmt.Sprintf(p.body, id))
					}
					switch {
					case p.kind == "member" || p.kind == "item" || p.kind == "delivery": // parts of a path
					case strings.Contains(p.target, "?"):
						id = url.QueryEscape(id)
					default:
						id = url.PathEscape(id)
					}
					return ask(method, fmt.Sprintf(p.target, id), p.body)
				}
				// What is answered to what there is not: of members by the
				// organisation, where that is seen.
				nothing := map[string]string{}
				parts := func(id string) (ids []string, beside string) {
					if channel, delivery, ok := strings.Cut(id, "/deliveries/"); ok {
						return []string{channel, delivery}, ""
					}
					org, user, member := strings.Cut(id, "/members/")
					if !member {
						return []string{id}, ""
					}
					if a.seesIt("org", org) {
						beside = org
					}
					return []string{org, user}, beside
				}
				for _, id := range absent[p.kind] {
					ids, beside := parts(id)
					r := fill(id)
					got := wholeOf(r, ids...)
					if nothing[beside] != "" && nothing[beside] != got {
						t.Errorf("%s: %s %s: two that there are not: got\n%s\nand\n%s", a.name, method, p.target, nothing[beside], got)
					}
					nothing[beside] = got
				}
				for _, id := range there[p.kind] {
					if (p.kind == "addressee" || p.kind == "other token") && w.sees(a, p.kind, id) {
						continue // he may, and would
					}
					ids, beside := parts(id)
					r := fill(id)
					got, want := wholeOf(r, ids...), nothing[beside]
					if seen := w.sees(a, p.kind, id); !seen && got != want {
						t.Errorf("%s: %s %s with %s, which is not seen: got\n%s\nwant as of what there is not\n%s", a.name, method, p.target, id, got, want)
					} else if seen && got == want && method == "GET" && !a.blind && p.target != "/api/v1/organizations/%s/members/u-none" {
						t.Errorf("%s: %s %s with %s, which is seen: got %s, as of what there is not", a.name, method, p.target, id, got)
					}
				}
			}
		}
		// What names no object.
		for pattern := range w.h.table {
			method, path, _ := strings.Cut(pattern, " ")
			if strings.Contains(path, "{") || method == "POST" {
				continue
			}
			targets := []string{path, path + "?limit=2"}
			if path == "/api/v1/usage/top" {
				targets = []string{path, path + "?of=user&n=2&by=memory", path + "?of=org&from=2020-01-01"}
			}
			if path == "/api/v1/usage" {
				targets = append(targets, path+"?group_by=instance", path+"?group_by=user,org", path+"?group_by=instance,hour&top=20", path+"?from=2020-01-01&group_by=month,org")
			}
			for _, target := range targets {
				ask(method, target, "")
				ask("HEAD", target, "")
			}
		}
		for _, path := range []string{"/api/v1/organizations", "/api/v1/users"} {
			if a.name != "the administrator" {
				if r := ask("POST", path, `{"id":"x-new","name":"x"}`); r.Code != http.StatusForbidden && r.Code != http.StatusUnauthorized {
					t.Errorf("%s: POST %s: got %d, want it refused", a.name, path, r.Code)
				}
				ask("POST", "/api/v1/events", `{}`)
			}
		}
		if a.name != "the administrator" {
			if r := ask("POST", "/api/v1/instances", `{"instance_id":"vm-new"}`); r.Code != http.StatusForbidden && r.Code != http.StatusUnauthorized {
				t.Errorf("%s: POST /api/v1/instances: got %d, want it refused", a.name, r.Code)
			}
		}
		w.lists(a, ask)
	}
	for pattern := range w.h.table {
		if !covered[pattern] {
			t.Errorf("%s was not asked for", pattern)
		}
	}
	if after := lines(); after != before {
		t.Errorf("got %d lines in the audit log, want the %d of before: nothing is to be changed", after, before)
	}
	if strings.Contains(w.log.String(), "canary-") {
		t.Errorf("the log has a canary in it")
	}
	if requests < 10_000 {
		t.Errorf("got %d requests, want 10000 at least", requests)
	}
	t.Logf("%d requests", requests)
}

// leaksNothing looks for canaries that are not the asker's to see. One that he sent
// himself may come back.
func (w *tenants) leaksNothing(a *asker, request string, r *httptest.ResponseRecorder) {
	w.t.Helper()
	text := r.Body.String() + fmt.Sprint(r.Header())
	if !strings.Contains(text, "canary-") {
		return
	}
	look := func(kind, id string) {
		canary := "canary-" + id
		if !a.seesIt(kind, id) && strings.Contains(text, canary) && !strings.Contains(request, canary) {
			w.t.Errorf("%s: %s: got %s, which is not for him:\n%s", a.name, request, canary, text)
		}
	}
	for _, m := range machinesOf {
		look("instance", string(m.vm))
		if m.owner.User != "" {
			look("user", string(m.owner.User))
		}
	}
	for user := range w.tokens {
		look("user", user)
	}
	for _, kind := range []string{"threshold", "channel", "webhook"} {
		for _, id := range w.asks[len(w.asks)-1].sees[kind] {
			look(kind, id)
		}
	}
	look("org", "acme")
	look("org", "zeta")
	look("user", "gone")
	look("host", "host-")
	look("consumer", "reports")
}

// lists asks for everything of each kind: it is what is seen, all of it, also page
// by page.
func (w *tenants) lists(a *asker, ask func(method, target, body string) *httptest.ResponseRecorder) {
	w.t.Helper()
	for _, c := range []struct {
		kind, target string
		canaries     bool
	}{{"instance", "/api/v1/instances", true}, {"instance", "/api/v1/metrics", true}, {"instance", "/api/v1/events", true}, {"threshold", "/api/v1/thresholds", true}, {"channel", "/api/v1/channels", true}, {"webhook", "/api/v1/webhooks", true}, {"org", "/api/v1/organizations", true}, {"user", "/api/v1/users", true}} {
		r := ask("GET", c.target, "")
		if r.Code != http.StatusOK {
			if len(a.sees[c.kind]) > 0 && !a.blind {
				w.t.Errorf("%s: %s: got %d", a.name, c.target, r.Code)
			}
			continue
		}
		pages := ""
		for target := c.target + "?limit=1"; target != ""; {
			page := ask("GET", target, "")
			pages += page.Body.String()
			target, _, _ = strings.Cut(strings.TrimPrefix(page.Header().Get("Link"), "<"), ">")
		}
		there, _ := w.ids()
		for _, id := range there[c.kind] {
			for how, text := range map[string]string{"at once": r.Body.String(), "page by page": pages} {
				if got := strings.Contains(text, "canary-"+id); got != a.seesIt(c.kind, id) {
					w.t.Errorf("%s: %s, %s: got %s %v, want %v", a.name, c.target, how, id, got, !got)
				}
			}
		}
	}
}
