package audit_test

import (
	"bytes"
	"encoding/json"
	"strings"

	"example.org/odometer"
)

// decision changes the first decision to reverse an entry.
func (f *forger) decision(change func(map[string]json.RawMessage)) {
	f.t.Helper()
	r := f.find(`"kind":"correction"`)
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

// reversed changes the entry that the first decision to reverse says that it is of.
func (f *forger) reversed(change func(*odometer.Entry)) {
	f.t.Helper()
	f.decision(func(d map[string]json.RawMessage) {
		e, err := odometer.DecodeEntry(d["entry"])
		if err != nil {
			f.t.Fatal(err)
		}
		change(e)
		d["entry"] = e.AppendJSON(nil)
	})
}

// reversalCorruptions are those of reversals.
var reversalCorruptions = []corruption{
	{"nobody decided a correction", "reversal", func(f *forger) {
		f.decision(func(d map[string]json.RawMessage) { d["decision"] = []byte(`"clock"`) })
	}},
	{"nobody says why an entry was reversed", "reversal", func(f *forger) {
		f.decision(func(d map[string]json.RawMessage) { delete(d, "cause") })
	}},
	{"nobody says who reversed an entry", "reversal", func(f *forger) {
		f.decision(func(d map[string]json.RawMessage) { delete(d, "actor") })
	}},
	{"a decision to reverse cannot be read", "journal_body", func(f *forger) {
		f.decision(func(d map[string]json.RawMessage) { d["entry"] = []byte(`{}`) })
	}},
	{"a correction takes back more than was booked", "reversal", func(f *forger) {
		f.booking(`"kind":"correction"`, func(e *odometer.Entry) { e.Event.Usage.Vector[cpu]-- })
	}},
	{"a correction is to the good of another owner", "reversal", func(f *forger) {
		f.booking(`"kind":"correction"`, func(e *odometer.Entry) { e.Event.Owner = bob })
	}},
	{"a correction is of another time", "reversal", func(f *forger) {
		f.booking(`"kind":"correction"`, func(e *odometer.Entry) { e.Event.Span.Start += 1000 })
		r := f.find(`"kind":"correction"`)
		f.exec(1, `UPDATE journal SET min_us = min_us + 1000 WHERE partition = ? AND position = ?`, r.partition, r.position)
		f.rehash(r.partition)
	}},
	{"a correction is of another event", "reversal", func(f *forger) {
		f.booking(`"kind":"correction"`, func(e *odometer.Entry) { e.SourceEventID = "vm-1/x/1" })
	}},
	{"what is reversed was booked otherwise", "reversal", func(f *forger) {
		f.reversed(func(e *odometer.Entry) { e.Event.Usage.Vector[cpu]++ })
		f.booking(`"kind":"correction"`, func(e *odometer.Entry) { e.Event.Usage.Vector[cpu]-- })
	}},
	{"what is reversed was charged to somebody else", "reversal", func(f *forger) {
		f.reversed(func(e *odometer.Entry) { e.Event.Owner = bob })
		f.booking(`"kind":"correction"`, func(e *odometer.Entry) { e.Event.Owner = bob })
	}},
	{"what is reversed was never booked", "reversal", func(f *forger) {
		f.reversed(func(e *odometer.Entry) { e.ID.Number += 1_000_000 })
		f.booking(`"kind":"correction"`, func(e *odometer.Entry) { e.Cause = strings.Replace(e.Cause, "-5:", "-1000005:", 1) })
		f.exec(1, `UPDATE reversals SET entry = 1000005 WHERE entry = 5`)
	}},
	{"what is reversed was booked in another partition", "partition", func(f *forger) {
		f.reversed(func(e *odometer.Entry) { e.ID.Partition = two })
	}},
	{"an entry is reversed twice", "reversal", func(f *forger) {
		r := f.find(`"kind":"correction"`)
		entry := f.number(`SELECT max(first_entry + entries) FROM journal WHERE partition = ?`, r.partition)
		first := f.number(`SELECT first_entry FROM journal WHERE partition = ? AND position = ?`, r.partition, r.position)
		result := bytes.Replace(r.result, []byte(`"entry_id":"`+itoa(r.partition)+`-`+itoa(first)), []byte(`"entry_id":"`+itoa(r.partition)+`-`+itoa(entry)), 1)
		f.exec(1, `INSERT INTO journal (partition, position, kind, at_us, sender, spool, first, last, min_us, max_us, first_entry, entries, body, result, hash, checksum)
				SELECT partition, (SELECT max(position) + 1 FROM journal WHERE partition = ?1), kind, at_us, sender, spool, first, last, min_us, max_us, ?2, entries, body, ?3, hash, 0
				FROM journal WHERE partition = ?1 AND position = ?4`, r.partition, entry, result, r.position)
		f.rehash(r.partition)
	}},
	{"a reversal was decided and books nothing", "reversal", func(f *forger) {
		r := f.find(`"kind":"correction"`)
		f.exec(1, `UPDATE journal SET entries = 0, min_us = 0, max_us = 0, result = '{"runs":[]}' WHERE partition = ? AND position = ?`, r.partition, r.position)
		f.rehash(r.partition)
	}},
	{"a correction is missing in its hour", "hours", func(f *forger) {
		f.exec(1, `DELETE FROM hours WHERE rowid = (SELECT min(rowid) FROM hours WHERE cause = 'correction')`)
	}},
	{"a recovery is taken back as if it had been measured", "hours", func(f *forger) {
		f.exec(1, `UPDATE hours SET recovered_us = 0 WHERE rowid = (SELECT min(rowid) FROM hours WHERE cause = 'correction' AND recovered_us < 0)`)
	}},
	{"it was forgotten that an entry was reversed", "reversal_table", func(f *forger) {
		f.exec(1, `DELETE FROM reversals WHERE entry = 5`)
	}},
	{"an entry is said to be reversed that is not", "reversal_table", func(f *forger) {
		f.exec(1, `INSERT INTO reversals VALUES (?, 1, 2, 0)`, two)
	}},
	{"it was forgotten that a recovery was reversed", "reversal_table", func(f *forger) {
		f.exec(-1, `UPDATE reversals SET recovered = 0 WHERE recovered = 1`)
	}},
}
