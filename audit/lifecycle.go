package audit

import (
	"context"
	"database/sql"
	"fmt"

	"example.org/odometer"
)

// happening is what the table lifecycle has once: what happened to an instance,
// and when by the wall clock of the agent that told it.
type happening struct {
	instance odometer.InstanceID
	at       int64
	what     odometer.ChangeKind
	device   string
	agent    odometer.AgentID
}

// particulars are those that the first telling gave.
type particulars struct {
	boot   int64
	detail string
}

// happened notes what an event tells, whatever became of its usage.
func (p *replay) happened(ev *odometer.Event) {
	for _, c := range ev.Lifecycle {
		p.tell(happening{ev.Instance, c.At.Wall, c.Kind, c.Device, ev.Agent}, particulars{c.At.Boot, c.Detail})
	}
}

func (p *replay) tell(h happening, with particulars) {
	if _, ok := p.lifecycle[h]; !ok {
		p.lifecycle[h] = with
	}
}

// checkLifecycle compares the table lifecycle with what the journal tells.
func (p *replay) checkLifecycle(ctx context.Context) error {
	rep := p.a.report
	err := eachHappening(ctx, p.a.snap, p.partition, func(h happening, with particulars) {
		if want, ok := p.lifecycle[h]; !ok {
			rep.find("lifecycle", "partition %d: the table says that %s was %s at %d µs, which no event tells", p.partition, h.instance, h.what, h.at)
		} else if want != with {
			rep.find("lifecycle", "partition %d: the table says otherwise than the journal how %s was %s at %d µs", p.partition, h.instance, h.what, h.at)
		}
		delete(p.lifecycle, h)
	})
	if err != nil {
		return err
	}
	for h := range p.lifecycle {
		rep.find("lifecycle", "partition %d: %s was %s at %d µs and the table does not have it", p.partition, h.instance, h.what, h.at)
	}
	return nil
}

// startLifecycle takes over what records that are gone told.
func (p *replay) startLifecycle(ctx context.Context, _ map[int64]int64) error {
	return eachHappening(ctx, p.a.base, p.partition, p.tell)
}

func eachHappening(ctx context.Context, from *snapshot, partition int64, each func(happening, particulars)) error {
	err := from.each(ctx, func(rows *sql.Rows) error {
		var h happening
		var with particulars
		err := rows.Scan(&h.instance, &h.at, &h.what, &h.device, &h.agent, &with.boot, &with.detail)
		each(h, with)
		return err
	}, `SELECT instance, at_us, what, device, agent, boot_us, detail FROM lifecycle WHERE partition = ?`, partition)
	if err != nil {
		return fmt.Errorf("read the lifecycle log: %w", err)
	}
	return nil
}
