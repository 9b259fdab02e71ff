package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"example.org/odometer"
)

// Report is what Rebuild found.
type Report struct {
	Records int64 `json:"records"`
	Entries int64 `json:"entries"`
	Pruned  int64 `json:"pruned"` // records that are gone: what follows from them is taken from the base
	// Differences are the places where the tables that stand differ from the
	// journal's fold, at most 100 of them; none when the journal alone
	// rebuilds everything.
	Differences []string `json:"differences"`
	Total       int      `json:"total_differences"`
}

func (r *Report) differ(format string, args ...any) {
	r.Total++
	if len(r.Differences) < 100 {
		r.Differences = append(r.Differences, fmt.Sprintf(format, args...))
	}
}

// Rebuild folds the journal of the ledger at path into new tables, in a
// temporary database beside it, and compares them with the tables that stand:
// decisions, hash chain, watermarks, sums of every hour, receipts, counts,
// held events, quarantine, coverage, reversals, ownership, closed months,
// handovers and lifecycle. It changes nothing and may run beside the server: it
// compares one moment. Progress is called now and then with the records done and the records there
// are; it may be nil.
func Rebuild(ctx context.Context, path string, progress func(done, all int64)) (*Report, error) {
	r, err := rebuild(ctx, path, progress)
	if err != nil {
		return nil, fmt.Errorf("rebuild %s: %w", path, err)
	}
	return r, nil
}

func rebuild(ctx context.Context, path string, progress func(done, all int64)) (*Report, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	stands, err := connect(path, "ro", 2)
	if err != nil {
		return nil, err
	}
	defer stands.Close()
	snapshot, err := stands.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer snapshot.Rollback()
	if err := readable(ctx, snapshot); err != nil {
		return nil, err
	}

	dir, err := os.MkdirTemp(filepath.Dir(path), "rebuild-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	report := &Report{Differences: []string{}}
	base, err := baseOf(ctx, path, snapshot)
	if err != nil {
		return nil, err
	}
	if base != "" {
		if err := copyBase(ctx, base, filepath.Join(dir, "ledger.db")); err != nil {
			return nil, fmt.Errorf("start from the base of the pruned journal: %w", err)
		}
	}
	anew, err := Open(ctx, Options{Path: filepath.Join(dir, "ledger.db")})
	if err != nil {
		return nil, err
	}
	defer anew.Close()

	for _, h := range anew.fold.heads {
		report.Pruned += h.position
	}
	if err := anew.replay(ctx, snapshot, report, progress); err != nil {
		return nil, err
	}
	return report, compare(ctx, snapshot, anew.write, report)
}

// copyBase copies the base of a pruned journal, which may be written to
// meanwhile.
func copyBase(ctx context.Context, base, to string) error {
	db, err := connect(base, "ro", 1)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := readable(ctx, db); err != nil {
		return err
	}
	return copyDatabase(ctx, db, to, func(string) error { return nil })
}

// replayBatch is how many records are folded in one transaction.
const replayBatch = 500

// replay folds every record of the journal in from and compares what it
// decides with what was decided.
func (l *Ledger) replay(ctx context.Context, from queryer, report *Report, progress func(done, all int64)) error {
	var all, last int64
	if err := from.QueryRowContext(ctx, `SELECT count(*), coalesce(max(id), 0) FROM journal`).Scan(&all, &last); err != nil {
		return err
	}
	base := map[int]int64{}
	for p, h := range l.fold.heads {
		base[p] = h.position
	}
	for done := int64(0); done < last; {
		var batch []*record
		for r, err := range records(ctx, from, `WHERE id > ? ORDER BY id LIMIT ?`, done, replayBatch) {
			if err != nil {
				return err
			}
			batch = append(batch, r)
		}
		if len(batch) == 0 {
			break
		}
		done = batch[len(batch)-1].id
		err := l.transact(ctx, func(f *fold, _ int64) error {
			for _, r := range batch {
				if r.position <= base[r.partition] {
					continue
				}
				if err := f.again(r, report); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if progress != nil {
			progress(report.Records, all)
		}
	}
	return nil
}

// again folds a record that was folded before.
func (f *fold) again(old *record, report *Report) error {
	r := &record{
		partition: old.partition, kind: old.kind, at: old.at, sender: old.sender, spool: old.spool,
		first: old.first, last: old.last, body: old.body,
	}
	f.start(r)
	var res struct { // whose bookings are made again, and what was known of who sent it
		Owners charges `json:"owners"`
		Runs   []run   `json:"runs"`
	}
	if err := json.Unmarshal(old.result, &res); err != nil {
		return fmt.Errorf("journal record %d-%d: what was decided: %w", old.partition, old.position, err)
	}
	f.given = append(charges{}, res.Owners...) // not nil
	defer func() { f.given = nil }()
	var err error
	switch r.kind {
	case kindFrame:
		var fr *odometer.Frame
		if fr, err = odometer.DecodeFrame(r.body); err == nil {
			refuseAgain(fr, res.Runs)
			_, err = f.frame(r, fr)
		}
	case kindBroken:
		_, err = f.frame(r, &odometer.Frame{Packed: r.body, Err: old.whyBroken()})
	default:
		_, err = f.decide(r)
	}
	if err != nil {
		return fmt.Errorf("journal record %d-%d: %w", old.partition, old.position, err)
	}
	if r.kind != kindDecision && r.spool != "" && r.kind != kindBroken {
		agent := odometer.AgentID(r.sender)
		f.advance(spoolKey{agent.Partition(), agent, odometer.SpoolID(r.spool)}, r.last, r.at)
	}
	report.Records++
	report.Entries += int64(r.entries)
	switch {
	case r.position != old.position:
		report.differ("journal record %d-%d stands where %d is due", old.partition, old.position, r.position)
	case !bytes.Equal(r.result, old.result):
		report.differ("journal record %d-%d was decided %s and folds to %s", old.partition, old.position, old.result, r.result)
	case !bytes.Equal(r.hash, old.hash):
		report.differ("journal record %d-%d: its hash does not continue the chain", old.partition, old.position)
	case r.firstEntry != old.firstEntry || r.entries != old.entries || r.minUS != old.minUS || r.maxUS != old.maxUS:
		report.differ("journal record %d-%d: its entries differ", old.partition, old.position)
	}
	return nil
}

// whyBroken returns why the frame in r could not be opened, as it was said
// when it was received: of a frame over the limit only the beginning is kept.
func (r *record) whyBroken() error {
	var res result
	if err := json.Unmarshal(r.result, &res); err != nil {
		return err
	}
	if len(res.Runs) == 0 || res.Runs[0].Detail == "" {
		return nil
	}
	return errors.New(res.Runs[0].Detail)
}

// comparisons are the tables that must agree row by row. Rows are compared
// without the numbers that only link tables.
var comparisons = []struct{ name, query string }{
	{"digests", `SELECT d.partition || ' ' || e.epoch || ' ' || d.chunk, hex(d.data) FROM digests d JOIN epochs e ON e.partition = d.partition AND e.epoch_no = d.epoch_no`},
	{"spools", `SELECT partition || ' ' || agent || ' ' || spool, position || ' ' || home FROM spools`},
	{"counts", `SELECT partition || ' ' || outcome, CAST(n AS TEXT) FROM counts`},
	{"held", `SELECT partition || ' ' || epoch || ' ' || first || ' ' || sequence, position || ' ' || idx || ' ' || reason || ' ' || hex(digest) FROM held`},
	{"quarantine", `SELECT partition || ' ' || no, position || ' ' || idx || ' ' || reason || ' ' || event_id || ' ' || hex(digest) || ' ' || released_us FROM quarantine`},
	{"coverage", `SELECT partition || ' ' || instance || ' ' || source || ' ' || start_us, end_us || ' ' || hex(digest) FROM coverage`},
	{"generations", `SELECT partition || ' ' || generation, position || ' ' || entry FROM generations`},
	{"ownership", `SELECT partition || ' ' || instance || ' ' || from_us, until_us || ' ' || usr || ' ' || org FROM ownership`},
	{"moved", `SELECT partition || ' ' || entry, '' FROM moved`},
	{"closes", `SELECT partition || ' ' || month || ' ' || everybody || ' ' || org, position || ' ' || entry || ' ' || at_us FROM closes`},
	{"statements", `SELECT partition || ' ' || month || ' ' || org, id || ' ' || at_us || ' ' || actor || ' ' || cause || ' ' || hash || ' ' || lines || ' ' || missing || ' ' || hex(body) FROM statements`},
	{"adjustments", `SELECT partition || ' ' || entry || ' ' || month, booked || ' ' || instance || ' ' || usr || ' ' || org || ' ' || hex(sums) || ' ' || recovered_us FROM adjustments`},
	{"reversals", `SELECT partition || ' ' || entry, by_entry || ' ' || recovered FROM reversals`},
	{"lifecycle", `SELECT partition || ' ' || instance || ' ' || at_us || ' ' || what || ' ' || device || ' ' || agent, boot_us || ' ' || detail FROM lifecycle`},
	{"handovers", `SELECT partition || ' ' || epoch || ' ' || until_us, instance || ' ' || agent || ' ' || sequence || ' ' || successor FROM handovers`},
	{"checkpoints", `SELECT partition || ' ' || agent || ' ' || instance, position || ' ' || idx FROM checkpoints`},
}

// compare reports the rows in which the tables of a and b differ.
func compare(ctx context.Context, stands, anew queryer, report *Report) error {
	for _, c := range comparisons {
		a, err := textRows(ctx, stands, c.query)
		if err != nil {
			return fmt.Errorf("table %s: %w", c.name, err)
		}
		b, err := textRows(ctx, anew, c.query)
		if err != nil {
			return fmt.Errorf("table %s: %w", c.name, err)
		}
		compareMaps(c.name, a, b, report)
	}
	a, err := watermarks(ctx, stands)
	if err != nil {
		return err
	}
	b, err := watermarks(ctx, anew)
	if err != nil {
		return err
	}
	compareMaps("state", a, b, report)
	a, err = hourSums(ctx, stands)
	if err != nil {
		return err
	}
	b, err = hourSums(ctx, anew)
	if err != nil {
		return err
	}
	compareMaps("hours", a, b, report)
	return comparePacked(ctx, stands, report)
}

func compareMaps(table string, stands, anew map[string]string, report *Report) {
	for k, v := range stands {
		if w, ok := anew[k]; !ok {
			report.differ("table %s: row %q does not follow from the journal", table, k)
		} else if v != w {
			report.differ("table %s: row %q is %q, the journal gives %q", table, k, v, w)
		}
	}
	for k := range anew {
		if _, ok := stands[k]; !ok {
			report.differ("table %s: row %q is missing", table, k)
		}
	}
}

func textRows(ctx context.Context, db queryer, query string) (map[string]string, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	m := map[string]string{}
	for rows.Next() {
		var k, v string
		if err := rows.Scan(&k, &v); err != nil {
			return nil, err
		}
		m[k] = v
	}
	return m, rows.Err()
}

// watermarks returns where each epoch stands, apart from its open hour.
func watermarks(ctx context.Context, db queryer) (map[string]string, error) {
	rows, err := db.QueryContext(ctx, `SELECT `+epochColumns+` FROM `+epochTables)
	if err != nil {
		return nil, fmt.Errorf("watermarks: %w", err)
	}
	defer rows.Close()
	m := map[string]string{}
	for rows.Next() {
		var e epoch
		if err := e.scan(rows); err != nil {
			return nil, fmt.Errorf("watermarks: %w", err)
		}
		e.open = bucket{}
		m[fmt.Sprintf("%d %s", e.partition, e.epoch)] = fmt.Sprintf("%s %s %s %d %x", e.instance, e.agent, e.countedBy, e.started, e.appendState(nil))
	}
	return m, rows.Err()
}

// hourSums returns the usage of each epoch, owner and hour, however it is
// divided between open parts, pieces and days.
func hourSums(ctx context.Context, db queryer) (map[string]string, error) {
	u := newUsageQuery(ctx, db, odometer.UsageQuery{
		GroupBy: []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg, odometer.ByHour},
	})
	const end = 1 << 62
	for _, part := range []func(from, to int64) error{u.compacted, u.pieces, u.open} {
		if err := part(1, end); err != nil {
			return nil, fmt.Errorf("sums of hours: %w", err)
		}
	}
	m := map[string]string{}
	for k, row := range u.rows {
		m[fmt.Sprintf("%s %s/%s hour %d", k.instance, k.owner.Org, k.owner.User, k.start)] = fmt.Sprintf("%v recovered %v", row.Totals, row.Recovered.String())
	}
	return m, nil
}
