package main

import (
	"cmp"
	"slices"
	"strings"
	"time"
	"unicode"

	"example.org/odometer"
	"example.org/odometer/api"
)

// topState is what `odometer top` shows and how: everything but the terminal.
type topState struct {
	server string
	last   topAnswer // the last that was good
	since  time.Time // since when there is none, zero while there is
	err    error     // why
	rates  map[odometer.InstanceID]topRates
	booked float64 // entries a second; negative where not known

	sort    string // one of topKeys
	turned  bool
	filter  string
	editing bool // the filter is being typed
	offset  int  // of the first machine that is shown
	shown   int  // machines that pass the filter, at the last frame
	room    int  // machines that fit, at the last frame
}

// topKeys are what machines are sorted by, in the order in which a key press
// goes through them.
var topKeys = []string{"cpu", "mem", "out", "in", "name", "host", "state", "age"}

// topRates are amounts a second, over all open periods of an instance.
type topRates struct {
	known  odometer.Known
	rate   [odometer.Quantities]float64
	period map[topPeriod]*api.Row // that they were last read of
}

// topPeriod names an open period.
type topPeriod struct {
	agent    odometer.AgentID
	epoch    odometer.Epoch
	sequence uint64
}

func newTopState(server, sort string) *topState {
	return &topState{server: server, sort: sort, rates: map[odometer.InstanceID]topRates{}, booked: -1}
}

// take takes in an answer. After one that failed the last good one stays.
func (t *topState) take(a topAnswer) {
	if a.err != nil {
		if t.err == nil {
			t.since = a.at
		}
		t.err = a.err
		return
	}
	if passed := a.at.Sub(t.last.at).Seconds(); !t.last.at.IsZero() && passed > 0 {
		t.booked = max(0, float64(a.status.Ledger.Entries-t.last.status.Ledger.Entries)/passed)
	}
	rates := make(map[odometer.InstanceID]topRates, len(a.instances.Instances))
	for i := range a.instances.Instances {
		v := &a.instances.Instances[i]
		rates[v.Description.Instance] = ratesOf(v.Open, t.rates[v.Description.Instance])
	}
	t.last, t.rates, t.err, t.since = a, rates, nil, time.Time{}
}

// ratesOf returns what is used a second by the open periods of an instance:
// since they were last looked at, or since they began where they are new.
// Without a reading in between it is as it was.
func ratesOf(open []api.Row, before topRates) topRates {
	r := topRates{period: make(map[topPeriod]*api.Row, len(open))}
	still := len(open) > 0
	for i := range open {
		row := &open[i]
		if row.Period == nil {
			continue
		}
		p := topPeriod{row.Period.Agent, row.Period.Epoch, row.Period.Sequence}
		r.period[p] = row
		had := before.period[p]
		elapsed := elapsedOf(row)
		if had != nil {
			if elapsedOf(had) == elapsed {
				continue
			}
			elapsed -= elapsedOf(had)
		}
		still = false
		if elapsed <= 0 {
			continue
		}
		for q := range row.Totals {
			if !row.Known.Has(odometer.Quantity(q)) {
				continue
			}
			total := row.Totals[q].Float64()
			if had != nil && had.Known.Has(odometer.Quantity(q)) {
				total -= had.Totals[q].Float64()
			}
			r.rate[q] += total / elapsed
			r.known = r.known.With(odometer.Quantity(q))
		}
	}
	if still {
		r.rate, r.known = before.rate, before.known
	}
	return r
}

// elapsedOf is the time that an open period covers so far, in seconds.
func elapsedOf(row *api.Row) float64 {
	sum := row.Totals[odometer.MeasuredTime]
	sum.AddSum(row.Totals[odometer.EstimatedTime])
	return sum.Float64() / odometer.SecondMicros
}

// amount returns what is used of a quantity a second, in its own unit.
func (t *topState) amount(v *api.Instance, q odometer.Quantity) (rate float64, known bool) {
	r, ok := t.rates[v.Description.Instance]
	return r.rate[q], ok && r.known.Has(q)
}

// name is what a machine is called on the screen.
func topName(v *api.Instance) string { return cmp.Or(v.Called(), string(v.Description.Instance)) }

// machines returns those that pass the filter, in order.
func (t *topState) machines() []*api.Instance {
	var list []*api.Instance
	words := strings.Fields(strings.ToLower(t.filter))
	for i := range t.last.instances.Instances {
		if v := &t.last.instances.Instances[i]; passes(v, words) {
			list = append(list, v)
		}
	}
	quantities := map[string]odometer.Quantity{"cpu": odometer.CPU, "mem": odometer.Memory, "out": odometer.NetworkEgress, "in": odometer.NetworkIngress}
	order := func(a, b *api.Instance) int {
		if q, ok := quantities[t.sort]; ok {
			return -t.compare(a, b, q) // the most first
		}
		switch t.sort {
		case "host":
			return cmp.Compare(a.Agent, b.Agent)
		case "state":
			return cmp.Compare(a.State, b.State)
		case "age":
			return -compareAge(a.Age, b.Age) // the oldest first
		}
		return cmp.Compare(topName(a), topName(b))
	}
	slices.SortFunc(list, func(a, b *api.Instance) int {
		by := order(a, b)
		if t.turned {
			by = -by
		}
		return cmp.Or(by, cmp.Compare(topName(a), topName(b)), cmp.Compare(a.Description.Instance, b.Description.Instance))
	})
	return list
}

// compare orders by what is used; what is not known is less than nothing.
func (t *topState) compare(a, b *api.Instance, q odometer.Quantity) int {
	x, knownX := t.amount(a, q)
	y, knownY := t.amount(b, q)
	switch {
	case knownX != knownY && knownX:
		return 1
	case knownX != knownY:
		return -1
	}
	return cmp.Compare(x, y)
}

func compareAge(a, b *int64) int {
	age := func(p *int64) int64 {
		if p == nil {
			return -1
		}
		return *p
	}
	return cmp.Compare(age(a), age(b))
}

// passes reports whether each of the words stands somewhere in what is known of
// a machine.
func passes(v *api.Instance, words []string) bool {
	if len(words) == 0 {
		return true
	}
	texts := []string{string(v.Description.Instance), v.Name, v.Called(), string(v.Agent), string(v.State), v.Source}
	if v.User != nil {
		texts = append(texts, string(*v.User))
	}
	if v.Org != nil {
		texts = append(texts, string(*v.Org))
	}
	for key, value := range v.Attributes {
		texts = append(texts, key+":"+value)
	}
	if v.Record != nil {
		for key, value := range v.Record.Labels {
			texts = append(texts, key+":"+value)
		}
	}
	all := strings.ToLower(strings.Join(texts, "\n"))
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(all, w) })
}

// topAction is what a key asks of the program.
type topAction int

const (
	topNothing topAction = iota
	topQuit
	topSuspend
)

// key takes a key press: its name, and the text that it types.
func (t *topState) key(name, text string, height int) topAction {
	if name == "ctrl+c" {
		return topQuit
	}
	if name == "ctrl+z" {
		return topSuspend
	}
	if t.editing {
		t.edit(name, text)
		return topNothing
	}
	switch name {
	case "q":
		return topQuit
	case "/":
		t.editing = true
	case "esc":
		t.filter = ""
	case "s":
		t.sort = topKeys[(slices.Index(topKeys, t.sort)+1)%len(topKeys)]
		t.offset = 0
	case "r":
		t.turned = !t.turned
	case "up", "k":
		t.offset--
	case "down", "j":
		t.offset++
	case "pgup":
		t.offset -= t.room
	case "pgdown", "space":
		t.offset += t.room
	case "home":
		t.offset = 0
	case "end":
		t.offset = t.shown
	}
	t.offset = max(0, min(t.offset, t.shown-t.room))
	return topNothing
}

// maxFilter bounds the filter, in characters.
const maxFilter = 60

// edit takes a key press while the filter is typed.
func (t *topState) edit(name, text string) {
	switch name {
	case "enter":
		t.editing = false
	case "esc":
		t.editing, t.filter = false, ""
	case "backspace":
		if r := []rune(t.filter); len(r) > 0 {
			t.filter = string(r[:len(r)-1])
		}
	case "ctrl+u":
		t.filter = ""
	default:
		t.paste(text)
	}
	t.offset = 0
}

// paste adds text to the filter that is being typed.
func (t *topState) paste(text string) {
	if !t.editing {
		return
	}
	for _, r := range text {
		if unicode.IsPrint(r) && len([]rune(t.filter)) < maxFilter {
			t.filter += string(r)
		}
	}
}
