package notify

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
)

// amount writes a value with its unit.
func amount(value float64, unit odometer.Unit) string {
	text := strconv.FormatFloat(value, 'f', -1, 64)
	if i := strings.IndexByte(text, '.'); i >= 0 && len(text) > i+3 {
		text = strings.TrimRight(strings.TrimRight(strconv.FormatFloat(value, 'f', 2, 64), "0"), ".")
	}
	switch unit {
	case "":
		return text
	case odometer.UnitPercent:
		return text + " %"
	}
	return text + " " + strings.ReplaceAll(string(unit), "_", " ")
}

// clock writes a moment as people read it.
func clock(us int64) string { return time.UnixMicro(us).UTC().Format("2006-01-02 15:04:05 UTC") }

// sentence says in one line what became of a violation.
func sentence(v *odometer.Violation) string {
	what := cmp.Or(strings.ReplaceAll(string(v.Resource), "_", " "), string(v.Condition))
	head := fmt.Sprintf("%s: %s of %s", v.Name, v.Level, subjectOf(v))
	value := fmt.Sprintf("%s %s, limit %s", what, amount(v.Value, v.Unit), amount(v.Limit, v.Unit))
	switch v.Standing {
	case odometer.StandingRecovered:
		return fmt.Sprintf("Recovered: %s: %s, at %s", head, value, clock(v.Changed))
	case odometer.StandingRetracted:
		return fmt.Sprintf("Withdrawn by a correction: %s: %s, at %s", head, value, clock(v.Changed))
	}
	text := fmt.Sprintf("%s: %s, crossed at %s", head, value, clock(v.Crossed))
	if v.Reaches != 0 {
		text += ", and at this rate the limit is reached at " + clock(v.Reaches)
	}
	return text
}

// headline says in one line what a message is about.
func headline(j *job, list []odometer.Violation) string {
	switch {
	case j.kind == "":
		return "Test of channel " + j.channel.Name
	case len(list) == 1:
		return sentence(&list[0])
	}
	return fmt.Sprintf("%d changes: %s", len(list), strings.Join(tally(list), ", "))
}

// tally counts what became of violations, what there is most of first.
func tally(list []odometer.Violation) []string {
	counts := map[string]int{}
	for i := range list {
		what := list[i].Level
		if list[i].Standing != odometer.StandingOpen {
			what = string(list[i].Standing)
		}
		counts[what]++
	}
	kinds := make([]string, 0, len(counts))
	for k := range counts {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b string) int { return cmp.Or(counts[b]-counts[a], strings.Compare(a, b)) })
	for i, k := range kinds {
		kinds[i] = fmt.Sprintf("%d %s", counts[k], k)
	}
	return kinds
}

// lines are a message for people: what it is about and, of several, each.
func lines(j *job, list []odometer.Violation) []string {
	text := []string{headline(j, list)}
	if len(list) > 1 {
		for i := range list {
			text = append(text, sentence(&list[i]))
		}
	}
	return text
}

// writeLog tells the server's log, one line a change.
func (n *Notifier) writeLog(j *job, list []odometer.Violation) {
	if j.kind == "" {
		n.logger.Info(headline(j, nil), "channel", j.channel.ID)
	}
	for i := range list {
		v := &list[i]
		n.logger.Warn(sentence(v), "violation", v.ID, "change", v.Change, "standing", v.Standing, "level", v.Level, "threshold", v.Threshold, "delivery", j.id)
	}
}
