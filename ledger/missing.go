package ledger

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"example.org/odometer"
)

// A month may not be complete for an organisation, as far as the ledger can tell,
// where nobody measured an instance of it for a time, where an event of it is held or
// in quarantine, and where an epoch of it neither ended nor was heard of up to the end
// of the month. What is neither known to be somebody's nor read may be anybody's.

// lack is something that is missing, and of which organisations.
type lack struct {
	odometer.Missing
	orgs    []odometer.OrgID
	anybody bool
}

// of reports whether l may be an organisation's.
func (l *lack) of(org odometer.OrgID) bool { return l.anybody || slices.Contains(l.orgs, org) }

// missingOf returns what a statement of an organisation says is missing. Of what may
// be anybody's it does not name the instance and the host, which may be others'.
func missingOf(lacks []lack, org odometer.OrgID) (list []odometer.Missing) {
	for i := range lacks {
		if l := &lacks[i]; l.of(org) {
			m := l.Missing
			if l.anybody && org != "" {
				m.Instance, m.Host = "", ""
			}
			list = append(list, m)
		}
	}
	slices.SortFunc(list, compareMissing)
	return list
}

func compareMissing(a, b odometer.Missing) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Host, b.Host),
		cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Amount, b.Amount))
}

// lacking returns what is missing of a month for those who are wanted.
func (f *fold) lacking(c *odometer.MonthClose, lines map[odometer.OrgID][]odometer.StatementLine, wanted func(odometer.OrgID) bool) (list []lack, err error) {
	for _, find := range []func(odometer.Month) ([]lack, error){f.heldOf, f.quarantinedOf, f.silentIn} {
		more, err := find(c.Month)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	for org, of := range lines {
		for i := range of {
			gaps, err := f.gapsOf(c.Month, org, &of[i])
			if err != nil {
				return nil, err
			}
			list = append(list, gaps...)
		}
	}
	for _, m := range c.Backlog {
		list = append(list, lack{Missing: m, anybody: true})
	}
	list = slices.DeleteFunc(list, func(l lack) bool { return !l.anybody && !slices.ContainsFunc(l.orgs, wanted) })
	slices.SortFunc(list, func(a, b lack) int { return compareMissing(a.Missing, b.Missing) })
	return list, nil
}

// gapsOf returns the times that nobody measured of what a line has, by host.
func (f *fold) gapsOf(m odometer.Month, org odometer.OrgID, l *odometer.StatementLine) (list []lack, err error) {
	if l.Month != m || l.Totals[odometer.GapTime].IsZero() {
		return nil, nil
	}
	epochs, err := f.epochsOf(l.Instance)
	if err != nil {
		return nil, err
	}
	by := map[odometer.AgentID]int64{}
	for _, e := range epochs {
		rows, err := f.usedIn(e, m.Start(), m.End(), odometer.ByUser, odometer.ByOrg)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if row.User == l.User && row.Org == org {
				n, _ := row.Totals[odometer.GapTime].Int64()
				by[e.agent] += n
			}
		}
	}
	for host, n := range by {
		if n != 0 {
			list = append(list, lack{orgs: []odometer.OrgID{org}, Missing: odometer.Missing{
				Kind: odometer.MissingGap, Instance: l.Instance, Host: host, From: m.Start(), To: m.End(), Amount: n,
			}})
		}
	}
	return list, nil
}

// usedIn returns what was used of an epoch in a time.
func (f *fold) usedIn(e *epoch, from, to int64, by ...odometer.GroupBy) ([]odometer.UsageRow, error) {
	u := newUsageQuery(f.ctx, f.tx, odometer.UsageQuery{From: from, To: to, Instance: e.instance, GroupBy: by})
	u.epochs, u.args, u.epoch = `(SELECT partition, epoch_no, instance FROM epochs WHERE partition = ? AND epoch_no = ?)`, []any{e.partition, e.no}, e.epochKey.epoch
	if err := u.run(); err != nil {
		return nil, err
	}
	return u.result(), nil
}

// heldOf returns the events of a month that are held, each with what it waits for.
func (f *fold) heldOf(m odometer.Month) (list []lack, err error) {
	held, err := f.heldEvents(`WHERE end_us > ? ORDER BY partition, epoch, first, sequence`, m.Start())
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		e, err := f.loadEpoch(h.key)
		if err != nil || e == nil {
			return nil, cmp.Or(err, fmt.Errorf("epoch %s: %w", h.key.epoch, odometer.ErrNotFound))
		}
		ev, err := f.eventFrom(h.key.partition, h.at)
		if err != nil {
			return nil, err
		}
		span := spanOf(ev)
		if h.reason == reasonHole && e.sequence > 0 {
			span.Start = min(span.Start, e.end)
		}
		if span.Start >= m.End() || span.End <= m.Start() {
			continue
		}
		l := lack{Missing: odometer.Missing{Kind: odometer.MissingHeld, Instance: e.instance, Host: e.agent, From: span.Start, To: span.End, Amount: 1}}
		if l.orgs, err = f.orgsOf(m, e.instance, nil, ev.Owner.Org); err != nil {
			return nil, err
		}
		list = append(list, l)
	}
	return list, nil
}

// eventFrom returns an event of the journal for what a month may lack.
func (f *fold) eventFrom(partition int, at place) (*odometer.Event, error) {
	rec, err := recordAt(f.ctx, f.tx, partition, at.position)
	if err == nil {
		var r *odometer.Record
		if r, err = rec.event(at.index); err == nil {
			return r.Event, nil
		}
	}
	if errors.Is(err, ErrDamaged) {
		err = errors.Join(err, odometer.ErrConflict)
	}
	return nil, err
}

// spanOf returns the time that an event is of.
func spanOf(ev *odometer.Event) odometer.Span {
	if ev.Integral() {
		return ev.Span
	}
	return odometer.Span{Start: ev.Period.Start * odometer.SecondMicros, End: ev.Period.End * odometer.SecondMicros}
}

// quarantinedOf returns the events that are in quarantine and are of a month, or were
// received since it began and may be of any.
func (f *fold) quarantinedOf(m odometer.Month) (list []lack, err error) {
	type item struct {
		partition int
		at        place
		id        string
	}
	var items []item
	err = f.each(`SELECT partition, position, idx, event_id FROM quarantine WHERE released_us = 0 AND at_us > ? ORDER BY partition, no`, func(rows *sql.Rows) error {
		var i item
		err := rows.Scan(&i.partition, &i.at.position, &i.at.index, &i.id)
		items = append(items, i)
		return err
	}, m.Start()-maxAhead)
	if err != nil {
		return nil, fmt.Errorf("events in quarantine: %w", err)
	}
	for _, i := range items {
		l := lack{Missing: odometer.Missing{Kind: odometer.MissingQuarantine, Amount: 1}}
		if i.id == "" {
			l.anybody = true
			if err := f.queryRow(`SELECT sender FROM journal WHERE partition = ? AND position = ?`, []any{i.partition, i.at.position}, &l.Host); err != nil && !errors.Is(err, sql.ErrNoRows) {
				return nil, fmt.Errorf("who sent what is in quarantine: %w", err)
			}
			list = append(list, l)
			continue
		}
		ev, err := f.eventFrom(i.partition, i.at)
		if err != nil {
			return nil, err
		}
		span := spanOf(ev)
		if span.Start >= m.End() || span.End <= m.Start() {
			continue
		}
		l.Instance, l.Host, l.From, l.To = ev.Instance, ev.Agent, span.Start, span.End
		if l.orgs, err = f.orgsOf(m, ev.Instance, nil, ev.Owner.Org); err != nil {
			return nil, err
		}
		list = append(list, l)
	}
	return list, nil
}

// silentIn returns the epochs that neither ended nor were heard of up to the end of a
// month. One that had fallen silent in an earlier month which was closed is none: that
// it was silent was accepted then.
func (f *fold) silentIn(m odometer.Month) (list []lack, err error) {
	for p := range odometer.Partitions {
		var silent []*epoch
		err := f.each(`SELECT `+epochColumns+` FROM `+epochTables+` WHERE e.partition = ?`, func(rows *sql.Rows) error {
			e := new(epoch)
			if err := e.scan(rows); err != nil {
				return err
			}
			if !e.closed && e.countedBy == byVector && e.sequence > 0 && e.end < m.End() && !f.goesOn(e.epochKey) {
				silent = append(silent, e)
			}
			return nil
		}, p)
		if err != nil {
			return nil, fmt.Errorf("epochs that are silent: %w", err)
		}
		for _, e := range silent {
			l := lack{Missing: odometer.Missing{Kind: odometer.MissingSilent, Instance: e.instance, Host: e.agent, From: max(e.end, m.Start()), To: m.End(), Amount: 1}}
			if l.orgs, err = f.orgsOf(m, e.instance, e); err != nil {
				return nil, err
			}
			l.anybody = len(l.orgs) == 0
			if last := odometer.MonthOf(e.end); last < m {
				for _, org := range slices.Clone(l.orgs) {
					closed, err := f.isClosed(p, last, org)
					if err != nil {
						return nil, err
					}
					if closed {
						l.orgs = slices.DeleteFunc(l.orgs, func(o odometer.OrgID) bool { return o == org })
					}
				}
			}
			if l.anybody || len(l.orgs) > 0 {
				list = append(list, l)
			}
		}
	}
	return list, nil
}

// goesOn reports whether another epoch goes on where one was told to end.
func (f *fold) goesOn(key epochKey) bool {
	return slices.ContainsFunc(f.handed[key], func(h handover) bool { return h.to != "" })
}

// orgsOf returns whose an instance may be in a month: whoever is recorded, and where
// that is not for all of it who is claimed, and who had last been charged for an
// epoch of it.
func (f *fold) orgsOf(m odometer.Month, instance odometer.InstanceID, e *epoch, claimed ...odometer.OrgID) (list []odometer.OrgID, err error) {
	h, err := historyOf(f.ctx, f.tx, instance)
	if err != nil {
		return nil, err
	}
	whole := m.Start()
	for _, o := range h {
		if o.From < m.End() && o.Until > m.Start() {
			list = append(list, o.Owner.Org)
			if o.From <= whole {
				whole = max(whole, o.Until)
			}
		}
	}
	if whole < m.End() {
		list = append(list, claimed...)
		if e != nil {
			last := odometer.Hour(max(e.end-1, e.started))
			rows, err := f.usedIn(e, last, last+odometer.HourMicros, odometer.ByOrg)
			if err != nil {
				return nil, err
			}
			for i := range rows {
				list = append(list, rows[i].Org)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}
