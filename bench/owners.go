package main

import (
	"fmt"
	"time"

	"example.org/odometer"
	"example.org/odometer/agent"
)

// ownerLookups measures how long it takes to look up whose an instance is: for each
// reading of an agent with 20,000 instances that each changed hands twice, and for each
// event in the ledger, which has the owners of an epoch beside its watermark. The limit
// of the first is to find the instance in a map, without which nothing can be said of it.
func ownerLookups(b *bench) error {
	instances, rounds := 20_000, 200
	if b.quick {
		instances, rounds = 1000, 10
	}
	list := odometer.Owners{Revision: "1"}
	ids := make([]odometer.InstanceID, instances)
	bare := make(map[odometer.InstanceID]int, instances)
	for i := range ids {
		ids[i] = odometer.InstanceID(fmt.Sprintf("6f1c2c1e-3c55-4a0f-9d6e-%012d", i*7919%instances))
		bare[ids[i]] = i
		for n, user := range []odometer.UserID{"u-ada", "u-bob", "u-cleo"} {
			own := odometer.Ownership{Instance: ids[i], Owner: odometer.Owner{User: user, Org: "o-acme"}, From: int64(n * 10), Until: int64(n*10 + 10)}
			if n == 2 {
				own.Until = odometer.Forever
			}
			list.List = append(list.List, own)
		}
	}
	var owners agent.Owners
	if err := owners.Take(list); err != nil {
		return err
	}
	// each returns the nanoseconds that one of many takes, in the round that was
	// interrupted least.
	each := func(do func(odometer.InstanceID)) float64 {
		best := time.Duration(1 << 62)
		for range rounds {
			begin := time.Now()
			for _, id := range ids {
				do(id)
			}
			best = min(best, time.Since(begin))
		}
		return float64(best.Nanoseconds()) / float64(len(ids))
	}
	found, sum := 0, 0
	limit := each(func(id odometer.InstanceID) { sum += bare[id] })
	b.cost("owner_lookup_agent", each(func(id odometer.InstanceID) {
		if owners.Owner(id, 25, odometer.Owner{}).User == "u-cleo" {
			found++
		}
	}), "ns", limit)
	recorded := list.List[:3]
	b.cost("owner_lookup_ledger", each(func(odometer.InstanceID) {
		if owner, _ := odometer.OwnerAt(recorded, 25, odometer.Owner{}); owner.User == "u-cleo" {
			found++
		}
	}), "ns", 0)
	if want := 2 * rounds * len(ids); found != want || sum == 0 {
		return fmt.Errorf("found %d owners, want %d", found, want)
	}
	return nil
}
