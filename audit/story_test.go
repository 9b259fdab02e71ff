package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// TestRandomStories lets ledgers live through whatever may happen, in random
// order, and expects an honest ledger to pass: a checker that cries wolf is
// worth nothing.
func TestRandomStories(t *testing.T) {
	stories := 8
	if testing.Short() {
		stories = 3
	}
	for seed := range stories {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			n := newNovelist(t, uint64(seed))
			for range 150 {
				n.chapter()
			}
			n.s.close()
			r := run(t, n.s.dir)
			if !r.OK {
				t.Fatalf("audit of an honest ledger: got %s, want ok", show(r))
			}
			rebuilt, err := ledger.Rebuild(t.Context(), n.s.dir+"/ledger.db", nil)
			if err != nil {
				t.Fatal(err)
			}
			if rebuilt.Total != 0 {
				t.Errorf("rebuild: got %q, want what the audit found: no difference", rebuilt.Differences)
			}
			if r.Received == 0 || r.Entries == 0 {
				t.Errorf("the story: got %d events and %d entries, want some", r.Received, r.Entries)
			}
		})
	}
}

// novelist tells a random story.
type novelist struct {
	t      *testing.T
	s      *teller
	r      *rand.Rand
	odos   []*odo
	past   []*odometer.Event // sent
	queue  []*odometer.Event // made and not sent
	number int
}

func newNovelist(t *testing.T, seed uint64) *novelist {
	return &novelist{t: t, s: newTeller(t, t.TempDir()), r: rand.New(rand.NewPCG(seed, 20260301))}
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

// make is the next event of a random odometer, or of a new one.
func (n *novelist) make() *odometer.Event {
	if len(n.odos) == 0 || n.r.IntN(25) == 0 {
		n.number++
		agent := pick(n.r, []odometer.AgentID{hostOne, hostTwo, relay})
		n.odos = append(n.odos, newOdo(odometer.InstanceID(fmt.Sprintf("vm-%d", n.number%7)), agent, n.s.now.UnixMicro()-hour+int64(n.number)))
	}
	o := pick(n.r, n.odos)
	if n.r.IntN(10) == 0 {
		o.owner = pick(n.r, []odometer.Owner{ada, bob, {}})
	}
	if n.r.IntN(12) == 0 {
		step := int64(n.r.IntN(20)-10) * sec
		o.at += step
		e := o.next(sec+int64(n.r.IntN(5))*1000, 5)
		e.Span.Step = step
		if e.Sequence == 1 {
			o.at, e.Span.Step = o.at-step, 0
			e.Span.Start, e.Span.End = e.Span.Start-step, e.Span.End-step
		}
		return e
	}
	var e *odometer.Event
	if n.r.IntN(10) == 0 {
		e = o.unseen(1 + n.r.Int64N(hour))
	} else {
		e = o.next(1+n.r.Int64N(2*hour), n.r.Int64N(1_000_000_000))
	}
	if n.r.IntN(5) == 0 {
		e.Lifecycle = []odometer.Change{{Kind: pick(n.r, odometer.ChangeKinds), At: odometer.Moment{Boot: o.at, Wall: e.Span.End - e.Span.End%(60*sec)}, Detail: fmt.Sprint(n.r.IntN(3))}}
	}
	if n.r.IntN(40) == 0 {
		e.Final = true
		for i := range n.odos {
			if n.odos[i] == o {
				n.odos = append(n.odos[:i], n.odos[i+1:]...)
				break
			}
		}
	}
	return e
}

// deliver sends events in one frame of a random sender: usually their agent.
func (n *novelist) deliver(resumes bool, events ...*odometer.Event) {
	byAgent := map[odometer.AgentID][]odometer.Record{}
	for _, e := range events {
		agent := e.Agent
		if n.r.IntN(4) == 0 {
			agent = relay
		}
		byAgent[agent] = append(byAgent[agent], odometer.Record{
			Event: e, Resumes: resumes, Checkpoint: fmt.Appendf(nil, `{"instance":%q,"epoch":%q,"end":%d}`, e.Instance, e.Epoch, e.Span.End),
		})
		n.past = append(n.past, e)
	}
	for _, agent := range []odometer.AgentID{hostOne, hostTwo, relay} {
		records := byAgent[agent]
		if len(records) == 0 {
			continue
		}
		if n.r.IntN(8) == 0 {
			records = append(records, odometer.Record{Checkpoint: json.RawMessage(fmt.Sprintf(`{"instance":"vm-%d"}`, n.r.IntN(4)))})
		}
		fr := n.s.frame(agent, records...)
		n.s.commit(fr)
		if n.r.IntN(10) == 0 {
			n.s.commit(fr) // the queue delivered it again
		}
	}
}

func (n *novelist) chapter() {
	switch n.r.IntN(22) {
	case 0: // made, and late
		n.queue = append(n.queue, n.make())
	case 1: // what was late comes, in any order
		n.r.Shuffle(len(n.queue), func(i, j int) { n.queue[i], n.queue[j] = n.queue[j], n.queue[i] })
		n.deliver(false, n.queue...)
		n.queue = nil
	case 2: // lost for good
		n.make()
		n.deliver(n.r.IntN(2) == 0, n.make())
	case 3: // again
		if len(n.past) > 0 {
			n.deliver(false, pick(n.r, n.past), pick(n.r, n.past))
		}
	case 4: // changed
		if len(n.past) > 0 {
			e := *pick(n.r, n.past)
			if e.Usage.Vector[odometer.NetworkEgress] > 0 {
				e.Usage.Vector[odometer.NetworkEgress]--
				e.Readings.End.Vector[odometer.NetworkEgress]--
			}
			n.deliver(false, &e)
		}
	case 5: // coalesced, over some of its parts
		if len(n.odos) > 0 {
			o := pick(n.r, n.odos)
			a, b, c := o.next(30*sec, 1), o.next(30*sec, 2), o.next(30*sec, 3)
			all := *a
			for _, next := range []*odometer.Event{b, c} {
				if err := all.Merge(next); err != nil {
					n.t.Fatal(err)
				}
			}
			var parts []*odometer.Event
			for _, e := range []*odometer.Event{a, b, c, &all} {
				if n.r.IntN(3) > 0 {
					parts = append(parts, e)
				}
			}
			n.deliver(false, append(parts, &all)...)
		}
	case 6: // poison
		if len(n.odos) > 0 {
			o := *pick(n.r, n.odos)
			n.deliver(false, o.next(sec, 1<<55))
		}
	case 7: // from the future, or from a clock never set
		n.number++
		start := pick(n.r, []int64{1000, n.s.now.UnixMicro() + hour})
		o := newOdo(odometer.InstanceID(fmt.Sprint("odd-", n.number)), hostTwo, start)
		n.deliver(false, o.next(30*sec, 1), o.next(30*sec, 1))
	case 8: // version 1.0
		at := base/sec + int64(n.r.IntN(40))*900
		n.s.http(nil, event10(pick(n.r, []odometer.InstanceID{"x-1", "x-2"}), at, at+int64(n.r.IntN(3)+1)*900, uint64(n.r.IntN(3))))
	case 9: // rubbish
		n.s.commit(odometer.Frame{Agent: hostOne, Spool: spoolID, Packed: fmt.Appendf(nil, "rubbish %d", n.r.IntN(3)), Err: odometer.ErrInvalid})
	case 10:
		n.s.now = n.s.now.Add(time.Duration(n.r.IntN(30)) * time.Hour)
		n.s.tick()
	case 11:
		rows, err := n.s.l.Quarantine(context.Background(), 100)
		if err != nil {
			n.t.Fatal(err)
		}
		if len(rows) > 0 {
			q := pick(n.r, rows)
			_, _ = n.s.l.Release(context.Background(), q.Partition, q.No, "operator") // may be refused
		}
	case 16, 17: // a person reverses what was booked, or a reversal
		entries, _, err := n.s.l.Entries(context.Background(), odometer.EntryQuery{Limit: 10_000})
		if err != nil {
			n.t.Fatal(err)
		}
		if len(entries) > 0 {
			e := pick(n.r, entries)
			if n.r.IntN(3) == 0 { // more likely a correction
				e = entries[len(entries)-1]
			}
			_, _ = n.s.l.Reverse(context.Background(), e.ID, "operator", "a whim") // may be refused
		}
	case 19, 20: // an instance is somebody's for some time, or from then on
		o := odometer.Ownership{
			Instance: odometer.InstanceID(fmt.Sprintf("vm-%d", n.r.IntN(7))), Owner: pick(n.r, []odometer.Owner{ada, bob, {User: "u-eve"}, {User: odometer.Unassigned}}),
			From: n.s.now.UnixMicro() - n.r.Int64N(40*hour), Until: odometer.Forever,
		}
		if n.r.IntN(8) == 0 {
			o.Instance = pick(n.r, []odometer.InstanceID{"x-1", "x-2"})
		}
		if n.r.IntN(3) == 0 {
			o.From = o.From / hour * hour
		}
		if n.r.IntN(2) == 0 {
			o.Until = o.From + 1 + n.r.Int64N(20*hour)
		}
		if _, err := n.s.l.Assign(context.Background(), o, "operator", "a sale", false); err != nil && !errors.Is(err, odometer.ErrInvalid) { // the journal was pruned
			n.t.Fatal(err)
		}
	case 21: // the month ends, and the one before is closed for somebody or for all
		month := odometer.MonthOf(n.s.now.UnixMicro())
		if n.r.IntN(3) == 0 && month.String() < "2026-05" {
			n.s.now = time.UnixMicro(month.End()).Add(time.Duration(n.r.IntN(50)) * time.Hour)
		}
		c := odometer.MonthClose{Month: odometer.MonthOf(month.Start() - 1), AcceptGaps: true, Actor: "operator", Cause: "it is over"}
		if n.r.IntN(3) == 0 {
			c.Month = month
		}
		if n.r.IntN(2) == 0 {
			c.Org = &ada.Org
		}
		_, _ = n.s.l.CloseMonth(context.Background(), c) // may be refused
	case 18: // an agent that lost its disk goes on, and what it had sent before comes later
		agent := pick(n.r, []odometer.AgentID{hostOne, hostTwo})
		list, err := n.s.l.Checkpoints(context.Background(), agent)
		if err != nil {
			n.t.Fatal(err)
		}
		for _, c := range list {
			var at struct {
				Instance odometer.InstanceID
				Epoch    odometer.Epoch
				End      int64
			}
			if json.Unmarshal(c, &at) != nil {
				n.t.Fatalf("checkpoint %s", c)
			}
			i := slices.IndexFunc(n.odos, func(o *odo) bool { return o.epoch == at.Epoch })
			if i < 0 {
				continue
			}
			o := n.odos[i]
			n.odos[i] = newOdo(o.instance, o.agent, at.End)
			n.deliver(false, n.odos[i].unseen(1+n.r.Int64N(hour)))
			n.deliver(false, o.next(30*sec, 1))
		}
	case 12: // the process ends and starts
		n.s.close()
		now := n.s.now
		again := newTeller(n.t, n.s.dir)
		again.now, again.pos = now, n.s.pos
		n.s = again
	default:
		n.s.now = n.s.now.Add(time.Duration(n.r.IntN(3)) * time.Hour)
		n.deliver(false, n.make(), n.make(), n.make())
	}
}
