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
	from, err := l.place(ctx, q.After)
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
				list, next = append(list, booked[i]), after.cursor(l.gen)
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

// cursor returns the spot as it is given out in a generation of the ledger, which it names
// where that is not the first.
func (s spot) cursor(gen uint64) string {
	b := fmt.Appendf(nil, "%d.%d", s.id, s.index)
	if gen != 1 {
		b = fmt.Appendf(b, ".%d", gen)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parseCursor reads what cursor wrote; "" is the beginning, in the first generation.
func parseCursor(text string) (s spot, gen uint64, err error) {
	if text == "" {
		return s, 1, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		a, c, ok := strings.Cut(string(b), ".")
		c, g, named := strings.Cut(c, ".")
		s.id, err = strconv.ParseInt(a, 10, 64)
		if err == nil && ok {
			s.index, err = strconv.Atoi(c)
		}
		if gen = 1; err == nil && named {
			gen, err = strconv.ParseUint(g, 10, 64)
		}
		if !ok || gen == 0 {
			err = odometer.ErrInvalid
		}
	}
	if err != nil || s.id < 0 || s.index < 0 {
		return spot{}, 0, fmt.Errorf("cursor %q was not given out by this ledger: %w", text, odometer.ErrInvalid)
	}
	return s, gen, nil
}

// place returns the spot that a cursor stands for now. One of an earlier generation that
// lies beyond the backup from which a later one began stands for what there is no more,
// though the ledger may have grown past it since.
func (l *Ledger) place(ctx context.Context, cursor string) (spot, error) {
	s, gen, err := parseCursor(cursor)
	if err != nil || cursor == "" || gen == l.gen {
		return s, err
	}
	var began int64 // where the next generation did
	if gen < l.gen {
		err = l.read.QueryRowContext(ctx, `SELECT coalesce(min(j.id), 0) FROM generations g JOIN journal j ON j.partition = g.partition AND j.position = g.position
			WHERE g.generation > ?`, gen).Scan(&began)
		if err != nil {
			return spot{}, fmt.Errorf("generations of the ledger: %w", err)
		}
	}
	if s.compare(spot{id: began}) > 0 {
		return spot{}, fmt.Errorf("the cursor lies beyond the backup from which the ledger was restored since: begin anew: %w", odometer.ErrInvalid)
	}
	return s, nil
}
