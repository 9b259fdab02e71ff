package audit

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"example.org/odometer"
)

// epochRow is what the table epochs says of an epoch.
type epochRow struct {
	no int64
	identity
	sequence uint64
	end      int64
	vector   odometer.Usage
	closed   bool
	position int64
	memory   uint64 // of digests, the rows of both tables
}

// loadEpochs reads the table epochs of the partition, and takes the open hours
// from the balance.
func (p *replay) loadEpochs(ctx context.Context) error {
	rep := p.a.report
	numbers := map[int64]*epochRow{}
	owners := map[int64]odometer.Owner{} // of open hours
	err := p.from.each(ctx, func(rows *sql.Rows) error {
		r := new(epochRow)
		var id odometer.Epoch
		var openHour int64
		var body []byte
		if err := rows.Scan(&r.no, &id, &r.instance, &r.agent, &r.countedBy, &r.started, &openHour, &body); err != nil {
			return err
		}
		p.seen(id, r)
		open, openRecovered, owner, err := r.cutState(body, p.digest)
		if err != nil {
			rep.find("table", "state, partition %d, epoch %s: %v", p.partition, id, err)
		}
		p.epochs[id] = &watermark{row: r}
		numbers[r.no] = r
		if owner.User != "" {
			owners[r.no] = owner
		}
		if open == (odometer.Usage{}) && openRecovered == 0 {
			return nil
		}
		return p.open(r, id, openHour, owner, &open, openRecovered)
	}, `SELECT e.epoch_no, e.epoch, e.instance, e.agent, e.counted_by, e.started_us, coalesce(s.open_hour, 0), coalesce(s.body, x'')
		FROM epochs e LEFT JOIN state s ON s.id = (e.partition << 40) + e.epoch_no WHERE e.partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read the epochs: %w", err)
	}
	err = p.from.each(ctx, func(rows *sql.Rows) error {
		var no int64
		if err := rows.Scan(&no); err != nil {
			return err
		}
		if numbers[no] == nil {
			rep.find("table", "state, partition %d has a row of epoch number %d, which there is not", p.partition, no)
		}
		return nil
	}, `SELECT id - (? << 40) FROM state WHERE id BETWEEN ? << 40 AND (? << 40) + 1099511627775`, p.partition, p.partition, p.partition)
	if err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	err = p.from.each(ctx, func(rows *sql.Rows) error {
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
		if err := r.recall(chunk, data, p.digest); err != nil {
			rep.find("table", "digests, partition %d, epoch number %d, chunk %d: %v", p.partition, no, chunk, err)
		}
		return nil
	}, `SELECT epoch_no, chunk, data FROM digests WHERE partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read the digests: %w", err)
	}
	if p.from != p.a.snap {
		return nil
	}
	return p.checkOpenOwners(ctx, owners)
}

// cutUsage decodes a stored Usage that nothing follows.
func cutUsage(b []byte) (odometer.Usage, error) {
	u, rest, err := odometer.CutUsage(b)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes follow the usage: %w", len(rest), odometer.ErrInvalid)
	}
	return u, err
}

// cutState reads a row of the table state: 1 where the epoch is closed; then
// sequence, end, position and vector of its watermark; sums, recovered time,
// user and org of its open hour; and to the end the unfinished chunk of
// digests.
func (r *epochRow) cutState(b []byte, each digestFunc) (open odometer.Usage, recovered int64, owner odometer.Owner, err error) {
	if len(b) == 0 || b[0] > 1 {
		return open, 0, owner, errors.New("there is no row, or it begins with no known flags")
	}
	r.closed, b = b[0] == 1, b[1:]
	short := false
	number := func(cut func([]byte) (uint64, int)) uint64 {
		v, n := cut(b)
		short = short || n <= 0
		b = b[max(n, 0):]
		return v
	}
	signed := func(b []byte) (uint64, int) { v, n := binary.Varint(b); return uint64(v), n }
	text := func() string {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			short, b = true, nil
			return ""
		}
		s := string(b[1 : 1+b[0]])
		b = b[1+b[0]:]
		return s
	}
	r.sequence, r.end, r.position = number(binary.Uvarint), int64(number(signed)), int64(number(binary.Uvarint))
	if r.vector, b, err = odometer.CutUsage(b); err != nil {
		return open, 0, owner, err
	}
	if open, b, err = odometer.CutUsage(b); err != nil {
		return open, 0, owner, err
	}
	recovered = int64(number(signed))
	owner = odometer.Owner{User: odometer.UserID(text()), Org: odometer.OrgID(text())}
	if short {
		return open, recovered, owner, errors.New("it is cut off")
	}
	if r.sequence > 0 {
		err = r.recall(int64(r.sequence-1)/32, b, each)
	}
	return open, recovered, owner, err
}

// digestFunc is called with each digest of an epoch; nil for not at all.
type digestFunc func(no int64, first, sequence uint64, digest []byte) error

// recall adds a chunk of digests to r's memory. A chunk is a sequence of
// events: place in the chunk (uvarint), sequence numbers before its last that
// it covers (uvarint), 8 bytes of its digest.
func (r *epochRow) recall(chunk int64, data []byte, each digestFunc) error {
	if chunk < 0 || chunk > math.MaxInt64/32 {
		return fmt.Errorf("there is no chunk %d of digests", chunk)
	}
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
		if each != nil {
			if err := each(r.no, sequence-before, sequence, data[n:n+8]); err != nil {
				return err
			}
		}
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
		switch {
		case r == nil && w.sequence > 0:
			continue // a finding with its first entry
		case r == nil:
			rep.find("epochs", "the table has no epoch %s, of which an event was received", id)
			continue
		case w.opened == (identity{}):
			rep.find("epochs", "the table has epoch %s, of which no event was received", id)
			continue
		}
		if w.sequence == 0 { // seen and not booked: the row stands at the beginning
			w.end = w.opened.started
		}
		switch {
		case r.identity != w.opened:
			rep.find("epochs", "epoch %s is of %+v; the table says %+v", id, w.opened, r.identity)
		case r.sequence != w.sequence || r.end != w.end || r.closed != w.closed || r.position != w.position:
			rep.find("epochs", "epoch %s: booked to sequence %d, %d µs, closed %t, record %d; the table says %d, %d µs, %t, %d",
				id, w.sequence, w.end, w.closed, w.position, r.sequence, r.end, r.closed, r.position)
		case r.vector != w.vector:
			rep.find("epochs", "epoch %s: the table's vector is not the last reading that was booked: %s", id, difference(&r.vector, &w.vector))
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
