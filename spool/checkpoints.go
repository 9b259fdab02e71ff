package spool

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

const (
	checkpointsName = "checkpoints"
	// maxEnded is how many checkpoints of epochs that have ended are kept.
	maxEnded = 1 << 12
)

// checkpoints are the newest ones of each epoch of each instance. Guarded by
// writing.
type checkpoints struct {
	of    map[string]*checkpoint
	bytes int64  // of what a snapshot takes
	saved uint64 // what lies up to this position is in the file
	ended int
	key   []byte // of the last one seen
}

type checkpoint struct {
	entry // without an event
}

func (c *checkpoints) see(e *entry) {
	if len(e.checkpoint) == 0 {
		return
	}
	if c.of == nil {
		c.of = map[string]*checkpoint{}
	}
	c.key = e.appendKey(c.key[:0])
	p := c.of[string(c.key)]
	if p == nil {
		p = &checkpoint{}
		p.instance, p.agent, p.epoch = bytes.Clone(e.instance), bytes.Clone(e.agent), bytes.Clone(e.epoch)
		c.of[string(c.key)] = p
		c.bytes += int64(p.size())
	} else if p.position >= e.position {
		return
	}
	if p.flags&flagFinal != 0 {
		c.ended--
	}
	c.bytes += int64(len(e.checkpoint) - len(p.checkpoint))
	p.first, p.position, p.time, p.flags = e.position, e.position, e.time, e.flags&flagFinal
	p.checkpoint = append(p.checkpoint[:0], e.checkpoint...)
	if p.flags&flagFinal != 0 {
		if c.ended++; c.ended > 2*maxEnded {
			c.forget()
		}
	}
}

// forget drops the oldest ended ones.
func (c *checkpoints) forget() {
	for _, p := range c.sorted() {
		if c.ended <= maxEnded {
			return
		}
		if p.flags&flagFinal != 0 {
			c.bytes -= int64(p.size())
			c.ended--
			delete(c.of, p.key())
		}
	}
}

func (c *checkpoints) sorted() []*checkpoint {
	all := make([]*checkpoint, 0, len(c.of))
	for _, p := range c.of {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *checkpoint) int { return cmp.Compare(a.position, b.position) })
	return all
}

// only reports whether a checkpoint lies in segments up to this position and
// nowhere else.
func (c *checkpoints) only(upTo uint64) bool {
	for _, p := range c.of {
		if p.position > c.saved && p.position <= upTo {
			return true
		}
	}
	return false
}

// Checkpoints returns the newest checkpoint of each epoch of each instance and
// agent, the oldest first: a meter to which all are restored in this order goes
// on where the spool ends. Of epochs that have ended the last few thousand are
// among them.
func (s *Spool) Checkpoints() []json.RawMessage {
	s.writing.Lock()
	defer s.writing.Unlock()
	var all []json.RawMessage
	for _, p := range s.checks.sorted() {
		all = append(all, bytes.Clone(p.checkpoint))
	}
	return all
}

// saveCheckpoints writes the snapshot. The caller holds writing.
func (s *Spool) saveCheckpoints() error {
	w := batches{b: header{kind: kindCheckpoints, last: s.last, spool: s.id}.append(make([]byte, 0, headerSize+s.checks.bytes))}
	for _, p := range s.checks.sorted() {
		w.add(&p.entry)
	}
	f, err := s.replace(checkpointsName, w.end())
	if err != nil {
		return fmt.Errorf("write checkpoints: %w", err)
	}
	s.checks.saved = s.last
	return f.Close()
}

func (s *Spool) loadCheckpoints() error {
	b, err := s.readFile(checkpointsName)
	if err != nil || b == nil {
		return err
	}
	h, err := parseHeader(b, kindCheckpoints)
	switch {
	case errors.Is(err, errVersion):
		return err
	case err != nil:
		s.unreadable(Damage{Segment: checkpointsName, Reason: err.Error()})
	default:
		if err := s.belongs(h.spool); err != nil {
			return err
		}
	}
	// Saved stays 0: it is written anew before anything is freed, since
	// whether the last process's sync of it failed is not known.
	sc := newScanner(bytes.NewReader(b), headerSize, int64(len(b)))
	for {
		c, more, err := sc.next()
		if err != nil || !more {
			return err
		}
		for _, fl := range c.flaws {
			s.unreadable(Damage{Segment: checkpointsName, Offset: fl.off, Reason: fl.reason})
		}
		for i := range c.entries {
			s.checks.see(&c.entries[i])
		}
	}
}

// unreadable notes damage outside of the segments.
func (s *Spool) unreadable(d Damage) {
	s.log.Error("corrupt spool: "+d.String(), "segment", d.Segment, "offset", d.Offset)
	s.outside = append(s.outside, d)
}
