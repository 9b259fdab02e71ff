package api

import (
	"fmt"
	"strings"
	"time"
)

// InventoryFacts are about finding the virtual machines on this host.
type InventoryFacts struct {
	Machines int
	Failed   []string // sources that cannot be listed, and why: their machines are as they were
	Problems []string // what is not known of single machines, and why
}

// problemsNamed is how many machines' problems are told in full.
const problemsNamed = 5

// judgeInventory names what is not known of single machines and does not call
// it worse than well: it may be so for good, and the rest of them is measured.
func judgeInventory(i *InventoryFacts) Component {
	v := newVerdict("")
	v.facts["virtual_machines"] = i.Machines
	v.facts["problems"] = len(i.Problems)
	for _, s := range i.Failed {
		v.complain(Degraded, "%s", s)
	}
	named := i.Problems
	if len(named) > problemsNamed {
		named = append(named[:problemsNamed:problemsNamed], fmt.Sprintf("and %d more", len(i.Problems)-problemsNamed))
	}
	if len(named) > 0 {
		v.note("%s", strings.Join(named, "; "))
	}
	return v.component(time.Time{})
}
