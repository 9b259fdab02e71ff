package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// question is one that is asked of the history.
type question struct {
	toNow bool // to the open hour; otherwise the whole days
	by    []odometer.GroupBy
	of    func(fleet, *odometer.UsageQuery)
	rows  func(fleet) int // in the answer
	// bare selects the packed rows that the answer is made of, as table, column
	// and condition with the user, organisation or instance for ?; table "" for
	// a question that has no limit.
	table, column, where string
}

// topUsers is how many rows the question after the best customers wants.
const topUsers = 20

func ofTop(_ fleet, q *odometer.UsageQuery)            { q.Top = topUsers }
func ofInstance(f fleet, q *odometer.UsageQuery)       { q.Instance = f.instance(7) }
func ofUser(f fleet, q *odometer.UsageQuery)           { q.User = f.user(f.users() - 1) }
func ofOrg(f fleet, q *odometer.UsageQuery)            { q.Org = f.org(0) }
func days(times, more int) func(fleet) int             { return func(f fleet) int { return times*f.days + more } }
func users(f fleet) int                                { return min(f.users(), topUsers) }
func orgInstances(f fleet) int                         { return min(f.instances, perOrg*perUser) }
func one(fleet) int                                    { return 1 }
func groups(by ...odometer.GroupBy) []odometer.GroupBy { return by }

const ofOneInstance = `(partition, epoch_no) IN (SELECT partition, epoch_no FROM epochs WHERE instance = ?)`

// questionFigures are the figures of the questions, each the median of several.
func questionFigures() (list []figure) {
	for _, q := range []struct {
		name string
		question
	}{
		{"query_instance_hourly", question{false, groups(odometer.ByHour), ofInstance, days(24, 0), "days", "hours", ofOneInstance}},
		{"query_instance_hourly_now", question{true, groups(odometer.ByHour), ofInstance, days(24, 14), "", "", ""}},
		{"query_user_daily", question{false, groups(odometer.ByDay), ofUser, days(1, 0), "owner_months", "days", `usr = ?`}},
		{"query_user_daily_now", question{true, groups(odometer.ByDay), ofUser, days(1, 1), "", "", ""}},
		{"query_user_instances_daily", question{false, groups(odometer.ByInstance, odometer.ByDay), ofUser, days(perUser, 0), "months", "days", `usr = ?`}},
		{"query_org", question{false, nil, ofOrg, one, "owner_months", "days", `org = ?`}},
		{"query_org_now", question{true, nil, ofOrg, one, "", "", ""}},
		{"query_org_instances", question{false, groups(odometer.ByInstance), ofOrg, orgInstances, "months", "days", `org = ?`}},
		{"query_top_users", question{false, groups(odometer.ByUser), ofTop, users, "owner_months", "days", `? = ''`}},
		{"query_top_users_now", question{true, groups(odometer.ByUser), ofTop, users, "", "", ""}},
	} {
		list = append(list, figure{q.name, func(b *bench) error { return q.measure(b, q.name) }})
	}
	return list
}

func (n question) measure(b *bench, name string) error {
	path, err := b.historyPath()
	if err != nil {
		return err
	}
	ctx := context.Background()
	f := b.history()
	led, err := ledger.Open(ctx, ledger.Options{Path: path, Clock: func() time.Time { return time.UnixMicro(f.now()) }})
	if err != nil {
		return err
	}
	defer led.Close()
	q := odometer.UsageQuery{From: historyStart, To: historyStart + int64(f.days)*odometer.DayMicros, GroupBy: n.by}
	if n.toNow {
		q.To = f.now()
	}
	n.of(f, &q)
	took, err := median(b.repeats(), func() error {
		rows, err := led.Usage(ctx, q)
		if err == nil && len(rows) != n.rows(f) {
			err = fmt.Errorf("%d rows, want %d", len(rows), n.rows(f))
		}
		return err
	})
	if err != nil {
		return err
	}
	limit := time.Duration(0)
	if n.table != "" {
		if limit, err = n.bare(b, path, string(q.Instance)+string(q.User)+string(q.Org)); err != nil {
			return fmt.Errorf("bare SQLite: %w", err)
		}
	}
	b.cost(name, took.Seconds()*1000, "ms", limit.Seconds()*1000)
	return nil
}

// bare measures how long it takes to read the rows that the answer is made of,
// one by one by their key, and to do nothing with them.
func (n question) bare(b *bench, path, id string) (time.Duration, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	if err != nil {
		return 0, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	found, err := db.Query(`SELECT rowid FROM `+n.table+` WHERE `+n.where, id)
	if err != nil {
		return 0, err
	}
	defer found.Close()
	var keys []int64
	for found.Next() {
		var key int64
		if err := found.Scan(&key); err != nil {
			return 0, err
		}
		keys = append(keys, key)
	}
	if err := found.Err(); err != nil {
		return 0, err
	}
	read, err := db.Prepare(`SELECT ` + n.column + ` FROM ` + n.table + ` WHERE rowid = ?`)
	if err != nil {
		return 0, err
	}
	defer read.Close()
	return median(b.repeats(), func() error {
		for _, key := range keys {
			var packed []byte
			if err := read.QueryRow(key).Scan(&packed); err != nil {
				return err
			}
		}
		return nil
	})
}

// repeats is how often something short is measured.
func (b *bench) repeats() int {
	if b.quick {
		return 3
	}
	return 21
}

// median returns the median of how long do takes.
func median(times int, do func() error) (time.Duration, error) {
	if times < 1 {
		return 0, errors.New("measured not once")
	}
	var took []time.Duration
	for range times {
		begin := time.Now()
		if err := do(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
