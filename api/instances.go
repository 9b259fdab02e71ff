package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
)

// What an instance's state may be in an answer, beside those of
// [odometer.State].
const (
	StateGone       = "gone"       // its agent no longer has it
	StateUnobserved = "unobserved" // its agent is silent
	StateUnknown    = "unknown"    // nobody describes it: only its usage is known
)

// InstanceStates are all that may be asked for.
var InstanceStates = []string{
	string(odometer.Running), string(odometer.Paused), string(odometer.Stopped), StateGone, StateUnobserved, StateUnknown,
}

// Instance is one instance as it is known now. What is null is not known.
type Instance struct {
	// Description is what its agent told last. State is one of InstanceStates.
	odometer.Description
	LastState odometer.State   `json:"last_state,omitempty"` // as it was described, where State says something else
	Agent     odometer.AgentID `json:"agent_id"`             // where it is, or was last
	// The owner of its open period, or else of what is booked last.
	User *odometer.UserID `json:"user_id"`
	Org  *odometer.OrgID  `json:"org_id"`

	FirstSeen   *time.Time `json:"first_seen"`
	DescribedAt *time.Time `json:"described_at"` // last; null where nobody describes it
	GoneSince   *time.Time `json:"gone_since"`
	LastReading *time.Time `json:"last_reading"` // by its agent's clock
	Age         *int64     `json:"age_s"`        // of that, in seconds, whatever the agent's clock shows

	Conflict *InstanceConflict `json:"conflict"` // null for none
	Open     []Row             `json:"open"`     // its open periods
}

// InstanceConflict is one instance that several agents say runs with them.
type InstanceConflict struct {
	Instance odometer.InstanceID `json:"instance_id"`
	Agents   []odometer.AgentID  `json:"agents"` // who said so first comes first
	Since    time.Time           `json:"since"`
}

// InstanceElsewhere is what another agent says of an instance, or said before.
type InstanceElsewhere struct {
	Agent       odometer.AgentID `json:"agent_id"`
	State       string           `json:"state"`
	LastState   odometer.State   `json:"last_state,omitempty"`
	FirstSeen   time.Time        `json:"first_seen"`
	DescribedAt time.Time        `json:"described_at"`
	GoneSince   *time.Time       `json:"gone_since"`
}

// InstanceAnswer is the body of GET /api/v1/instances/{id}.
type InstanceAnswer struct {
	Instance
	Elsewhere []InstanceElsewhere `json:"elsewhere"`
}

// InstancesAnswer is the body of GET /api/v1/instances, in order of their ids.
// Next is the cursor of the page that follows, null when there is none.
type InstancesAnswer struct {
	At        time.Time  `json:"at"`
	Instances []Instance `json:"instances"`
	Next      *string    `json:"next"`
}

// InstanceQuery selects instances in order of their ids. Empty fields select
// all.
type InstanceQuery struct {
	After     odometer.InstanceID
	Limit     int
	Agent     odometer.AgentID // where it is; of a conflict both
	State     string
	Name      string
	Attribute string // its key; "" for any
	Value     string // of the attribute
	User      odometer.UserID
	Org       odometer.OrgID
}

// InstanceReader knows the instances: those that agents describe and those of
// which something is booked, whose owner now is seen. One that there is not, or is
// not seen, wraps [odometer.ErrNotFound].
// What is open is filled in by the server, from the periods that are returned
// with each instance.
type InstanceReader interface {
	Instances(ctx context.Context, seen odometer.View, q InstanceQuery) ([]KnownInstance, error)
	Instance(ctx context.Context, seen odometer.View, id odometer.InstanceID) (KnownInstance, []InstanceElsewhere, error)
}

// KnownInstance is an instance with the periods of it that are open.
type KnownInstance struct {
	Instance
	Periods []OpenPeriod
}

// maxText bounds a parameter that is compared with what a description has.
const maxText = odometer.MaxDescribedText

func (s *server) getInstances(w http.ResponseWriter, r *http.Request) error {
	now := s.router.clock()
	p := queryOf(r, now)
	q := InstanceQuery{
		After: odometer.InstanceID(p.id("after")),
		Limit: p.number("limit", DefaultPage, MaxPage),
		Agent: odometer.AgentID(p.id("agent")),
		State: p.text("state"),
		Name:  p.text("name"),
		User:  odometer.UserID(p.id("user")),
		Org:   odometer.OrgID(p.id("org")),
	}
	if q.State != "" && !slices.Contains(InstanceStates, q.State) {
		p.fail("state", "%q is none of %s", clip(q.State), strings.Join(InstanceStates, ", "))
	}
	if attribute := p.text("attribute"); attribute != "" {
		var ok bool
		if q.Attribute, q.Value, ok = strings.Cut(attribute, ":"); !ok || q.Attribute == "" {
			p.fail("attribute", "%q is no key:value", clip(attribute))
		}
	}
	if len(q.Name) > maxText {
		p.fail("name", "is longer than %d bytes", maxText)
	}
	if max(len(q.Attribute), len(q.Value)) > maxText {
		p.fail("attribute", "has more than %d bytes before or after the colon", maxText)
	}
	if err := p.done(); err != nil {
		return err
	}
	if s.Instances == nil {
		return absent("directory of instances")
	}
	limit := q.Limit
	q.Limit++ // one more says whether there are more
	list, err := s.Instances.Instances(r.Context(), seen(r), q)
	if err != nil {
		return fmt.Errorf("list instances: %w", err)
	}
	answer := InstancesAnswer{At: instant(now.UnixMicro()), Instances: make([]Instance, 0, len(list))}
	if len(list) > limit {
		list = list[:limit]
		answer.Next = new(string(list[limit-1].Description.Instance))
		w.Header().Add("Link", fmt.Sprintf("<%s>; rel=\"next\"", pageAfter(r.URL, *answer.Next)))
	}
	for i := range list {
		answer.Instances = append(answer.Instances, list[i].whole(now))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) getInstance(w http.ResponseWriter, r *http.Request) error {
	now := s.router.clock()
	p := queryOf(r, now)
	id := p.instance(r)
	if err := p.done(); err != nil {
		return err
	}
	if s.Instances == nil {
		return absent("directory of instances")
	}
	known, elsewhere, err := s.Instances.Instance(r.Context(), seen(r), id)
	if err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	if elsewhere == nil {
		elsewhere = []InstanceElsewhere{}
	}
	return writeJSON(w, http.StatusOK, InstanceAnswer{Instance: known.whole(now), Elsewhere: elsewhere})
}

// whole returns the instance with its open periods.
func (k *KnownInstance) whole(now time.Time) Instance {
	i := k.Instance
	i.Open = openPeriods(k.Periods, now)
	return i
}
