package audit

import (
	"database/sql"
	"time"
)

// Rehash makes the hash chain and the checksums of a partition fit what its records say: what a
// forger would do who changes the journal.
func Rehash(db *sql.DB, partition int64) error {
	var all []*row
	rows, err := db.Query(`SELECT `+rowColumns+` FROM journal WHERE partition = ? ORDER BY position`, partition)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		r := new(row)
		if err := r.scan(rows); err != nil {
			return err
		}
		all = append(all, r)
	}
	rows.Close()
	var prev []byte
	for _, r := range all {
		prev = r.link(prev)
		r.hash = prev
		if _, err := db.Exec(`UPDATE journal SET hash = ?, checksum = ? WHERE partition = ? AND position = ?`, prev, r.sum(), partition, r.position); err != nil {
			return err
		}
	}
	return nil
}

// Tight returns options under which everything goes to disk at once.
func Tight(o Options) Options {
	o.maxKeys, o.maxBytes = 3, 64
	return o
}

// Impatient returns options that do not wait for another process.
func Impatient(o Options) Options {
	o.busy = time.Millisecond
	return o
}

// Codes lists the findings there are.
func Codes() (codes []string) {
	for code := range raises {
		codes = append(codes, code)
	}
	return codes
}
