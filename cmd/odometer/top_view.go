package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"example.org/odometer"
	"example.org/odometer/api"
)

// Styles of what is shown on a terminal. Colour adds to what the words say and
// is left out where NO_COLOR is set; bold and reverse are not colours.
var (
	topBold    = ansi.Style{}.Bold()
	topHead    = ansi.Style{}.Reverse(true)
	topBad     = ansi.Style{}.Bold().ForegroundColor(ansi.Red)
	topWarning = ansi.Style{}.ForegroundColor(ansi.Yellow)
)

// styled is a line with how it looks; an empty style is none.
type styled struct {
	text  string
	style ansi.Style
}

// frame returns the lines of one frame, none wider than width. Height is that of
// the screen, or 0 for as many lines as it takes. Color says whether styles may
// be used.
func (t *topState) frame(width, height int, color bool) []string {
	top := t.head(width)
	hosts := t.hosts(height)
	bottom := t.foot()
	machines := t.machines()
	t.shown, t.room = len(machines), len(machines)
	if height > 0 {
		if height < len(top)+len(hosts)+len(bottom)+4 { // machines before hosts
			hosts = nil
		}
		t.room = max(1, height-len(top)-len(hosts)-len(bottom)-1)
		if height == 1 {
			top, bottom = nil, nil
		}
	}
	t.offset = max(0, min(t.offset, t.shown-t.room))
	lines := slices.Concat(top, hosts, t.table(machines[t.offset:min(t.shown, t.offset+t.room)], width))
	if height > 0 {
		lines = lines[:min(len(lines), max(0, height-len(bottom)))]
		for len(lines) < height-len(bottom) {
			lines = append(lines, styled{})
		}
		lines = append(lines, bottom...)
	}
	out := make([]string, len(lines))
	for i, l := range lines {
		text := ansi.Truncate(printable(l.text), width, "…")
		if color && len(l.style) > 0 {
			text = l.style.Styled(text + strings.Repeat(" ", max(0, width-ansi.StringWidth(text))))
		}
		out[i] = strings.TrimRight(text, " ")
	}
	return out
}

// head says how the server and its pipeline are.
func (t *topState) head(width int) []styled {
	st := &t.last.status
	title := styled{fmt.Sprintf("odometer %s at %s, up %s: %s", st.Version, t.server, time.Duration(st.UptimeSeconds)*time.Second, st.Health.Status), topBold}
	if at := t.last.at.Format(time.TimeOnly); ansi.StringWidth(title.text)+len(at)+2 <= width {
		title.text += strings.Repeat(" ", width-ansi.StringWidth(title.text)-len(at)) + at
	}
	waiting := "-"
	if n, ok := st.Health.Components["queue"].Facts["pending_messages"].(float64); ok {
		waiting = fmt.Sprintf("%.0f", n)
	}
	booked := ""
	if t.booked >= 0 {
		booked = fmt.Sprintf(" +%.0f/s", t.booked)
	}
	behind := "-"
	if n, ok := st.Health.Components["feed"].Facts["behind_entries"].(float64); ok {
		behind = fmt.Sprintf("%.0f", n)
	}
	l := &st.Ledger
	commit := "no commit yet"
	if l.LastCommit != nil {
		commit = ageText(t.last.instances.At.Sub(*l.LastCommit)) + " ago"
	}
	lines := []styled{title,
		{fmt.Sprintf("waiting: queue %s, topic %s, held %d, quarantine %d · ledger %d%s, %s", waiting, behind, l.Held, l.Quarantine, l.Entries, booked, commit), nil},
	}
	for _, p := range t.problems() {
		wrapped := strings.Split(ansi.Wrap(printable(p.text), width, ""), "\n")
		for _, text := range wrapped[:min(len(wrapped), topProblem)] {
			lines = append(lines, styled{text, p.style})
		}
	}
	return lines
}

// topProblem is how many lines a problem may take: what to do about it stands at
// its end.
const topProblem = 5

// problems has one line each for the server that does not answer, the parts that
// are not well, the gravest first, and no conflict twice.
func (t *topState) problems() (lines []styled) {
	if t.err != nil {
		lines = append(lines, styled{fmt.Sprintf("no answer since %s: %v", t.since.Format(time.TimeOnly), t.err), topBad})
	}
	parts := t.last.status.Health.Components
	names := slices.SortedFunc(maps.Keys(parts), func(a, b string) int {
		grave := func(name string) int {
			return slices.Index([]api.HealthStatus{api.Failed, api.Degraded, api.OK}, parts[name].Status)
		}
		return cmp.Or(cmp.Compare(grave(a), grave(b)), cmp.Compare(a, b))
	})
	for _, name := range names {
		p := parts[name]
		if p.Status == api.OK || name == "instances" && len(t.last.status.Conflicts) > 0 {
			continue
		}
		style := topWarning
		if p.Status == api.Failed {
			style = topBad
		}
		detail := ""
		if p.Details != nil {
			detail = ": " + *p.Details
		}
		lines = append(lines, styled{fmt.Sprintf("%s %s%s", name, p.Status, detail), style})
	}
	for i, c := range t.last.status.Conflicts {
		if i == 2 {
			lines = append(lines, styled{fmt.Sprintf("! and %d more run on two hosts", len(t.last.status.Conflicts)-i), topWarning})
			break
		}
		lines = append(lines, styled{fmt.Sprintf("! %s runs on %s at once", c.Instance, joinWords(c.Agents)), topWarning})
	}
	return lines
}

// topHosts is how many hosts are shown on a screen: those that are silent for
// longest come first.
const topHosts = 4

// hostSilent is when a host is called silent: agents tell something each second.
const hostSilent = 10 * time.Second

func (t *topState) hosts(height int) []styled {
	agents := slices.Clone(t.last.status.Agents)
	silent := func(a *api.AgentStatus) time.Duration {
		if a.LastSeen == nil {
			return 0
		}
		return t.last.instances.At.Sub(*a.LastSeen) // both by the server's clock
	}
	quiet := 0
	for i := range agents {
		if silent(&agents[i]) > hostSilent {
			quiet++
		}
	}
	slices.SortStableFunc(agents, func(a, b api.AgentStatus) int {
		x, y := silent(&a), silent(&b)
		if max(x, y) <= hostSilent {
			return cmp.Compare(a.ID, b.ID)
		}
		return cmp.Compare(y, x)
	})
	title := fmt.Sprintf("%-24s %10s %12s %12s %10s", fmt.Sprintf("HOSTS %d, %d silent", len(agents), quiet), "SEEN", "MACHINES", "OPEN", "COMMITTED")
	lines := []styled{{title, topHead}}
	for i := range agents {
		if height > 0 && i == topHosts && len(agents) > topHosts+1 {
			lines = append(lines, styled{fmt.Sprintf("and %d more", len(agents)-i), nil})
			break
		}
		a := &agents[i]
		machines := absentText
		if a.Instances != nil {
			machines = fmt.Sprint(*a.Instances)
		}
		line := styled{fmt.Sprintf("%s %10s %12s %12d %10d", fit(string(a.ID), 24), ageText(silent(a))+" ago", machines, a.Open, a.Position), nil}
		if silent(a) > hostSilent {
			line.style = topWarning
		}
		lines = append(lines, line)
	}
	return lines
}

// topColumn is a column of the table of machines.
type topColumn struct {
	title  string
	width  int
	key    string // of topKeys, "" where nothing is sorted by it
	number bool
	value  func(t *topState, v *api.Instance) string
}

func rateColumn(title, key string, width int, q odometer.Quantity, show func(float64) string) topColumn {
	return topColumn{title, width, key, true, func(t *topState, v *api.Instance) string {
		rate, known := t.amount(v, q)
		if !known {
			return absentText
		}
		return show(rate)
	}}
}

var (
	topNameColumn = topColumn{"NAME", 15, "name", false, func(_ *topState, v *api.Instance) string { return topName(v) }}
	topColumns    = []topColumn{ // of a screen with 80 columns, beside the name
		{"HOST", 10, "host", false, func(_ *topState, v *api.Instance) string { return string(v.Agent) }},
		{"STATE", 10, "state", false, topStateText},
		rateColumn("CPU", "cpu", 6, odometer.CPU, func(us float64) string { return fmt.Sprintf("%.2f", us/odometer.SecondMicros) }),
		rateColumn("MEM", "mem", 9, odometer.Memory, func(mib float64) string { return humanBytes(mib * (1 << 20)) }),
		rateColumn("OUT/s", "out", 9, odometer.NetworkEgress, humanBytes),
		rateColumn("IN/s", "in", 9, odometer.NetworkIngress, humanBytes),
		{"AGE", 5, "age", true, func(_ *topState, v *api.Instance) string { return shortAge(v.Age) }},
	}
	topWide = []topColumn{ // of a wider one, as far as they fit
		{"VCPUS", 5, "", true, func(_ *topState, v *api.Instance) string { return number(v.VCPUs).Text }},
		rateColumn("READ/s", "", 9, odometer.DiskRead, humanBytes),
		rateColumn("WRITE/s", "", 9, odometer.DiskWrite, humanBytes),
		{"INSTANCE", 36, "", false, func(_ *topState, v *api.Instance) string { return string(v.Description.Instance) }},
	}
)

// topStateText marks a conflict.
func topStateText(_ *topState, v *api.Instance) string {
	if v.Conflict != nil {
		return "! on " + fmt.Sprint(len(v.Conflict.Agents))
	}
	return string(v.State)
}

// table returns the machines as they fit into width.
func (t *topState) table(machines []*api.Instance, width int) []styled {
	name := topNameColumn
	columns := slices.Clone(topColumns)
	used := name.width
	for _, c := range columns {
		used += 1 + c.width
	}
	for _, c := range topWide {
		if used+1+c.width > width {
			break
		}
		columns, used = append(columns, c), used+1+c.width
	}
	name.width += min(max(0, width-used), 25)
	columns = append([]topColumn{name}, columns...)
	line := func(value func(*topColumn) string) string {
		var b strings.Builder
		for i := range columns {
			c := &columns[i]
			if i > 0 {
				b.WriteByte(' ')
			}
			if c.number {
				b.WriteString(fitRight(value(c), c.width))
			} else {
				b.WriteString(fit(value(c), c.width))
			}
		}
		return b.String()
	}
	lines := []styled{{line(func(c *topColumn) string {
		if c.key == t.sort && c.key != "" {
			if t.turned {
				return c.title + "^"
			}
			return c.title + "v"
		}
		return c.title
	}), topHead}}
	for _, v := range machines {
		l := styled{line(func(c *topColumn) string { return c.value(t, v) }), nil}
		if v.Conflict != nil || string(v.State) == api.StateUnobserved {
			l.style = topWarning
		}
		lines = append(lines, l)
	}
	return lines
}

// foot says which part of the machines is shown and what may be typed.
func (t *topState) foot() []styled {
	if t.editing {
		return []styled{{"/" + t.filter + "_   enter keeps it, esc clears it", topBold}}
	}
	n := len(t.last.instances.Instances)
	text := fmt.Sprintf("%d of %d machines", t.shown, n)
	if t.last.instances.Next != nil {
		text = fmt.Sprintf("%d of the first %d machines", t.shown, n)
	}
	if t.filter != "" {
		text += fmt.Sprintf(" with %q", t.filter)
	}
	return []styled{{text + " · q quit · / filter · s sort · r reverse · ↑↓ move", topBold}}
}

// fit returns s in exactly so many columns, cut where it is wider.
func fit(s string, width int) string {
	s = ansi.Truncate(printable(s), width, "…")
	return s + strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
}

// fitRight is fit, aligned to the right.
func fitRight(s string, width int) string {
	s = ansi.Truncate(printable(s), width, "…")
	return strings.Repeat(" ", max(0, width-ansi.StringWidth(s))) + s
}

// ageText writes how long ago something was.
func ageText(d time.Duration) string { return ageCell(new(max(0, int64(d/time.Second)))).Text }

// shortAge writes an age in at most five columns.
func shortAge(s *int64) string {
	switch {
	case s == nil:
		return absentText
	case *s < 100:
		return fmt.Sprintf("%ds", *s)
	case *s < 100*60:
		return fmt.Sprintf("%dm", *s/60)
	case *s < 100*3600:
		return fmt.Sprintf("%dh", *s/3600)
	}
	return fmt.Sprintf("%dd", *s/86400)
}
