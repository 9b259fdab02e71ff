package ledger

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"

	"example.org/odometer"
)

// Whoever follows the ledger wants what was booked last, and so do all others who do.
// It is read from the journal and written as JSON once for all of them, and kept until
// newer entries take its place. Who is further behind reads for himself.

const (
	// tailKept is how many entries are kept: some megabytes.
	tailKept = 2048
	// tailRecords is how many records are read at once, while others wait.
	tailRecords = 16
	// followAtOnce is how many entries one call answers.
	followAtOnce = 500
)

// tail is the end of the journal, as far as anybody followed it. It has all of it, though
// the journal may be pruned meanwhile.
type tail struct {
	mu   sync.Mutex
	list []tailed
	from spot // list has everything after this
	to   spot // up to this
}

// tailed is an entry at the end of the journal, written once.
type tailed struct {
	after spot
	what  odometer.Entry // without what the condition of a question does not look at
	text  []byte
}

// Follow returns entries that q asks for after the cursor q.After, in the order in
// which they were booked, and the cursor up to which it looked: where that is q.After,
// nothing more is booked.
func (l *Ledger) Follow(ctx context.Context, q odometer.EntryQuery) ([]odometer.Followed, string, error) {
	from, err := l.place(ctx, q.After)
	if err != nil {
		return nil, "", err
	}
	list, to, known, err := l.tail.after(ctx, l, from, &q)
	if err == nil && !known {
		list, to, err = l.catchUp(ctx, from, &q)
	}
	if err == nil && from.id > to.id {
		err = fmt.Errorf("the cursor lies beyond everything that is booked, as after a restore from a backup: begin anew: %w", odometer.ErrInvalid)
	}
	if err != nil {
		return nil, "", fmt.Errorf("follow the ledger: %w", err)
	}
	if to.compare(from) <= 0 {
		return nil, q.After, nil
	}
	return list, to.cursor(l.gen), nil
}

// after returns what the tail has after a spot; known is false where that lies before
// the tail.
func (t *tail) after(ctx context.Context, l *Ledger, from spot, q *odometer.EntryQuery) (list []odometer.Followed, to spot, known bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.to == (spot{}) { // the first
		if t.to, err = endOf(ctx, l.read); err != nil {
			return nil, spot{}, false, err
		}
		t.from = t.to
	}
	if from.compare(t.from) < 0 {
		return nil, spot{}, false, nil
	}
	if from.compare(t.to) >= 0 || len(t.list) == 0 {
		if err := t.read(ctx, l); err != nil {
			return nil, spot{}, false, err
		}
		if from.compare(t.from) < 0 { // it began anew
			return nil, spot{}, false, nil
		}
	}
	at, _ := slices.BinarySearchFunc(t.list, from, func(e tailed, s spot) int {
		if e.after.compare(s) <= 0 {
			return -1
		}
		return 1
	})
	for _, e := range t.list[at:] {
		if len(list) == followAtOnce {
			return list, to, true, nil
		}
		if to = e.after; q.Wants(&e.what) {
			list = append(list, odometer.Followed{Cursor: e.after.cursor(l.gen), Entry: e.text})
		}
	}
	return list, t.to, true, nil
}

// has reports whether everything after a spot was told from memory.
func (t *tail) has(s spot) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.to != spot{} && s.compare(t.from) >= 0
}

// read adds what was booked since.
func (t *tail) read(ctx context.Context, l *Ledger) error {
	tx, err := l.questions.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.end(ctx)
	end, err := endOf(ctx, tx)
	if err != nil || end.compare(t.to) <= 0 {
		return err
	}
	if removed, err := removedOf(ctx, tx, t.to.id-1, end.id-1); err != nil || removed > 0 { // nobody followed for days: it has no gap
		if err == nil {
			t.list, t.from, t.to = nil, end, end
		}
		return err
	}
	var news []tailed
	to, n := end, 0
	for r, err := range records(ctx, tx, `WHERE id >= ? AND entries > 0 AND `+unpruned+` ORDER BY id LIMIT ?`, t.to.id, tailRecords) {
		if err != nil {
			return err
		}
		booked, err := r.booked()
		if err != nil {
			return err
		}
		for i := range booked {
			e := &booked[i]
			if after := (spot{r.id, i + 1}); after.compare(t.to) > 0 {
				news = append(news, tailed{after, odometer.Entry{Event: odometer.Event{Instance: e.Event.Instance, Owner: e.Event.Owner, Span: e.Event.Span}}, e.AppendJSON(nil)})
			}
		}
		if n++; n == tailRecords {
			to = spot{id: r.id + 1}
		}
	}
	t.to = to
	t.list = append(t.list, news...)
	if over := len(t.list) - tailKept; over > 0 {
		t.from = t.list[over-1].after
		t.list = append([]tailed(nil), t.list[over:]...)
	}
	return nil
}

// catchUp reads entries after a spot for one who is behind the others.
func (l *Ledger) catchUp(ctx context.Context, from spot, q *odometer.EntryQuery) (list []odometer.Followed, to spot, err error) {
	tx, err := l.questions.begin(ctx)
	if err != nil {
		return nil, spot{}, err
	}
	defer tx.end(ctx)
	end, err := endOf(ctx, tx)
	if err != nil {
		return nil, spot{}, err
	}
	at, err := placesOf(ctx, tx, q, from.id, math.MaxInt64)
	if err != nil {
		return nil, spot{}, err
	}
	for r, err := range at.records(ctx, tx, q, from, math.MaxInt64) {
		if err != nil {
			return nil, spot{}, err
		}
		booked, err := r.booked()
		if err != nil {
			return nil, spot{}, err
		}
		for i := range booked {
			after := spot{r.id, i + 1}
			if after.compare(from) <= 0 || !q.Wants(&booked[i]) {
				continue
			}
			list = append(list, odometer.Followed{Cursor: after.cursor(l.gen), Entry: booked[i].AppendJSON(nil)})
			if len(list) == followAtOnce {
				return list, after, nil
			}
		}
	}
	return list, end, nil
}
