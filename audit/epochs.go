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

// loadEpochs reads the tables epochs and state of the partition, and takes the
// open hours from the balance.
func (p *replay) loadEpochs(ctx context.Context) error {
	rep := p.a.report
	states, table, err := p.loadState(ctx)
	if err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	numbers := map[int64]*epochRow{}
	owners := map[int64]odometer.Owner{} // of open hours
	err = p.from.each(ctx, func(rows *sql.Rows) error {
		r := new(epochRow)
		var id odometer.Epoch
		if err := rows.Scan(&r.no, &id, &r.instance, &r.agent, &r.countedBy, &r.started); err != nil {
			return err
		}
		p.seen(id, r)
		open, err := r.cutState(states[r.no], p.digest)
		if err != nil {
			rep.find("table", "state, partition %d, epoch %s: %v", p.partition, id, err)
		}
		delete(states, r.no)
		p.epochs[id] = &watermark{row: r}
		numbers[r.no] = r
		if open.owner.User != "" {
			owners[r.no] = open.owner
		}
		if open.empty() {
			return nil
		}
		if row := table[r.no>>3]; row != nil {
			row.found = min(row.found, open.hour)
		}
		return p.open(r, id, open.hour, open.owner, &open.sums, open.recovered)
	}, `SELECT epoch_no, epoch, instance, agent, counted_by, started_us FROM epochs WHERE partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read the epochs: %w", err)
	}
	for _, id := range slices.Sorted(maps.Keys(table)) {
		table[id].check(rep, p.partition, id*8)
	}
	for _, no := range slices.Sorted(maps.Keys(states)) {
		rep.find("table", "state, partition %d has epoch number %d, which there is not", p.partition, no)
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

// stateRow is a row of the table state: the epochs of eight consecutive numbers.
type stateRow struct {
	earliest int64 // the earliest open hour, -1 for one up to 1970, 0 for none: as it says
	found    int64 // the same as it is; [math.MaxInt64] for none
}

// loadState reads the table state of the partition: of each epoch, by its
// number, what cutState reads, and the rows, by number over eight. A row has of
// each epoch two bytes, big endian, with the length of its state, 0 where there
// is no such epoch, and the state.
func (p *replay) loadState(ctx context.Context) (states map[int64][]byte, table map[int64]*stateRow, err error) {
	rep := p.a.report
	states, table = map[int64][]byte{}, map[int64]*stateRow{}
	err = p.from.each(ctx, func(rows *sql.Rows) error {
		var id int64
		var body []byte
		r := &stateRow{found: math.MaxInt64}
		if err := rows.Scan(&id, &r.earliest, &body); err != nil {
			return err
		}
		table[id] = r
		for no := id * 8; no < id*8+8; no++ {
			size := 0
			if len(body) >= 2 {
				size = int(binary.BigEndian.Uint16(body))
			}
			if len(body) < 2+size {
				rep.find("table", "state, partition %d: the row from epoch number %d on is cut off", p.partition, id*8)
				return nil
			}
			if size > 0 {
				states[no] = body[2 : 2+size]
			}
			body = body[2+size:]
		}
		if len(body) > 0 {
			rep.find("table", "state, partition %d: %d bytes follow the row from epoch number %d on", p.partition, len(body), id*8)
		}
		return nil
	}, `SELECT id - (? << 37), open_hour, body FROM state WHERE id >= ? << 37 AND id < (? + 1) << 37`, p.partition, p.partition, p.partition)
	return states, table, err
}

func (r *stateRow) check(rep *Report, partition, first int64) {
	switch {
	case r.found == math.MaxInt64:
		r.found = 0
	case r.found <= 0:
		r.found = -1
	}
	if r.found != r.earliest {
		rep.find("open_from", "partition %d: of the epochs from number %d on the earliest open hour is said to be %d, it is %d", partition, first, r.earliest, r.found)
	}
}

// openHour is what an epoch's state has of the hour that it is in.
type openHour struct {
	hour      int64
	sums      odometer.Usage
	recovered int64
	owner     odometer.Owner
}

func (o *openHour) empty() bool { return o.sums == (odometer.Usage{}) && o.recovered == 0 }

// cutState reads an epoch's state: 1 where it is closed; then sequence, end,
// position and vector of its watermark; the hour (in hours), sums, recovered
// time, user and org of its open hour; and to the end the unfinished chunk of
// digests.
func (r *epochRow) cutState(b []byte, each digestFunc) (open openHour, err error) {
	if len(b) == 0 || b[0] > 1 {
		return open, errors.New("there is none, or it begins with no known flags")
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
		return open, err
	}
	open.hour = int64(number(signed)) * 3_600_000_000
	if open.sums, b, err = odometer.CutUsage(b); err != nil {
		return open, err
	}
	open.recovered = int64(number(signed))
	open.owner = odometer.Owner{User: odometer.UserID(text()), Org: odometer.OrgID(text())}
	if short {
		return open, errors.New("it is cut off")
	}
	if r.sequence > 0 {
		err = r.recall(int64(r.sequence-1)/32, b, each)
	}
	return open, err
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
