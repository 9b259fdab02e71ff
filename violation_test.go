package odometer

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// goldenViolations are changes of violations as files of testdata have them: a level that
// an event reached, one of a sum that was found late by a forecast, and a silence, of which
// there is the least.
func goldenViolations() map[string]Violation {
	at := func(clock string) int64 {
		t, err := time.Parse(time.RFC3339, clock)
		if err != nil {
			panic(err)
		}
		return t.UnixMicro()
	}
	return map[string]Violation{
		"violation-1.0.json": {
			ID: NewViolationID("thr_abcdefghijklmnop", "warning", "vm-7", "vm-7/9f2c0000000000000000000000000000/42"), Change: 1, Number: 1, Threshold: "thr_abcdefghijklmnop", Version: 3, Name: "busy machines",
			Shared: true, Level: "warning", Standing: StandingOpen, Instance: "vm-7", Owner: Owner{User: "u-ada", Org: "o-acme"}, Resource: ResourceCPU, Condition: ConditionPeriod, Unit: UnitPercent,
			Limit: 80, Before: 12.5, Value: 80.25, From: at("2025-11-23T07:00:00Z"), To: at("2025-11-23T07:00:30Z"), Crossed: at("2025-11-23T07:00:30Z"), Detected: at("2025-11-23T07:00:31.000001Z"),
			Changed: at("2025-11-23T07:00:31.000001Z"), Event: "vm-7/9f2c0000000000000000000000000000/42", Entry: "3-77", Action: ActionAlert, Channels: []ChannelID{"chn_abcdefghijklmnop", "chn_qrstuvwxyz234567"},
		},
		"violation-1.0-budget.json": {
			ID: NewViolationID("thr_qrstuvwxyz234567", ForecastLevel, "", "period 1761951600000000"), Change: 2, Number: 9007199254740993, Threshold: "thr_qrstuvwxyz234567", Version: 1, Name: "Köln <month> & more",
			Holder: Bound{Org: "o-acme"}, Level: ForecastLevel, Standing: StandingRetracted, Owner: Owner{Org: "o-acme"}, Sum: true, Resource: ResourceMemory, Condition: ConditionBudget, Unit: UnitGBHours,
			Limit: 1e9, Before: 1e21, Value: 0.1, From: at("2025-10-31T23:00:00Z"), To: at("2025-11-30T23:00:00Z"), Crossed: at("2025-11-23T07:00:30Z"), Detected: at("2025-11-24T07:00:31.5Z"),
			Changed: at("2025-11-25T00:00:00Z"), Reaches: at("2025-11-29T12:00:00Z"), Event: "vm-9/1763881200-1763881230", Entry: "0-7", Late: true, Action: ActionNotify, Channels: []ChannelID{"chn_abcdefghijklmnop"},
		},
		"violation-1.0-silence.json": {
			ID: NewViolationID("thr_abcdefghijklmnop", "quiet", "vm-7", "silence since 1763881200000000"), Change: 2, Threshold: "thr_abcdefghijklmnop", Version: 1, Name: "silent", Holder: Bound{User: "u-ada"},
			Level: "quiet", Standing: StandingRecovered, Instance: "vm-7", Owner: Owner{User: Unassigned}, Condition: ConditionSilence, Unit: UnitIntervals, Limit: 3, Before: 3, Action: ActionLog,
			From: at("2025-11-23T07:00:00Z"), To: at("2025-11-23T07:01:30Z"), Crossed: at("2025-11-23T07:01:30Z"), Detected: at("2025-11-23T07:01:30Z"), Changed: at("2025-11-23T07:05:00Z"),
		},
	}
}

func TestGoldenViolations(t *testing.T) {
	violations := goldenViolations()
	for _, name := range goldens(t, "violation") {
		v, there := violations[name]
		if !there {
			t.Errorf("%s is of no violation", name)
			continue
		}
		if got, want := v.AppendJSON(nil), golden(t, name); !bytes.Equal(got, want) {
			t.Errorf("%s: got  %s\nwant %s", name, got, want)
		}
		// As it is stored: Go's own form of it, in which nothing may be lost.
		body, err := json.Marshal(v)
		var again Violation
		if err == nil {
			err = json.Unmarshal(body, &again)
		}
		if err != nil || !reflect.DeepEqual(again, v) {
			t.Errorf("%s stored: got %+v, %v, want %+v", name, again, err, v)
		}
	}
}

// TestTheIDOfAViolationStays, since what is read again must find it.
func TestTheIDOfAViolationStays(t *testing.T) {
	if got, want := NewViolationID("thr_abcdefghijklmnop", "warning", "vm-7", "vm-7/1"), ViolationID("vio_ascki7br4pbzg233zsjthzz4l7"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	ids := map[ViolationID][4]string{}
	for _, of := range [][4]string{{"a", "b", "c", "d"}, {"ab", "", "c", "d"}, {"a", "bc", "", "d"}, {"a", "b", "cd", ""}, {"", "ab", "c", "d"}, {"a", "b", "c", ""}, {"a", "1:b,", "c", "d"}} {
		id := NewViolationID(ThresholdID(of[0]), of[1], of[2], of[3])
		if was, there := ids[id]; there {
			t.Errorf("%q and %q are both %s", was, of, id)
		}
		ids[id] = of
	}
}
