package threshold

import (
	"context"
	"database/sql"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
	"modernc.org/sqlite"
)

// What a caller may see and change is decided here, inside the transaction that does it.
// What he may not see is answered as what there is not.

// managedByFile is [odometer.Threshold].Managed of those that a file has.
const managedByFile = "file"

const columns = `id, version, holder_usr, holder_org, managed, body, record, created_us, created_by, changed_us`

func scanThreshold(row interface{ Scan(...any) error }) (d odometer.Threshold, record int64, err error) {
	var body, managed, by string
	var holder odometer.Bound
	var id odometer.ThresholdID
	var version uint64
	var created, changed int64
	err = row.Scan(&id, &version, &holder.User, &holder.Org, &managed, &body, &record, &created, &by, &changed)
	if errors.Is(err, sql.ErrNoRows) {
		return d, 0, odometer.ErrNotFound
	}
	if err != nil {
		return d, 0, err
	}
	if d, err = odometer.ParseThreshold([]byte(body)); err != nil {
		return d, 0, fmt.Errorf("what is stored of threshold %s: %w", id, err)
	}
	d.ID, d.Version, d.Holder, d.Managed, d.CreatedBy = id, version, holder, managed, by
	d.Created, d.Changed = time.UnixMicro(created).UTC(), time.UnixMicro(changed).UTC()
	return d, record, nil
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// seenBy returns the threshold with an id, where by sees it.
func seenBy(ctx context.Context, db queryer, by *odometer.Caller, id odometer.ThresholdID) (odometer.Threshold, error) {
	d, _, err := scanThreshold(db.QueryRowContext(ctx, `SELECT `+columns+` FROM threshold_thresholds WHERE id = ? AND deleted_us = 0`, string(id)))
	if err == nil && !by.MaySee(d.Holder) && !by.MayManage(d.Holder) {
		return odometer.Threshold{}, odometer.ErrNotFound
	}
	return d, err
}

// manages refuses what by may not keep for a holder: who does not see what is the
// holder's is told that there is none.
func manages(by *odometer.Caller, h odometer.Bound) error {
	switch {
	case by.MayManage(h):
		return nil
	case by.MaySee(h):
		return fmt.Errorf("who keeps the thresholds of their holder may: %w", odometer.ErrForbidden)
	}
	return odometer.ErrNotFound
}

// within refuses a scope that reaches beyond what its holder has.
func within(d *odometer.Threshold) error {
	s, h := &d.Scope, &d.Holder
	switch {
	case h.User != "" && h.Org != "":
		return odometer.ThresholdProblem{Field: "holder", Why: "is a user or an organisation, not both"}
	case h.User != "" && (s.Org != "" || s.User != "" && s.User != h.User):
		return odometer.ThresholdProblem{Field: "scope", Why: "reaches beyond the user whose it is"}
	case h.Org != "" && s.Org != "" && s.Org != h.Org:
		return odometer.ThresholdProblem{Field: "scope.org_id", Why: "is another organisation than the one whose it is"}
	}
	return nil
}

// Create makes a threshold and returns it. Its holder is whose by keeps thresholds; one
// that is not as it must be wraps [odometer.ErrInvalid] with all that is wrong, each an
// [odometer.ThresholdProblem]. The same again under the key of once is answered as the
// first time.
func (t *Thresholds) Create(ctx context.Context, by odometer.Actor, d odometer.Threshold, once odometer.Once) (made odometer.Threshold, err error) {
	d.Settle()
	if err = errors.Join(d.Valid(), within(&d)); err == nil {
		err = manages(&by.Caller, d.Holder)
	}
	if err == nil {
		err = t.transact(ctx, func(tx *sql.Tx) error {
			now := t.clock()
			id, err := repeated(ctx, tx, now, &by, once)
			if err != nil {
				return err
			}
			if id != "" {
				made, err = seenBy(ctx, tx, &by.Caller, id)
				return err
			}
			if err := t.room(ctx, tx, d.Holder); err != nil {
				return err
			}
			if err := t.channels(ctx, tx, &d); err != nil {
				return err
			}
			if d.ID, err = t.newID(); err != nil {
				return err
			}
			d.Version, d.Created, d.Changed, d.CreatedBy, d.Managed = 1, now, now, by.Caller.String(), ""
			if err := insert(ctx, tx, &d); err != nil {
				return err
			}
			if err := remember(ctx, tx, now, &by, once, d.ID); err != nil {
				return err
			}
			made = stamped(d)
			return t.note(ctx, tx, by, odometer.ActionThresholdCreate, &d)
		})
	}
	if err != nil {
		return odometer.Threshold{}, fmt.Errorf("create a threshold: %w", unavailable(err))
	}
	t.changed()
	return made, nil
}

// stamped returns a threshold with the times that are stored of it.
func stamped(d odometer.Threshold) odometer.Threshold {
	d.Created, d.Changed = d.Created.Truncate(time.Microsecond).UTC(), d.Changed.Truncate(time.Microsecond).UTC()
	return d
}

// room refuses one more where a holder has as many as he may.
func (t *Thresholds) room(ctx context.Context, tx *sql.Tx, h odometer.Bound) error {
	var held, all int
	err := tx.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(CASE WHEN holder_usr = ? AND holder_org = ? THEN 1 ELSE 0 END), 0) FROM threshold_thresholds WHERE deleted_us = 0`,
		string(h.User), string(h.Org)).Scan(&all, &held)
	switch {
	case err != nil:
		return err
	case h != (odometer.Bound{}) && held >= MaxHeld:
		return fmt.Errorf("there are %d of this holder, and more there cannot be: %w", held, odometer.ErrConflict)
	case all >= MaxThresholds:
		return fmt.Errorf("there are %d, and more there cannot be: %w", all, odometer.ErrConflict)
	}
	return nil
}

// channels refuses channels of a threshold that its holder has not.
func (t *Thresholds) channels(ctx context.Context, tx *sql.Tx, d *odometer.Threshold) error {
	if t.o.Channels == nil || len(d.Channels) == 0 {
		return nil
	}
	return t.o.Channels(ctx, tx, d.Holder, d.Channels)
}

// NamerIn returns the name of a threshold that names a channel of a holder, in a
// transaction of another room on the same file; "" for none.
func (t *Thresholds) NamerIn(ctx context.Context, tx *sql.Tx, h odometer.Bound, channel odometer.ChannelID) (name string, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+columns+` FROM threshold_thresholds WHERE holder_usr = ? AND holder_org = ? AND deleted_us = 0`, string(h.User), string(h.Org))
	if err != nil {
		return "", err
	}
	defer rows.Close()
	for rows.Next() {
		d, _, err := scanThreshold(rows)
		if err != nil {
			return "", err
		}
		if slices.Contains(d.Channels, channel) {
			return d.Name, nil
		}
	}
	return "", rows.Err()
}

func (t *Thresholds) newID() (odometer.ThresholdID, error) {
	var b [10]byte
	if _, err := io.ReadFull(t.o.Random, b[:]); err != nil {
		return "", fmt.Errorf("draw an id: %w", err)
	}
	return odometer.ThresholdID("thr_" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))), nil
}

func insert(ctx context.Context, tx *sql.Tx, d *odometer.Threshold) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO threshold_thresholds (`+columns+`, resource, enabled, deleted_us) VALUES (?, ?, ?, ?, ?, ?, -1, ?, ?, ?, ?, ?, 0)`,
		string(d.ID), d.Version, string(d.Holder.User), string(d.Holder.Org), d.Managed, string(d.AppendJSON(nil)), d.Created.UnixMicro(), d.CreatedBy, d.Changed.UnixMicro(),
		string(d.Resource), d.Enabled)
	return err
}

func (t *Thresholds) note(ctx context.Context, tx *sql.Tx, by odometer.Actor, action odometer.Action, d *odometer.Threshold) error {
	if t.o.Note == nil {
		return nil
	}
	return t.o.Note(ctx, tx, by, action, string(d.ID), d.Name)
}

// changed has Run look at the thresholds again.
func (t *Thresholds) changed() {
	select {
	case t.again <- struct{}{}:
	default:
	}
}

// Update replaces what a person said of a threshold, where it is of the version named.
func (t *Thresholds) Update(ctx context.Context, by odometer.Actor, d odometer.Threshold, version uint64) (set odometer.Threshold, err error) {
	d.Settle()
	err = t.transact(ctx, func(tx *sql.Tx) error {
		is, err := t.changeable(ctx, tx, &by, d.ID, version)
		if err != nil {
			return err
		}
		d.Holder, d.Managed, d.Created, d.CreatedBy = is.Holder, is.Managed, is.Created, is.CreatedBy
		if err := errors.Join(d.Valid(), within(&d)); err != nil {
			return err
		}
		if err := t.channels(ctx, tx, &d); err != nil {
			return err
		}
		d.Version, d.Changed = is.Version+1, t.clock()
		if err := update(ctx, tx, &d); err != nil {
			return err
		}
		set = stamped(d)
		return t.note(ctx, tx, by, odometer.ActionThresholdUpdate, &d)
	})
	if err != nil {
		return odometer.Threshold{}, fmt.Errorf("change threshold %s: %w", d.ID, unavailable(err))
	}
	t.changed()
	return set, nil
}

func update(ctx context.Context, tx *sql.Tx, d *odometer.Threshold) error {
	_, err := tx.ExecContext(ctx, `UPDATE threshold_thresholds SET version = ?, resource = ?, enabled = ?, body = ?, record = -1, changed_us = ? WHERE id = ?`,
		d.Version, string(d.Resource), d.Enabled, string(d.AppendJSON(nil)), d.Changed.UnixMicro(), string(d.ID))
	return err
}

// changeable returns a threshold that by may change and that is of a version.
func (t *Thresholds) changeable(ctx context.Context, tx *sql.Tx, by *odometer.Actor, id odometer.ThresholdID, version uint64) (odometer.Threshold, error) {
	is, err := seenBy(ctx, tx, &by.Caller, id)
	if err == nil {
		err = manages(&by.Caller, is.Holder)
	}
	switch {
	case err != nil:
		return is, err
	case is.Managed == managedByFile:
		return is, fmt.Errorf("it is in the server's file of thresholds, where it is changed: %w", odometer.ErrConflict)
	case version != 0 && version != is.Version:
		return is, fmt.Errorf("version %d was named, and it is at version %d: %w", version, is.Version, odometer.ErrStale)
	}
	return is, nil
}

// Delete takes a threshold away, where it is of the version named. What is open of it is
// over; its violations stay.
func (t *Thresholds) Delete(ctx context.Context, by odometer.Actor, id odometer.ThresholdID, version uint64) error {
	err := t.transact(ctx, func(tx *sql.Tx) error {
		is, err := t.changeable(ctx, tx, &by, id, version)
		if err != nil {
			return err
		}
		if err := remove(ctx, tx, id, t.clock().UnixMicro()); err != nil {
			return err
		}
		return t.note(ctx, tx, by, odometer.ActionThresholdDelete, &is)
	})
	if err != nil {
		return fmt.Errorf("delete threshold %s: %w", id, unavailable(err))
	}
	t.changed()
	return nil
}

func remove(ctx context.Context, tx *sql.Tx, id odometer.ThresholdID, now int64) error {
	_, err := tx.ExecContext(ctx, `UPDATE threshold_thresholds SET deleted_us = ?, enabled = ?, body = '' WHERE id = ?`, now, false, string(id))
	return err
}

// keepRepeats is for how long a key is remembered.
const keepRepeats = 24 * time.Hour

func holderOf(by *odometer.Actor) string {
	if by.User != "" {
		return "user:" + string(by.User)
	}
	return "token:" + string(by.ID)
}

// repeated returns what was made under the key of once, "" for nothing.
func repeated(ctx context.Context, tx *sql.Tx, now time.Time, by *odometer.Actor, once odometer.Once) (id odometer.ThresholdID, err error) {
	if once.Key == "" {
		return "", nil
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM threshold_repeats WHERE at_us <= ?`, now.Add(-keepRepeats).UnixMicro()); err != nil {
		return "", err
	}
	var request string
	err = tx.QueryRowContext(ctx, `SELECT request, id FROM threshold_repeats WHERE holder = ? AND key = ?`, holderOf(by), once.Key).Scan(&request, &id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", nil
	case err == nil && request != hex.EncodeToString(once.Request[:]):
		return "", odometer.ErrReused
	}
	return id, err
}

func remember(ctx context.Context, tx *sql.Tx, now time.Time, by *odometer.Actor, once odometer.Once, id odometer.ThresholdID) error {
	if once.Key == "" {
		return nil
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO threshold_repeats (holder, key, request, id, at_us) VALUES (?, ?, ?, ?, ?)`,
		holderOf(by), once.Key, hex.EncodeToString(once.Request[:]), string(id), now.UnixMicro())
	return err
}

// unavailable names an error of the database that is about it, and not about what was
// asked.
func unavailable(err error) error {
	if _, ok := errors.AsType[*sqlite.Error](err); ok {
		return fmt.Errorf("%w: %w", err, odometer.ErrUnavailable)
	}
	return err
}
