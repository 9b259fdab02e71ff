package audit_test

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"example.org/odometer"
	"example.org/odometer/audit"
)

// moved changes the first decision that moves usage.
func (f *forger) moved(change func(map[string]json.RawMessage)) {
	f.t.Helper()
	f.body(f.find(`"cause":"moved to`), change)
}

// body changes the decision in a record.
func (f *forger) body(r record, change func(map[string]json.RawMessage)) {
	f.t.Helper()
	d := map[string]json.RawMessage{}
	f.decode(r.body, &d)
	change(d)
	body, err := json.Marshal(d)
	if err != nil {
		f.t.Fatal(err)
	}
	f.exec(1, `UPDATE journal SET body = ? WHERE partition = ? AND position = ?`, body, r.partition, r.position)
	f.rehash(r.partition)
}

// sold changes the first decision whose an instance is.
func (f *forger) sold(change func(map[string]json.RawMessage)) {
	f.t.Helper()
	var r record
	if err := f.db.QueryRow(`SELECT partition, position, body FROM journal WHERE instr(CAST(body AS TEXT), '"owned"') > 0 ORDER BY id LIMIT 1`).Scan(&r.partition, &r.position, &r.body); err != nil {
		f.t.Fatal(err)
	}
	f.body(r, change)
}

// ownershipCorruptions are those of who owned what.
var ownershipCorruptions = []corruption{
	{"more is taken out of an account than put into another", "ownership", func(f *forger) {
		f.booking(`"cause":"moved to`, func(e *odometer.Entry) { e.Event.Usage.Vector[odometer.MeasuredTime]-- })
	}},
	{"what is moved is put into the account of another", "ownership", func(f *forger) {
		f.booking(`"cause":"moved from`, func(e *odometer.Entry) { e.Event.Owner.User = "u-mallory" })
	}},
	{"nobody says why usage was moved", "ownership", func(f *forger) {
		f.moved(func(d map[string]json.RawMessage) { delete(d, "cause") })
	}},
	{"a decision moves nothing and books something", "journal_body", func(f *forger) {
		f.moved(func(d map[string]json.RawMessage) { d["moves"] = []byte(`[]`) })
	}},
	{"what a decision moves is of another hour", "ownership", func(f *forger) {
		f.moved(func(d map[string]json.RawMessage) {
			d["moves"] = []byte(strings.Replace(string(d["moves"]), `"end_us":`, `"end_us":9`, 1))
		})
	}},
	{"what a decision moves cannot be read", "ownership", func(f *forger) {
		f.moved(func(d map[string]json.RawMessage) {
			d["moves"] = []byte(strings.Replace(string(d["moves"]), `"usage":"`, `"usage":"AAAA`, 1))
		})
	}},
	{"a decision moves more often than it books", "ownership", func(f *forger) {
		f.moved(func(d map[string]json.RawMessage) {
			var list []json.RawMessage
			f.decode(d["moves"], &list)
			d["moves"], _ = json.Marshal(append(list, list[0]))
		})
	}},
	{"it was decided that an instance is another's than the table says", "ownership", func(f *forger) {
		f.sold(func(d map[string]json.RawMessage) { d["user"] = []byte(`"u-mallory"`) })
	}},
	{"nobody says who decided whose an instance is", "ownership", func(f *forger) {
		f.sold(func(d map[string]json.RawMessage) { delete(d, "actor") })
	}},
	{"it was decided in another partition", "partition", func(f *forger) {
		f.sold(func(d map[string]json.RawMessage) { d["instance"] = []byte(`"vm-1"`) })
	}},
	{"the table has another owner", "attribution", func(f *forger) {
		f.exec(1, `UPDATE ownership SET usr = 'u-mallory' WHERE rowid = (SELECT min(rowid) FROM ownership)`)
	}},
	{"the table has an owner for longer", "attribution", func(f *forger) {
		f.exec(1, `UPDATE ownership SET from_us = from_us - 7 WHERE rowid = (SELECT min(rowid) FROM ownership)`)
	}},
	{"the table has forgotten an owner", "ownership", func(f *forger) {
		f.exec(1, `DELETE FROM ownership WHERE rowid = (SELECT min(rowid) FROM ownership)`)
	}},
	{"the table has an owner whom nobody named", "ownership", func(f *forger) {
		f.exec(1, `INSERT INTO ownership VALUES (?, 'vm-99', 1, 2, 'u-mallory', '')`, odometer.InstanceID("vm-99").Partition())
	}},
	{"the table has two owners at a time", "ownership", func(f *forger) {
		f.exec(1, `UPDATE ownership SET until_us = until_us + 7 WHERE rowid = (SELECT min(rowid) FROM ownership)`)
	}},
	{"the table has an owner in another partition", "partition", func(f *forger) {
		f.exec(1, `UPDATE ownership SET partition = (partition + 1) % 64 WHERE rowid = (SELECT min(rowid) FROM ownership)`)
	}},
	{"it was forgotten that recovered time was moved", "ownership", func(f *forger) {
		f.exec(-1, `DELETE FROM moved`)
	}},
	{"an entry is said to move recovered time that does not", "ownership", func(f *forger) {
		f.exec(1, `INSERT INTO moved VALUES (?, 1)`, one)
	}},
	{"an event is charged to somebody whom nobody named", "attribution", func(f *forger) {
		f.rewrite(`"user":"u-bob"`, `"user":"u-mallory"`)
	}},
	{"an event is charged to another than it names, and nobody said whose the instance was", "entry", func(f *forger) {
		f.rewrite(`{"runs":`, `{"owners":[{"entry":1,"n":1,"user":"u-mallory"}],"runs":`)
	}},
	{"a part of an event has too much of it", "entry", func(f *forger) {
		f.booking(`"user_id":"u-eve"`, func(e *odometer.Entry) {
			e.Event.Usage.Vector[cpu]++
			e.Event.Readings.End.Vector[cpu]++
		})
	}},
	{"a part of an event is of other sequence numbers", "entry", func(f *forger) {
		f.booking(`"user_id":"u-eve"`, func(e *odometer.Entry) { e.Event.Sequence++ })
	}},
	{"the parts of an event are booked as two", "booked_twice", func(f *forger) {
		r := f.find(`"until_us":`)
		result := string(r.result)
		i := strings.Index(result, `"until_us":`)
		f.rewrite(result[i:i+strings.Index(result[i:], ",")+1], "")
	}},
	{"nothing of a piece of an hour was moved", "hours", func(f *forger) {
		f.exec(1, `DELETE FROM hours WHERE rowid = (SELECT min(rowid) FROM hours WHERE cause = 'moved')`)
	}},
}

// TestTenures compares the two ways in which decisions come to who owns what: that
// of the audit with one that asks for each moment.
func TestTenures(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var decided []audit.Tenure
		for range 1 + r.IntN(6) {
			from := r.Int64N(12)
			decided = append(decided, audit.NewTenure(from, from+1+r.Int64N(6), []odometer.Owner{ada, bob}[r.IntN(2)]))
		}
		list := audit.TenuresOf(decided)
		for at := range int64(20) {
			if got, want := audit.OwnerAt(list, at), audit.LastOwnerAt(decided, at); got != want {
				t.Fatalf("%v at %d: got %v of %v, want %v", decided, at, got, list, want)
			}
		}
		if !audit.Joined(list) {
			t.Fatalf("%v: got %v, want neighbours joined and in order", decided, list)
		}
	}
}
