package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
)

var (
	ada = odometer.Owner{User: "u-ada", Org: "o-acme"}
	bob = odometer.Owner{User: "u-bob"}
)

func own(instance odometer.InstanceID, owner odometer.Owner, from, until int64) odometer.Ownership {
	return odometer.Ownership{Instance: instance, Owner: owner, From: from, Until: until}
}

func TestWhoseAnInstanceIs(t *testing.T) {
	nobody := odometer.Owner{User: odometer.Unassigned}
	var o Owners
	if got := o.Owner("a", 5, bob); got != bob || o.Revision() != "" {
		t.Errorf("before anything is told: got %v, want whom the host names", got)
	}
	take := func(revision string, list ...odometer.Ownership) {
		t.Helper()
		if err := o.Take(odometer.Owners{Revision: revision, List: list}); err != nil {
			t.Fatal(err)
		}
	}
	take("1", own("a", ada, 10, 20), own("a", nobody, 20, 30), own("b", ada, 0, odometer.Forever))
	for _, c := range []struct {
		name        string
		instance    odometer.InstanceID
		at          int64
		named, want odometer.Owner
	}{
		{"decided", "a", 10, bob, ada},
		{"before it was decided: whom the host names", "a", 9, bob, bob},
		{"nobody's, on somebody's word", "a", 20, bob, nobody},
		{"after it has ended: whom the host names", "a", 30, bob, bob},
		{"after it has ended, and the host names nobody", "a", 30, odometer.Owner{}, nobody},
		{"for good", "b", 1 << 60, odometer.Owner{}, ada},
		{"not decided", "c", 10, bob, bob},
		{"not decided, and the host names nobody", "c", 10, odometer.Owner{}, odometer.Owner{}},
	} {
		if got := o.Owner(c.instance, c.at, c.named); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	take("2", own("a", bob, 0, odometer.Forever))
	if got := o.Owner("b", 10, odometer.Owner{}); got != nobody {
		t.Errorf("taken back: got %v, want nobody", got)
	}
	if got := o.Owner("a", 10, ada); got != bob || o.Revision() != "2" {
		t.Errorf("another list: got %v, want %v", got, bob)
	}
	for name, list := range map[string][]odometer.Ownership{
		"no instance":          {own("", ada, 0, 1)},
		"no owner":             {own("a", odometer.Owner{}, 0, 1)},
		"two owners at once":   {own("a", ada, 0, 10), own("a", bob, 9, 20)},
		"the later one first":  {own("a", ada, 10, 20), own("a", bob, 0, 10)},
		"ends before it began": {own("a", ada, 10, 10)},
	} {
		if err := o.Take(odometer.Owners{Revision: "3", List: list}); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
	if o.Revision() != "2" {
		t.Error("a list that was refused is taken")
	}
}

func TestOwnerDoesNotAllocate(t *testing.T) {
	o := manyOwners(t, 1000)
	if n := testing.AllocsPerRun(100, func() { o.Owner("vm-00500", 5, odometer.Owner{}) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func manyOwners(t testing.TB, n int) *Owners {
	list := odometer.Owners{Revision: "1"}
	for i := range n {
		id := odometer.InstanceID(fmt.Sprintf("vm-%05d", i))
		list.List = append(list.List, own(id, ada, 0, 10), own(id, bob, 10, 20), own(id, ada, 20, odometer.Forever))
	}
	o := new(Owners)
	if err := o.Take(list); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestAChangeOfOwnerBeginsAPeriod has the server decide whose an instance is while it
// is metered, beforehand and at once.
func TestAChangeOfOwnerBeginsAPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s, owners := newFleet("vm-1", "vm-2"), &memSpool{}, new(Owners)
		a, err := New(Options{Source: f, Meter: newMeter(time.Minute), Spool: s, Owners: owners})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		time.Sleep(5500 * time.Millisecond)
		later := time.Now().Add(10 * time.Second).UnixMicro()
		if err := owners.Take(odometer.Owners{Revision: "1", List: []odometer.Ownership{own("vm-1", ada, 0, later), own("vm-1", bob, later, odometer.Forever)}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		of := map[odometer.InstanceID]map[odometer.Owner]time.Duration{"vm-1": {}, "vm-2": {}}
		for _, e := range s.events() {
			of[e.Instance][e.Owner] += time.Duration(e.Span.End-e.Span.Start) * time.Microsecond
		}
		unnamed := odometer.Owner{User: odometer.Unassigned}
		if got := of["vm-1"]; len(got) != 3 || got[unnamed] != 6*time.Second || got[ada] != 10*time.Second {
			t.Errorf("got %v, want it to change at the first reading after it was told, and after it had changed hands", got)
		}
		if got := of["vm-2"]; len(got) != 1 {
			t.Errorf("another instance: got %v, want one owner", got)
		}
	})
}

func BenchmarkOwner(b *testing.B) {
	o := manyOwners(b, 20_000)
	ids := make([]odometer.InstanceID, 1024)
	for i := range ids {
		ids[i] = odometer.InstanceID(fmt.Sprintf("vm-%05d", i*19))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		o.Owner(ids[i%len(ids)], 25, odometer.Owner{})
		i++
	}
}
