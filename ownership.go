package odometer

import (
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
)

// Forever is the end of what has none, in microseconds.
const Forever = math.MaxInt64

// Ownership says whose an instance is from one moment to another, in microseconds
// of the wall clock: [From, Until), Until [Forever] for no end. An Owner whose
// user is [Unassigned] is nobody, on somebody's word.
type Ownership struct {
	Instance    InstanceID
	Owner       Owner
	From, Until int64
}

// Owners is what is decided of whose the instances of one agent are: in order of
// instance, and of time, without what ended before the last change. An instance that
// is not in the list is nobody's on anybody's word.
type Owners struct {
	Revision string // names the list: another list has another
	List     []Ownership
}

// Valid returns nil for an ownership that can be recorded, and otherwise an error
// wrapping [ErrInvalid].
func (o *Ownership) Valid() error {
	if err := ValidID("instance", string(o.Instance)); err != nil {
		return err
	}
	if err := ValidID("user", string(o.Owner.User)); err != nil {
		return err
	}
	if o.Owner.Org != "" {
		if err := ValidID("org", string(o.Owner.Org)); err != nil {
			return err
		}
	}
	switch {
	case o.From < 0 || o.From/SecondMicros > maxSeconds:
		return fmt.Errorf("from: %d µs is no time between 1970 and the year 9999: %w", o.From, ErrInvalid)
	case o.Until <= o.From:
		return fmt.Errorf("until: %d µs does not lie after %d, from when on it would be: %w", o.Until, o.From, ErrInvalid)
	}
	return nil
}

// Partition returns the partition in which it is decided who owns i.
func (i InstanceID) Partition() int {
	sum := sha256.Sum256([]byte(i))
	return int(sum[0]) % Partitions
}

// Partition returns the partition in which it is decided what o used in a month.
func (o OrgID) Partition() int { return InstanceID(o).Partition() }

// Assignment is what becomes of the ledger where an instance is assigned to an
// owner: what it was recorded to be before in that time, and what is taken out of
// accounts and put into others because it was used before now.
type Assignment struct {
	Ownership
	Replaces []Ownership
	Moves    []Move
}

// Move is usage of an instance that is taken out of one account and put into
// another, by two corrections.
type Move struct {
	Partition int // in which the epoch is booked
	Epoch     Epoch
	Span      Span // within one hour
	From, To  Owner
	Usage     Usage
	Recovered bool // its time counts as recovered
}

// OwnerAt returns who owns an instance at a moment, and until when that holds at
// least: as list says, which is of one instance and in order of time, and where that
// says nothing the owner that is claimed.
func OwnerAt(list []Ownership, us int64, claimed Owner) (owner Owner, until int64) {
	i, within := slices.BinarySearchFunc(list, us, func(o Ownership, us int64) int {
		switch {
		case o.Until <= us:
			return -1
		case o.From > us:
			return 1
		}
		return 0
	})
	switch {
	case within:
		return list[i].Owner, list[i].Until
	case i < len(list):
		return claimed, list[i].From
	}
	return claimed, Forever
}
