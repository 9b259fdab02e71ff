package ledger

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"

	"example.org/odometer"
)

// unpruned leaves out the records that are only kept because something still
// refers to them: the others of their time are gone.
const unpruned = `NOT EXISTS (SELECT 1 FROM heads h WHERE h.partition = journal.partition AND h.position >= journal.position)`

// Entries returns entries in the order in which they were booked, at most
// q.Limit, with the cursor after the last of them: "" when there was none.
func (l *Ledger) Entries(ctx context.Context, q odometer.EntryQuery) ([]odometer.Entry, string, error) {
	id, index, err := parseCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	if q.To == 0 {
		q.To = math.MaxInt64
	}
	var list []odometer.Entry
	next := ""
	for r, err := range records(ctx, l.read, `WHERE id >= ? AND entries > 0 AND max_us > ? AND min_us < ? AND `+unpruned+` ORDER BY id`, id, q.From, q.To) {
		if err != nil {
			return nil, "", err
		}
		booked, err := r.booked()
		if err != nil {
			return nil, "", err
		}
		for i, e := range booked {
			if r.id == id && i < index {
				continue
			}
			if q.Instance != "" && e.Event.Instance != q.Instance || e.Event.Span.End <= q.From || e.Event.Span.Start >= q.To || q.View != nil && !q.View.Sees(e.Event.Owner) {
				continue
			}
			list = append(list, e)
			next = formatCursor(r.id, i+1)
			if len(list) >= q.Limit {
				return list, next, markAdjustments(ctx, l.read, list)
			}
		}
	}
	return list, next, markAdjustments(ctx, l.read, list)
}

func formatCursor(id int64, index int) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d.%d", id, index))
}

// parseCursor returns the journal row and the number of its entries that were
// seen already.
func parseCursor(s string) (id int64, index int, err error) {
	if s == "" {
		return 0, 0, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		a, c, ok := strings.Cut(string(b), ".")
		id, err = strconv.ParseInt(a, 10, 64)
		if err == nil && ok {
			index, err = strconv.Atoi(c)
		}
		if !ok {
			err = odometer.ErrInvalid
		}
	}
	if err != nil || id < 0 || index < 0 {
		return 0, 0, fmt.Errorf("cursor %q was not given out by this ledger: %w", s, odometer.ErrInvalid)
	}
	return id, index, nil
}
