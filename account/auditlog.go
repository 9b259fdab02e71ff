package account

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"math"
	"strings"

	"example.org/odometer"
)

// The audit log says who did what, when and from where. What accounts change
// themselves is written in the same transaction as its line; of what the ledger
// has changed the line is written after it, since the ledger's own journal
// already says who decided it: a crash between the two costs the line alone.

// maxAuditText bounds object and detail, in bytes: the longest cause of a
// reversal and some words.
const maxAuditText = 1024

// Note adds a line about what was done elsewhere. It is durable when Note
// returns nil.
func (a *Accounts) Note(ctx context.Context, by odometer.Actor, action odometer.Action, object, detail string) error {
	err := a.transact(ctx, func(tx *sql.Tx) error {
		return note(ctx, tx, a.clock().UnixMicro(), by, action, object, detail)
	})
	if err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// NoteIn adds a line about what is done elsewhere in the ledger's file, in the
// transaction that does it.
func (a *Accounts) NoteIn(ctx context.Context, tx *sql.Tx, by odometer.Actor, action odometer.Action, object, detail string) error {
	if err := note(ctx, tx, a.clock().UnixMicro(), by, action, object, detail); err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// note adds a line. What repeats what came from outside has no secret in it.
func note(ctx context.Context, tx *sql.Tx, at int64, by odometer.Actor, action odometer.Action, object, detail string) error {
	clean := func(s string) string {
		s = odometer.HideSecrets(s)
		return strings.ToValidUTF8(s[:min(len(s), maxAuditText)], "")
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO account_audit_log (number, at_us, token, usr, actor, remote, action, object, detail)
		VALUES ((SELECT coalesce(max(number), 0) + 1 FROM account_audit_log), ?, ?, ?, ?, ?, ?, ?, ?)`,
		at, string(by.ID), string(by.User), by.Name, by.Remote, string(action), clean(object), clean(detail))
	return err
}

// AuditLog returns at most limit lines, the newest first: those before the number
// named, or from the newest on where that is 0.
func (a *Accounts) AuditLog(ctx context.Context, before int64, limit int) ([]odometer.AuditRecord, error) {
	return a.FindAudit(ctx, odometer.AuditQuery{Before: before, Limit: limit})
}

// FindAudit returns the lines of the audit log that are asked for.
func (a *Accounts) FindAudit(ctx context.Context, q odometer.AuditQuery) ([]odometer.AuditRecord, error) {
	list, err := a.findAudit(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", unavailable(err))
	}
	return list, nil
}

// findAudit reads from the newest line backwards until it has enough: whoever asks
// for what is seldom reads all of it, some hundred bytes for each change that there
// ever was.
func (a *Accounts) findAudit(ctx context.Context, q odometer.AuditQuery) ([]odometer.AuditRecord, error) {
	where, args := `number < ?`, []any{cmp.Or(q.Before, math.MaxInt64)}
	also := func(cond string, values ...any) { where, args = where+` AND `+cond, append(args, values...) }
	if q.Actor != "" {
		also(`(actor = ? OR token = ? OR usr = ?)`, q.Actor, q.Actor, q.Actor)
	}
	if q.Action != "" {
		also(`(action = ? OR substr(action, 1, length(?) + 1) = ? || '.')`, string(q.Action), string(q.Action), string(q.Action))
	}
	if q.Object != "" {
		also(`object = ?`, q.Object)
	}
	if q.From != 0 {
		also(`at_us >= ?`, q.From)
	}
	if q.To != 0 {
		also(`at_us < ?`, q.To)
	}
	rows, err := a.db.QueryContext(ctx, `SELECT number, at_us, token, usr, actor, remote, action, object, detail FROM account_audit_log
		WHERE `+where+` ORDER BY number DESC LIMIT ?`, append(args, q.Limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []odometer.AuditRecord{}
	for rows.Next() {
		var r odometer.AuditRecord
		var at int64
		if err := rows.Scan(&r.Number, &at, &r.Token, &r.User, &r.Actor, &r.Remote, &r.Action, &r.Object, &r.Detail); err != nil {
			return nil, err
		}
		r.At = moment(at)
		list = append(list, r)
	}
	return list, rows.Err()
}
