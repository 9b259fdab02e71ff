package queue

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"example.org/odometer"
)

// ownersOf returns a list of n instances, each with an owner that has been and one
// that is.
func ownersOf(n int, revision string) odometer.Owners {
	o := odometer.Owners{Revision: revision}
	for i := range n {
		id := odometer.InstanceID(fmt.Sprintf("vm-%05d-%s", i, strings.Repeat("\"", 60))) // what JSON makes longest
		o.List = append(o.List,
			odometer.Ownership{Instance: id, Owner: odometer.Owner{User: "u-ada", Org: "o-acme"}, From: 0, Until: 1000},
			odometer.Ownership{Instance: id, Owner: odometer.Owner{User: "u-bob"}, From: 1000, Until: odometer.Forever})
	}
	return o
}

func TestAHostIsToldWhoseItsInstancesAre(t *testing.T) {
	s, r, c := guarded(t)
	var mu sync.Mutex
	heard := map[odometer.AgentID][]odometer.Owners{}
	follow := func(agent odometer.AgentID) *Conn {
		conn := connect(t, ConnectOptions{URL: s.URL(), Agent: agent, Key: r.enrol(t, agent)})
		stop, err := conn.Owners(agent, func(o odometer.Owners) {
			mu.Lock()
			defer mu.Unlock()
			heard[agent] = append(heard[agent], o)
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		if err := conn.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	follow("host.1")
	follow("other")
	lists := []odometer.Owners{ownersOf(1, "one"), {Revision: "none"}, ownersOf(20_000, "many"), ownersOf(2, "two")}
	for _, o := range lists {
		if err := c.SendOwners("host.1", o); err != nil {
			t.Fatal(err)
		}
	}
	at := func() []odometer.Owners {
		mu.Lock()
		defer mu.Unlock()
		return heard["host.1"]
	}
	eventually(t, "four lists are told", func() bool { return len(at()) == len(lists) })
	if !reflect.DeepEqual(at(), lists) {
		t.Error("got other lists than were sent")
	}
	mu.Lock()
	defer mu.Unlock()
	if n := len(heard["other"]); n != 0 {
		t.Errorf("another host was told %d lists, want none", n)
	}
}

func TestOwnersThatAreNotWholeAreLeftOut(t *testing.T) {
	s, _, c := guarded(t)
	agent := connect(t, ConnectOptions{Server: s, Agent: "h"})
	heard := make(chan string, 16)
	stop, err := agent.Owners("h", func(o odometer.Owners) { heard <- fmt.Sprint(o.Revision, " ", len(o.List)) })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := agent.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	const own = `"owners":[{"instance_id":"a","user_id":"u","from_us":0,"until_us":9}]}`
	for _, text := range []string{
		`{"agent_id":"h","revision":"a","part":1,"parts":2,` + own, // the second is lost
		`{"agent_id":"h","revision":"b","part":2,"parts":2,` + own, // the first was
		`{"agent_id":"h","revision":"c","part":1,"parts":3,` + own,
		`{"agent_id":"h","revision":"c","part":3,"parts":3,` + own,
		`{"agent_id":"h","revision":"d","part":1,"parts":2,` + own,
		`{"agent_id":"h","revision":"e","part":2,"parts":2,` + own, // of another list
		`{"agent_id":"other","revision":"f","part":1,"parts":1,` + own,
		`{"agent_id":"h","spool":"f","ledger":"l","position":7}`, // a receipt
		`{"agent_id":"h","revision":"g","part":0,"parts":0,` + own,
		`{"agent_id":"h","revision":"h","part":1,"parts":65,` + own,
		`[]`, ``, `{`,
		`{"agent_id":"h","revision":"i","part":1,"parts":2,` + own,
		`{"agent_id":"h","revision":"i","part":2,"parts":2,` + own,
	} {
		if err := c.nc.Publish(ownersPrefix+"h", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if got := <-heard; got != "i 2" {
		t.Errorf("got the list %q, want the one that is whole", got)
	}
	if err := c.SendOwners("h", ownersOf(100_000, "too many")); err == nil {
		t.Error("a list that does not fit was sent")
	}
}
