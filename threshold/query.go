package threshold

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"example.org/odometer"
)

// Get returns the threshold with an id. One that by does not see is answered as one that
// there is not, with [odometer.ErrNotFound].
func (t *Thresholds) Get(ctx context.Context, by odometer.Caller, id odometer.ThresholdID) (odometer.Threshold, error) {
	d, err := seenBy(ctx, t.db, &by, id)
	if err != nil {
		return d, fmt.Errorf("threshold %s: %w", id, unavailable(err))
	}
	return d, nil
}

// condition gathers what a row must be.
type condition struct {
	text []string
	args []any
}

func (c *condition) add(text string, args ...any) {
	c.text, c.args = append(c.text, text), append(c.args, args...)
}

func (c *condition) where() string { return " WHERE " + strings.Join(append(c.text, "1 = 1"), " AND ") }

// List returns the thresholds that by sees and q asks for, in the order of their ids.
func (t *Thresholds) List(ctx context.Context, by odometer.Caller, q odometer.ThresholdQuery) ([]odometer.Threshold, error) {
	var c condition
	c.add(`deleted_us = 0 AND id > ?`, string(q.After))
	if view := by.View(); !view.All() && !by.May(odometer.ScopeAdmin) {
		var either []string
		var args []any
		if user := view.User(); user != "" {
			either, args = append(either, `holder_usr = ?`), append(args, string(user))
		}
		for _, org := range view.Orgs() {
			either, args = append(either, `holder_org = ?`), append(args, string(org))
		}
		c.add(`(`+strings.Join(append(either, `1 = 0`), ` OR `)+`)`, args...)
	}
	if q.Holder != nil {
		c.add(`holder_usr = ? AND holder_org = ?`, string(q.Holder.User), string(q.Holder.Org))
	}
	if q.Resource != "" {
		c.add(`resource = ?`, string(q.Resource))
	}
	if q.Enabled != nil {
		c.add(`enabled = ?`, *q.Enabled)
	}
	rows, err := t.db.QueryContext(ctx, `SELECT `+columns+` FROM threshold_thresholds`+c.where()+` ORDER BY id LIMIT ?`, append(c.args, q.Limit)...)
	if err != nil {
		return nil, fmt.Errorf("list thresholds: %w", unavailable(err))
	}
	defer rows.Close()
	list := []odometer.Threshold{}
	for rows.Next() {
		d, _, err := scanThreshold(rows)
		if err != nil {
			return nil, fmt.Errorf("list thresholds: %w", err)
		}
		list = append(list, d)
	}
	return list, unavailable(rows.Err())
}

// Violations returns violations as they are now, the one that changed last first.
func (t *Thresholds) Violations(ctx context.Context, q odometer.ViolationQuery) ([]odometer.Violation, error) {
	var c condition
	for _, f := range [...]struct{ column, value string }{
		{"threshold", string(q.Threshold)}, {"instance", string(q.Instance)}, {"usr", string(q.User)}, {"org", string(q.Org)},
		{"level", q.Level}, {"standing", string(q.Standing)}, {"resource", string(q.Resource)},
	} {
		if f.value != "" {
			c.add(f.column+` = ?`, f.value)
		}
	}
	if q.Before != 0 {
		c.add(`number < ?`, q.Before)
	}
	if q.From != 0 {
		c.add(`crossed_us >= ?`, q.From)
	}
	if q.To != 0 {
		c.add(`crossed_us < ?`, q.To)
	}
	if q.View != nil && !q.View.All() {
		c.see(q.View)
	}
	return t.violations(ctx, `SELECT number, body FROM threshold_violations`+c.where()+` ORDER BY number DESC LIMIT ?`, append(c.args, q.Limit)...)
}

// see leaves out what a view does not see, as [odometer.Violation.SeenBy] decides.
func (c *condition) see(view *odometer.View) {
	var either []string
	var args []any
	if user := string(view.User()); user != "" {
		either, args = append(either, `holder_usr = ?`, `shared AND usr = ?`), append(args, user, user)
	}
	for _, id := range view.Orgs() {
		either, args = append(either, `holder_org = ?`, `shared AND org = ?`), append(args, string(id), string(id))
	}
	for _, g := range view.Granted() {
		text, more := `shared AND instance = ? AND crossed_us >= ?`, []any{string(g.Instance), g.Since.UnixMicro()}
		if g.Of != (odometer.Owner{}) {
			text, more = text+` AND usr = ? AND org = ?`, append(more, string(g.Of.User), string(g.Of.Org))
		}
		either, args = append(either, `(`+text+`)`), append(args, more...)
	}
	c.add(`(`+strings.Join(append(either, `1 = 0`), ` OR `)+`)`, args...)
}

// Violation returns the changes of a violation that a view sees, the first first.
func (t *Thresholds) Violation(ctx context.Context, view odometer.View, id odometer.ViolationID) ([]odometer.Violation, error) {
	var c condition
	c.add(`id = ?`, string(id))
	if !view.All() {
		c.see(&view)
	}
	one, err := t.violations(ctx, `SELECT number, body FROM threshold_violations`+c.where(), c.args...)
	if err != nil {
		return nil, err
	}
	if len(one) == 0 {
		return nil, fmt.Errorf("violation %s: %w", id, odometer.ErrNotFound)
	}
	return t.violations(ctx, `SELECT number, body FROM threshold_changes WHERE violation = ? ORDER BY number`, string(id))
}

// ChangesAfter returns at most limit changes of violations, in order, after the one with
// a number.
func (t *Thresholds) ChangesAfter(ctx context.Context, number uint64, limit int) ([]odometer.Violation, error) {
	return t.violations(ctx, `SELECT number, body FROM threshold_changes WHERE number > ? ORDER BY number LIMIT ?`, number, limit)
}

// News returns a channel that is closed at the next change of a violation. Take it before
// reading, so that nothing falls between.
func (t *Thresholds) News() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.news
}

func (t *Thresholds) violations(ctx context.Context, query string, args ...any) ([]odometer.Violation, error) {
	rows, err := t.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list violations: %w", unavailable(err))
	}
	defer rows.Close()
	list := []odometer.Violation{}
	for rows.Next() {
		var body []byte
		var v odometer.Violation
		var number uint64
		err := rows.Scan(&number, &body)
		if err == nil {
			err = json.Unmarshal(body, &v)
		}
		if err != nil {
			return nil, fmt.Errorf("list violations: %w", err)
		}
		v.Number = number
		list = append(list, v)
	}
	return list, unavailable(rows.Err())
}

// valueBefore returns a threshold's value in the last entry of an instance that ended
// before another began, 0 where there was none lately.
func (t *Thresholds) valueBefore(ctx context.Context, w *watch, e *odometer.Entry) (value float64, err error) {
	begins, ended := e.Event.Span.Start, int64(0)
	q := odometer.EntryQuery{Instance: e.Event.Instance, From: begins - partsLast, To: begins}
	err = t.o.Ledger.EachEntry(ctx, q, func(b *odometer.Entry) error {
		num, den, ok := parts(w.Threshold, b)
		if ok && b.Kind != odometer.KindCorrection && b.Event.Span.End <= begins && b.Event.Span.End > ended && w.covers(b.Event.Instance, b.Event.Owner.OrUnassigned()) {
			value, ended = num/den, b.Event.Span.End
		}
		return nil
	})
	return value, err
}

// earlier returns the violations that an event did to a threshold, as they were told
// last.
func (t *Thresholds) earlier(ctx context.Context, w *watch, event string) ([]odometer.Violation, error) {
	if event == "" {
		return nil, nil
	}
	return t.violations(ctx, `SELECT number, body FROM threshold_violations WHERE threshold = ? AND event = ?`, string(w.ID), event)
}
