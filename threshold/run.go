package threshold

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"example.org/odometer"
)

const (
	// takeAtOnce is how many entries are taken in between two looks at the clock.
	takeAtOnce = 2000
	// saveEvery is how often what is remembered is stored where nothing is told: what is
	// taken in again after a crash.
	saveEvery = time.Second
	// tickEvery is how often the clock is looked at: for silence, and the ends of periods.
	tickEvery = time.Second
	// retryMost bounds how long a failure is waited over.
	retryMost = 10 * time.Second
	// keepPeriods is for how long periods that are over are held in memory: what comes
	// later is rare and is looked up.
	keepPeriods = 48 * time.Hour
	// keepStates is for how long they are stored, and what is remembered of thresholds
	// that are gone: corrections come for a closed year.
	keepStates = 400 * 24 * time.Hour
	// pruneEvery is how often older ones are looked for.
	pruneEvery = time.Hour
	// departEvery is how often it is looked for machines that run no more.
	departEvery = time.Minute
)

// Stats are what thresholds did since they were opened.
type Stats struct {
	Thresholds int               // that are enabled
	Entries    uint64            // taken in
	Skipped    uint64            // records of the journal that were gone before they were taken in
	Resumed    uint64            // times that more was taken in than the ledger has
	Changes    uint64            // of violations
	Reached    map[string]uint64 // violations by condition
	Record     int64             // the journal's last record that was taken in
	Behind     time.Duration     // how long what is booked waits, as of the last look; 0 when nothing does
	Last       time.Time         // when something was taken in last, zero before
	Err        error             // why nothing is taken in, nil while it is
	File       error             // why the file of thresholds is not as it was read last, nil while it is
}

// Stats may be called at once with Run.
func (t *Thresholds) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.stats
	s.Reached = make(map[string]uint64, len(t.stats.Reached))
	for k, n := range t.stats.Reached {
		s.Reached[k] = n
	}
	return s
}

func (t *Thresholds) count(change func(*Stats)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.stats)
}

// Run follows the ledger until ctx is done, over whatever fails meanwhile, and then
// returns nil. It ends with an error where the ledger has another writer.
func (t *Thresholds) Run(ctx context.Context) error {
	for failures := 0; ; {
		err := t.follow(ctx, func() { failures = 0 })
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errNotOurs):
			return err
		}
		failures++
		if failures == 1 {
			t.logger.Error("thresholds are not checked: trying on", "err", err)
		}
		t.count(func(s *Stats) { s.Err = err })
		wait := min(retryMost, 100*time.Millisecond<<min(failures-1, 10))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rand.N(wait) + time.Millisecond):
		}
	}
}

// follower follows the ledger with what is stored.
type follower struct {
	*Thresholds
	fold   *fold
	record int64     // taken in
	saved  time.Time // when it was stored
	stored int64     // up to which record
	pruned time.Time // when old periods were forgotten
	parted time.Time // when it was looked for machines that run no more
	file   fileSeen
}

// follow takes in what is booked until something fails.
func (t *Thresholds) follow(ctx context.Context, works func()) error {
	f := &follower{Thresholds: t, fold: newFold()}
	if err := f.load(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(cmp.Or(t.o.tick, tickEvery))
	defer tick.Stop()
	defer func() {
		if ctx.Err() != nil { // it ends: less is taken in again
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if err := f.store(ctx, true); err != nil {
				t.logger.Warn("what thresholds remember is not stored, and is taken in again", "err", err)
			}
		}
	}()
	for {
		news := t.o.Ledger.News()
		more, err := f.some(ctx)
		if err != nil {
			return err
		}
		works()
		if more && ctx.Err() == nil {
			select {
			case <-tick.C:
				err = f.tick(ctx)
			case <-t.again:
				err = f.look(ctx)
			default:
			}
		} else {
			select {
			case <-ctx.Done():
				return nil
			case <-news:
			case <-tick.C:
				err = f.tick(ctx)
			case <-t.again:
				err = f.look(ctx)
			}
		}
		if err != nil {
			return err
		}
	}
}

// load reads what is remembered. Where nothing is, the past is not told of: what is
// booked from now on counts.
func (f *follower) load(ctx context.Context) error {
	record, there, err := f.cursor(ctx)
	if err != nil {
		return err
	}
	if !there {
		if _, record, err = f.end(ctx); err != nil {
			return err
		}
	}
	f.record, f.stored, f.saved = record, record, f.clock()
	f.fold.now = f.clock().UnixMicro()
	f.fold.recent = f.clock().Add(-keepPeriods).UnixMicro()
	f.fold.stored = func(w *watch, subject string, period int64) (*state, error) {
		return f.stateOf(ctx, w, subject, period)
	}
	f.fold.previous = func(w *watch, e *odometer.Entry) (float64, error) { return f.valueBefore(ctx, w, e) }
	f.fold.earlier = func(w *watch, event string) ([]odometer.Violation, error) { return f.Thresholds.earlier(ctx, w, event) }
	if err := f.watchFile(ctx); err != nil {
		return err
	}
	if err := f.look(ctx); err != nil {
		return err
	}
	return f.ended(ctx)
}

// ended has what is open end where nothing in memory would end it: of thresholds that
// are not watched any more, and of periods that were over long before the start.
func (f *follower) ended(ctx context.Context) error {
	list, err := f.standing(ctx, odometer.StandingOpen)
	if err != nil {
		return fmt.Errorf("read what is open: %w", err)
	}
	gone := map[odometer.ThresholdID]*watch{}
	for i := range list {
		v := &list[i]
		w := f.fold.watches[v.Threshold]
		if w == nil {
			if w = gone[v.Threshold]; w == nil {
				w = newWatch(&odometer.Threshold{ID: v.Threshold}, 0)
				gone[v.Threshold] = w
			}
		}
		period := int64(0)
		if v.Condition == odometer.ConditionBudget {
			period = v.From
		}
		k := key(string(v.Instance), period)
		if w.states[k] != nil {
			continue
		}
		s, err := f.stateOf(ctx, w, string(v.Instance), period)
		if err != nil {
			return err
		}
		if s != nil {
			w.states[k] = s
		}
	}
	for _, w := range gone {
		f.fold.end(w)
	}
	return f.store(ctx, true)
}

// standing returns the violations that stand so, as they were told last.
func (t *Thresholds) standing(ctx context.Context, is odometer.Standing) (list []odometer.Violation, err error) {
	rows, err := t.db.QueryContext(ctx, `SELECT body FROM threshold_violations WHERE standing = ?`, string(is))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var body []byte
		var v odometer.Violation
		if err := rows.Scan(&body); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(body, &v); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// end returns the journal's last record.
func (f *follower) end(ctx context.Context) ([]odometer.UsageRow, int64, error) {
	now := f.clock().UnixMicro()
	return f.o.Ledger.UsageAt(ctx, odometer.UsageQuery{From: odometer.Hour(now), To: odometer.Hour(now) + odometer.HourMicros, Instance: "-"})
}

func (t *Thresholds) stateOf(ctx context.Context, w *watch, subject string, period int64) (*state, error) {
	var body []byte
	rows, err := t.db.QueryContext(ctx, `SELECT body FROM threshold_states WHERE threshold = ? AND subject = ? AND period_us = ?`, string(w.ID), subject, period)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	if !rows.Next() {
		return nil, rows.Err()
	}
	if err := rows.Scan(&body); err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(body, s); err != nil {
		return nil, fmt.Errorf("what is remembered of %s: %w", w.ID, err)
	}
	s.Subject, s.Period = subject, period
	return s, nil
}

// states reads what is held in memory of a threshold.
func (f *follower) states(ctx context.Context, w *watch) error {
	rows, err := f.db.QueryContext(ctx, `SELECT subject, period_us, body FROM threshold_states WHERE threshold = ? AND (period_us = 0 OR end_us > ?)`, string(w.ID), f.fold.recent)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		s := &state{}
		var body []byte
		err := rows.Scan(&s.Subject, &s.Period, &body)
		if err == nil {
			subject, period := s.Subject, s.Period
			err = json.Unmarshal(body, s)
			s.Subject, s.Period = subject, period
		}
		if err != nil {
			return fmt.Errorf("what is remembered of %s: %w", w.ID, err)
		}
		w.states[key(s.Subject, s.Period)] = s
	}
	return rows.Err()
}

// look reads the thresholds: those that are new or were changed begin, those that are
// gone end.
func (f *follower) look(ctx context.Context) error {
	if err := f.store(ctx, true); err != nil { // what is remembered of those that go
		return err
	}
	rows, err := f.db.QueryContext(ctx, `SELECT `+columns+` FROM threshold_thresholds WHERE enabled AND deleted_us = 0`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var list, begin []*watch
	for rows.Next() {
		d, record, err := scanThreshold(rows)
		if err != nil {
			return err
		}
		w := f.fold.watches[d.ID]
		if w == nil || w.Version != d.Version || record < 0 {
			had := w
			w = newWatch(&d, record)
			if had != nil {
				f.fold.leave(had, w)
				if had.Condition == w.Condition {
					w.states = had.states
				}
			}
			if had == nil || record < 0 {
				begin = append(begin, w)
			}
		}
		list = append(list, w)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	rows.Close()
	gone := f.fold.watches
	f.fold.replace(list)
	for id, w := range gone {
		if f.fold.watches[id] == nil {
			f.fold.end(w)
		}
	}
	for _, w := range begin {
		if err := f.begin(ctx, w); err != nil {
			return err
		}
	}
	f.count(func(s *Stats) { s.Thresholds = len(list) })
	return f.store(ctx, true)
}

// begin reads what is remembered of a threshold. One that is new, or was changed, begins
// with what its budget has already.
func (f *follower) begin(ctx context.Context, w *watch) error {
	if len(w.states) == 0 {
		if err := f.states(ctx, w); err != nil {
			return err
		}
	}
	if w.from >= 0 {
		return nil
	}
	w.from = f.record
	f.fold.begun = append(f.fold.begun, w)
	return f.sum(ctx, w)
}

// sum has a budget come to what the ledger has of its present period.
func (f *follower) sum(ctx context.Context, w *watch) error {
	if w.Condition != odometer.ConditionBudget {
		return nil
	}
	rows, record, start, end, err := f.spent(ctx, w)
	if err != nil {
		return err
	}
	w.from = record
	f.fold.begin(w, rows, start, end)
	return nil
}

// spent returns what was used in a budget's present period, by instance where each has
// its own, as of a record of the journal.
func (t *Thresholds) spent(ctx context.Context, w *watch) (rows []odometer.UsageRow, record, start, end int64, err error) {
	start = w.calendar.Start(t.clock().UnixMicro())
	end = w.calendar.Next(start)
	q := odometer.UsageQuery{From: start, To: end, Zone: w.Zone, Instance: w.Scope.Instance, User: cmp.Or(w.Scope.User, w.Holder.User), Org: cmp.Or(w.Scope.Org, w.Holder.Org)}
	if w.Scope.Sum {
		q.GroupBy = nil
	} else {
		q.GroupBy = []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg}
	}
	rows, record, err = t.o.Ledger.UsageAt(ctx, q)
	return rows, record, start, end, err
}

// some takes in some of what is booked and reports whether there is more.
func (f *follower) some(ctx context.Context) (more bool, err error) {
	entries, records, last, removed, err := f.o.Ledger.Booked(ctx, f.record, 0, takeAtOnce)
	if errors.Is(err, odometer.ErrConflict) {
		return true, f.resume(ctx, err)
	}
	if err != nil {
		return false, err
	}
	f.fold.now = f.clock().UnixMicro()
	if removed > 0 {
		if err := f.skip(ctx, last, removed); err != nil {
			return false, err
		}
	}
	for i := range entries {
		if err := f.fold.take(&entries[i], records[i]); err != nil {
			return false, err
		}
	}
	behind := time.Duration(0)
	if n := len(entries); n > 0 {
		behind = max(0, time.Duration(f.fold.now-entries[n-1].BookedAt)*time.Microsecond)
	}
	more, f.record = last > f.record, last
	if err := f.store(ctx, removed > 0); err != nil {
		return false, err
	}
	f.count(func(s *Stats) {
		s.Entries, s.Record, s.Err, s.Behind = s.Entries+uint64(len(entries)), last, nil, behind
		if len(entries) > 0 {
			s.Last = f.clock()
		}
	})
	return more, nil
}

// store stores what is remembered, where something is to be told or it is time.
func (f *follower) store(ctx context.Context, now bool) error {
	if len(f.fold.changes) == 0 && (!now && f.clock().Sub(f.saved) < saveEvery || f.record == f.stored && len(f.fold.touched)+len(f.fold.begun) == 0) {
		return nil
	}
	changes := slices.Clone(f.fold.changes)
	if err := f.save(ctx, f.fold, f.record); err != nil {
		return fmt.Errorf("store what thresholds remember: %w", err)
	}
	f.stored, f.saved = f.record, f.clock()
	f.count(func(s *Stats) {
		for i := range changes {
			s.Changes++
			if changes[i].Change == 1 {
				if s.Reached == nil {
					s.Reached = map[string]uint64{}
				}
				s.Reached[string(changes[i].Condition)]++
			}
		}
	})
	for i := range changes {
		v := &changes[i]
		f.logger.Info(v.Text(), "standing", v.Standing, "threshold", v.Threshold, "level", v.Level, "value", v.Value, "limit", v.Limit, "unit", v.Unit,
			"instance", v.Instance, "user", v.Owner.User, "org", v.Owner.Org, "violation", v.ID)
	}
	return nil
}

// tick looks at the clock: what is silent, and which periods are over.
func (f *follower) tick(ctx context.Context) error {
	now := f.clock()
	f.fold.now = now.UnixMicro()
	if err := f.watchFile(ctx); err != nil {
		return err
	}
	f.fold.elapse(now.Add(-keepPeriods).UnixMicro())
	if f.o.Running != nil && f.fold.silences() {
		machines, err := f.o.Running(ctx)
		if err != nil {
			return fmt.Errorf("list the machines that run: %w", err)
		}
		f.fold.listen(machines)
	}
	if f.o.Ended != nil && now.Sub(f.parted).Abs() >= departEvery {
		f.parted = now
		err := f.fold.depart(func(id odometer.InstanceID) (bool, error) { return f.o.Ended(ctx, id) })
		if err != nil { // all else is checked meanwhile
			f.logger.Warn("which machines run no more is not known: what is open of them stays open", "err", err)
		}
	}
	if now.Sub(f.pruned) >= pruneEvery {
		f.pruned = now
		err := f.transact(ctx, func(tx *sql.Tx) error {
			before := now.Add(-keepStates).UnixMicro()
			_, err := tx.ExecContext(ctx, `DELETE FROM threshold_states WHERE period_us > 0 AND end_us < ?
				OR period_us = 0 AND threshold IN (SELECT id FROM threshold_thresholds WHERE deleted_us > 0 AND deleted_us < ?)`, before, before)
			return err
		})
		if err != nil {
			return fmt.Errorf("forget what is old: %w", err)
		}
	}
	return f.store(ctx, false)
}
