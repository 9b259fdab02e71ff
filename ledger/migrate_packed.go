package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"example.org/odometer"
)

// From version 1 to 2: the days of a month and what each owner used are packed
// (days.go), owners have an index of their epochs (owners.go), and the journal
// is found by time whatever its length. All of it follows from the tables of
// version 1, among them the owners' days, which are left out and summed anew.

func addPacked(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `
DROP TABLE owner_days;
CREATE TABLE months (
  month     INTEGER NOT NULL,
  partition INTEGER NOT NULL,
  epoch_no  INTEGER NOT NULL,
  usr       TEXT    NOT NULL,
  org       TEXT    NOT NULL,
  days      BLOB    NOT NULL,
  PRIMARY KEY (month, partition, epoch_no, usr, org)
);
CREATE TABLE owner_days (
  day   INTEGER NOT NULL,
  usr   TEXT    NOT NULL,
  org   TEXT    NOT NULL,
  hours BLOB    NOT NULL,
  PRIMARY KEY (day, usr, org)
);
CREATE INDEX owner_days_org ON owner_days (day, org);
CREATE TABLE owner_months (
  month INTEGER NOT NULL,
  usr   TEXT    NOT NULL,
  org   TEXT    NOT NULL,
  days  BLOB    NOT NULL,
  PRIMARY KEY (month, usr, org)
);
CREATE INDEX owner_months_org ON owner_months (month, org);
CREATE TABLE owner_epochs (
  usr       TEXT    NOT NULL,
  org       TEXT    NOT NULL,
  partition INTEGER NOT NULL,
  epoch_no  INTEGER NOT NULL,
  PRIMARY KEY (usr, org, partition, epoch_no)
);
CREATE INDEX owner_epochs_org ON owner_epochs (org, partition, epoch_no);
CREATE TABLE owners_known (
  partition INTEGER PRIMARY KEY,
  epoch_no  INTEGER NOT NULL
);
INSERT INTO owners_known (partition, epoch_no)
  WITH RECURSIVE p (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM p WHERE n < 63) SELECT n, 0 FROM p;
`)
	return "", err
}

func addHomes(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `
ALTER TABLE spools ADD COLUMN home INTEGER NOT NULL DEFAULT 0;
UPDATE spools SET home = j.last
  FROM (SELECT partition, sender, spool, max(last) AS last FROM journal WHERE kind = 'frame' AND spool <> '' GROUP BY partition, sender, spool) j
  WHERE j.partition = spools.partition AND j.sender = spools.agent AND j.spool = spools.spool;
`)
	return "", err
}

func indexJournalByTime(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `
DROP INDEX journal_time;
CREATE INDEX journal_short ON journal (partition, max_us, min_us) WHERE max_us - min_us <= 7200000000;
CREATE INDEX journal_long ON journal (partition, max_us, min_us) WHERE max_us - min_us > 7200000000;
`)
	return "", err
}

// packDays packs what is compacted of one day and partition.
func packDays(ctx context.Context, tx *sql.Tx, from string) (string, error) {
	s := slice{day: -1 << 62}
	if from != "" {
		if _, err := fmt.Sscan(from, &s.day, &s.partition); err != nil {
			return "", fmt.Errorf("%q: %w", from, err)
		}
	}
	err := tx.QueryRowContext(ctx, `SELECT day, partition FROM days WHERE day > ? OR day = ? AND partition > ? ORDER BY day, partition LIMIT 1`,
		s.day, s.day, s.partition).Scan(&s.day, &s.partition)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	c := &compaction{fold: &fold{ctx: ctx, tx: tx, stmts: map[string]*sql.Stmt{}}, day: s.day, owners: map[odometer.Owner]*amounts{}}
	if err := c.packDay(s.partition); err != nil {
		return "", err
	}
	return fmt.Sprint(s.day, s.partition), c.storeOwners()
}

func (c *compaction) packDay(partition int) error {
	rows, err := c.tx.QueryContext(c.ctx, `SELECT epoch_no, usr, org, hours FROM days WHERE day = ? AND partition = ?`, c.day, partition)
	if err != nil {
		return err
	}
	defer rows.Close()
	month, number := monthOf(c.day)
	months := map[share]*parts{}
	first, last := int64(1<<62), int64(0)
	for rows.Next() {
		var k share
		var blob sql.RawBytes
		if err := rows.Scan(&k.epochNo, &k.owner.User, &k.owner.Org, &blob); err != nil {
			return err
		}
		first, last = min(first, k.epochNo), max(last, k.epochNo)
		m := new(parts)
		hours := cmp.Or(c.owners[k.owner], new(amounts))
		err := cutParts(blob, func(n int, p *part) error {
			hours[n].add(&p.sums, p.recovered)
			return m[number].add(p)
		})
		if err != nil {
			return err
		}
		months[k], c.owners[k.owner] = m, hours
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if err := c.addTo("months", "days", "month", month, partition, first, last+1, months); err != nil {
		return err
	}
	_, err = c.exec(`INSERT INTO owner_epochs (usr, org, partition, epoch_no)
		SELECT usr, org, partition, epoch_no FROM days WHERE day = ? AND partition = ? ON CONFLICT DO NOTHING`, c.day, partition)
	return err
}

// ownersOfPieces enters the owners of one hour's pieces.
func ownersOfPieces(ctx context.Context, tx *sql.Tx, from string) (string, error) {
	after := int64(-1 << 62)
	if from != "" {
		if _, err := fmt.Sscan(from, &after); err != nil {
			return "", fmt.Errorf("%q: %w", from, err)
		}
	}
	var hour sql.NullInt64
	if err := tx.QueryRowContext(ctx, `SELECT min(hour) FROM hours WHERE hour > ?`, after).Scan(&hour); err != nil || !hour.Valid {
		return "", err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO owner_epochs (usr, org, partition, epoch_no)
		SELECT usr, org, partition, epoch_no FROM hours WHERE hour = ? ON CONFLICT DO NOTHING`, hour.Int64)
	return fmt.Sprint(hour.Int64), err
}
