package audit

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"example.org/odometer"
)

// epochRow is what the table epochs says of an epoch.
type epochRow struct {
	no        int64
	instance  odometer.InstanceID
	agent     odometer.AgentID
	countedBy string
	started   int64
	sequence  uint64
	end       int64
	vector    odometer.Usage
	closed    bool
	position  int64
	memory    uint64 // of digests, the rows of both tables
}

// loadEpochs reads the table epochs of the partition, and takes the open hours
// from the balance.
func (p *replay) loadEpochs(ctx context.Context) error {
	rep := p.a.report
	numbers := map[int64]*epochRow{}
	err := p.a.snap.each(ctx, func(rows *sql.Rows) error {
		r := new(epochRow)
		var id odometer.Epoch
		var sequence, openHour, openRecovered int64
		var owner odometer.Owner
		var vector, sums, digests []byte
		err := rows.Scan(&r.no, &id, &r.instance, &r.agent, &r.countedBy, &r.started, &sequence, &r.end, &vector, &r.closed, &r.position,
			&openHour, &owner.User, &owner.Org, &sums, &openRecovered, &digests)
		if err != nil {
			return err
		}
		r.sequence = uint64(sequence)
		open, err := cutUsage(sums)
		if err == nil {
			r.vector, err = cutUsage(vector)
		}
		if err == nil && r.sequence > 0 {
			err = r.recall(int64(r.sequence-1)/32, digests)
		}
		if err != nil {
			rep.find("table", "epochs, partition %d, epoch %s: %v", p.partition, id, err)
		}
		p.epochs[id] = &watermark{row: r}
		numbers[r.no] = r
		if open == (odometer.Usage{}) && openRecovered == 0 {
			return nil
		}
		return p.a.hours.put(hourKey(p.partition, r.no, openHour, owner), false, &open, openRecovered)
	}, `SELECT epoch_no, epoch, instance, agent, counted_by, started_us, sequence, end_us, vector, closed, position,
		open_hour, open_user, open_org, open_sums, open_recovered_us, digests FROM epochs WHERE partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read the epochs: %w", err)
	}
	err = p.a.snap.each(ctx, func(rows *sql.Rows) error {
		var no, chunk int64
		var data []byte
		if err := rows.Scan(&no, &chunk, &data); err != nil {
			return err
		}
		r := numbers[no]
		if r == nil {
			rep.find("digests", "partition %d has digests of epoch number %d, which there is not", p.partition, no)
			return nil
		}
		if err := r.recall(chunk, data); err != nil {
			rep.find("table", "digests, partition %d, epoch number %d, chunk %d: %v", p.partition, no, chunk, err)
		}
		return nil
	}, `SELECT epoch_no, chunk, data FROM digests WHERE partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read the digests: %w", err)
	}
	return nil
}

// cutUsage decodes a stored Usage that nothing follows.
func cutUsage(b []byte) (odometer.Usage, error) {
	u, rest, err := odometer.CutUsage(b)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes follow the usage: %w", len(rest), odometer.ErrInvalid)
	}
	return u, err
}

// recall adds a chunk of digests to r's memory. A chunk is a sequence of
// events: place in the chunk (uvarint), sequence numbers before its last that
// it covers (uvarint), 8 bytes of its digest.
func (r *epochRow) recall(chunk int64, data []byte) error {
	w := watermark{}
	for len(data) > 0 {
		at, n := binary.Uvarint(data)
		if n <= 0 || at > 31 {
			return errors.New("the chunk of digests is damaged")
		}
		data = data[n:]
		before, n := binary.Uvarint(data)
		if n <= 0 || len(data) < n+8 {
			return errors.New("the chunk of digests is damaged")
		}
		sequence := uint64(chunk)*32 + at + 1
		w.remember(sequence-before, sequence, data[n:n+8])
		data = data[n+8:]
	}
	r.memory += w.memory
	return nil
}

// checkEpochs compares the watermarks with the table epochs, and the sum of
// each epoch's usage with its readings.
func (p *replay) checkEpochs() {
	rep := p.a.report
	for _, id := range slices.Sorted(maps.Keys(p.epochs)) {
		w := p.epochs[id]
		if w.sequence > 0 {
			rep.Epochs++
			for q, n := range w.total.Vector {
				if n != w.vector.Vector[q] {
					rep.find("conservation", "epoch %s: %s sums to %d, its readings went from 0 to %d", id, odometer.Quantity(q), n, w.vector.Vector[q])
				}
			}
		}
		r := w.row
		if r == nil {
			continue // a finding with its first entry, or only ever held
		}
		if w.sequence == 0 {
			// Seen and not booked: the row stands at the beginning.
			if r.sequence != 0 || r.vector.Vector != (odometer.Vector{}) {
				rep.find("epochs", "epoch %s stands at sequence %d, the journal books none", id, r.sequence)
			}
			continue
		}
		counted := "vector"
		if w.byTime {
			counted = "time"
		}
		switch {
		case r.instance != w.instance || r.agent != w.agent || r.countedBy != counted:
			rep.find("epochs", "epoch %s is of %s at %s, counted by %s; the table says %s at %s, %s", id, w.instance, w.agent, counted, r.instance, r.agent, r.countedBy)
		case r.sequence != w.sequence || r.end != w.end || r.closed != w.closed || r.position != w.position:
			rep.find("epochs", "epoch %s: booked to sequence %d, %d µs, closed %t, record %d; the table says %d, %d µs, %t, %d",
				id, w.sequence, w.end, w.closed, w.position, r.sequence, r.end, r.closed, r.position)
		case r.vector != w.vector:
			rep.find("epochs", "epoch %s: the table's vector is not the last reading that was booked: %s", id, difference(&r.vector, &w.vector))
		case !w.byTime && !slices.Contains(w.started, r.started):
			rep.find("epochs", "epoch %s began at %d, the table says %d", id, w.started[0], r.started)
		}
		if r.memory != w.memory {
			rep.find("digests", "epoch %s: the digests that tell a repeated event from a changed one are not those of its events", id)
		}
	}
}

// difference names the first quantity in which a table and the journal differ.
func difference(table, journal *odometer.Usage) string {
	for q := range table.Vector {
		name := odometer.Quantity(q)
		switch {
		case table.Vector[q] != journal.Vector[q]:
			return fmt.Sprintf("%s is %d in the table and %d by the journal", name, table.Vector[q], journal.Vector[q])
		case table.Known.Has(name) != journal.Known.Has(name):
			return fmt.Sprintf("%s is known to one of them only", name)
		}
	}
	return "no quantity differs"
}
