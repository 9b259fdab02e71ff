package agent

import (
	"fmt"
	"sync/atomic"

	"example.org/odometer"
)

// Owners is what the server has decided of whose the instances here are, as it told
// it last. While the server is away it stays. The methods may be called at once.
type Owners struct {
	told atomic.Pointer[ownersTold]
}

type ownersTold struct {
	revision string
	of       map[odometer.InstanceID][]odometer.Ownership // in order of time; empty for what was somebody's and is no more in the list
}

// Take takes a list in place of the one before, as a whole. One that cannot be right
// is an error wrapping [odometer.ErrInvalid], and changes nothing.
func (o *Owners) Take(list odometer.Owners) error {
	next := &ownersTold{list.Revision, map[odometer.InstanceID][]odometer.Ownership{}}
	for i := range list.List {
		own := &list.List[i]
		if err := own.Valid(); err != nil {
			return fmt.Errorf("owners %s: %w", list.Revision, err)
		}
		have := next.of[own.Instance]
		if n := len(have); n > 0 && have[n-1].Until > own.From {
			return fmt.Errorf("owners %s: %s is of two owners at %d µs: %w", list.Revision, own.Instance, own.From, odometer.ErrInvalid)
		}
		next.of[own.Instance] = append(have, *own)
	}
	if before := o.told.Load(); before != nil {
		for instance, own := range before.of {
			// Taken back: what the meter has of it must not go on.
			if _, there := next.of[instance]; !there && len(own) > 0 {
				next.of[instance] = nil
			}
		}
	}
	o.told.Store(next)
	return nil
}

// Revision names the list that was taken last, "" before the first.
func (o *Owners) Revision() string {
	if told := o.told.Load(); told != nil {
		return told.revision
	}
	return ""
}

// Owner returns whose an instance is at a moment of the wall clock, in microseconds:
// whom the server decided, and where it decided nothing whom the host names. An
// instance that was somebody's before is then nobody's, where the host names nobody:
// for the meter nobody named is who was named last.
func (o *Owners) Owner(instance odometer.InstanceID, us int64, named odometer.Owner) odometer.Owner {
	told := o.told.Load()
	if told == nil {
		return named
	}
	list, there := told.of[instance]
	if !there {
		return named
	}
	owner, _ := odometer.OwnerAt(list, us, named)
	return owner.OrUnassigned()
}
