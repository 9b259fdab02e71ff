package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"

	"example.org/odometer"
)

// Version 1 had one table for who an epoch is of and for where it stands;
// version 2 writes the second, with every commit, to a table of its own.

// migrateRows is how many rows a step writes in one transaction.
const migrateRows = 5000

// copyState fills the table state from the epochs of version 1.
func copyState(ctx context.Context, tx *sql.Tx, from string) (string, error) {
	if from == "" {
		_, err := tx.ExecContext(ctx, `CREATE TABLE state (
  id        INTEGER PRIMARY KEY,
  open_hour INTEGER NOT NULL,
  body      BLOB    NOT NULL
)`)
		return "-1", err
	}
	after, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return "", err
	}
	rows, err := tx.QueryContext(ctx, `SELECT (partition << 40) + epoch_no, sequence, end_us, vector, closed, position, open_hour, open_user, open_org, open_sums, open_recovered_us, digests
		FROM epochs WHERE (partition, epoch_no) > (?, ?) ORDER BY partition, epoch_no LIMIT ?`, after>>40, after&(1<<40-1), migrateRows)
	if err != nil {
		return "", err
	}
	type row struct {
		id, hour int64
		body     []byte
	}
	var list []row
	for rows.Next() {
		var e epoch
		var id int64
		var vector, sums []byte
		err := rows.Scan(&id, &e.sequence, &e.end, &vector, &e.closed, &e.position, &e.open.hour, &e.open.owner.User, &e.open.owner.Org, &sums, &e.open.recovered, &e.digests)
		if err == nil {
			e.vector, _, err = odometer.CutUsage(vector)
		}
		if err == nil {
			e.open.sums, _, err = odometer.CutUsage(sums)
		}
		if err != nil {
			rows.Close()
			return "", fmt.Errorf("epoch %d of partition %d: %w", id&(1<<40-1), id>>40, err)
		}
		list = append(list, row{id, e.open.hour, e.appendState(nil)})
	}
	if err := rows.Err(); err != nil || len(list) == 0 {
		return "", err
	}
	for _, r := range list {
		if _, err := tx.ExecContext(ctx, `INSERT INTO state (id, open_hour, body) VALUES (?, ?, ?)`, r.id, r.hour, r.body); err != nil {
			return "", err
		}
	}
	return strconv.FormatInt(list[len(list)-1].id, 10), nil
}

// splitEpochs leaves in the table epochs what never changes.
func splitEpochs(ctx context.Context, tx *sql.Tx, from string) (string, error) {
	if from == "" {
		_, err := tx.ExecContext(ctx, `CREATE TABLE epochs_2 (
  partition  INTEGER NOT NULL,
  epoch_no   INTEGER NOT NULL,
  epoch      TEXT    NOT NULL,
  instance   TEXT    NOT NULL,
  agent      TEXT    NOT NULL,
  counted_by TEXT    NOT NULL,
  started_us INTEGER NOT NULL,
  PRIMARY KEY (partition, epoch_no),
  UNIQUE (partition, epoch)
)`)
		return "-1", err
	}
	after, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return "", err
	}
	const next = `WHERE (partition, epoch_no) > (?, ?) ORDER BY partition, epoch_no LIMIT ?`
	args := []any{after >> 40, after & (1<<40 - 1), migrateRows}
	var last *int64
	if err := tx.QueryRowContext(ctx, `SELECT max(id) FROM (SELECT (partition << 40) + epoch_no AS id FROM epochs `+next+`)`, args...).Scan(&last); err != nil {
		return "", err
	}
	if last != nil {
		_, err := tx.ExecContext(ctx, `INSERT INTO epochs_2 SELECT partition, epoch_no, epoch, instance, agent, counted_by, started_us FROM epochs `+next, args...)
		return strconv.FormatInt(*last, 10), err
	}
	_, err = tx.ExecContext(ctx, `DROP TABLE epochs; ALTER TABLE epochs_2 RENAME TO epochs; CREATE INDEX epochs_instance ON epochs (instance)`)
	return "", err
}
