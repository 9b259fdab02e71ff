package notify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"example.org/odometer"
)

// headline says in one line what a message is about.
func headline(j *job, list []odometer.Violation) string {
	switch {
	case j.kind == "":
		return "Test of channel " + j.channel.Name
	case len(list) == 1:
		return list[0].Text()
	}
	return fmt.Sprintf("%d changes: %s", len(list), strings.Join(tally(list), ", "))
}

// tally counts what became of violations, what there is most of first.
func tally(list []odometer.Violation) []string {
	counts := map[string]int{}
	for i := range list {
		switch v := &list[i]; {
		case v.Standing == odometer.StandingRetracted:
			counts["undone"]++
		case v.Standing != odometer.StandingOpen:
			counts[string(v.Standing)]++
		case v.Level == odometer.ForecastLevel:
			counts["on the way to a limit"]++
		default:
			counts["at "+v.Level]++
		}
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

// lines are a message for people: what it is about and, of several, each; of one, what
// its threshold is about, whose the machine is, and where to look.
func lines(j *job, list []odometer.Violation) []string {
	text := []string{headline(j, list)}
	if len(list) == 1 {
		v := &list[0]
		if v.About != "" {
			text = append(text, v.About)
		}
		of := ""
		if v.Owner.User != "" {
			of += "user " + string(v.Owner.User) + ", "
		}
		if v.Owner.Org != "" {
			of += "organisation " + string(v.Owner.Org) + ", "
		}
		text = append(text, fmt.Sprintf("%sthreshold %s: odometer violation show %s", of, v.Threshold, v.ID))
	}
	if len(list) > 1 {
		for i := range list {
			text = append(text, list[i].Text())
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
		n.logger.Warn(v.Text(), "violation", v.ID, "change", v.Change, "standing", v.Standing, "level", v.Level, "threshold", v.Threshold, "delivery", j.id)
	}
}
