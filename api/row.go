package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"time"

	"example.org/odometer"
)

// Row is one line of an answer about usage. In JSON it is flat:
//
//	instance, user, org, start   only those that the rows are grouped by; org is null for none
//	cpu_us … disk_write_bytes    exact integers, null where unknown
//	measured_s                   whole seconds that were watched or bridged by counters and whose events arrived
//	recovered_s                  whole seconds whose usage was booked from a difference
//	estimated_s                  the part of both whose gauges were held
//	gap_s                        whole seconds nobody measured
//	time_us                      the same times to the microsecond, as the ledger has them:
//	                             measured, estimated (apart from measured), recovered (part of both), gap
//	apportioned                  true where an hour was cut by the edge of a day or month and shared by time, else absent
//	age_s                        in open amounts: seconds since the agent was heard
type Row struct {
	odometer.UsageRow
	By   []odometer.GroupBy // the group keys to show
	Zone *time.Location     // of which start is written; nil for UTC
	// Age is how old an open amount is; nil for what is recorded.
	Age *int64
	// Period names the one open period that the row is; nil for sums.
	Period *Period
}

// Period names an open period: whose it is and what it will be recorded as.
type Period struct {
	Agent    odometer.AgentID
	Epoch    odometer.Epoch
	Sequence uint64
	Start    time.Time
	End      time.Time // the last reading so far
}

// amounts are the quantities that a row shows by their wire names. Times are
// shown in whole seconds and exactly under time_us.
const amounts = int(odometer.MeasuredTime)

// MarshalJSON writes the form that is described at [Row].
func (r Row) MarshalJSON() ([]byte, error) { return r.appendJSON(nil), nil }

// appendJSON appends what MarshalJSON returns.
func (r *Row) appendJSON(b []byte) []byte {
	begin := len(b)
	b = append(b, '{')
	member := func(name string) {
		if len(b) > begin+1 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, '"', ':')
	}
	text := func(name, value string, null bool) {
		member(name)
		if null {
			b = append(b, "null"...)
			return
		}
		quoted, _ := json.Marshal(value) // a string always encodes
		b = append(b, quoted...)
	}
	if p := r.Period; p != nil {
		text("agent_id", string(p.Agent), false)
		text("epoch", string(p.Epoch), false)
		member("sequence")
		b = fmt.Appendf(b, "%d", p.Sequence)
		text("start", formatMicros(p.Start.UnixMicro()), false)
		text("end", formatMicros(p.End.UnixMicro()), false)
	}
	for _, g := range r.By {
		switch g {
		case odometer.ByInstance:
			text("instance", string(r.Instance), false)
		case odometer.ByUser:
			text("user", string(r.User), false)
		case odometer.ByOrg:
			text("org", string(r.Org), r.Org == "")
		case odometer.ByHour, odometer.ByDay, odometer.ByMonth:
			text("start", r.startText(), false)
		}
	}
	for q := range amounts {
		member(odometer.Quantity(q).String())
		if r.Known.Has(odometer.Quantity(q)) {
			b = r.Totals[q].AppendJSON(b)
		} else {
			b = append(b, "null"...)
		}
	}
	measured, estimated, gap := r.Totals[odometer.MeasuredTime], r.Totals[odometer.EstimatedTime], r.Totals[odometer.GapTime]
	seen := measured
	seen.AddSum(estimated)
	seen.SubSum(r.Recovered)
	for _, t := range []struct {
		name string
		sum  odometer.Sum
	}{{"measured_s", seen}, {"recovered_s", r.Recovered}, {"estimated_s", estimated}, {"gap_s", gap}} {
		member(t.name)
		b = seconds(t.sum).AppendJSON(b)
	}
	member("time_us")
	b = append(b, `{"measured":`...)
	b = measured.AppendJSON(b)
	b = append(b, `,"estimated":`...)
	b = estimated.AppendJSON(b)
	b = append(b, `,"recovered":`...)
	b = r.Recovered.AppendJSON(b)
	b = append(b, `,"gap":`...)
	b = gap.AppendJSON(b)
	b = append(b, '}')
	if r.Apportioned {
		member("apportioned")
		b = append(b, "true"...)
	}
	if r.Age != nil {
		member("age_s")
		b = fmt.Appendf(b, "%d", *r.Age)
	}
	return append(b, '}')
}

// startText is the row's start with the offset of its zone then.
func (r *Row) startText() string {
	if r.Zone == nil {
		return formatMicros(r.Start)
	}
	return time.UnixMicro(r.Start).In(r.Zone).Format(time.RFC3339Nano)
}

// UnmarshalJSON reads what MarshalJSON wrote, for clients. Members that it
// does not know are left alone. Start gives the group key ByHour whatever the
// length was.
func (r *Row) UnmarshalJSON(data []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return err
	}
	*r = Row{}
	read := func(name string, to any) (there bool, err error) {
		raw, ok := members[name]
		if !ok || bytes.Equal(raw, []byte("null")) {
			return ok, nil
		}
		if err := json.Unmarshal(raw, to); err != nil {
			return true, fmt.Errorf("usage row: %s: %w", name, err)
		}
		return true, nil
	}
	var p Period
	if there, err := read("sequence", &p.Sequence); err != nil {
		return err
	} else if there {
		for name, to := range map[string]any{"agent_id": &p.Agent, "epoch": &p.Epoch, "start": &p.Start, "end": &p.End} {
			if _, err := read(name, to); err != nil {
				return err
			}
		}
		r.Period = &p
	}
	for _, g := range []struct {
		name string
		by   odometer.GroupBy
		to   any
	}{{"instance", odometer.ByInstance, &r.Instance}, {"user", odometer.ByUser, &r.User}, {"org", odometer.ByOrg, &r.Org}} {
		there, err := read(g.name, g.to)
		if err != nil {
			return err
		}
		if there {
			r.By = append(r.By, g.by)
		}
	}
	if r.Period == nil {
		var start time.Time
		there, err := read("start", &start)
		if err != nil {
			return err
		}
		if there {
			r.Start, r.By = start.UnixMicro(), append(r.By, odometer.ByHour)
		}
	}
	for q := range amounts {
		name := odometer.Quantity(q).String()
		if _, err := read(name, &r.Totals[q]); err != nil {
			return err
		}
		if raw, ok := members[name]; ok && !bytes.Equal(raw, []byte("null")) {
			r.Known = r.Known.With(odometer.Quantity(q))
		}
	}
	var exact struct {
		Measured  odometer.Sum `json:"measured"`
		Estimated odometer.Sum `json:"estimated"`
		Recovered odometer.Sum `json:"recovered"`
		Gap       odometer.Sum `json:"gap"`
	}
	if _, err := read("time_us", &exact); err != nil {
		return err
	}
	r.Totals[odometer.MeasuredTime], r.Totals[odometer.EstimatedTime] = exact.Measured, exact.Estimated
	r.Totals[odometer.GapTime], r.Recovered = exact.Gap, exact.Recovered
	r.Known = r.Known.With(odometer.MeasuredTime).With(odometer.EstimatedTime).With(odometer.GapTime)
	if _, err := read("apportioned", &r.Apportioned); err != nil {
		return err
	}
	_, err := read("age_s", &r.Age)
	return err
}

// seconds returns whole seconds of a time in microseconds, rounded down.
func seconds(us odometer.Sum) odometer.Sum {
	if n, ok := us.Int64(); ok {
		s := n / odometer.SecondMicros
		if n%odometer.SecondMicros < 0 {
			s--
		}
		return odometer.SumOf(s)
	}
	n, _ := new(big.Int).SetString(us.String(), 10)
	n.Div(n, big.NewInt(odometer.SecondMicros)) // Euclidean: down, for a positive divisor
	sum, _ := odometer.ParseSum(n.String())     // smaller than us, so it fits
	return sum
}

// openRows sums the open periods that q asks for into rows of q's groups, in
// the order of their keys. Like recorded usage, a period counts with the part
// of it that lies in [q.From, q.To).
func openRows(open []OpenPeriod, q odometer.UsageQuery, now time.Time) []Row {
	type key struct {
		instance odometer.InstanceID
		user     odometer.UserID
		org      odometer.OrgID
		start    int64
	}
	sums := make(map[key]*Row)
	calendar := odometer.CalendarOf(q.GroupBy, q.Zone)
	for _, o := range open {
		e := &o.Event
		owner := e.Owner.OrUnassigned()
		if q.Instance != "" && e.Instance != q.Instance || q.User != "" && owner.User != q.User || q.Org != "" && owner.Org != q.Org {
			continue
		}
		from, to := max(q.From, e.Span.Start), min(q.To, e.Span.End)
		for from < to {
			var k key
			end := to
			if calendar.By != odometer.ByNothing {
				k.start = calendar.Start(from)
				end = min(to, calendar.Next(k.start))
			}
			for _, g := range q.GroupBy {
				switch g {
				case odometer.ByInstance:
					k.instance = e.Instance
				case odometer.ByUser:
					k.user = owner.User
				case odometer.ByOrg:
					k.org = owner.Org
				}
			}
			row := sums[k]
			if row == nil {
				row = &Row{By: q.GroupBy, Zone: q.Zone, Age: new(int64)}
				row.Instance, row.User, row.Org, row.Start = k.instance, k.user, k.org, k.start
				sums[k] = row
			}
			part := e.Usage.Between(e.Span, from, end)
			for i, n := range part.Vector {
				row.Totals[i].Add(n)
			}
			row.Known |= part.Known
			*row.Age = max(*row.Age, ageOf(o, now))
			from = end
		}
	}
	rows := make([]Row, 0, len(sums))
	for _, row := range sums {
		rows = append(rows, *row)
	}
	slices.SortFunc(rows, compareRows)
	return rows
}

// openPeriods returns one row for each open period.
func openPeriods(open []OpenPeriod, now time.Time) []Row {
	rows := make([]Row, 0, len(open))
	for _, o := range open {
		e := &o.Event
		row := Row{
			Age: new(ageOf(o, now)),
			Period: &Period{
				Agent: e.Agent, Epoch: e.Epoch, Sequence: e.Sequence,
				Start: time.UnixMicro(e.Span.Start).UTC(), End: time.UnixMicro(e.Span.End).UTC(),
			},
		}
		for q, n := range e.Usage.Vector {
			row.Totals[q].Add(n)
		}
		row.Known = e.Usage.Known
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(a.Period.Start.Compare(b.Period.Start), cmp.Compare(a.Period.Epoch, b.Period.Epoch))
	})
	return rows
}

func ageOf(o OpenPeriod, now time.Time) int64 {
	return max(0, int64(now.Sub(o.HeardAt)/time.Second))
}

// compareRows orders rows by their group keys, time first.
func compareRows(a, b Row) int {
	return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Org, b.Org),
		cmp.Compare(a.User, b.User), cmp.Compare(a.Instance, b.Instance))
}
