package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"example.org/odometer"
)

// The table owner_epochs finds the epochs that an owner has usage of. A new
// epoch is not entered when its first event is booked, in the middle of a
// commit, but by the upkeep, many at a time and in the table's order; until
// then its number lies beyond the one that owners_known has of its partition,
// and questions look at every such epoch. An owner that takes over an epoch is
// entered at once, together with the one before.

// own notes that owner has usage of e, which is about to be added.
func (f *fold) own(e *epoch, owner odometer.Owner) error {
	if e.owned && e.owner == owner {
		return nil
	}
	deferred := e.no > f.known[e.partition]
	if e.owned && deferred {
		if err := f.insertOwner(e, e.owner); err != nil {
			return err
		}
	}
	if e.owned || !deferred {
		if err := f.insertOwner(e, owner); err != nil {
			return err
		}
	}
	e.owner, e.owned = owner, true
	return nil
}

func (f *fold) insertOwner(e *epoch, owner odometer.Owner) error {
	_, err := f.exec(`INSERT INTO owner_epochs (usr, org, partition, epoch_no) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		string(owner.User), string(owner.Org), e.partition, e.no)
	if err != nil {
		return fmt.Errorf("note the owner of epoch %s: %w", e.epoch, err)
	}
	return nil
}

// ownersMost is how many epochs are entered in one transaction.
const ownersMost = 5000

// enterOwners enters the epochs that are new, a bounded number in each
// transaction.
func (l *Ledger) enterOwners(ctx context.Context) error {
	for more := true; more; {
		err := l.transact(ctx, func(f *fold, _ int64) (err error) {
			more, err = f.enterOwners()
			return err
		})
		if err != nil {
			return fmt.Errorf("enter owners: %w", err)
		}
	}
	return nil
}

func (f *fold) enterOwners() (more bool, err error) {
	room := int64(ownersMost)
	for partition, h := range f.heads {
		known := f.known[partition]
		upto := min(h.epochNo, known+room)
		if upto <= known {
			more = more || h.epochNo > known
			continue
		}
		list, err := f.openOwners(partition, known, upto)
		if err != nil {
			return false, err
		}
		slices.SortFunc(list, func(a, b *epoch) int {
			return cmp.Or(cmp.Compare(a.owner.User, b.owner.User), cmp.Compare(a.owner.Org, b.owner.Org), cmp.Compare(a.no, b.no))
		})
		for _, e := range list {
			if err := f.insertOwner(e, e.owner); err != nil {
				return false, err
			}
		}
		_, err = f.exec(`UPDATE owners_known SET epoch_no = ? WHERE partition = ?`, upto, partition)
		if err != nil {
			return false, err
		}
		room -= upto - known
		f.known[partition] = upto
		more = more || upto < h.epochNo
	}
	return more, nil
}

// openOwners returns the epochs above known up to upto that have an open hour,
// with who it is of.
func (f *fold) openOwners(partition int, known, upto int64) ([]*epoch, error) {
	rows, err := f.tx.QueryContext(f.ctx, `SELECT id, body FROM state WHERE id BETWEEN ? AND ?`, stateID(partition, known+1), stateID(partition, upto))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []*epoch
	for rows.Next() {
		var id int64
		var body []byte
		if err := rows.Scan(&id, &body); err != nil {
			return nil, err
		}
		_, first := firstOf(id)
		epochs, err := cutSiblings(body)
		if err != nil {
			return nil, fmt.Errorf("state of epoch %d of partition %d: %w", first, partition, err)
		}
		for i, e := range epochs {
			if no := first + int64(i); e != nil && no > known && no <= upto && e.open.owner.User != "" {
				e.partition, e.no, e.owner = partition, no, e.open.owner
				list = append(list, e)
			}
		}
	}
	return list, rows.Err()
}
