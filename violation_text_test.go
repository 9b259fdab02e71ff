package odometer

import (
	"testing"
	"time"
)

func TestAmounts(t *testing.T) {
	for _, c := range []struct {
		unit  Unit
		value float64
		want  string
	}{
		{UnitPercent, 91.25, "91.25 %"},
		{UnitPercent, 80, "80 %"},
		{UnitPercent, 0, "0 %"},
		{UnitHours, 1, "1 hour"},
		{UnitHours, 1.001, "1 hour"},
		{UnitHours, 1234.5, "1234.5 hours"},
		{UnitHours, -1.5, "-1.5 hours"},
		{UnitGB, 0.0042, "0.0042 GB"},
		{UnitGB, 0.123456, "0.123 GB"},
		{UnitGB, 1, "1 GB"},
		{UnitGBHours, 10, "10 GB hours"},
		{UnitMBPerSec, 99.999, "100 MB/s"},
		{UnitMbitPerS, 1e6, "1000000 Mbit/s"},
		{UnitCores, 1e-15, "0 cores"},
		{UnitIntervals, 3.0007, "3 intervals"},
		{"", 7, "7"},
	} {
		if got := c.unit.Amount(c.value); got != c.want {
			t.Errorf("%v %s: got %q, want %q", c.value, c.unit, got, c.want)
		}
	}
}

func TestViolationsAsText(t *testing.T) {
	at := func(hour, minute int) int64 {
		return time.Date(2026, 11, 27, hour, minute, 1, 0, time.UTC).UnixMicro()
	}
	month := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	for _, c := range []struct {
		name string
		set  func(*Violation)
		want string
	}{
		{"crossed", func(*Violation) {}, "CPU of the web servers: vm-1 has reached warning: cpu 91.25 %, limit 80 %, at 2026-11-27 10:00:01 UTC"},
		{"found late", func(v *Violation) { v.Late = true }, "CPU of the web servers: vm-1 has reached warning: cpu 91.25 %, limit 80 %, at 2026-11-27 10:00:01 UTC, found late, at 2026-11-27 10:01:01 UTC"},
		{"recovered", func(v *Violation) { v.Standing, v.Value = StandingRecovered, 12.3456 }, "Recovered: CPU of the web servers: vm-1 is at warning no longer: cpu 12.35 %, limit 80 %, at 2026-11-27 10:30:01 UTC"},
		{"undone", func(v *Violation) { v.Standing, v.Value = StandingRetracted, 12 }, "Undone by a correction: CPU of the web servers: vm-1 has not reached warning: cpu 12 %, limit 80 %, at 2026-11-27 10:30:01 UTC"},
		{"of a threshold without a name", func(v *Violation) { v.Name = "" }, "thr_abcdefghijklmnop: vm-1 has reached warning: cpu 91.25 %, limit 80 %, at 2026-11-27 10:00:01 UTC"},
		{"sustained", func(v *Violation) { v.Condition = ConditionSustained }, "CPU of the web servers: vm-1 has reached warning: cpu never below 91.25 %, limit 80 %, at 2026-11-27 10:00:01 UTC"},
		{"rate", func(v *Violation) {
			v.Condition, v.Resource, v.Unit = ConditionRate, ResourceNetworkEgress, UnitMbitPerS
		}, "CPU of the web servers: vm-1 has reached warning: network egress 91.25 Mbit/s, limit 80 Mbit/s, at 2026-11-27 10:00:01 UTC"},
		{"silence", func(v *Violation) {
			v.Condition, v.Resource, v.Unit, v.Value, v.Limit = ConditionSilence, "", UnitIntervals, 3.2, 3
		}, "CPU of the web servers: vm-1 has reached warning: silent for 3.2 intervals, limit 3 intervals, at 2026-11-27 10:00:01 UTC"},
		{"gap", func(v *Violation) {
			v.Condition, v.Resource, v.Unit, v.Value, v.Limit = ConditionGap, "", UnitSeconds, 120, 60
		}, "CPU of the web servers: vm-1 has reached warning: nobody measured for 120 seconds, limit 60 seconds, at 2026-11-27 10:00:01 UTC"},
		{"budget of an organisation", func(v *Violation) {
			v.Condition, v.Sum, v.Instance, v.Owner, v.Unit, v.Value, v.Limit, v.Level, v.From = ConditionBudget, true, "", Owner{Org: "acme"}, UnitHours, 401.5, 400, "80%", month
		}, "CPU of the web servers: organisation acme has reached 80%: cpu 401.5 hours since 2026-11-01 00:00:00 UTC, limit 400 hours, at 2026-11-27 10:00:01 UTC"},
		{"rate of a user", func(v *Violation) {
			v.Condition, v.Sum, v.Instance, v.Unit = ConditionRate, true, "", UnitCores
		}, "CPU of the web servers: user ada has reached warning: cpu 91.25 cores, limit 80 cores, at 2026-11-27 10:00:01 UTC"},
		{"rate of all", func(v *Violation) {
			v.Condition, v.Sum, v.Instance, v.Owner, v.Unit = ConditionRate, true, "", Owner{}, UnitCores
		}, "CPU of the web servers: everybody has reached warning: cpu 91.25 cores, limit 80 cores, at 2026-11-27 10:00:01 UTC"},
	} {
		v := Violation{
			Threshold: "thr_abcdefghijklmnop", Name: "CPU of the web servers", Level: "warning", Standing: StandingOpen, Instance: "vm-1", Owner: Owner{User: "ada", Org: "acme"},
			Resource: ResourceCPU, Condition: ConditionPeriod, Unit: UnitPercent, Limit: 80, Value: 91.25, From: at(9, 59), Crossed: at(10, 0), Detected: at(10, 1), Changed: at(10, 30),
		}
		c.set(&v)
		if got := v.Text(); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
	forecast := Violation{
		Name: "November", Level: ForecastLevel, Standing: StandingOpen, Sum: true, Owner: Owner{Org: "acme"}, Resource: ResourceCPU, Condition: ConditionBudget, Unit: UnitHours, Limit: 1000, Value: 1250,
		From: month, Crossed: at(10, 0), Detected: at(10, 1), Changed: at(10, 30), Reaches: time.Date(2026, 11, 29, 6, 0, 0, 0, time.UTC).UnixMicro(),
	}
	for standing, want := range map[Standing]string{
		StandingOpen:      "November: organisation acme is on the way to 1000 hours, reached at 2026-11-29 06:00:00 UTC: cpu comes to 1250 hours, as seen at 2026-11-27 10:00:01 UTC",
		StandingRecovered: "Recovered: November: organisation acme is on the way to 1000 hours no longer, at 2026-11-27 10:30:01 UTC",
		StandingRetracted: "Withdrawn: November: organisation acme is on the way to 1000 hours no longer: cpu comes to 1250 hours, at 2026-11-27 10:30:01 UTC",
	} {
		forecast.Standing = standing
		if got := forecast.Text(); got != want {
			t.Errorf("a forecast, %s: got\n%s\nwant\n%s", standing, got, want)
		}
	}
}
