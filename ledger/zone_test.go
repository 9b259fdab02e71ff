package ledger

import (
	"errors"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
)

// zones are those that questions are asked in: none, and some whose days begin at
// the hour, half an hour or a quarter beside it.
var zones = []*time.Location{
	nil, nil, nil, time.UTC, zone("Europe/Berlin"), zone("America/New_York"),
	zone("Asia/Kolkata"), zone("Asia/Kathmandu"), zone("Pacific/Chatham"), zone("America/St_Johns"),
}

func zone(name string) *time.Location {
	z, err := odometer.LoadZone(name)
	if err != nil {
		panic(err)
	}
	return z
}

// localDays knows the days and months of a zone by having looked at the clock there
// every quarter of an hour.
type localDays struct {
	zone         *time.Location
	days, months map[string]int64 // when each begins
}

const quarter = odometer.HourMicros / 4

var localDaysOf sync.Map // by zone

func newLocalDays(zone *time.Location) *localDays {
	if zone == nil {
		zone = time.UTC
	}
	if known, ok := localDaysOf.Load(zone.String()); ok {
		return known.(*localDays)
	}
	l := &localDays{zone, map[string]int64{}, map[string]int64{}}
	for at := usageBase - 70*odometer.DayMicros - 20*odometer.HourMicros; at < usageBase+70*odometer.DayMicros; at += quarter {
		for name, in := range map[string]map[string]int64{l.show(at, time.DateOnly): l.days, l.show(at, "2006-01"): l.months} {
			if _, known := in[name]; !known {
				in[name] = at
			}
		}
	}
	localDaysOf.Store(zone.String(), l)
	return l
}

func (l *localDays) show(us int64, layout string) string {
	return time.UnixMicro(us).In(l.zone).Format(layout)
}

// inside returns the midnights within an hour.
func (l *localDays) inside(hour int64) (list []int64) {
	for at := hour + quarter; at < hour+odometer.HourMicros; at += quarter {
		if l.days[l.show(at, time.DateOnly)] == at {
			list = append(list, at)
		}
	}
	return list
}

// cuts reports whether a moment cuts an hour as its entries say.
func (l *localDays) cuts(us int64) bool {
	return odometer.Hour(us) != us && l.days[l.show(us, time.DateOnly)] != us
}

// start returns the start of the row to which a moment belongs.
func (l *localDays) start(by []odometer.GroupBy, us int64) int64 {
	for _, g := range by {
		switch g {
		case odometer.ByHour:
			return odometer.Hour(us)
		case odometer.ByDay:
			return l.days[l.show(us, time.DateOnly)]
		case odometer.ByMonth:
			return l.months[l.show(us, "2006-01")]
		}
	}
	return 0
}

// slowZoned is slowUsageOf in a time zone. An hour that From or To cuts is added up
// from the entries, moment by moment; every other one as a whole, and where a
// midnight cuts it, it is shared by time afterwards.
func slowZoned(entries []odometer.Entry, recovered map[odometer.EntryID]bool, q odometer.UsageQuery) map[usageKey]*odometer.UsageRow {
	l, rows := newLocalDays(q.Zone), map[usageKey]*odometer.UsageRow{}
	utc := q
	utc.GroupBy, utc.Zone, utc.From, utc.To = []odometer.GroupBy{odometer.ByHour}, nil, 1, 1<<60
	for _, g := range q.GroupBy {
		if g == odometer.ByInstance || g == odometer.ByUser || g == odometer.ByOrg {
			utc.GroupBy = append(utc.GroupBy, g)
		}
	}
	add := func(k usageKey, at int64, part odometer.UsageRow) {
		part.Instance, part.User, part.Org, part.Start = k.instance, k.user, k.org, l.start(q.GroupBy, at)
		addRow(rows, &part)
	}
	exact := map[int64]bool{}
	for _, at := range [...]int64{q.From, q.To} {
		if l.cuts(at) {
			exact[odometer.Hour(at)] = true
		}
	}
	pieces := func(hour int64) []int64 {
		return append(append([]int64{hour}, l.inside(hour)...), hour+odometer.HourMicros)
	}
	for k, r := range slowUsageOf(entries, recovered, utc) {
		edges := pieces(k.start)
		for i, from := range edges[:len(edges)-1] {
			if to := edges[i+1]; !exact[k.start] && from >= q.From && to <= q.To {
				add(k, from, r.Between(from-k.start, to-k.start, odometer.HourMicros))
			}
		}
	}
	for hour := range exact {
		edges := pieces(hour)
		for i, from := range edges[:len(edges)-1] {
			if utc.From, utc.To = max(from, q.From), min(edges[i+1], q.To); utc.From < utc.To {
				for k, r := range slowUsageOf(entries, recovered, utc) {
					add(k, from, *r)
				}
			}
		}
	}
	return rows
}

// TestAnHourThatAMidnightCutsIsShared has known numbers: a machine that uses one
// processor for four hours around midnight in Kolkata and nothing in the hour's
// second half.
func TestAnHourThatAMidnightCutsIsShared(t *testing.T) {
	d := newDesk(t)
	midnight := time.Date(2026, 3, 31, 18, 30, 0, 0, time.UTC).UnixMicro() // April begins
	m := newMeter("vm-1", "host-1", midnight-5*odometer.HourMicros/2)
	d.now = time.UnixMicro(midnight + 12*odometer.HourMicros)
	d.send(m.next(2*odometer.HourMicros, 2*odometer.HourMicros, 0))   // 16:00 to 18:00
	d.send(m.next(odometer.HourMicros/2, odometer.HourMicros/2+1, 0)) // 18:00 to 18:30
	d.send(m.next(odometer.HourMicros/2, 0, 0))                       // 18:30 to 19:00
	d.send(m.next(odometer.HourMicros, odometer.HourMicros, 0))       // 19:00 to 20:00
	half := int64(odometer.HourMicros) / 4                            // of what is used in the hour that is cut
	check := func(when string) {
		t.Helper()
		for name, c := range map[string]struct {
			from, to int64
			by       odometer.GroupBy
			zone     string
			want     []int64
			shared   bool
		}{
			"by month":                  {1, 1 << 60, odometer.ByMonth, "Asia/Kolkata", []int64{2*odometer.HourMicros + half, odometer.HourMicros + half + 1}, true},
			"by day":                    {1, 1 << 60, odometer.ByDay, "Asia/Kolkata", []int64{2*odometer.HourMicros + half, odometer.HourMicros + half + 1}, true},
			"March alone":               {midnight - 31*odometer.DayMicros, midnight, odometer.ByNothing, "Asia/Kolkata", []int64{2*odometer.HourMicros + half}, true},
			"April alone":               {midnight, midnight + 30*odometer.DayMicros, odometer.ByNothing, "Asia/Kolkata", []int64{odometer.HourMicros + half + 1}, true},
			"to midnight, of no zone":   {1, midnight, odometer.ByNothing, "", []int64{5*odometer.HourMicros/2 + 1}, false},
			"into the hour that is cut": {midnight - 60*sec, 1 << 60, odometer.ByDay, "Asia/Kolkata", []int64{60*sec + 1, odometer.HourMicros}, false},
			"where no hour is cut":      {1, 1 << 60, odometer.ByDay, "Europe/Berlin", []int64{7*odometer.HourMicros/2 + 1}, false},
		} {
			q := odometer.UsageQuery{From: c.from, To: c.to}
			if c.by != odometer.ByNothing {
				q.GroupBy = []odometer.GroupBy{c.by}
			}
			if c.zone != "" {
				q.Zone = zone(c.zone)
			}
			rows := d.usage(q)
			if len(rows) != len(c.want) {
				t.Errorf("%s, %s: got %d rows, want %d", when, name, len(rows), len(c.want))
				continue
			}
			for i, r := range rows {
				if r.Totals[odometer.CPU] != odometer.SumOf(c.want[i]) || r.Apportioned != c.shared {
					t.Errorf("%s, %s: row %d: got %v shared %v, want %d shared %v", when, name, i, r.Totals[odometer.CPU], r.Apportioned, c.want[i], c.shared)
				}
			}
		}
	}
	check("open")
	d.now = d.now.Add(3 * time.Hour)
	d.tick()
	check("sealed")
	d.now = d.now.Add(72 * time.Hour)
	d.tick()
	check("compacted")
}

// TestTooManyRowsAreRefused asks for more rows than may be.
func TestTooManyRowsAreRefused(t *testing.T) {
	d := newDesk(t)
	d.now = time.UnixMicro(base + 60*odometer.HourMicros)
	m := newMeter("vm-1", "host-1", base)
	d.send(m.next(40*odometer.HourMicros, 7, 0))
	for _, by := range []odometer.GroupBy{odometer.ByHour, odometer.ByDay} {
		for _, z := range []*time.Location{nil, zone("Asia/Kolkata")} {
			q := odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{by}, Zone: z}
			all := d.usage(q)
			q.Most = len(all) + 3 // hours that are cut stand apart for a while
			if rows, err := d.Usage(t.Context(), q); err != nil || len(rows) != len(all) {
				t.Errorf("by %s: got %d rows, %v, want %d", by, len(rows), err, len(all))
			}
			q.Most = len(all) - 1
			if rows, err := d.Usage(t.Context(), q); !errors.Is(err, odometer.ErrTooManyRows) || rows != nil {
				t.Errorf("by %s, one too many: got %d rows, %v, want it refused", by, len(rows), err)
			}
		}
	}
}
