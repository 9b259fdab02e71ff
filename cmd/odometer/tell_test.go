package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// described returns the ids that a message describes.
func described(t *testing.T, machines []json.RawMessage) (ids []string) {
	t.Helper()
	for _, raw := range machines {
		var d odometer.Description
		if err := json.Unmarshal(raw, &d); err != nil || d.Valid() != nil {
			t.Fatalf("got %s, want a description", raw)
		}
		ids = append(ids, string(d.Instance))
	}
	slices.Sort(ids)
	return ids
}

func hostOf(n int, from int) *[]odometer.VM {
	var list []odometer.VM
	for i := range n {
		list = append(list, odometer.VM{
			Instance: odometer.InstanceID(fmt.Sprintf("vm-%05d", from+i)), Name: "web", State: odometer.Running, VCPUs: 2,
			Attributes: map[string]string{"openstack.project_id": strings.Repeat("p", 32), "openstack.user_id": strings.Repeat("u", 32)},
			NICs:       []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tap0", MAC: "52:54:00:00:00:01"}},
		})
	}
	return &list
}

func TestAnInstanceIsToldWhenItChangesAndTwiceAMinute(t *testing.T) {
	now := time.Unix(1_767_366_245, 0)
	tell := newTeller()
	check := func(what string, list *[]odometer.VM, want, gone []string) {
		t.Helper()
		tell.look(list, odometer.VM{}, now)
		machines, left := tell.next(now)
		if got := described(t, machines); !slices.Equal(got, want) {
			t.Errorf("%s: got %q described, want %q", what, got, want)
		}
		var ids []string
		for _, id := range left {
			ids = append(ids, string(id))
		}
		if !slices.Equal(ids, gone) {
			t.Errorf("%s: got %q gone, want %q", what, ids, gone)
		}
		now = now.Add(time.Second)
	}
	host := hostOf(2, 0)
	check("the first message", host, []string{"vm-00000", "vm-00001"}, nil)
	check("a second later", host, nil, nil)
	check("the same list made again", hostOf(2, 0), nil, nil)
	changed := hostOf(2, 0)
	(*changed)[1].State = odometer.Stopped
	check("one changes", changed, []string{"vm-00001"}, nil)
	now = now.Add(describeEvery - 5*time.Second)
	check("some time later", changed, nil, nil)
	now = now.Add(2 * time.Second)
	check("after half a minute", changed, []string{"vm-00000"}, nil)
	check("one goes", hostOf(1, 0), nil, []string{"vm-00001"})
	now = now.Add(time.Minute)
	check("a minute later it is still told", hostOf(1, 0), []string{"vm-00000"}, []string{"vm-00001"})
	check("it comes back", hostOf(2, 0), []string{"vm-00001"}, nil)
	now = now.Add(-time.Hour)
	check("the clock is set back", hostOf(2, 0), []string{"vm-00000", "vm-00001"}, nil)
	check("all go", nil, nil, []string{"vm-00000", "vm-00001"})
	now = now.Add(2 * goneFor)
	check("long after that", nil, nil, nil)
}

func TestThisMachineIsDescribedToo(t *testing.T) {
	now := time.Now()
	tell := newTeller()
	own := odometer.VM{Instance: "h1", Name: "h1.example", Source: sourceMachine, State: odometer.Running, VCPUs: 2, Memory: 1 << 30}
	tell.look(nil, own, now)
	if machines, _ := tell.next(now); len(machines) != 1 || !strings.Contains(string(machines[0]), `"name":"h1.example"`) {
		t.Errorf("got %s, want this machine", machines)
	}
	own.Memory = 2 << 30
	tell.look(nil, own, now)
	if machines, _ := tell.next(now); len(machines) != 1 || !strings.Contains(string(machines[0]), `"memory_bytes":2147483648`) {
		t.Errorf("its memory changed: got %s, want it told", machines)
	}
}

// A host of twenty thousand machines that all come, change and go at once tells
// all of them within a minute or so, in messages that the queue takes.
func TestALargeHostTellsInParts(t *testing.T) {
	const many = 20_000
	now := time.Unix(1_767_366_245, 0)
	tell := newTeller()
	all := hostOf(many, 0)
	var open []*odometer.Event
	for i := range 600 {
		e := &odometer.Event{Version: odometer.Version11, Instance: (*all)[i].Instance, Agent: "h1", Epoch: odometer.NewEpoch((*all)[i].Instance, "h1", "n", "1"), FirstSequence: 1, Sequence: 1, Quality: odometer.Measured}
		e.Span = odometer.Span{Start: now.UnixMicro(), End: now.UnixMicro() + 1}
		open = append(open, e)
	}
	seen := map[string]bool{}
	message := func() (parts [][]byte) {
		m := liveMessage{Agent: "h1", At: now.UnixMicro(), Spool: "s"}
		m.Machines, m.Gone = tell.next(now)
		parts, err := m.parts(open)
		if err != nil {
			t.Fatal(err)
		}
		periods := 0
		for _, data := range parts {
			if len(data) > 512<<10 {
				t.Fatalf("a part has %d bytes, want at most 512 KiB", len(data))
			}
			var p liveMessage
			if err := json.Unmarshal(data, &p); err != nil || p.Agent != "h1" {
				t.Fatalf("a part cannot be read: %v", err)
			}
			periods += len(p.Open)
			for _, id := range described(t, p.Machines) {
				seen[id] = true
			}
		}
		if periods != len(open) {
			t.Fatalf("got %d open periods in %d parts, want %d", periods, len(parts), len(open))
		}
		now = now.Add(time.Second)
		return parts
	}
	tell.look(all, odometer.VM{}, now)
	if n := len(message()); n < 2 {
		t.Errorf("got %d parts, want several", n)
	}
	seconds := 1
	for ; len(seen) < many && seconds < 300; seconds++ {
		message()
	}
	if seconds > 90 {
		t.Errorf("all of them were told after %d s, want 90 s at most", seconds)
	}
	t.Logf("%d machines are told in %d s", many, seconds)
	(*all)[many-1].Name = "changed"
	tell.look(&[]odometer.VM{(*all)[many-1]}, odometer.VM{}, now) // the others are gone
	machines, gone := tell.next(now)
	if !slices.Equal(described(t, machines), []string{string((*all)[many-1].Instance)}) || len(gone) != goneMost {
		t.Errorf("got %d described and %d gone, want the one that changed and %d", len(machines), len(gone), goneMost)
	}
	open = nil
	message()
}

func TestADescriptionThatIsTooLargeIsShortened(t *testing.T) {
	v := odometer.VM{Instance: "vm-1", State: odometer.Running, Attributes: map[string]string{"a": "b"}}
	for range odometer.MaxDevices {
		v.NICs = append(v.NICs, odometer.NIC{Name: strings.Repeat(`"`, 256), Link: strings.Repeat(`\`, 256), MAC: strings.Repeat("<", 256)})
	}
	var d odometer.Description
	if body := describe(&v); len(body) > 1024 || json.Unmarshal(body, &d) != nil || !d.Cut || d.Valid() != nil {
		t.Errorf("got %d bytes, want what identifies it", len(body))
	}
}

func TestMachinesOfALiveMessage(t *testing.T) {
	whole, _ := json.Marshal(liveMessage{Agent: "h1", Interval: 5e6, Machines: []json.RawMessage{[]byte(`{"instance_id":"a","state":"running"}`), []byte(`7`)}, Gone: []odometer.InstanceID{"b"}, Open: []json.RawMessage{[]byte(`{}`)}})
	for _, c := range []struct {
		name, data string
		told, gone int
		fails      bool
	}{
		{"as it is sent", string(whole), 1, 1, false},
		{"of an agent that says which owners it has", `{"owners":"r1","machines":[{"instance_id":"a","state":"running"}],"open":[]}`, 1, 0, false},
		{"of an agent that says its interval", `{"interval_us":5000000,"machines":[{"instance_id":"a","state":"running"}],"open":[]}`, 1, 0, false},
		{"of an agent of before", `{"agent_id":"h1","at_us":1,"spool":"s","position":0,"open":[{}]}`, 0, 0, false},
		{"what follows open is not read", `{"open":[not JSON`, 0, 0, false},
		{"of an agent to come", `{"new":{"a":[1]},"machines":[{"instance_id":"a","state":"running","more":1}],"open":[]}`, 1, 0, false},
		{"nothing", ``, 0, 0, true},
		{"no object", `[]`, 0, 0, true},
		{"cut off", `{"machines":[{"instance_id":"a"`, 0, 0, true},
		{"another type", `{"machines":7,"open":[]}`, 0, 0, true},
	} {
		said, err := machinesOf([]byte(c.data))
		told, gone := said.told, said.gone
		if len(told) != c.told || len(gone) != c.gone || (err != nil) != c.fails {
			t.Errorf("%s: got %d, %d, %v, want %d and %d, failing %v", c.name, len(told), len(gone), err, c.told, c.gone, c.fails)
		}
		if says := strings.Contains(c.data, `"owners":"r1"`); says != (said.owners != nil) || says && *said.owners != "r1" {
			t.Errorf("%s: got the owners %v", c.name, said.owners)
		}
		if says := strings.Contains(c.data, `"interval_us":5000000`); says != (said.interval == 5e6) {
			t.Errorf("%s: got the interval %d", c.name, said.interval)
		}
	}
}

// FuzzMachinesOf gives it what a hostile agent may send: whatever comes of it is
// valid or refused.
func FuzzMachinesOf(f *testing.F) {
	f.Add([]byte(`{"agent_id":"h","machines":[{"instance_id":"a","state":"running","attributes":{"k":"v"},"vcpus":1,"disks":[{"provisioned_bytes":1}]}],"gone":["b"],"open":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		said, _ := machinesOf(data)
		told := said.told
		for _, d := range told {
			if d.Valid() != nil {
				continue
			}
			body, err := json.Marshal(&d)
			var again odometer.Description
			if err != nil || json.Unmarshal(body, &again) != nil {
				t.Errorf("%+v does not survive encoding: %v", d, err)
			}
			if twice, _ := json.Marshal(&again); !bytes.Equal(body, twice) {
				t.Errorf("got %s the second time, want %s", twice, body)
			}
		}
	})
}
