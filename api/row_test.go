package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

func TestSecondsRoundDown(t *testing.T) {
	huge, _ := odometer.ParseSum("170141183460469231731687303715884105727")
	for _, c := range []struct {
		us   odometer.Sum
		want string
	}{
		{odometer.SumOf(0), "0"}, {odometer.SumOf(999_999), "0"}, {odometer.SumOf(1_000_000), "1"},
		{odometer.SumOf(-1), "-1"}, {odometer.SumOf(-1_000_000), "-1"}, {odometer.SumOf(-1_000_001), "-2"},
		{huge, "170141183460469231731687303715884"},
	} {
		if got := seconds(c.us).String(); got != c.want {
			t.Errorf("seconds of %s µs: got %s, want %s", c.us, got, c.want)
		}
	}
}

// row returns a row with every kind of value in it.
func row(by ...odometer.GroupBy) Row {
	r := Row{By: by}
	r.Known = odometer.AllKnown &^ (1 << odometer.GPU)
	for q := range r.Totals {
		if odometer.Quantity(q) != odometer.GPU {
			r.Totals[q] = odometer.SumOf(int64(q+1) * 1_000_001)
		}
	}
	r.Totals[odometer.NetworkEgress] = odometer.SumOf(odometer.MaxExact + 1)
	r.Totals[odometer.MeasuredTime], r.Totals[odometer.EstimatedTime] = odometer.SumOf(90_500_000), odometer.SumOf(30_600_000)
	r.Totals[odometer.GapTime], r.Recovered = odometer.SumOf(5_900_000), odometer.SumOf(60_000_000)
	for _, g := range by {
		switch g {
		case odometer.ByInstance:
			r.Instance = "vm-1"
		case odometer.ByUser:
			r.User = "ada"
		case odometer.ByHour:
			r.Start = odometer.Hour(Now.UnixMicro())
		}
	}
	return r
}

func TestRowAsJSON(t *testing.T) {
	got, err := json.Marshal(row(odometer.ByInstance, odometer.ByOrg, odometer.ByHour))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"instance":"vm-1","org":null,"start":"2026-01-02T15:00:00Z",` +
		`"cpu_us":1000001,"gpu_us":null,"gpu_busy_us":3000003,"vcpu_us":4000004,` +
		`"memory_mib_s":5000005,"memory_allocated_mib_s":6000006,"storage_mib_s":7000007,"storage_provisioned_mib_s":8000008,` +
		`"network_egress_bytes":"9007199254740992","network_ingress_bytes":10000010,"disk_read_bytes":11000011,"disk_write_bytes":12000012,` +
		`"measured_s":61,"recovered_s":60,"estimated_s":30,"gap_s":5,` +
		`"time_us":{"measured":90500000,"estimated":30600000,"recovered":60000000,"gap":5900000}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRowReadsBack(t *testing.T) {
	age := int64(3)
	withAge := row(odometer.ByInstance)
	shared := row(odometer.ByOrg, odometer.ByHour)
	shared.Apportioned = true
	withAge.Age = &age
	period := row()
	period.Age = &age
	period.Period = &Period{Agent: "host-1", Epoch: "e", Sequence: 7, Start: Now.Add(-time.Minute), End: Now}
	for name, want := range map[string]Row{
		"ungrouped":                 row(),
		"by instance, user, hour":   row(odometer.ByInstance, odometer.ByUser, odometer.ByHour),
		"by no organisation":        row(odometer.ByOrg),
		"shared by time":            shared,
		"an open amount has an age": withAge,
		"an open period":            period,
	} {
		t.Run(name, func(t *testing.T) {
			b, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			var got Row
			if err := json.Unmarshal(b, &got); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
	for _, bad := range []string{`[]`, `{"cpu_us":1.5}`, `{"cpu_us":"x"}`, `{"start":"noon"}`, `{"instance":1}`, `{"time_us":[]}`, `{"age_s":"x"}`, `{"apportioned":1}`, `{"sequence":-1}`, `{"sequence":1,"start":7}`} {
		var r Row
		if err := json.Unmarshal([]byte(bad), &r); err == nil {
			t.Errorf("%s: got %+v, want an error", bad, r)
		}
	}
}

func TestRowOfAnUnknownQuantityIsNullAndNotZero(t *testing.T) {
	b, _ := json.Marshal(Row{})
	if n := strings.Count(string(b), ":null"); n != amounts {
		t.Errorf("got %s with %d nulls, want %d", b, n, amounts)
	}
}

func TestOpenPeriodsAddUpInGroups(t *testing.T) {
	ada, none := odometer.Owner{User: "ada", Org: "acme"}, odometer.Owner{}
	heard := Now.Add(-2 * time.Second)
	open := []OpenPeriod{
		{SampleEvent("vm-1", 1, ada), heard}, {SampleEvent("vm-2", 1, ada), Now.Add(-9 * time.Second)}, {SampleEvent("vm-3", 1, none), heard},
	}
	late := SampleEvent("vm-4", 1, ada) // from 14:59:45 to 15:00:15
	late.Span.Start, late.Span.End = late.Span.Start+3_585_000_000, late.Span.End+3_585_000_000
	open = append(open, OpenPeriod{late, Now.Add(time.Second)})
	all := odometer.UsageQuery{To: Now.UnixMicro()}
	for _, c := range []struct {
		name  string
		query func(*odometer.UsageQuery)
		want  []string // instance/user/org/start cpu_us age
	}{
		{"no group: one sum, as old as its oldest part", func(*odometer.UsageQuery) {}, []string{"/// 48240000 9"}},
		{"by user: nobody is unassigned", func(q *odometer.UsageQuery) { q.GroupBy = []odometer.GroupBy{odometer.ByUser} },
			[]string{"/ada// 36180000 9", "/unassigned// 12060000 2"}},
		{"by hour: a period over the edge is shared", func(q *odometer.UsageQuery) { q.GroupBy = []odometer.GroupBy{odometer.ByHour} },
			[]string{"///2026-01-02T14:00:00Z 42210000 9", "///2026-01-02T15:00:00Z 6030000 0"}},
		{"by day and organisation", func(q *odometer.UsageQuery) { q.GroupBy = []odometer.GroupBy{odometer.ByDay, odometer.ByOrg} },
			[]string{"///2026-01-02T00:00:00Z 12060000 2", "//acme/2026-01-02T00:00:00Z 36180000 9"}},
		{"by month and instance, of one user", func(q *odometer.UsageQuery) {
			q.GroupBy, q.User = []odometer.GroupBy{odometer.ByMonth, odometer.ByInstance}, "unassigned"
		}, []string{"vm-3///2026-01-01T00:00:00Z 12060000 2"}},
		{"only the part within the times that are asked for", func(q *odometer.UsageQuery) {
			q.From = time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC).UnixMicro()
		}, []string{"/// 6030000 0"}},
		{"by day of a zone: a period over its midnight is shared", func(q *odometer.UsageQuery) {
			q.GroupBy, q.Zone, q.Instance = []odometer.GroupBy{odometer.ByDay}, time.FixedZone("", 9*60*60+10), "vm-4"
		}, []string{"///2026-01-01T14:59:50Z 2010000 0", "///2026-01-02T14:59:50Z 10050000 0"}},
		{"of one instance", func(q *odometer.UsageQuery) { q.Instance = "vm-2" }, []string{"/// 12060000 9"}},
		{"of an organisation without any", func(q *odometer.UsageQuery) { q.Org = "nobody" }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := all
			c.query(&q)
			var got []string
			for _, r := range openRows(open, q, Now) {
				start := ""
				if r.Start != 0 {
					start = formatMicros(r.Start)
				}
				got = append(got, strings.Join([]string{string(r.Instance), string(r.User), string(r.Org), start}, "/")+" "+
					r.Totals[odometer.CPU].String()+" "+odometer.SumOf(*r.Age).String())
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
