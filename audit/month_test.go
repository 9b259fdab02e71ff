package audit_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"example.org/odometer"
)

// decided changes the first decision of a kind.
func (f *forger) decided(kind string, change func(map[string]json.RawMessage)) {
	f.t.Helper()
	var r record
	if err := f.db.QueryRow(`SELECT partition, position, body FROM journal WHERE instr(CAST(body AS TEXT), ?) > 0 ORDER BY id LIMIT 1`, `"decision":"`+kind+`"`).Scan(&r.partition, &r.position, &r.body); err != nil {
		f.t.Fatal(err)
	}
	f.body(r, change)
}

// stated changes the text of the first statement everywhere, with its hash and its id,
// and mends the chain: only what the entries say gives it away.
func (f *forger) stated(old, new string) {
	f.t.Helper()
	f.decided("stated", func(d map[string]json.RawMessage) {
		var text string
		f.decode(d["statement"], &text)
		s, err := odometer.ParseStatement([]byte(text))
		if err != nil || strings.Count(text, old) == 0 {
			f.t.Fatalf("statement %q, %v: want one with %q", text, err, old)
		}
		forged := strings.Replace(text, old, new, 1)
		d["statement"], _ = json.Marshal(forged)
		sum := sha256.Sum256([]byte(forged))
		hash := hex.EncodeToString(sum[:])
		f.exec(1, `UPDATE statements SET body = ?, hash = ?, id = ? WHERE id = ?`, []byte(forged), hash, s.Month.String()+"-"+hash[:16], s.ID())
	})
}

// monthCorruptions are those of months that were closed.
var monthCorruptions = []corruption{
	{"a statement has more than was used", "statement", func(f *forger) { f.stated("\n"+"usage\t2026-03\tu-ada\tvm-1\t", "\n"+"usage\t2026-03\tu-ada\tvm-1\t9") }},
	{"a statement has what another used", "statement", func(f *forger) { f.stated("\tu-ada\tvm-1\t", "\tu-mallory\tvm-1\t") }},
	{"a statement calls known what nobody knew", "statement", func(f *forger) { f.stated("\t-\t", "\t0\t") }},
	{"a statement is of another month", "statement", func(f *forger) { f.stated("usage\t2026-03", "usage\t2026-02") }},
	{"a statement is of another ledger", "statement", func(f *forger) { f.stated("ledger\t", "ledger\tf") }},
	{"a statement names another who closed it", "statement", func(f *forger) { f.stated("operator@", "mallory@") }},
	{"a statement says that it has more records", "statement", func(f *forger) { f.stated("as_of\t", "as_of\t1") }},
	{"a statement says that less was missing", "statement", func(f *forger) { f.stated("missing\tgap\tvm-2\t", "missing\tgap\tvm-1\t") }},
	{"a statement is no statement", "statement", func(f *forger) { f.stated("odometer statement 1", "odometer statement 7") }},
	{"a line of a statement is there twice", "statement", func(f *forger) {
		var text string
		if err := f.db.QueryRow(`SELECT CAST(body AS TEXT) FROM statements WHERE org = 'o-acme'`).Scan(&text); err != nil {
			f.t.Fatal(err)
		}
		line := text[strings.Index(text, "usage\t"):]
		line = line[:strings.Index(line, "\n")+1]
		f.stated(line, line+line)
	}},
	{"the table has another statement than was decided", "statement_table", func(f *forger) {
		f.exec(1, `UPDATE statements SET body = CAST(replace(CAST(body AS TEXT), 'it is over', 'it is done') AS BLOB) WHERE org = 'o-acme'`)
	}},
	{"the table has lost a statement", "statement_table", func(f *forger) { f.exec(1, `DELETE FROM statements WHERE org = 'o-acme'`) }},
	{"the table names another hash", "statement_table", func(f *forger) {
		f.exec(1, `UPDATE statements SET hash = replace(hash, substr(hash, 1, 1), 'x') WHERE org = 'o-acme'`)
	}},
	{"the table has a statement that nobody decided", "statement_table", func(f *forger) {
		f.exec(1, `INSERT INTO statements SELECT partition, month, 'o-other', 'x', at_us, actor, cause, hash, lines, missing, body FROM statements WHERE org = 'o-acme'`)
	}},
	{"a statement was decided in another partition", "partition", func(f *forger) {
		f.decided("stated", func(d map[string]json.RawMessage) { d["org"] = []byte(`"o-other"`) })
	}},
	{"nobody says who closed a month", "close", func(f *forger) {
		f.decided("closed", func(d map[string]json.RawMessage) { delete(d, "actor") })
	}},
	{"a month was closed that was not over", "close", func(f *forger) {
		f.decided("closed", func(d map[string]json.RawMessage) { d["month"] = []byte(`"2026-04"`) })
	}},
	{"a month was closed twice", "close", func(f *forger) {
		var r record
		if err := f.db.QueryRow(`SELECT partition, position, body FROM journal WHERE instr(CAST(body AS TEXT), '"everybody":true') > 0 ORDER BY id LIMIT 1`).Scan(&r.partition, &r.position, &r.body); err != nil {
			f.t.Fatal(err)
		}
		f.body(r, func(d map[string]json.RawMessage) {
			delete(d, "everybody")
			d["org"] = []byte(`"o-acme"`)
		})
	}},
	{"a partition has forgotten that a month is closed", "close", func(f *forger) { f.exec(1, `DELETE FROM closes WHERE partition = 9 AND everybody = 1`) }},
	{"a month was closed at another entry", "close", func(f *forger) {
		f.exec(1, `UPDATE closes SET entry = entry - 1 WHERE partition = ? AND everybody = 1`, one)
	}},
	{"a month was closed for another", "close", func(f *forger) { f.exec(-1, `UPDATE closes SET org = 'o-other' WHERE everybody = 0`) }},
	{"an adjustment is forgotten", "adjustments", func(f *forger) {
		f.exec(1, `DELETE FROM adjustments WHERE rowid = (SELECT min(rowid) FROM adjustments)`)
	}},
	{"an adjustment is in another month", "adjustments", func(f *forger) {
		f.exec(1, `UPDATE adjustments SET booked = month WHERE rowid = (SELECT min(rowid) FROM adjustments)`)
	}},
	{"an adjustment has more than was booked", "adjustments", func(f *forger) {
		f.usage("adjustments", "sums", "1", func(u *odometer.Usage) { u.Vector[cpu]++ })
	}},
	{"there is an adjustment that nothing booked", "adjustments", func(f *forger) {
		f.exec(1, `INSERT INTO adjustments SELECT partition, 1, month, booked, instance, usr, org, sums, recovered_us FROM adjustments LIMIT 1`)
	}},
}
