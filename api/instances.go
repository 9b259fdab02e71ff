package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
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
	LastState odometer.State   `json:"last_state,omitempty"` // as it was described last, where state says something else
	Agent     odometer.AgentID `json:"agent_id,omitempty"`   // where it is, or was last; absent where it was nowhere yet
	// Whose it is: the owner of its open period, or else of what is booked last.
	User *odometer.UserID `json:"user_id"`
	Org  *odometer.OrgID  `json:"org_id"`

	FirstSeen   *time.Time `json:"first_seen"`
	DescribedAt *time.Time `json:"described_at"` // when it was described last; null where nobody describes it
	GoneSince   *time.Time `json:"gone_since"`
	LastReading *time.Time `json:"last_reading"` // by its agent's clock
	Age         *int64     `json:"age_s"`        // of the last reading, in seconds, whatever the agent's clock shows

	Record   *InstanceRecord   `json:"record"`                         // what people keep of it, null for nothing
	Conflict *InstanceConflict `json:"conflict"`                       // null for none
	Open     []Row             `json:"open" schema:"items=OpenPeriod"` // its open periods
}

// Called returns what people call an instance, or else its host.
func (i *Instance) Called() string {
	if i.Record == nil {
		return i.Name
	}
	return cmp.Or(i.Record.Name, i.Name)
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
	State       string           `json:"state" schema:"as=InstanceState"`
	LastState   odometer.State   `json:"last_state,omitempty"`
	FirstSeen   time.Time        `json:"first_seen"`
	DescribedAt time.Time        `json:"described_at"`
	GoneSince   *time.Time       `json:"gone_since"`
}

// InstanceAnswer is the body of GET /api/v1/instances/{id}.
type InstanceAnswer struct {
	Instance
	Elsewhere []InstanceElsewhere `json:"elsewhere"` // what other agents say of it, or said before
}

// InstancesAnswer is the body of GET /api/v1/instances.
type InstancesAnswer struct {
	At        time.Time  `json:"at"`
	Instances []Instance `json:"instances"` // in order of their ids, unless sort says otherwise
	Next      *string    `json:"next"`      // cursor of the page that follows, null when there is none
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
	Label     string // key:value
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

// validAttribute returns nil for key:value.
func validAttribute(s string) error {
	key, value, ok := strings.Cut(s, ":")
	switch {
	case !ok || key == "":
		return fmt.Errorf("%q is no key:value: %w", clip(s), odometer.ErrInvalid)
	case max(len(key), len(value)) > maxText:
		return fmt.Errorf("has more than %d bytes before or after the colon: %w", maxText, odometer.ErrInvalid)
	}
	return nil
}

// maxText bounds a parameter that is compared with what a description has.
const maxText = odometer.MaxDescribedText

func (s *server) instanceRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/instances", access: reader, handle: s.getInstances,
			id: "instances", tag: "instances", summary: "The instances",
			description: "Those that agents describe, those of which something is booked, and to who sees everything those that are only kept. " + sortedOnce,
			params: []*parameter{
				{name: "agent", most: odometer.MaxIDBytes, valid: identifier("agent"), example: "host-1", description: "only those at this agent; of a conflict, at any of both"},
				{name: "state", kind: asWord, words: InstanceStates, example: "running", description: "only those in this state"},
				{name: "name", most: maxText, example: "web", description: "only those with this name, by their host or by people"},
				{name: "attribute", most: 2*maxText + 1, valid: validAttribute, example: "rack:r1", description: "only those with this attribute, as key:value"},
				{name: "label", most: 2*maxText + 1, valid: validLabel, example: "tier:web", description: "only those with this label, as key:value"},
				userParam, orgParam,
				afterCursor, limitParam, instancesSort, instancesFields,
			},
			replies: []reply{answers(http.StatusOK, "One page.", InstancesAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "GET /api/v1/instances/{id}", access: reader, handle: s.getInstance,
			id: "instance", tag: "instances", summary: "One instance",
			description: "What its agent told last of it, its open periods, and what other agents say of it.",
			params:      []*parameter{instancePath},
			replies:     []reply{answers(http.StatusOK, "What is known of it.", InstanceAnswer{})}, fails: missing,
		},
		{
			pattern: "GET /api/v1/instances/{id}/lifecycle", access: reader, handle: s.getLifecycle,
			id: "lifecycle", tag: "instances", summary: "What happened to an instance, in order of time",
			description: "Of more than `limit` changes the newest, and all of the moment of the oldest of these: to go on, ask again " +
				"with `to` at that moment.",
			params:  []*parameter{instancePath, fromParam, toParam, limitParam},
			replies: []reply{answers(http.StatusOK, "What its agents told.", LifecycleAnswer{})}, fails: missing,
		},
	}
}

func (s *server) getInstances(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r)
	q := InstanceQuery{
		After: odometer.InstanceID(p.text("after")),
		Agent: odometer.AgentID(p.text("agent")),
		State: p.text("state"),
		Name:  p.text("name"),
		Label: p.text("label"),
		User:  odometer.UserID(p.text("user")),
		Org:   odometer.OrgID(p.text("org")),
	}
	q.Attribute, q.Value, _ = strings.Cut(p.text("attribute"), ":")
	if s.Instances == nil {
		return absent("directory of instances")
	}
	list, next, err := chosen(s, w, r, q, "", (*KnownInstance).whole, instanceKeys)
	if err != nil {
		return err
	}
	return writeList(w, r, InstancesAnswer{At: instant(p.now.UnixMicro()), Instances: list, Next: next}, "instances")
}

func (s *server) getInstance(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r)
	now, id := p.now, odometer.InstanceID(p.text("id"))
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
