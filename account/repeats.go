package account

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"example.org/odometer"
)

// keepRepeats is for how long a key is remembered.
const keepRepeats = 24 * time.Hour

// repeatable makes a change, or answers as the first time where the key of once
// named the same change of the same account within a day. What was answered is
// stored with the change and goes with the object.
func repeatable[T any](ctx context.Context, tx *sql.Tx, now int64, by *odometer.Actor, once odometer.Once, object string, do func() (T, error)) (t T, err error) {
	if once.Key == "" {
		return do()
	}
	holder, asked := "token:"+string(by.ID), hex.EncodeToString(once.Request[:])
	if by.User != "" {
		holder = "user:" + string(by.User)
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM account_repeats WHERE at_us <= ?`, now-keepRepeats.Microseconds()); err != nil {
		return t, err
	}
	var request, answer string
	err = tx.QueryRowContext(ctx, `SELECT request, answer FROM account_repeats WHERE holder = ? AND key = ?`, holder, once.Key).Scan(&request, &answer)
	switch {
	case err == nil && request != asked:
		return t, odometer.ErrReused
	case err == nil:
		if err := json.Unmarshal([]byte(answer), &t); err != nil {
			return t, fmt.Errorf("what was answered to the key before: %w", err)
		}
		return t, nil
	case !errors.Is(err, sql.ErrNoRows):
		return t, err
	}
	if t, err = do(); err != nil {
		return t, err
	}
	body, err := json.Marshal(t)
	if err != nil {
		return t, err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO account_repeats (holder, key, request, object, answer, at_us) VALUES (?, ?, ?, ?, ?, ?)`,
		holder, once.Key, asked, object, string(body), now)
	return t, err
}
