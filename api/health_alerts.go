package api

import (
	"fmt"
	"time"
)

// ThresholdFacts are about checking thresholds, behind the ledger.
type ThresholdFacts struct {
	Enabled int           // thresholds
	Behind  time.Duration // how long what is booked waits to be checked, 0 when nothing does
	Skipped uint64        // records that were pruned before they were checked, since the process began
	Resumed uint64        // times that more was checked than the ledger has
	Last    time.Time     // when something was checked last, zero before
	Err     string        // why nothing is checked
	File    string        // why the file of thresholds is not as it was read last
	Stream  string        // why violations are not published
	Absent  string        // why there are no thresholds, "" where there are
}

// NotificationFacts are about telling channels.
type NotificationFacts struct {
	Waiting  int       // deliveries
	Oldest   time.Time // when the oldest that waits was made, zero for none
	Dead     int       // deliveries that were given up
	Open     int       // receivers that are left alone for now, since they do not answer
	Disabled int       // channels that the server disabled
	Missed   int       // webhooks of usage that were not told all that was booked
	Err      string    // why nothing is delivered
	Absent   string    // why there are no notifications, "" where there are
}

// thresholdsLate is how long an entry may wait to be checked: it takes a second as a
// rule, and to catch up with a day some.
const thresholdsLate = time.Minute

func judgeThresholds(f *ThresholdFacts) Component {
	v := newVerdict("")
	v.facts["enabled"] = f.Enabled
	v.facts["behind_seconds"] = f.Behind.Seconds()
	if f.Absent != "" {
		v.complain(Failed, "%s", f.Absent)
	}
	if f.Err != "" {
		v.complain(Degraded, "%s", f.Err)
	}
	if f.Behind > thresholdsLate {
		v.complain(Degraded, "what was booked %s ago is not checked yet", f.Behind.Round(time.Second))
	}
	if f.Skipped > 0 {
		v.note("%s pruned before they were checked: what single events reached is not told; budgets are whole", counted(int(f.Skipped), "record was", "records were"))
	}
	if f.Resumed > 0 {
		v.note("more was checked than the ledger has, as when another ledger is put under it: it went on from the end")
	}
	if f.File != "" {
		v.complain(Degraded, "the file of thresholds: %s; they stand as they were read before", f.File)
	}
	if f.Stream != "" {
		v.complain(Degraded, "violations are not published: %s", f.Stream)
	}
	return v.component(f.Last)
}

// judgeNotifications names receivers that do not answer and does not call that worse
// than well: they are other people's, and everybody could have one. What cannot be
// delivered at all is.
func judgeNotifications(f *NotificationFacts, now time.Time) Component {
	v := newVerdict("")
	v.facts["waiting"], v.facts["dead"], v.facts["open_breakers"], v.facts["disabled_channels"] = f.Waiting, f.Dead, f.Open, f.Disabled
	v.facts["oldest_age_seconds"] = age(f.Oldest, now)
	if f.Absent != "" {
		v.complain(Failed, "%s", f.Absent)
	}
	if f.Err != "" {
		v.complain(Degraded, "%s", f.Err)
	}
	if f.Open > 0 {
		v.note("%s left alone for now, which did not answer", counted(f.Open, "receiver is", "receivers are"))
	}
	if f.Dead > 0 {
		v.note("%s given up: odometer channel deliveries lists them", counted(f.Dead, "delivery was", "deliveries were"))
	}
	if f.Disabled > 0 {
		v.note("%s disabled by the server: odometer channel list says why", counted(f.Disabled, "channel was", "channels were"))
	}
	if f.Missed > 0 {
		v.note("%s not told all of the ledger: odometer channel list says why", counted(f.Missed, "webhook was", "webhooks were"))
	}
	return v.component(time.Time{})
}

// counted says how many there are, with the words for one and for several.
func counted(n int, one, several string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, several)
}
