package ledger

import (
	"context"
	"fmt"

	"example.org/odometer"
)

// InstanceQuery selects instances of which something is booked, in order of
// their ids. Empty fields select all.
type InstanceQuery struct {
	After    odometer.InstanceID
	Limit    int // at most so many
	Instance odometer.InstanceID
	User     odometer.UserID // who was ever charged for it; or it is too new to know
	Org      odometer.OrgID
	View     *odometer.View // where it is not nil, who was ever charged is somebody that it sees, or it is granted; as with User
}

// InstanceRow is what is booked of an instance: by whom it was measured last,
// whose that was, and from when until when.
type InstanceRow struct {
	Instance odometer.InstanceID
	Agent    odometer.AgentID
	Owner    odometer.Owner // zero where several are charged for the last hour
	Since    int64          // when its first epoch began, microseconds
	Until    int64          // the last that is booked
}

// Instances returns the instances that are asked for, as of the last commit.
func (l *Ledger) Instances(ctx context.Context, q InstanceQuery) ([]InstanceRow, error) {
	tx, err := l.questions.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("instances: %w", err)
	}
	defer tx.end(ctx)
	list, err := instancesOf(ctx, tx, q)
	if err != nil {
		return nil, fmt.Errorf("instances: %w", err)
	}
	return list, nil
}

func instancesOf(ctx context.Context, tx queryer, q InstanceQuery) ([]InstanceRow, error) {
	u := newUsageQuery(ctx, tx, odometer.UsageQuery{Instance: q.Instance, User: q.User, Org: q.Org, View: q.View})
	from, args := u.ofInstances()
	rows, err := tx.QueryContext(ctx, `SELECT `+epochColumns+` FROM `+epochTables+` WHERE e.instance IN (
		SELECT DISTINCT instance FROM `+from+` WHERE instance > ? ORDER BY instance LIMIT ?) ORDER BY e.instance`,
		append(args, string(q.After), q.Limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []InstanceRow
	var last []epochNumber // the epoch of each that goes furthest
	for rows.Next() {
		var e epoch
		if err := e.scan(rows); err != nil {
			return nil, err
		}
		if len(list) == 0 || list[len(list)-1].Instance != e.instance {
			list = append(list, InstanceRow{Instance: e.instance, Since: e.started, Until: e.end - 1})
			last = append(last, epochNumber{})
		}
		r := &list[len(list)-1]
		r.Since = min(r.Since, e.started)
		if e.end > r.Until {
			r.Agent, r.Owner, r.Until = e.agent, e.open.owner, e.end
			last[len(last)-1] = epochNumber{e.partition, e.no}
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for i := range list {
		if r := &list[i]; r.Owner.User == "" { // its last hour is sealed, and has the owner
			if r.Owner, err = ownerAt(ctx, tx, r.Instance, last[i], r.Until); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// ownerAt returns who is charged for what an epoch used in the hour that ends
// with or contains a time.
func ownerAt(ctx context.Context, tx queryer, instance odometer.InstanceID, of epochNumber, until int64) (o odometer.Owner, err error) {
	hour := odometer.Hour(until - 1)
	u := newUsageQuery(ctx, tx, odometer.UsageQuery{
		From: hour, To: hour + odometer.HourMicros, Instance: instance, GroupBy: []odometer.GroupBy{odometer.ByUser, odometer.ByOrg},
	})
	u.epochs, u.args = `(SELECT partition, epoch_no, instance FROM epochs WHERE partition = ? AND epoch_no = ?)`, []any{of.partition, of.no}
	if err := u.run(); err != nil {
		return o, err
	}
	if rows := u.result(); len(rows) == 1 {
		o = odometer.Owner{User: rows[0].User, Org: rows[0].Org}
	}
	return o, nil
}
