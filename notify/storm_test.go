package notify

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"example.org/odometer"
)

// lines of the messages that a Slack-compatible receiver got.
func (r *receiver) lines() (messages int, all []string) {
	for _, g := range r.requests() {
		messages++
		all = append(all, strings.Split(g.body, `\n• `)...)
	}
	return messages, all
}

// TestAStormIsDamped: of many changes at once a person gets few messages that have all of
// them, in order; what is urgent comes at once and by itself; a webhook gets each.
func TestAStormIsDamped(t *testing.T) {
	w := newOffice(t, Options{})
	r, hook, am := newReceiver(t, nil), newReceiver(t, nil), newReceiver(t, nil)
	slack, _ := w.create(odometer.Channel{Kind: odometer.ChannelSlack, URL: r.URL})
	w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: hook.URL})
	alerts, _ := w.create(odometer.Channel{Kind: odometer.ChannelAlertmanager, URL: am.URL})
	const calm, storm = 5, 300
	n := 0
	add := func(count int) {
		var list []odometer.Violation
		for range count {
			n++
			v := violation("vm-1", n, slack.ID, alerts.ID)
			v.Name = fmt.Sprintf("t%d.", n)
			list = append(list, v)
		}
		w.log.add(list...)
	}
	for range calm {
		add(1)
		w.goOn(3 * time.Second)
	}
	if messages, _ := r.lines(); messages != calm {
		t.Errorf("in a calm: got %d messages, want %d", messages, calm)
	}
	w.goOn(stormTime)
	for i := range 30 { // ten a second, for half a minute
		add(storm / 30)
		urgent := violation("vm-9", n, slack.ID)
		urgent.Name, urgent.Action = "urgent", odometer.ActionAlert
		w.log.add(urgent)
		w.rest()
		told := 0
		for _, g := range r.requests() {
			if strings.HasPrefix(g.body, `{"text":"urgent:`) {
				told++
			}
		}
		if told != i+1 {
			t.Fatalf("got %d urgent messages after %d, want each at once and by itself", told, i+1)
		}
		w.goOn(time.Second)
	}
	w.goOn(2 * stormTime)
	messages, all := r.lines()
	if most := calm + 30 + stormMost + 5; messages > most { // what is urgent, what came before it was a storm, and digests
		t.Errorf("got %d messages of %d changes, want at most %d", messages, n, most)
	}
	var order []string
	for _, l := range all {
		if i := strings.Index(l, "t"); i >= 0 && !strings.Contains(l, "urgent") && !strings.Contains(l, "changes:") {
			order = append(order, l)
		}
	}
	if len(order) != n {
		t.Fatalf("got %d changes in messages, want %d", len(order), n)
	}
	for i, l := range order {
		if !strings.Contains(l, fmt.Sprintf("t%d.", i+1)) {
			t.Fatalf("got %q as number %d", l, i+1)
		}
	}
	if got := hook.events(t); len(got) != n+30 {
		t.Errorf("the webhook got %d events, want %d, each by itself", len(got), n+30)
	}
	told, read := 0, postableAlerts(t)
	for _, g := range am.requests() {
		list, err := read(g.body)
		if err != nil {
			t.Fatal(err)
		}
		told = max(told, len(list))
	}
	if told != storm/30 && told < n {
		t.Errorf("got at most %d alerts in a request, want a list", told)
	}
	digests := 0
	for _, d := range w.deliveries(slack.ID, odometer.DeliveryDelivered) {
		if d.Events > 1 {
			digests++
			if d.Subject != fmt.Sprintf("%d changes", d.Events) {
				t.Errorf("got %+v", d)
			}
		}
	}
	if digests == 0 {
		t.Error("got no digest")
	}
}

// TestADigestIsRepeatedAsItIs: what failed once keeps its id and what it tells, and what
// came meanwhile follows it.
func TestADigestIsRepeatedAsItIs(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, status(500))
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelSlack, URL: r.URL})
	var list []odometer.Violation
	for i := range 40 {
		list = append(list, violation("vm-1", i, c.ID))
	}
	w.log.add(list...)
	w.rest()
	w.log.add(violation("vm-1", 40, c.ID), violation("vm-1", 41, c.ID))
	w.rest()
	r.set(nil)
	w.goOn(time.Minute)
	got := r.requests()
	if len(got) < 3 || len(got) > 4 || got[0].body != got[1].body || !strings.Contains(got[0].body, "40 changes: 40 at warning") {
		t.Fatalf("got %d requests: %+v", len(got), got)
	}
	if d := w.deliveries(c.ID, odometer.DeliveryDelivered); d[len(d)-1].Events != 40 || d[len(d)-1].Attempts != 2 {
		t.Errorf("got %+v, want the digest at the second attempt", d)
	}
}

// TestADigestHasRoom: a message to Slack has no more than Slack shows, and what has no room
// in one is in the next, whatever names and levels there are.
func TestADigestHasRoom(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, nil)
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelSlack, URL: r.URL})
	const count = 400
	var list []odometer.Violation
	for n := range count {
		v := violation("vm-1", n+1, c.ID)
		v.Name, v.Level = strings.Repeat("<", 120)+fmt.Sprintf("t%d.", n+1), fmt.Sprintf("level %d", n)
		list = append(list, v)
	}
	w.log.add(list...)
	w.goOn(20 * stormTime)
	next := 1
	for _, g := range r.requests() {
		var m struct{ Text string }
		if err := json.Unmarshal([]byte(g.body), &m); err != nil {
			t.Fatal(err)
		}
		if size := utf8.RuneCountInString(m.Text); size > 40_000 {
			t.Errorf("got a message of %d characters, want at most 40,000", size)
		}
		for line := range strings.Lines(m.Text) {
			if strings.Contains(line, "changes:") {
				if !strings.Contains(line, " others") {
					t.Errorf("got the headline %q, want what there is little of together", line)
				}
				continue
			}
			if !strings.Contains(line, fmt.Sprintf("t%d.", next)) && strings.Contains(line, "has reached") {
				t.Fatalf("got %q as number %d", line, next)
			}
			if strings.Contains(line, "has reached") {
				next++
			}
		}
	}
	if messages := len(r.requests()); next != count+1 || messages > 20 {
		t.Errorf("got %d changes in %d messages, want %d in some ten", next-1, messages, count)
	}
}
