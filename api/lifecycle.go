package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"example.org/odometer"
)

// LifecycleReader knows what happened to instances that is seen. The ledger is one.
type LifecycleReader interface {
	// Lifecycle returns what happened, in order of time.
	Lifecycle(ctx context.Context, seen odometer.View, q odometer.LifecycleQuery) ([]odometer.Happening, error)
}

// LifecycleAnswer is the body of GET /api/v1/instances/{id}/lifecycle: what
// happened to an instance. Where there is more before the first, ask again with
// `to` at its time.
type LifecycleAnswer struct {
	Instance  odometer.InstanceID `json:"instance_id"`
	Lifecycle []Happening         `json:"lifecycle"` // in order of time
	More      bool                `json:"more"`      // there is more before the first
}

// Happening is one thing that happened.
type Happening struct {
	At     time.Time           `json:"at"`      // by the host's wall clock
	Boot   int64               `json:"boot_us"` // microseconds since the host's boot
	What   odometer.ChangeKind `json:"what"`
	Device string              `json:"device,omitempty"` // which device it was about
	Detail string              `json:"detail,omitempty"` // for a person
	Agent  odometer.AgentID    `json:"agent_id"`
}

func (s *server) getLifecycle(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r)
	instance := odometer.InstanceID(p.text("id"))
	q := odometer.LifecycleQuery{
		Instance: instance, From: p.time("from", 0), To: p.time("to", 0), Limit: p.limit(),
	}
	if q.To != 0 {
		p.inOrder(q.From, q.To)
	}
	if err := p.done(); err != nil {
		return err
	}
	if s.Lifecycle == nil {
		return absent("ledger")
	}
	list, err := s.Lifecycle.Lifecycle(r.Context(), seen(r), q)
	if err != nil {
		return fmt.Errorf("read the lifecycle log: %w", err)
	}
	if len(list) == 0 && s.Instances != nil {
		if _, _, err := s.Instances.Instance(r.Context(), seen(r), instance); err != nil {
			return err
		}
	}
	answer := LifecycleAnswer{Instance: instance, Lifecycle: []Happening{}}
	if len(list) >= q.Limit && list[0].At.Wall > q.From {
		before, err := s.Lifecycle.Lifecycle(r.Context(), seen(r), odometer.LifecycleQuery{Instance: instance, From: q.From, To: list[0].At.Wall, Limit: 1})
		if err != nil {
			return fmt.Errorf("read the lifecycle log: %w", err)
		}
		answer.More = len(before) > 0
	}
	for _, h := range list {
		answer.Lifecycle = append(answer.Lifecycle, Happening{instant(h.At.Wall), h.At.Boot, h.Kind, h.Device, h.Detail, h.Agent})
	}
	return writeJSON(w, http.StatusOK, answer)
}
