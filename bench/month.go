package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// closeOfMonth measures how long it takes to say what closing a month would come to, and
// to close it, for all organisations of a fleet with a history: the ledger books nothing
// else meanwhile. Every instance is a line of a statement.
func closeOfMonth(b *bench) (err error) {
	history, err := b.historyPath()
	if err != nil {
		return err
	}
	path := b.place("month.db")
	if err := copyFile(path, history); err != nil {
		return err
	}
	ctx := context.Background()
	month := odometer.MonthOf(historyStart)
	over := time.UnixMicro(historyStart).UTC().AddDate(0, 1, 1)
	led, err := ledger.Open(ctx, ledger.Options{Path: path, Clock: func() time.Time { return over }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, led.Close()) }()
	f := b.history()
	orgs := (f.users() + perOrg - 1) / perOrg
	// The fleet's last event is from before the month's end, which is accepted.
	c := odometer.MonthClose{Month: month, AcceptGaps: true, Actor: "bench", Cause: "the month is over"}
	for _, one := range []struct {
		name string
		dry  bool
	}{{"month_close_dry", true}, {"month_close", false}} {
		c.Dry = one.dry
		begin := time.Now()
		closed, err := led.CloseMonth(ctx, c)
		took := time.Since(begin)
		if err != nil {
			return err
		}
		lines := 0
		for _, s := range closed.Statements {
			lines += s.Lines
		}
		if len(closed.Statements) != orgs || lines != f.instances {
			return fmt.Errorf("%d statements with %d lines, want %d with %d", len(closed.Statements), lines, orgs, f.instances)
		}
		b.cost(one.name, took.Seconds()*1000, "ms", 0)
	}
	b.note("month_close: %d organisations, %d instances, %d days", orgs, f.instances, f.days)
	return nil
}
