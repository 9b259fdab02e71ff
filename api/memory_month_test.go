package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"example.org/odometer"
)

// What the ledger in memory does about months: a month is closed from the entries that
// begin in it.

func (m *InMemory) CloseMonth(_ context.Context, c odometer.MonthClose) (r odometer.MonthClosed, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Fails != nil {
		return r, m.Fails
	}
	if c.Month.End() > Now.UnixMicro() {
		return r, fmt.Errorf("close %s: it is not over: %w", c.Month, odometer.ErrInvalid)
	}
	for _, was := range m.closed {
		if was.Month == c.Month && (was.Org == nil || c.Org != nil && *was.Org == *c.Org) {
			return r, fmt.Errorf("close %s: it is closed already: %w", c.Month, odometer.ErrConflict)
		}
	}
	for _, e := range m.held {
		r.Missing = append(r.Missing, odometer.Missing{Kind: odometer.MissingHeld, Instance: e.Instance, Host: e.Agent, From: e.Span.Start, To: e.Span.End, Amount: 1})
	}
	if len(r.Missing) > 0 && !c.AcceptGaps && !c.Dry {
		return odometer.MonthClosed{}, fmt.Errorf("close %s: it may not be complete: %w", c.Month, odometer.ErrConflict)
	}
	of := map[odometer.OrgID]*odometer.Statement{}
	for i := range m.entries {
		e := &m.entries[i]
		org := e.Event.Owner.Org
		if odometer.MonthOf(e.Event.Span.Start) != c.Month || c.Org != nil && *c.Org != org || m.statement(c.Month, org) != nil {
			continue
		}
		s := of[org]
		if s == nil {
			s = &odometer.Statement{
				Ledger: "00112233445566778899aabbccddeeff", Generation: 1, Month: c.Month, Org: org, At: Now.UnixMicro(), Actor: c.Actor, Cause: c.Cause,
				AsOf: []odometer.StatementMark{{Partition: e.ID.Partition, Position: 1, Entry: uint64(len(m.entries))}}, Missing: r.Missing,
			}
			of[org] = s
		}
		line := odometer.StatementLine{Month: c.Month, User: e.Event.Owner.OrUnassigned().User, Instance: e.Event.Instance}
		n, found := slices.BinarySearchFunc(s.Lines, line, func(a, b odometer.StatementLine) int { return a.Compare(&b) })
		if !found {
			s.Lines = slices.Insert(s.Lines, n, line)
		}
		for q, amount := range e.Event.Usage.Vector {
			s.Lines[n].Totals[q].Add(amount)
		}
		s.Lines[n].Known |= e.Event.Usage.Known
	}
	if c.Org != nil && len(of) == 0 {
		return r, fmt.Errorf("close %s: nothing of organisation %s is booked in it: %w", c.Month, *c.Org, odometer.ErrNotFound)
	}
	for _, s := range of {
		r.Statements = append(r.Statements, s.Info())
		if !c.Dry {
			m.statements = append(m.statements, s)
		}
	}
	slices.SortFunc(r.Statements, func(a, b odometer.StatementInfo) int { return cmp.Compare(a.Org, b.Org) })
	slices.SortFunc(m.statements, func(a, b *odometer.Statement) int {
		return cmp.Or(cmp.Compare(b.Month, a.Month), cmp.Compare(a.Org, b.Org))
	})
	if !c.Dry {
		m.closed = append(m.closed, c)
	}
	return r, nil
}

func (m *InMemory) statement(month odometer.Month, org odometer.OrgID) *odometer.Statement {
	for _, s := range m.statements {
		if s.Month == month && s.Org == org {
			return s
		}
	}
	return nil
}

func (m *InMemory) ClosedMonths(_ context.Context, seen odometer.View) ([]odometer.ClosedMonth, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []odometer.ClosedMonth
	for _, c := range m.closed {
		if c.Org != nil && !seen.SeesStatement(*c.Org) {
			continue
		}
		i := slices.IndexFunc(list, func(l odometer.ClosedMonth) bool { return l.Month == c.Month })
		if i < 0 {
			i = len(list)
			list = append(list, odometer.ClosedMonth{Month: c.Month, At: Now.UnixMicro()})
			for _, s := range m.statements {
				if s.Month == c.Month && seen.SeesStatement(s.Org) {
					list[i].Statements++
				}
			}
		}
		if c.Org == nil {
			list[i].Everybody = true
		} else {
			list[i].Orgs = append(list[i].Orgs, *c.Org)
		}
	}
	slices.SortFunc(list, func(a, b odometer.ClosedMonth) int { return cmp.Compare(b.Month, a.Month) })
	return list, m.Fails
}

func (m *InMemory) Statements(_ context.Context, q odometer.StatementQuery) ([]odometer.StatementInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []odometer.StatementInfo
	behind := q.After == ""
	for _, s := range m.statements {
		i := s.Info()
		if !q.View.SeesStatement(s.Org) {
			continue
		}
		if behind && len(list) < q.Limit && (q.Month == 0 || s.Month == q.Month) && (q.Org == "" || s.Org == q.Org) {
			list = append(list, i)
		}
		behind = behind || i.ID == q.After
	}
	return list, m.Fails
}

func (m *InMemory) Statement(_ context.Context, seen odometer.View, id string) (*odometer.Statement, []byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.statements {
		if s.ID() == id && seen.SeesStatement(s.Org) {
			return s, s.AppendText(nil), m.Fails
		}
	}
	return nil, nil, cmp.Or(m.Fails, fmt.Errorf("statement %s: %w", id, odometer.ErrNotFound))
}

// InDecember is e as it would have been in December 2025.
func InDecember(e odometer.Event) odometer.Event {
	const back = 20 * odometer.DayMicros
	e.Epoch, e.EpochStart = odometer.NewEpoch(e.Instance, e.Agent, "sample", "december"), e.EpochStart-back
	e.Span.Start, e.Span.End = e.Span.Start-back, e.Span.End-back
	e.Derive(0, 0)
	return e
}
