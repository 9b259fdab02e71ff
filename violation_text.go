package odometer

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// unitTexts are units as people write them; the others stand as they are named.
var unitTexts = map[Unit]string{
	UnitPercent: "%", UnitGB: "GB", UnitMB: "MB", UnitGBHours: "GB hours", UnitMBPerSec: "MB/s", UnitMbitPerS: "Mbit/s",
}

// Amount writes a value with its unit as people read it: "91.25 %", "1 hour", "0.0042 GB".
// It has two decimals, of less than one three digits.
func (u Unit) Amount(value float64) string {
	decimals := 2
	if size := math.Abs(value); size > 0 && size < 1 {
		decimals = min(2-int(math.Floor(math.Log10(size))), 12)
	}
	text := strconv.FormatFloat(value, 'f', decimals, 64)
	text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	unit := cmp.Or(unitTexts[u], string(u))
	if text == "1" && unitTexts[u] == "" {
		unit = strings.TrimSuffix(unit, "s")
	}
	return strings.TrimSpace(text + " " + unit)
}

// Text says in one line what became of a violation: of which threshold and whom, which
// level, the value with its unit, the limit, and when it was reached or changed.
func (v *Violation) Text() string {
	name := cmp.Or(v.Name, string(v.Threshold))
	if v.Level == ForecastLevel {
		return v.forecastText(name)
	}
	value, to := v.valueText()+", limit "+v.Unit.Amount(v.Limit), v.subjectText()
	switch v.Standing {
	case StandingRecovered:
		return fmt.Sprintf("Recovered: %s: %s is at %s no longer: %s, at %s", name, to, v.Level, value, moment(cmp.Or(v.Ended, v.Changed)))
	case StandingRetracted:
		return fmt.Sprintf("Undone by a correction: %s: %s has not reached %s: %s, at %s", name, to, v.Level, value, moment(v.Changed))
	}
	text := fmt.Sprintf("%s: %s has reached %s: %s, at %s", name, to, v.Level, value, moment(v.Crossed))
	if v.Late {
		text += ", found late, at " + moment(v.Detected)
	}
	return text
}

// forecastText says what became of a forecast, whose value is what the period comes to.
func (v *Violation) forecastText(name string) string {
	to, limit, value := v.subjectText(), v.Unit.Amount(v.Limit), v.what()+" comes to "+v.Unit.Amount(v.Value)
	switch v.Standing {
	case StandingRecovered:
		return fmt.Sprintf("Recovered: %s: %s is on the way to %s no longer, at %s", name, to, limit, moment(cmp.Or(v.Ended, v.Changed)))
	case StandingRetracted:
		return fmt.Sprintf("Withdrawn: %s: %s is on the way to %s no longer: %s, at %s", name, to, limit, value, moment(v.Changed))
	}
	return fmt.Sprintf("%s: %s is on the way to %s, reached at %s: %s, as seen at %s", name, to, limit, moment(v.Reaches), value, moment(v.Crossed))
}

// what names what is watched.
func (v *Violation) what() string {
	return strings.ReplaceAll(cmp.Or(string(v.Resource), string(v.Condition)), "_", " ")
}

// valueText says what the value is, by what is watched.
func (v *Violation) valueText() string {
	value := v.Unit.Amount(v.Value)
	switch v.Condition {
	case ConditionSilence:
		return "silent for " + value
	case ConditionGap:
		return "nobody measured for " + value
	case ConditionSustained:
		return v.what() + " never below " + value
	case ConditionBudget:
		return v.what() + " " + value + " since " + moment(v.From)
	}
	return v.what() + " " + value
}

// subjectText names whom it is of.
func (v *Violation) subjectText() string {
	switch {
	case v.Instance != "":
		return string(v.Instance)
	case v.Owner.User != "":
		return "user " + string(v.Owner.User)
	case v.Owner.Org != "":
		return "organisation " + string(v.Owner.Org)
	}
	return "everybody"
}

// moment writes a time in microseconds as people read it.
func moment(us int64) string { return time.UnixMicro(us).UTC().Format("2006-01-02 15:04:05 UTC") }
