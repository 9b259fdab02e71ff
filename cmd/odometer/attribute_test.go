package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
)

func writeMap(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const aMap = `attribute,value,user,org
openstack.project_id,p-1,u-ada,acme
openstack.user_id,x-9,u-bob,
`

func TestOwnerMaps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "owners.csv")
	writeMap(t, path, aMap)
	m, err := openOwnerMap(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		attributes map[string]string
		want       odometer.Owner
		ok         bool
	}{
		{"mapped", map[string]string{"openstack.project_id": "p-1", "rack": "r12"}, odometer.Owner{User: "u-ada", Org: "acme"}, true},
		{"by two lines: the first decides", map[string]string{"openstack.user_id": "x-9", "openstack.project_id": "p-1"}, odometer.Owner{User: "u-ada", Org: "acme"}, true},
		{"without an organisation", map[string]string{"openstack.user_id": "x-9"}, odometer.Owner{User: "u-bob"}, true},
		{"another value", map[string]string{"openstack.project_id": "p-2"}, odometer.Owner{}, false},
		{"another attribute", map[string]string{"rack": "p-1"}, odometer.Owner{}, false},
	} {
		if got, _, ok := m.owner(c.attributes); got != c.want || ok != c.ok {
			t.Errorf("%s: got %v, %v, want %v", c.name, got, ok, c.want)
		}
	}
	if m.refresh() {
		t.Error("nothing was changed, and it is another")
	}
	for name, c := range map[string]struct{ text, says string }{
		"no columns":            {"", "first line"},
		"other columns":         {"instance,user\n", "first line has to be attribute,value,user,org"},
		"no value":              {"attribute,value,user\na,,u\n", "line 2: value: is missing"},
		"no user":               {"attribute,value,user\na,b,\n", "line 2: user: "},
		"a bad organisation":    {"attribute,value,user,org\na,b,u,o o\n", "line 2: org: "},
		"twice":                 {"attribute,value,user\na,b,u\na,b,v\n", "line 3: a = b is mapped in line 2 already"},
		"too many fields":       {"attribute,value,user\na,b,u,o\nc,,u\n", "line 3: value"},
		"not to be shown":       {"attribute,value,user\na,\"b\x01\",u\n", "cannot be shown"},
		"longer than it can be": {"attribute,value,user\na," + strings.Repeat("b", 300) + ",u\n", "more than 128 bytes"},
		"no CSV":                {"attribute,value,user\na,\"b", "extraneous"},
	} {
		writeMap(t, path, c.text)
		if m.refresh() || m.err() == nil || !strings.Contains(m.err().Error(), c.says) {
			t.Errorf("%s: got %v, want %q", name, m.err(), c.says)
		}
		if _, _, ok := m.owner(map[string]string{"openstack.project_id": "p-1"}); !ok {
			t.Errorf("%s: the last good one does not stand", name)
		}
	}
	writeMap(t, path, "\ufeff"+strings.Replace(aMap, "p-1", "p-22", 1))
	if !m.refresh() || m.err() != nil {
		t.Errorf("corrected: got %v", m.err())
	}
	os.Remove(path)
	if m.refresh(); m.err() == nil {
		t.Error("it is gone, and nobody says so")
	}
	if _, err := openOwnerMap(path); err == nil {
		t.Error("a file that is not there was opened")
	}
}

// TestWhatIsMappedIsRecorded has machines with hints be described, before and after
// their line is there.
func TestWhatIsMappedIsRecorded(t *testing.T) {
	k := newFleet(t)
	path := filepath.Join(t.TempDir(), "owners.csv")
	writeMap(t, path, aMap)
	m, err := openOwnerMap(path)
	if err != nil {
		t.Fatal(err)
	}
	a := newAttributor(k.fleet, m, slog.New(slog.DiscardHandler))
	k.described = a.hear
	began := k.now
	record := func() {
		t.Helper()
		if _, err := k.directory.Instances(t.Context(), account.Query{Limit: 1}); err != nil { // which writes
			t.Fatal(err)
		}
		if err := a.record(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	check := func(instance odometer.InstanceID, want string) {
		t.Helper()
		list, err := k.ledger.Ownership(t.Context(), instance)
		got := ""
		for _, o := range list {
			got += fmt.Sprintf("%s/%s from %s;", o.Owner.Org, o.Owner.User, time.UnixMicro(o.From).Sub(began).Round(time.Minute))
		}
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", instance, got, err, want)
		}
	}
	if _, err := k.ledger.Assign(t.Context(), odometer.Ownership{Instance: "vm-3", Owner: odometer.Owner{User: "u-eve"}, From: began.UnixMicro()}, "ada", "sold", false); err != nil {
		t.Fatal(err)
	}
	k.tell("h1", nil, vmOn("vm-1", "openstack.project_id", "p-1"), vmOn("vm-2", "openstack.project_id", "p-2"), vmOn("vm-3", "openstack.project_id", "p-1"), vmOn("vm-4"))
	record()
	check("vm-1", "acme/u-ada from -1m0s;")
	check("vm-2", "")
	check("vm-3", "/u-eve from 0s;") // on somebody's word
	check("vm-4", "")

	k.now = k.now.Add(time.Hour)
	k.tell("h1", nil, vmOn("vm-4", "openstack.project_id", "p-1"), vmOn("vm-1", "openstack.project_id", "p-2"))
	record()
	k.now = k.now.Add(time.Hour)
	writeMap(t, path, aMap+"openstack.project_id,p-2,u-cleo,bolt\n")
	if !m.refresh() {
		t.Fatal(m.err())
	}
	if err := a.lookAtAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	record()
	check("vm-2", "bolt/u-cleo from -1m0s;") // since it was first seen with it
	check("vm-1", "acme/u-ada from -1m0s;")  // which is not taken away by another hint
	if len(a.waiting) != 0 {
		t.Errorf("got %d that wait, want none", len(a.waiting))
	}
}
