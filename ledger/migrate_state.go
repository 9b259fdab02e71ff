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
	var list []*epoch
	for rows.Next() {
		e := new(epoch)
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
		e.partition, e.no = int(id>>40), id&(1<<40-1)
		list = append(list, e)
	}
	if err := rows.Err(); err != nil || len(list) == 0 {
		return "", err
	}
	// The last row may go on beyond what was read: the next call writes it.
	end := list[len(list)-1]
	if len(list) == migrateRows {
		for stateID(list[len(list)-1].partition, list[len(list)-1].no) == stateID(end.partition, end.no) {
			list = list[:len(list)-1]
		}
	}
	for len(list) > 0 {
		id := stateID(list[0].partition, list[0].no)
		var row siblings
		for len(list) > 0 && stateID(list[0].partition, list[0].no) == id {
			end = list[0]
			row[end.no%epochsPerRow], list = end, list[1:]
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO state (id, open_hour, body) VALUES (?, ?, ?)`, id, row.earliestOpen(), row.append(nil)); err != nil {
			return "", err
		}
	}
	return strconv.FormatInt(int64(end.partition)<<40+end.no, 10), nil
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
