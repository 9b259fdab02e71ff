package ledger

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
)

// checksumRows is how many records get their checksum in one transaction: 500
// of the largest are 128 MiB.
const checksumRows = 500

// noChecksum is what no CRC-32C is.
const noChecksum = -1

// addChecksums gives each record of the journal of version 1 its checksum. One
// whose hash does not follow from what it says was damaged before: it gets
// none, so that whoever reads it is told.
func addChecksums(ctx context.Context, tx *sql.Tx, from string) (string, error) {
	if from == "" {
		_, err := tx.ExecContext(ctx, fmt.Sprintf(`ALTER TABLE journal ADD COLUMN checksum INTEGER NOT NULL DEFAULT %d`, noChecksum))
		return "0", err
	}
	after, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return "", err
	}
	var list []*record
	for r, err := range records(ctx, tx, `WHERE id > ? ORDER BY id LIMIT ?`, after, checksumRows) {
		if err != nil && !errors.Is(err, ErrDamaged) { // all of them have no checksum yet
			return "", err
		}
		list = append(list, r)
	}
	if len(list) == 0 {
		return "", nil
	}
	for _, r := range list {
		var prev []byte
		err := tx.QueryRowContext(ctx, `SELECT hash FROM journal WHERE partition = ? AND position = ?`, r.partition, r.position-1).Scan(&prev)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return "", fmt.Errorf("journal record %d-%d: %w", r.partition, r.position, err)
		}
		if !bytes.Equal(r.hash, r.chain(prev)) {
			continue
		}
		if _, err := tx.ExecContext(ctx, `UPDATE journal SET checksum = ? WHERE id = ?`, r.checksum(), r.id); err != nil {
			return "", fmt.Errorf("journal record %d-%d: %w", r.partition, r.position, err)
		}
	}
	return strconv.FormatInt(list[len(list)-1].id, 10), nil
}
