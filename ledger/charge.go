package ledger

import (
	"fmt"
	"slices"

	"example.org/odometer"
)

// charge says whom N entries are charged to, from the number Entry on, where that
// is not the owner that their event names. With Until an event is split there, and
// the next entry has what follows.
type charge struct {
	Entry uint64          `json:"entry"`
	N     uint64          `json:"n"`
	Until int64           `json:"until_us,omitempty"`
	User  odometer.UserID `json:"user"`
	Org   odometer.OrgID  `json:"org,omitempty"`
}

func (c *charge) owner() odometer.Owner { return odometer.Owner{User: c.User, Org: c.Org} }

// charges are in the order of their entries.
type charges []charge

// of returns whom an entry is charged to, where that is said.
func (list charges) of(entry uint64) *charge {
	i, _ := slices.BinarySearchFunc(list, entry, func(c charge, entry uint64) int {
		if c.Entry+c.N <= entry {
			return -1
		}
		return 1
	})
	if i < len(list) && list[i].Entry <= entry {
		return &list[i]
	}
	return nil
}

func (list *charges) add(c charge) {
	if n := len(*list); n > 0 {
		last := &(*list)[n-1]
		if last.Entry+last.N == c.Entry && last.Until == 0 && c.Until == 0 && last.owner() == c.owner() {
			last.N++
			return
		}
	}
	*list = append(*list, c)
}

// payer is who is charged for a booking, or for its part up to a moment.
type payer struct {
	owner odometer.Owner
	until int64
}

// payers returns who is charged for a booking of an event that names claimed, the
// next entry being number. The list holds until the next call.
func (f *fold) payers(e *epoch, span odometer.Span, claimed odometer.Owner, number uint64) ([]payer, error) {
	claimed = claimed.OrUnassigned()
	f.paying = f.paying[:0]
	if f.given != nil {
		for at := span.Start; at < span.End; number++ {
			p := payer{claimed, span.End}
			if c := f.given.of(number); c != nil {
				p.owner = c.owner()
				if c.Until != 0 {
					p.until = c.Until
				}
			}
			if p.until <= at || p.until > span.End {
				return nil, fmt.Errorf("entry %d is charged up to %d, which is not within its span: %w", number, p.until, odometer.ErrInvalid)
			}
			f.paying = append(f.paying, p)
			at = p.until
		}
		return f.paying, nil
	}
	if err := f.learnOwners(e); err != nil {
		return nil, err
	}
	for at := span.Start; at < span.End; {
		owner, until := e.owners.at(at, claimed)
		at = min(until, span.End)
		if n := len(f.paying); n > 0 && f.paying[n-1].owner == owner {
			f.paying[n-1].until = at
		} else {
			f.paying = append(f.paying, payer{owner, at})
		}
	}
	return f.paying, nil
}

// learnOwners has the epoch know who owned its instance when.
func (f *fold) learnOwners(e *epoch) (err error) {
	if !e.ownersKnown && f.someOwned {
		e.owners, err = historyOf(f.ctx, f.tx, e.instance)
	}
	e.ownersKnown = err == nil
	return err
}

// piece returns the part of k from one moment to another, whose readings go on from
// reading.
func (k *booking) piece(from, until int64, reading odometer.Usage) *booking {
	p := &booking{kind: k.kind, cause: k.cause, own: k.plain, more: until < k.span.End, span: odometer.Span{Start: from, End: until}}
	if from == k.span.Start {
		p.span.Step = k.span.Step
	}
	p.usage = k.usage.Between(k.span, from, until)
	p.readings = odometer.Readings{Start: reading, End: k.readings.End}
	if p.more {
		end := &p.readings.End
		end.Vector = reading.Vector
		for q, n := range p.usage.Vector {
			end.Vector[q] += n
		}
	}
	return p
}
