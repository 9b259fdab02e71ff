package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// described is what an agent said of an instance, at the moment Now.
type described struct {
	odometer.Description
	agent odometer.AgentID
}

// Describe has an agent say that it has an instance, in the place of what it
// said before. Attributes are key=value.
func (m *InMemory) Describe(id odometer.InstanceID, agent odometer.AgentID, state odometer.State, name string, attributes ...string) {
	vm := odometer.VM{
		Instance: id, Name: name, Source: "libvirt", State: state, VCPUs: 2, Memory: odometer.Unknown,
		Disks: []odometer.Disk{{Name: "vda", Kind: odometer.DiskFile, Path: "/not/told.qcow2", Format: "qcow2", Provisioned: 10 << 30}},
		NICs:  []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tap0", MAC: "52:54:00:00:00:01"}},
	}
	for _, a := range attributes {
		if vm.Attributes == nil {
			vm.Attributes = map[string]string{}
		}
		key, value, _ := strings.Cut(a, "=")
		vm.Attributes[key] = value
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.described = slices.DeleteFunc(m.described, func(d described) bool { return d.Instance == id && d.agent == agent })
	m.described = append(m.described, described{odometer.Describe(&vm), agent})
}

// conflicts are those instances that several agents say run.
func (m *InMemory) conflicts() (list []InstanceConflict) {
	agents := map[odometer.InstanceID][]odometer.AgentID{}
	for _, d := range m.described {
		if d.State == odometer.Running {
			agents[d.Instance] = append(agents[d.Instance], d.agent)
		}
	}
	for id, at := range agents {
		if len(at) > 1 {
			list = append(list, InstanceConflict{id, at, Now})
		}
	}
	slices.SortFunc(list, func(a, b InstanceConflict) int { return cmp.Compare(a.Instance, b.Instance) })
	return list
}

func (m *InMemory) Instances(ctx context.Context, seen odometer.View, q InstanceQuery) ([]KnownInstance, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.Fails, ctx.Err()); err != nil {
		return nil, err
	}
	ids := map[odometer.InstanceID]bool{}
	for _, d := range m.described {
		ids[d.Instance] = true
	}
	for _, e := range m.entries {
		ids[e.Event.Instance] = true
	}
	kept, err := m.kept.FindRegistered(ctx, "", "", "", math.MaxInt32)
	if err != nil {
		return nil, err
	}
	for _, r := range kept {
		ids[r.Instance] = ids[r.Instance] || seen.All()
	}
	var list []KnownInstance
	for id, there := range ids {
		if !there {
			continue
		}
		k, _ := m.known(seen, id)
		k.Record = recordIn(kept, seen, &k.Instance)
		if id > q.After && q.Matches(&k.Instance) && seen.SeesUse(id, ownerOf(&k.Instance), Now.UnixMicro()) {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b KnownInstance) int {
		return cmp.Compare(a.Description.Instance, b.Description.Instance)
	})
	return list[:min(len(list), q.Limit)], nil
}

func recordIn(kept []odometer.Registered, seen odometer.View, of *Instance) *InstanceRecord {
	for i := range kept {
		if kept[i].Instance == of.Description.Instance && kept[i].Shown(seen, ownerOf(of)) {
			return new(RecordOf(&kept[i]))
		}
	}
	return nil
}

func ownerOf(i *Instance) (o odometer.Owner) {
	if i.User != nil {
		o.User = *i.User
	}
	if i.Org != nil {
		o.Org = *i.Org
	}
	return o
}

func (m *InMemory) Instance(ctx context.Context, seen odometer.View, id odometer.InstanceID) (KnownInstance, []InstanceElsewhere, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.Fails, ctx.Err()); err != nil {
		return KnownInstance{}, nil, err
	}
	k, elsewhere := m.known(seen, id)
	kept, err := m.kept.FindRegistered(ctx, "", "", "", math.MaxInt32)
	if err != nil {
		return KnownInstance{}, nil, err
	}
	k.Record = recordIn(kept, seen, &k.Instance)
	if k.Agent == "" && k.Record == nil || !seen.SeesUse(id, ownerOf(&k.Instance), Now.UnixMicro()) {
		return KnownInstance{}, nil, odometer.ErrNotFound
	}
	return k, elsewhere, nil
}

func (m *InMemory) known(seen odometer.View, id odometer.InstanceID) (k KnownInstance, elsewhere []InstanceElsewhere) {
	k.Description = odometer.Describe(&odometer.VM{Instance: id, State: StateUnknown, VCPUs: odometer.Unknown, Memory: odometer.Unknown})
	for _, d := range m.described {
		if d.Instance != id {
			continue
		}
		if k.Agent != "" {
			elsewhere = append(elsewhere, InstanceElsewhere{Agent: d.agent, State: string(d.State), FirstSeen: Now, DescribedAt: Now})
			continue
		}
		k.Description, k.Agent, k.FirstSeen, k.DescribedAt = d.Description, d.agent, &Now, &Now
	}
	read := func(e *odometer.Event) {
		at := time.UnixMicro(e.Span.End).UTC()
		owner := e.Owner.OrUnassigned()
		k.Agent, k.LastReading, k.Age, k.User, k.Org = cmp.Or(k.Agent, e.Agent), &at, new(int64(Now.Sub(at)/time.Second)), &owner.User, nil
		if owner.Org != "" {
			k.Org = &owner.Org
		}
	}
	for _, e := range m.entries {
		if e.Event.Instance == id {
			read(&e.Event)
		}
	}
	for _, o := range m.open {
		if o.Event.Instance == id {
			read(&o.Event)
			if seen.SeesUse(id, o.Event.Owner.OrUnassigned(), o.Event.Span.Start) {
				k.Periods = append(k.Periods, o)
			}
		}
	}
	for _, c := range m.conflicts() {
		if c.Instance == id {
			k.Conflict = &c
		}
	}
	return k, elsewhere
}

func TestInstancesArePaged(t *testing.T) {
	f := NewFixture(t)
	for i := range 5 {
		f.Describe(odometer.InstanceID(fmt.Sprint("vm-", i)), "host-1", odometer.Running, "web")
	}
	h := serverOf(t, f.Deps)
	target, got := "/api/v1/instances?limit=2&name=web", []string{}
	for pages := 0; target != ""; pages++ {
		if pages == 5 {
			t.Fatal("there is always another page")
		}
		w := do(h, "GET", target)
		var a InstancesAnswer
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatalf("%s: %v", w.Body, err)
		}
		for _, i := range a.Instances {
			got = append(got, string(i.Description.Instance))
		}
		next, _, there := strings.Cut(strings.TrimPrefix(w.Header().Get("Link"), "<"), ">")
		if there != (a.Next != nil) {
			t.Errorf("Link %q and next %v, want both or none", w.Header().Get("Link"), a.Next)
		}
		target = next
	}
	if want := []string{"vm-0", "vm-1", "vm-2", "vm-3", "vm-4"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestInstanceFiltersThatAreRefused(t *testing.T) {
	h := serverOf(t, NewFixture(t).Deps)
	long := strings.Repeat("x", maxText+1)
	for _, c := range []struct{ name, query, field string }{
		{"a state that there is not", "state=flying", "state"},
		{"an attribute without a value", "attribute=rack", "attribute"},
		{"an attribute without a key", "attribute=:r1", "attribute"},
		{"a key that is too long", "attribute=" + long + ":r1", "attribute"},
		{"a value that is too long", "attribute=rack:" + long, "attribute"},
		{"a name that is too long", "name=" + long, "name"},
		{"a cursor that is no id", "after=" + url.QueryEscape("a b"), "after"},
		{"too many", "limit=1001", "limit"},
		{"a filter twice", "agent=a&agent=b", "agent"},
		{"another parameter", "host=a", "host"},
	} {
		w := do(h, "GET", "/api/v1/instances?"+c.query)
		if p := problem(t, w); w.Code != 400 || len(p.Errors) != 1 || p.Errors[0].Name != c.field {
			t.Errorf("%s: got %d %+v, want %s refused", c.name, w.Code, p.Errors, c.field)
		}
	}
}

func TestWithoutADirectoryOfInstances(t *testing.T) {
	f := NewFixture(t)
	f.Deps.Instances = nil
	h := serverOf(t, f.Deps)
	for _, target := range []string{"/api/v1/instances", "/api/v1/instances/vm-1"} {
		if w := do(h, "GET", target); w.Code != 404 || problem(t, w).Code != "not_found" {
			t.Errorf("%s: got %d, want 404", target, w.Code)
		}
	}
}

// TestWhatAMachineIsCalled: as people call it, or else its host, in its metrics too.
func TestWhatAMachineIsCalled(t *testing.T) {
	for _, c := range []struct {
		says string
		kept *InstanceRecord
		want string
	}{
		{"nothing is kept of it", nil, "of its host"},
		{"only labels are", &InstanceRecord{Labels: map[string]string{"tier": "web"}}, "of its host"},
		{"a name is", &InstanceRecord{Name: "of people"}, "of people"},
	} {
		k := KnownInstance{Instance: Instance{Description: odometer.Description{Name: "of its host"}, Record: c.kept}}
		if got, of := k.Called(), metricsOf(&k, Now); got != c.want || of.Name != c.want {
			t.Errorf("%s: it is called %q, in its metrics %q, want %q", c.says, got, of.Name, c.want)
		}
	}
}
