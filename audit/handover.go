package audit

import (
	"context"
	"database/sql"
	"fmt"

	"example.org/odometer"
)

// An agent that had lost its state was told where an epoch stands: a decision of
// the journal. From when an epoch of the same instance and agent appears that
// starts at that time, nothing that comes later in the first is booked but on a
// person's word: it would be the same time twice. A second one that starts there
// tells nothing but that time again.

// offer is the decision: an epoch and where it stood.
type offer struct {
	epoch odometer.Epoch
	until int64
}

// handover is what the table handovers must say of an offer.
type handover struct {
	instance  odometer.InstanceID
	agent     odometer.AgentID
	sequence  uint64         // where it stood
	successor odometer.Epoch // "" for none yet
}

// offer follows the decision of r: the epoch stands there, or an event of it
// that is held ends there.
func (p *replay) offer(r *row) {
	d, sequence := *r.offers, r.offered
	w := p.epochs[d.epoch]
	stands := w != nil && !w.byTime && w.sequence > 0 && w.sequence == sequence && w.end == d.until
	for _, h := range p.held {
		stands = stands || h.epoch == d.epoch && h.sequence == sequence && h.end == d.until
	}
	if w == nil || !stands {
		p.a.report.find("handovers", "%s offers epoch %s at %d µs, where it does not stand", r, d.epoch, d.until)
		return
	}
	p.handedOver(d, handover{w.opened.instance, w.opened.agent, sequence, ""})
}

func (p *replay) handedOver(d offer, h handover) {
	p.handovers[d] = h
	p.successors[identity{h.instance, h.agent, "vector", d.until}] = d.epoch
	if w := p.epoch(d.epoch); h.successor != "" && (!w.limited || h.sequence < w.limit) {
		w.limited, w.limit = true, h.sequence
	}
}

// goOn follows the appearance of an epoch, which may go on from another.
func (p *replay) goOn(id odometer.Epoch, w *watermark) {
	from, ok := p.successors[w.opened]
	if !ok || from == id {
		return
	}
	d := offer{from, w.opened.started}
	h := p.handovers[d]
	if h.successor == "" {
		h.successor = id
	} else {
		d.epoch, h.sequence = id, 0
	}
	p.handedOver(d, h)
}

// checkHandovers compares the table handovers with what the journal says.
func (p *replay) checkHandovers(ctx context.Context) error {
	rep := p.a.report
	err := eachHandover(ctx, p.a.snap, p.partition, func(d offer, h handover) {
		if want, ok := p.handovers[d]; !ok || want != h {
			rep.find("handovers", "partition %d: the table says that epoch %s, at %d µs, is gone on from by %q, the journal %q", p.partition, d.epoch, d.until, h.successor, want.successor)
		}
		delete(p.handovers, d)
	})
	if err != nil {
		return err
	}
	for d := range p.handovers {
		rep.find("handovers", "partition %d: epoch %s was offered at %d µs and the table does not have it", p.partition, d.epoch, d.until)
	}
	return nil
}

// startHandovers takes over what was offered by records that are gone.
func (p *replay) startHandovers(ctx context.Context, _ map[int64]int64) error {
	return eachHandover(ctx, p.a.base, p.partition, p.handedOver)
}

func eachHandover(ctx context.Context, from *snapshot, partition int64, each func(offer, handover)) error {
	err := from.each(ctx, func(rows *sql.Rows) error {
		var d offer
		var h handover
		err := rows.Scan(&d.epoch, &h.instance, &h.agent, &d.until, &h.sequence, &h.successor)
		each(d, h)
		return err
	}, `SELECT epoch, instance, agent, until_us, sequence, successor FROM handovers WHERE partition = ?`, partition)
	if err != nil {
		return fmt.Errorf("read the handovers: %w", err)
	}
	return nil
}
