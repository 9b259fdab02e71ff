package ledger

import (
	"cmp"
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
	from, err := parseCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	tx, err := l.questions.begin(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("entries: %w", err)
	}
	defer tx.end(ctx)
	at, err := placesOf(ctx, tx, &q, from.id, math.MaxInt64)
	if err != nil {
		return nil, "", fmt.Errorf("entries: %w", err)
	}
	var list []odometer.Entry
	next := ""
	for r, err := range at.records(ctx, tx, &q, from, math.MaxInt64) {
		if err != nil {
			return nil, "", err
		}
		booked, err := r.booked()
		if err != nil {
			return nil, "", err
		}
		for i := range booked {
			if after := (spot{r.id, i + 1}); after.compare(from) > 0 && q.Wants(&booked[i]) {
				list, next = append(list, booked[i]), after.cursor()
				if len(list) >= q.Limit {
					return list, next, markAdjustments(ctx, tx, list)
				}
			}
		}
	}
	return list, next, markAdjustments(ctx, tx, list)
}

// spot is a place between two entries, in the order in which they were booked:
// before the entry index of the journal's row id, counted from 0.
type spot struct {
	id    int64
	index int
}

func (s spot) compare(o spot) int {
	return cmp.Or(cmp.Compare(s.id, o.id), cmp.Compare(s.index, o.index))
}

func (s spot) cursor() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d.%d", s.id, s.index))
}

// parseCursor reads what cursor wrote; "" is the beginning.
func parseCursor(text string) (s spot, err error) {
	if text == "" {
		return s, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		a, c, ok := strings.Cut(string(b), ".")
		s.id, err = strconv.ParseInt(a, 10, 64)
		if err == nil && ok {
			s.index, err = strconv.Atoi(c)
		}
		if !ok {
			err = odometer.ErrInvalid
		}
	}
	if err != nil || s.id < 0 || s.index < 0 {
		return spot{}, fmt.Errorf("cursor %q was not given out by this ledger: %w", text, odometer.ErrInvalid)
	}
	return s, nil
}
