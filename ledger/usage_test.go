package ledger

import (
	"cmp"
	"fmt"
	"testing"
	"time"

	"example.org/odometer"
	"pgregory.net/rapid"
)

// TestCountedOnceInAnyOrder sends the events of a few epochs shuffled,
// repeated, partly coalesced and partly lost, reopening now and then; in the
// end every quantity is the truth at the last reading, and the tables are a
// fold of the journal.
func TestCountedOnceInAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := newDesk(t)
		var all []*odometer.Event
		truth := map[odometer.InstanceID]int64{}
		for i := range rapid.IntRange(1, 3).Draw(rt, "instances") {
			m := newMeter(odometer.InstanceID(fmt.Sprintf("vm-%d", i)), "host-1", base)
			var events []*odometer.Event
			for range rapid.IntRange(1, 40).Draw(rt, "events") {
				length := rapid.Int64Range(1, 3*odometer.HourMicros).Draw(rt, "length")
				events = append(events, m.next(length, rapid.Int64Range(0, length).Draw(rt, "cpu"), rapid.Int64Range(0, 1<<20).Draw(rt, "egress")))
			}
			truth[m.instance] = m.total.Vector[odometer.CPU]
			// Some runs travel as one event, some single events are lost for good.
			for at := 0; at < len(events); {
				n := min(rapid.IntRange(1, 4).Draw(rt, "run"), len(events)-at)
				run := events[at : at+n]
				whole := *run[0]
				merge(t, &whole, run[1:]...)
				switch rapid.IntRange(0, 4).Draw(rt, "travel") {
				case 0:
					all = append(all, &whole)
				case 1:
					all = append(all, &whole)
					all = append(all, run...)
				case 2:
					if at+n < len(events) {
						break // lost; the last one never is
					}
					fallthrough
				default:
					all = append(all, run...)
				}
				at += n
			}
		}
		for range rapid.IntRange(0, 10).Draw(rt, "repeats") {
			all = append(all, all[rapid.IntRange(0, len(all)-1).Draw(rt, "repeated")])
		}
		all = rapid.Permutation(all).Draw(rt, "order")
		d.now = time.UnixMicro(base + 400*odometer.HourMicros)
		for len(all) > 0 {
			n := rapid.IntRange(1, len(all)).Draw(rt, "frame")
			d.send(all[:n]...)
			all = all[n:]
			if rapid.IntRange(0, 9).Draw(rt, "reopen") == 0 {
				d.reopen()
			}
		}
		for range 50 { // each tick gives up one hole of an epoch and compacts one day
			d.now = d.now.Add(25 * time.Hour)
			d.tick()
		}
		for _, row := range d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByInstance}}) {
			if got, _ := row.Totals[odometer.CPU].Int64(); got != truth[row.Instance] {
				rt.Errorf("cpu of %s: got %d µs, want %d", row.Instance, got, truth[row.Instance])
			}
			delete(truth, row.Instance)
		}
		if len(truth) != 0 {
			rt.Errorf("instances without a row: %v", truth)
		}
		d.proven()
	})
}

func TestUsageIsCutToTheUnit(t *testing.T) {
	d := newDesk(t)
	leap := time.Date(2028, 2, 28, 22, 59, 59, 999_000, time.UTC).UnixMicro()
	d.now = time.UnixMicro(leap).AddDate(1, 0, 0)
	a, b := newMeter("vm-a", "host-1", leap), newMeter("vm-b", "host-1", leap)
	b.owner = odometer.Owner{User: "u-bob"}
	for range 20 {
		d.send(a.next(2*odometer.HourMicros+7, 1_000_003, 1<<33), b.next(3*odometer.HourMicros+1, 77, 5))
	}
	compacted := func() {
		for range 10 {
			d.tick()
		}
	}
	for _, state := range []struct {
		name string
		do   func()
	}{{"open and sealed", func() {}}, {"reopened", d.reopen}, {"compacted", compacted}} {
		t.Run(state.name, func(t *testing.T) {
			state.do()
			whole := d.usage(odometer.UsageQuery{From: 1, To: 1 << 60})[0]
			for _, by := range []odometer.GroupBy{odometer.ByHour, odometer.ByDay, odometer.ByMonth, odometer.ByInstance, odometer.ByUser, odometer.ByOrg} {
				var sum odometer.Sum
				rows := d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{by}})
				for _, r := range rows {
					sum.AddSum(r.Totals[odometer.CPU])
				}
				if sum.Cmp(whole.Totals[odometer.CPU]) != 0 {
					t.Errorf("by %s: %d rows sum to %s, the whole is %s", by, len(rows), sum.String(), whole.Totals[odometer.CPU].String())
				}
			}
			if got := len(d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByMonth}})); got != 2 {
				t.Errorf("months: got %d rows, want 2: the 29th of February 2028 lies in February", got)
			}
			rapid.Check(t, func(rt *rapid.T) {
				cuts := rapid.SliceOfN(rapid.Int64Range(leap-odometer.HourMicros, leap+62*odometer.HourMicros), 0, 5).Draw(rt, "cuts")
				from, to := leap-odometer.HourMicros, leap+70*odometer.HourMicros
				var sum odometer.Sum
				at := from
				for {
					next := to
					for _, c := range cuts {
						if c > at && c < next {
							next = c
						}
					}
					for _, r := range d.usage(odometer.UsageQuery{From: at, To: next}) {
						sum.AddSum(r.Totals[odometer.CPU])
					}
					if at = next; at == to {
						break
					}
				}
				if sum.Cmp(whole.Totals[odometer.CPU]) != 0 {
					rt.Errorf("cut at %v: parts sum to %s, the whole is %s", cuts, sum.String(), whole.Totals[odometer.CPU].String())
				}
			})
			if rows := d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, User: "u-bob"}); rows[0].Totals[odometer.CPU].String() != "1540" {
				t.Errorf("bob: got %s µs, want 1540", rows[0].Totals[odometer.CPU].String())
			}
			if rows := d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, Org: "o-acme"}); rows[0].Totals[odometer.CPU].String() != "20000060" {
				t.Errorf("acme: got %s µs, want 20000060", rows[0].Totals[odometer.CPU].String())
			}
		})
	}
	d.proven()
}

func TestOwnersWithinAnHour(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	d.send(m.next(30*sec, 5, 0))
	m.owner = odometer.Owner{User: "u-bob"}
	d.send(m.next(30*sec, 7, 0))
	m.owner = odometer.Owner{}
	d.send(m.next(30*sec, 11, 0))
	got := map[odometer.UserID]string{}
	for _, r := range d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByUser}}) {
		got[r.User] = r.Totals[odometer.CPU].String()
	}
	want := map[odometer.UserID]string{"u-ada": "5", "u-bob": "7", odometer.Unassigned: "11"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("per owner: got %v, want %v", got, want)
	}
	d.proven()
}

func TestUnknownIsNotZero(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	m.total.Known &^= 1 << odometer.NetworkEgress
	d.want(d.send(m.next(30*sec, 5, 0)), "recorded")
	known := func() odometer.Known { return d.usage(odometer.UsageQuery{From: 1, To: 1 << 60})[0].Known }
	if k := known(); !k.Has(odometer.CPU) || k.Has(odometer.NetworkEgress) || k.Has(odometer.GPU) {
		t.Errorf("known: got %b, want CPU and not egress", k)
	}
	m.total.Known = m.total.Known.With(odometer.NetworkEgress)
	d.want(d.send(m.next(30*sec, 5, 0)), "recorded")
	if k := known(); !k.Has(odometer.NetworkEgress) || k.Has(odometer.GPU) {
		t.Errorf("known after egress was measured and was 0: got %b, want egress", k)
	}
	d.proven()
}

func TestEntriesArePaged(t *testing.T) {
	d := newDesk(t)
	a, b := newMeter("vm-a", "host-1", base), newMeter("vm-b", "host-2", base)
	for range 10 {
		d.send(a.next(30*sec, 1, 0), b.next(30*sec, 2, 0), a.next(30*sec, 1, 0))
	}
	for _, c := range []struct {
		instance odometer.InstanceID
		limit    int
		want     int
	}{{"vm-a", 4, 20}, {"", 4, 30}, {"", 1, 30}} { // pages end within records and between them
		seen := map[string]bool{}
		for after := ""; ; {
			page, next, err := d.Entries(t.Context(), odometer.EntryQuery{After: after, Limit: c.limit, Instance: c.instance})
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				if seen[e.ID.String()] {
					t.Errorf("entry %s came twice", e.ID)
				}
				seen[e.ID.String()] = true
			}
			after = next
		}
		if len(seen) != c.want {
			t.Errorf("entries of %q by %d: got %d, want %d", c.instance, c.limit, len(seen), c.want)
		}
	}
	all := 0
	for after := ""; ; all++ { // one by one
		page, next, err := d.Entries(t.Context(), odometer.EntryQuery{After: after, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		after = next
	}
	if all != 30 {
		t.Errorf("one by one: got %d entries, want 30", all)
	}
	page, _, err := d.Entries(t.Context(), odometer.EntryQuery{Limit: 100, From: base + 60*sec, To: base + 90*sec})
	if err != nil || len(page) != 2 {
		t.Errorf("entries within 30 s: got %d, %v, want 2", len(page), err)
	}
	if _, _, err := d.Entries(t.Context(), odometer.EntryQuery{After: "nonsense", Limit: 1}); err == nil {
		t.Error("a made-up cursor was accepted")
	}
}

func TestFeed(t *testing.T) {
	d := newDesk(t)
	a, b := newMeter("vm-a", "host-1", base), newMeter("vm-b", "host-2", base)
	for range 10 {
		d.send(a.next(30*sec, 1, 0), b.next(30*sec, 2, 0))
	}
	read := func() (ids []string) {
		for {
			entries, at, err := d.FeedAfter(t.Context(), "usage", 3)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) == 0 {
				return ids
			}
			for _, e := range entries {
				ids = append(ids, e.ID.String())
			}
			if err := d.FeedAdvance(t.Context(), "usage", at, "stream-1", 7, uint64(len(ids))); err != nil {
				t.Fatal(err)
			}
		}
	}
	if lag, err := d.FeedLag(t.Context(), "usage"); err != nil || lag != 20 {
		t.Errorf("lag before: got %d, %v, want 20", lag, err)
	}
	if got := read(); len(got) != 20 {
		t.Errorf("first reading: got %d entries, want 20", len(got))
	}
	d.reopen()
	news := d.News()
	if got := read(); len(got) != 0 {
		t.Errorf("reading again: got %v, want nothing", got)
	}
	d.send(a.next(30*sec, 1, 0))
	select {
	case <-news:
	default:
		t.Error("a commit that booked gave no news")
	}
	if got := read(); len(got) != 1 {
		t.Errorf("after one more: got %v, want one", got)
	}
	if stream, back, last, err := d.FeedStream(t.Context(), "usage"); stream != "stream-1" || back != 7 || last != 1 || err != nil {
		t.Errorf("stream: got %s %d %d %v, want stream-1 7 1", stream, back, last, err)
	}
	if err := d.FeedRewind(t.Context(), "usage"); err != nil {
		t.Fatal(err)
	}
	if got := read(); len(got) != 21 {
		t.Errorf("after the rewind: got %d entries, want 21", len(got))
	}
	if lag, err := d.FeedLag(t.Context(), "usage"); err != nil || lag != 0 {
		t.Errorf("lag after: got %d, %v, want 0", lag, err)
	}
}

func TestVersion10(t *testing.T) {
	event := func(from, to int64, cpu uint64) *odometer.Event {
		return &odometer.Event{
			Version: odometer.Version10, Instance: "vm-old", Owner: odometer.Owner{User: "u-ada"}, Timestamp: to,
			Period: odometer.Period{Start: from, End: to}, Metrics: odometer.Metrics{CPUSeconds: cpu, MemoryGB: 0.3, NetworkEgressMB: 1.25},
		}
	}
	b := base / sec
	send := func(d *desk, source string, events ...*odometer.Event) []string {
		fr := odometer.Frame{Agent: odometer.AgentID("http:" + source)}
		for _, e := range events {
			fr.Records = append(fr.Records, odometer.Record{Event: e})
		}
		return d.commit(fr)
	}
	d := newDesk(t)
	d.want(send(d, "a", event(b, b+30, 10), event(b+60, b+90, 30), event(b+30, b+60, 20)), "recorded", "recorded", "recorded")
	d.want(send(d, "a", event(b, b+30, 10), event(b, b+30, 11), event(b+15, b+45, 5), event(b+89, b+91, 1)),
		"duplicate", "quarantined conflict", "quarantined overlap", "quarantined overlap")
	d.want(send(d, "b", event(b, b+30, 1)), "recorded")
	d.want(send(d, "a", event(b+7200, b+7230, 1<<40)), "held clock_ahead")
	d.want(send(d, "a", event(b+7200, b+7230, 1<<40)), "duplicate")
	d.now = d.now.Add(2 * time.Hour)
	d.tick()
	if s, _ := d.Stats(t.Context()); s.Counts["held"] != 0 || s.Counts["quarantined"] != 4 {
		t.Errorf("after its time: got %v, want nothing held and four in quarantine", s.Counts)
	}
	row := d.usage(odometer.UsageQuery{From: 1, To: 1 << 60})[0]
	if got := row.Totals[odometer.CPU].String(); got != "61000000" {
		t.Errorf("cpu: got %s µs, want 61000000", got)
	}
	if got := row.Totals[odometer.Memory].String(); got != "36864" { // 4 × 0.3 GiB × 30 s
		t.Errorf("memory: got %s MiB·s, want 36864", got)
	}
	d.proven()
}

func TestCheckpointsOfALostDisk(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-a", "host-1", base)
	ended := newMeter("vm-c", "host-1", base)
	record := func(e *odometer.Event, checkpoint string) odometer.Record {
		d.pos++
		return odometer.Record{First: d.pos, Position: d.pos, Event: e, Checkpoint: []byte(checkpoint)}
	}
	last := ended.next(30*sec, 1, 0)
	last.Final = true
	fr := odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: 1, Records: []odometer.Record{
		record(nil, `{"instance":"vm-a","n":1}`), record(nil, `{"instance":"vm-b","n":2}`),
		record(m.next(30*sec, 1, 0), `{"instance":"vm-a","n":3}`), record(last, `{"instance":"vm-c","n":4}`),
	}}
	fr.Last = d.pos
	d.want(d.commit(fr), "checkpoint", "checkpoint", "recorded", "recorded")
	list, err := d.Checkpoints(t.Context(), "host-1")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, c := range list {
		got[string(c)] = true
	}
	if len(got) != 2 || !got[`{"instance":"vm-a","n":3}`] || !got[`{"instance":"vm-b","n":2}`] {
		t.Errorf("got %v, want the newest of vm-a and vm-b", got)
	}
	d.proven()
}

// An event that is held is booked in time: an agent that lost its disk goes on
// behind it, and not from the last one that is booked.
func TestCheckpointsOfHeldEvents(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-a", "host-1", base)
	frame := func(events ...*odometer.Event) odometer.Frame {
		fr := odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: d.pos + 1}
		for _, e := range events {
			d.pos++
			fr.Records = append(fr.Records, odometer.Record{First: d.pos, Position: d.pos, Event: e, Checkpoint: fmt.Appendf(nil, `{"instance":"vm-a","n":%d}`, e.Sequence)})
		}
		fr.Last = d.pos
		return fr
	}
	want := func(n int) {
		t.Helper()
		list, _, err := d.offers(t.Context(), "host-1")
		if want := fmt.Sprintf(`{"instance":"vm-a","n":%d}`, n); err != nil || len(list) != 1 || string(list[0]) != want {
			t.Errorf("got %s, %v, want %s", list, err, want)
		}
	}
	d.want(d.commit(frame(m.next(30*sec, 1, 0))), "recorded")
	want(1)
	ahead := m.next(30*sec, 1, 0)
	ahead.Span.Start, ahead.Span.End, ahead.Span.Step = ahead.Span.Start+2*odometer.HourMicros, ahead.Span.End+2*odometer.HourMicros, 2*odometer.HourMicros
	m.at += 2 * odometer.HourMicros
	ahead.Derive(0, 0)
	d.want(d.commit(frame(ahead, m.next(30*sec, 1, 0))), "held clock_ahead", "held clock_ahead")
	want(3)
	d.now = d.now.Add(3 * time.Hour)
	d.tick()
	want(3)
	d.proven()
}

// An agent that lost its disk goes on, in a new epoch, from where the ledger
// stands. What a queue that had forgotten it brings of the old epoch afterwards is
// that time again: it is refused, unless a person says otherwise.
func TestAnEpochIsHandedOver(t *testing.T) {
	const hole, ahead = "a hole", "a clock that is ahead"
	for _, held := range []string{"", hole, ahead} {
		t.Run("held for "+cmp.Or(held, "nothing"), func(t *testing.T) {
			d := newDesk(t)
			old := newMeter("vm-a", "host-1", base)
			point := func(e *odometer.Event) odometer.Record {
				d.pos++
				return odometer.Record{First: d.pos, Position: d.pos, Event: e, Checkpoint: fmt.Appendf(nil, `{"instance":"vm-a","n":%d}`, e.Sequence)}
			}
			send := func(events ...*odometer.Event) []string {
				fr := odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: d.pos + 1}
				for _, e := range events {
					fr.Records = append(fr.Records, point(e))
				}
				fr.Last = d.pos
				return d.commit(fr)
			}
			d.want(send(old.next(30*sec, 7, 0)), "recorded")
			var missing *odometer.Event
			switch held {
			case hole:
				missing = old.next(30*sec, 7, 0)
				d.want(send(old.next(30*sec, 7, 0)), "held hole")
			case ahead:
				e := old.next(30*sec, 7, 0)
				e.Span.Step = 2 * odometer.HourMicros
				e.Span.Start, e.Span.End, old.at = e.Span.Start+e.Span.Step, e.Span.End+e.Span.Step, old.at+e.Span.Step
				d.want(send(e), "held clock_ahead")
			}
			until := old.at
			for range 2 { // whoever asks again is told the same, and nothing more is decided
				list, err := d.Checkpoints(t.Context(), "host-1")
				if want := fmt.Sprintf(`{"instance":"vm-a","n":%d}`, old.seq); err != nil || len(list) != 1 || string(list[0]) != want {
					t.Fatalf("checkpoints: got %s, %v, want %s", list, err, want)
				}
			}
			decisions := 0
			if err := d.read.QueryRow(`SELECT count(*) FROM journal WHERE kind = 'decision'`).Scan(&decisions); err != nil || decisions != 1 {
				t.Errorf("decisions: got %d, %v, want 1", decisions, err)
			}
			d.reopen()
			anew := newMeter("vm-a", "host-1", until)
			late := old.next(30*sec, 7, 0)
			first := anew.next(60*sec, 14, 0)
			if held == ahead {
				d.want(send(first), "held clock_ahead")
			} else {
				d.want(send(first), "recorded")
			}
			d.want(send(late), "quarantined superseded")
			d.want(send(late), "duplicate")
			if missing != nil {
				d.want(send(missing), "recorded")
			}
			d.now = d.now.Add(30 * time.Hour)
			d.tick()
			total := int64(14 + 7*(old.seq-1))
			if got := d.total(odometer.CPU); got != total {
				t.Errorf("cpu: got %d µs, want %d", got, total)
			}
			d.proven()
			rows, err := d.Quarantine(t.Context(), 10)
			if err != nil || len(rows) != 1 {
				t.Fatalf("quarantine: got %v, %v, want one", rows, err)
			}
			if res, err := d.Release(t.Context(), rows[0].Partition, rows[0].No, "operator"); err != nil || res.Outcome != odometer.Recorded {
				t.Errorf("release: got %v, %v, want recorded", res, err)
			}
			d.proven()
		})
	}
}

// offered is a meter of which one event is booked, and its epoch was offered to
// its agent.
func (d *desk) offered() *meter {
	d.t.Helper()
	m := newMeter("vm-a", "host-1", base)
	d.pos++
	d.want(d.commit(odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: d.pos, Last: d.pos,
		Records: []odometer.Record{{First: d.pos, Position: d.pos, Event: m.next(30*sec, 7, 0), Checkpoint: []byte(`{"instance":"vm-a"}`)}}}), "recorded")
	if list, err := d.Checkpoints(d.t.Context(), "host-1"); err != nil || len(list) != 1 {
		d.t.Fatalf("checkpoints: got %s, %v, want one", list, err)
	}
	return m
}

// An offer that nobody takes up, because the agent never heard of it or had asked
// long before, ends nothing.
func TestAnOfferThatNobodyTakesUpEndsNothing(t *testing.T) {
	d := newDesk(t)
	m := d.offered()
	at := m.at
	d.want(d.send(m.next(30*sec, 7, 0)), "recorded")
	for _, other := range []*meter{newMeter("vm-b", "host-1", at), newMeter("vm-a", "host-2", at), newMeter("vm-a", "host-1", at+1)} {
		d.want(d.send(other.next(30*sec, 7, 0)), "recorded")
	}
	d.reopen()
	d.want(d.send(m.next(30*sec, 7, 0)), "recorded")
	d.proven()
}

// Of two epochs that go on from the same the first that appears is the one.
func TestTheSecondWhoTakesUpAnOfferIsRefused(t *testing.T) {
	d := newDesk(t)
	m := d.offered()
	first, second := newMeter("vm-a", "host-1", m.at), newMeter("vm-a", "host-1", m.at)
	second.epoch = odometer.NewEpoch("vm-a", "host-1", "another", "start")
	d.want(d.send(first.next(30*sec, 7, 0)), "recorded")
	d.want(d.send(second.next(30*sec, 7, 0), second.next(30*sec, 7, 0)), "quarantined superseded", "quarantined superseded")
	d.reopen()
	d.want(d.send(second.next(30*sec, 7, 0), first.next(30*sec, 7, 0)), "quarantined superseded", "recorded")
	d.proven()
}

// What is held of an epoch that another goes on from, and ends later, is refused
// when its time has come.
func TestHeldEventsBeyondAHandoverAreRefused(t *testing.T) {
	d := newDesk(t)
	m := d.offered()
	anew := newMeter("vm-a", "host-1", m.at)
	m.next(30*sec, 7, 0)
	d.want(d.send(m.next(30*sec, 7, 0)), "held hole")
	d.want(d.send(anew.next(60*sec, 7, 0)), "recorded")
	d.now = d.now.Add(30 * time.Hour)
	d.tick()
	rows, err := d.Quarantine(t.Context(), 10)
	if err != nil || len(rows) != 1 || rows[0].Reason != reasonSuperseded {
		t.Errorf("quarantine: got %v, %v, want one that is superseded", rows, err)
	}
	d.proven()
}

// A clock that was set back before an epoch was offered makes what came earlier
// in it end later by its labels: that is booked all the same.
func TestAHandoverGoesBySequence(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-a", "host-1", base)
	d.want(d.send(m.next(30*sec, 7, 0)), "recorded")
	m.next(5*sec, 7, 0) // lost
	long := m.next(30*sec, 7, 0)
	m.at -= 20 * sec
	stepped := m.next(sec, 7, 0)
	stepped.Span.Step = -20 * sec
	checkpointed := func(e *odometer.Event) odometer.Record {
		d.pos++
		return odometer.Record{First: d.pos, Position: d.pos, Event: e, Checkpoint: fmt.Appendf(nil, `{"instance":"vm-a","n":%d}`, e.Sequence)}
	}
	records := []odometer.Record{checkpointed(stepped), checkpointed(long)} // whatever order they come in
	d.want(d.commit(odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: 2, Last: 3, Records: records}), "held hole", "held hole")
	list, err := d.Checkpoints(t.Context(), "host-1")
	if err != nil || len(list) != 1 || string(list[0]) != `{"instance":"vm-a","n":4}` {
		t.Fatalf("checkpoints: got %s, %v, want that of the latest event", list, err)
	}
	d.want(d.send(newMeter("vm-a", "host-1", stepped.Span.End).next(60*sec, 1, 0)), "recorded")
	d.want(d.send(m.next(sec, 7, 0)), "quarantined superseded")
	d.now = d.now.Add(30 * time.Hour)
	d.tick() // what is lost is given up
	if got := d.total(odometer.CPU); got != 4*7+1 {
		t.Errorf("got %d µs of CPU, want %d: all up to the handover, and what goes on from there", got, 4*7+1)
	}
	d.proven()
}

// A frame that comes again, with the checkpoint that an epoch began with, does
// not take an agent that lost its disk back there.
func TestCheckpointsSentAgain(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-a", "host-1", base)
	first := odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: 1, Last: 2, Records: []odometer.Record{
		{First: 1, Position: 1, Checkpoint: []byte(`{"instance":"vm-a","n":0}`)},
		{First: 2, Position: 2, Event: m.next(30*sec, 1, 0), Checkpoint: []byte(`{"instance":"vm-a","n":1}`)},
	}}
	// The epoch ended with nothing left to say, and another began.
	second := odometer.Frame{Agent: "host-1", Spool: first.Spool, First: 3, Last: 3, Records: []odometer.Record{
		{First: 3, Position: 3, Checkpoint: []byte(`{"instance":"vm-a","n":2}`)},
	}}
	want := func(n int) {
		t.Helper()
		list, err := d.Checkpoints(t.Context(), "host-1")
		if want := fmt.Sprintf(`{"instance":"vm-a","n":%d}`, n); err != nil || len(list) != 1 || string(list[0]) != want {
			t.Errorf("got %s, %v, want %s", list, err, want)
		}
	}
	d.want(d.commit(first), "checkpoint", "recorded")
	want(1)
	d.want(d.commit(first), "checkpoint", "duplicate")
	want(1)
	d.want(d.commit(second), "checkpoint")
	want(2)
	d.want(d.commit(first), "checkpoint", "duplicate")
	want(2)
	d.proven()
}
