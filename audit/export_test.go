package audit

import (
	"database/sql"
	"time"

	"example.org/odometer"
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

// Tenure is who an instance is of in some time.
type Tenure = tenure

func NewTenure(from, until int64, o odometer.Owner) Tenure { return tenure{from, until, o} }

func TenuresOf(decided []Tenure) []Tenure { return tenuresOf(decided) }

// OwnerAt is the owner of the tenure at a moment, and LastOwnerAt that of the last
// one that covers it.
func OwnerAt(list []Tenure, at int64) (o odometer.Owner) {
	for _, t := range list {
		if t.from <= at && at < t.until {
			return t.owner
		}
	}
	return o
}

func LastOwnerAt(list []Tenure, at int64) (o odometer.Owner) {
	for _, t := range list {
		if t.from <= at && at < t.until {
			o = t.owner
		}
	}
	return o
}

// Joined reports whether tenures are in order and neighbours of one owner are one.
func Joined(list []Tenure) bool {
	for i := 1; i < len(list); i++ {
		if list[i].from < list[i-1].until || list[i].from == list[i-1].until && list[i].owner == list[i-1].owner {
			return false
		}
	}
	return true
}
