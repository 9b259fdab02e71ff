package audit

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"example.org/odometer"
)

// Names on the wire.
const (
	topicStream = "USAGE"
	topicPrefix = "odometer.usage."
	topicFeed   = "usage" // the cursor's name in the ledger
)

// Topic says how the topic USAGE compares with the ledger.
type Topic struct {
	// State is "equal" or "different", "empty" when nothing was published, or
	// "unavailable: …" with the reason.
	State     string `json:"state"`
	Messages  int64  `json:"messages"`  // retained, of entries that the ledger had at the moment of the audit
	Entries   int64  `json:"entries"`   // different ones among them
	Owners    int64  `json:"owners"`    // whose sums were compared
	Published int64  `json:"published"` // entries that the feed's cursor says are published
	Void      int64  `json:"void"`      // messages of entries that the ledger forgot when it was restored
}

// errUnavailable marks a topic that cannot be read: a warning, no finding.
var errUnavailable = errors.New("unavailable")

// message is one message of the topic.
type message struct {
	subject string
	data    []byte
}

// streamState is what a stream says of itself.
type streamState struct {
	id          string // as the feed notes it
	first, last uint64 // sequence numbers of the messages retained
	still       bool   // nobody publishes meanwhile
}

// topicCheck compares the topic with the ledger.
type topicCheck struct {
	a      *audit
	pairs  spill // of notes: partition, entry, what, digest of the content
	cursor [odometer.Partitions]uint64
	booked [odometer.Partitions]uint64 // last entry of the ledger
	from   [odometer.Partitions]uint64 // entries from here
	to     [odometer.Partitions]uint64 // to here must be there; 0 for none
	sums   map[odometer.Owner]*ownerSums
}

type ownerSums struct {
	topic, ledger [odometer.Quantities]odometer.Sum
}

// readTopic reads the whole topic and decides which entries it must have.
func (a *audit) readTopic(ctx context.Context) error {
	t := &topicCheck{a: a, pairs: spill{dir: a.o.TempDir, limit: a.o.maxBytes}, sums: map[odometer.Owner]*ownerSums{}}
	noted, err := t.cursors(ctx)
	if err != nil {
		return err
	}
	rep := a.report
	for _, n := range t.cursor {
		rep.Topic.Published += int64((odometer.EntryID{Number: n}).Ordinal())
	}
	var lo, hi [odometer.Partitions]uint64
	var beyond odometer.EntryID
	state, err := a.messages(ctx, func(m message) error {
		e := t.decode(m)
		if e == nil {
			return nil
		}
		if a.void(e.ID) {
			rep.Topic.Void++
			return nil
		}
		p, n := e.ID.Partition, e.ID.Number
		if n <= a.goneEntry(p) {
			return nil // the record that booked it was pruned
		}
		if n > t.booked[p] {
			beyond = e.ID // booked since, where a server runs
			return nil
		}
		if lo[p] == 0 || n < lo[p] {
			lo[p] = n
		}
		hi[p] = max(hi[p], n)
		rep.Topic.Messages++
		t.sum(e, 't')
		return t.note(e, 't')
	})
	switch {
	case errors.Is(err, errUnavailable):
		reason := strings.TrimSuffix(err.Error(), ": "+errUnavailable.Error())
		rep.Topic.State = "unavailable: " + reason
		if rep.Topic.Published > 0 {
			rep.warn("the topic %s could not be compared with the ledger: %s", topicStream, reason)
		}
		t.pairs.close()
		return nil
	case err != nil:
		return fmt.Errorf("read the topic %s: %w", topicStream, err)
	}
	if state.still && beyond.Number > 0 {
		rep.find("topic_differs", "the topic has entry %s, and the ledger ends with %d: was it restored from a backup?", beyond, t.booked[beyond.Partition])
	}
	anew := state.id != noted.id || state.last < noted.last
	if anew && rep.Topic.Published > 0 {
		rep.warn("the stream %s is not the one that was published to: it was lost, and the server feeds it again from the beginning", topicStream)
	}
	for p := range t.cursor {
		t.from[p], t.to[p] = lo[p], hi[p]
		if anew {
			continue
		}
		if state.first <= 1 && t.booked[p] > 0 {
			t.from[p] = a.goneEntry(p) + 1
		}
		if t.from[p] > 0 {
			t.to[p] = max(hi[p], t.cursor[p])
		}
	}
	a.topic = t
	return nil
}

// cursors reads how far the topic is fed and how far the ledger is booked.
func (t *topicCheck) cursors(ctx context.Context) (noted streamState, err error) {
	snap := t.a.snap
	perPartition := func(into *[odometer.Partitions]uint64, query string, args ...any) error {
		return snap.each(ctx, func(rows *sql.Rows) error {
			var p, n int64
			if err := rows.Scan(&p, &n); err != nil {
				return err
			}
			if p >= 0 && p < odometer.Partitions && n > 0 {
				into[p] = uint64(n)
			}
			return nil
		}, query, args...)
	}
	if err := perPartition(&t.cursor, `SELECT partition, entry FROM feed WHERE name = ?`, topicFeed); err != nil {
		return noted, fmt.Errorf("read the feed's cursor: %w", err)
	}
	if err := perPartition(&t.booked, `SELECT partition, max(first_entry + entries) - 1 FROM journal GROUP BY partition`); err != nil {
		return noted, fmt.Errorf("read the last entries: %w", err)
	}
	err = snap.each(ctx, func(rows *sql.Rows) error { return rows.Scan(&noted.id, &noted.last) },
		`SELECT stream, seq FROM feed_stream WHERE name = ?`, topicFeed)
	if err != nil {
		return noted, fmt.Errorf("read the feed's stream: %w", err)
	}
	return noted, nil
}

// decode reads a message as the entry it carries; nil, and a finding, where it
// carries none or travels under another owner's subject.
func (t *topicCheck) decode(m message) *odometer.Entry {
	rep := t.a.report
	e, err := odometer.DecodeEntry(m.data)
	if err != nil {
		rep.find("topic_differs", "a message on %s is no entry: %v", m.subject, err)
		return nil
	}
	if e.ID.Partition < 0 || e.ID.Partition >= odometer.Partitions {
		rep.find("topic_differs", "a message on %s has the entry id %s", m.subject, e.ID)
		return nil
	}
	ev := &e.Event
	want := topicPrefix + token(string(ev.Owner.Org)) + "." + token(string(ev.Owner.User)) + "." + token(string(ev.Instance))
	if m.subject != want {
		rep.find("topic_differs", "entry %s travels as %s and not %s", e.ID, m.subject, want)
	}
	return e
}

// token encodes an id as one token of a subject: letters, digits, "-" and "_"
// stand for themselves, every other byte is "=" and two hexadecimal digits;
// "_" alone stands for no id.
func token(id string) string {
	switch id {
	case "":
		return "_"
	case "_":
		return "=5F"
	}
	var b strings.Builder
	for i := range len(id) {
		c := id[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}

// note remembers one side of an entry: 't' the topic's, 'l' the ledger's.
func (t *topicCheck) note(e *odometer.Entry, what byte) error {
	digest := hash16(e.AppendJSON(nil))
	key := binary.BigEndian.AppendUint64([]byte{byte(e.ID.Partition)}, e.ID.Number)
	return t.pairs.add(hashKey(string(key)), append(append(key, what), digest[:]...))
}

func (t *topicCheck) sum(e *odometer.Entry, what byte) {
	s := t.sums[e.Event.Owner]
	if s == nil {
		s = new(ownerSums)
		t.sums[e.Event.Owner] = s
	}
	side := &s.topic
	if what == 'l' {
		side = &s.ledger
	}
	for q, n := range e.Event.Usage.Vector {
		side[q].Add(n)
	}
}

// compareTopic takes the entries of a journal record that the topic must have.
func (a *audit) compareTopic(r *row) error {
	t := a.topic
	if t == nil {
		return nil
	}
	for _, b := range r.booked {
		if id := b.entry.ID; id.Number < t.from[id.Partition] || id.Number > t.to[id.Partition] || t.from[id.Partition] == 0 {
			continue
		}
		as := *b.entry // as it was given out
		as.Adjusts = a.adjusts(&as)
		if err := t.note(&as, 'l'); err != nil {
			return err
		}
		t.sum(b.entry, 'l')
	}
	return nil
}

// settleTopic compares both sides, entry by entry and owner by owner.
func (a *audit) settleTopic() error {
	t, rep := a.topic, a.report
	if t == nil {
		return nil
	}
	defer t.pairs.close()
	type sides struct {
		topic, ledger   [16]byte
		copies          int
		booked, differs bool
	}
	for i := range spillBuckets {
		entries := map[string]*sides{}
		err := t.pairs.bucket(i, func(rec []byte) error {
			s := entries[string(rec[:9])]
			if s == nil {
				s = new(sides)
				entries[string(rec[:9])] = s
			}
			digest := [16]byte(rec[10:])
			if rec[9] == 'l' {
				s.ledger, s.booked = digest, true
				return nil
			}
			s.differs = s.differs || s.copies > 0 && s.topic != digest
			s.topic = digest
			s.copies++
			return nil
		})
		if err != nil {
			return err
		}
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			s := entries[key]
			id := odometer.EntryID{Partition: int(key[0]), Number: binary.BigEndian.Uint64([]byte(key[1:]))}
			if s.copies > 0 {
				rep.Topic.Entries++
			}
			switch {
			case s.copies == 0:
				rep.find("topic_missing", "entry %s was published and is not in the topic", id)
			case !s.booked:
				rep.find("topic_differs", "the topic has entry %s, which the ledger did not book", id)
			case s.differs || s.topic != s.ledger:
				rep.find("topic_differs", "entry %s says something else in the topic than in the ledger", id)
			}
			if s.copies > 1 {
				rep.find("topic_repeated", "the topic has entry %s %d times", id, s.copies)
			}
		}
	}
	owners := slices.SortedFunc(maps.Keys(t.sums), func(x, y odometer.Owner) int {
		return slices.Compare([]string{string(x.Org), string(x.User)}, []string{string(y.Org), string(y.User)})
	})
	rep.Topic.Owners = int64(len(owners))
	for _, o := range owners {
		s := t.sums[o]
		for q := range s.topic {
			if s.topic[q].Cmp(s.ledger[q]) != 0 {
				rep.find("topic_sum", "%s of %s (%s) sums to %s in the topic and %s in the ledger", odometer.Quantity(q), o.User, o.Org, s.topic[q], s.ledger[q])
			}
		}
	}
	switch {
	case rep.FindingCounts["topic_missing"]+rep.FindingCounts["topic_differs"]+rep.FindingCounts["topic_repeated"]+rep.FindingCounts["topic_sum"] > 0:
		rep.Topic.State = "different"
	case rep.Topic.Messages == 0:
		rep.Topic.State = "empty"
	default:
		rep.Topic.State = "equal"
	}
	rep.checked("topic")
	return nil
}
