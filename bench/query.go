package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// queryTimes measures how long questions about the history take, the median
// of several.
func queryTimes(b *bench) error {
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
	whole := odometer.UsageQuery{From: historyStart, To: historyStart + int64(f.days)*odometer.DayMicros}
	toNow := odometer.UsageQuery{From: historyStart, To: f.now()}
	user, org, instance := f.user(f.users()-1), f.org(0), f.instance(7)
	for _, q := range []struct {
		name string
		q    odometer.UsageQuery
		rows int
		by   []odometer.GroupBy
		of   func(*odometer.UsageQuery)
	}{
		{"instance_hourly", whole, 24 * f.days, []odometer.GroupBy{odometer.ByHour}, func(q *odometer.UsageQuery) { q.Instance = instance }},
		{"instance_hourly_now", toNow, 24*f.days + 14, []odometer.GroupBy{odometer.ByHour}, func(q *odometer.UsageQuery) { q.Instance = instance }},
		{"user_daily", whole, f.days, []odometer.GroupBy{odometer.ByDay}, func(q *odometer.UsageQuery) { q.User = user }},
		{"user_daily_now", toNow, f.days + 1, []odometer.GroupBy{odometer.ByDay}, func(q *odometer.UsageQuery) { q.User = user }},
		{"user_instances_daily", whole, perUser * f.days, []odometer.GroupBy{odometer.ByInstance, odometer.ByDay}, func(q *odometer.UsageQuery) { q.User = user }},
		{"org", whole, 1, nil, func(q *odometer.UsageQuery) { q.Org = org }},
		{"org_now", toNow, 1, nil, func(q *odometer.UsageQuery) { q.Org = org }},
		{"org_instances", whole, min(f.instances, perOrg*perUser), []odometer.GroupBy{odometer.ByInstance}, func(q *odometer.UsageQuery) { q.Org = org }},
		{"top_users", whole, f.users(), []odometer.GroupBy{odometer.ByUser}, func(*odometer.UsageQuery) {}},
		{"top_users_now", toNow, f.users(), []odometer.GroupBy{odometer.ByUser}, func(*odometer.UsageQuery) {}},
	} {
		q.q.GroupBy = q.by
		q.of(&q.q)
		took, err := median(b.repeats(), func() error {
			rows, err := led.Usage(ctx, q.q)
			if err == nil && len(rows) != q.rows {
				err = fmt.Errorf("%d rows, want %d", len(rows), q.rows)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		b.cost("query_"+q.name, took.Seconds()*1000, "ms", 0)
	}
	return nil
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
