package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"example.org/odometer"
)

// RegisteredAdmin keeps names and labels that people give to instances, and decides
// what a caller may change of them, with errors as [PeopleAdmin] has them. Owns is as
// [GrantAdmin] has it.
type RegisteredAdmin interface {
	Register(ctx context.Context, by odometer.Actor, once odometer.Once, r odometer.Registered) (odometer.Registered, error)
	SetRegistered(ctx context.Context, by odometer.Actor, owns odometer.Ownership, version int64, r odometer.Registered) (odometer.Registered, error)
	DeleteRegistered(ctx context.Context, by odometer.Actor, id odometer.InstanceID, version int64) (odometer.Registered, error)
}

// InstanceRecord is what people keep of an instance. Its version is its ETag.
type InstanceRecord struct {
	Name      string            `json:"name"`                     // empty for none
	Labels    map[string]string `json:"labels" schema:"nullable"` // null for none
	Version   int64             `json:"version" schema:"minimum=1"`
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
	DeletedAt *time.Time        `json:"deleted_at"` // null while it is not; name and labels are erased then
}

// KeptInstance is what people keep of an instance, with its id.
type KeptInstance struct {
	Instance odometer.InstanceID `json:"instance_id"`
	InstanceRecord
}

// InstanceChange is the body of PUT /api/v1/instances/{id}.
type InstanceChange struct {
	// Name is one line of printable text, for people; absent or empty for none.
	Name string `json:"name,omitempty" schema:"maxLength=128"`
	// Labels are at most 64, of at most 256 bytes each key and value; a key has no colon.
	Labels map[string]string `json:"labels,omitempty" schema:"nullable"`
}

// InstanceRequest is the body of POST /api/v1/instances.
type InstanceRequest struct {
	ID odometer.InstanceID `json:"instance_id"` // as its host will name it
	InstanceChange
}

// RecordOf returns what is kept of an instance as an answer has it.
func RecordOf(r *odometer.Registered) InstanceRecord {
	return InstanceRecord{r.Name, r.Labels, r.Version, r.Created, r.Updated, ever(r.Deleted)}
}

func (c *InstanceChange) check(wrong *checks) {
	wrong.body("name", odometer.ValidRegisteredName(c.Name))
	wrong.body("labels", odometer.ValidLabels(c.Labels))
}

// validLabel returns nil for key:value.
func validLabel(s string) error {
	if key, _, ok := strings.Cut(s, ":"); !ok || key == "" {
		return fmt.Errorf("%q is no key:value: %w", clip(s), odometer.ErrInvalid)
	}
	return nil
}

func (s *server) registeredRoutes() []route {
	return []route{
		{
			pattern: "POST /api/v1/instances", access: administrator, handle: s.postInstance,
			id: "createInstance", tag: "instances", summary: "Keep an instance of which nobody has told yet, with a name and labels",
			description: "Instances need not be created: each is there once its host tells of it, or usage of it is booked. One that is kept is listed before that, " +
				"in the state unknown.",
			params:  []*parameter{onceHeader},
			takes:   takes(InstanceRequest{}),
			replies: []reply{answers(http.StatusCreated, "What is kept of it.", KeptInstance{}, versioned, location)}, fails: creates,
		},
		{
			pattern: "PUT /api/v1/instances/{id}", access: accountHolder, handle: s.putInstance,
			id: "updateInstance", tag: "instances", summary: "Give an instance another name and other labels",
			description: "Its owner as it is recorded does, the owners and admins of the organisation whose it is, who holds a grant of level manager or owner, and the administrator. " +
				"What its host tells of it stays as it is. Where nothing is kept of it yet, `If-Match: *` makes the beginning.",
			params:  []*parameter{instancePath, ifMatchHeader},
			takes:   takes(InstanceChange{}),
			replies: []reply{answers(http.StatusOK, "What is kept of it then.", KeptInstance{}, versioned)}, fails: changes,
		},
		{
			pattern: "DELETE /api/v1/instances/{id}", access: administrator, handle: s.deleteInstance,
			id: "deleteInstance", tag: "instances", summary: "Erase the name and the labels of an instance",
			description: "Its usage and whose it is stay, and it is listed for as long as its host tells of it or usage of it is booked.",
			params:      []*parameter{instancePath, ifMatchHeader},
			replies:     []reply{answers(http.StatusOK, "What is left of it.", KeptInstance{}, versioned)}, fails: changes,
		},
	}
}

func (s *server) postInstance(w http.ResponseWriter, r *http.Request) error {
	if s.Registered == nil {
		return absent("accounts")
	}
	var ask InstanceRequest
	once, err := asked(r, &ask, func(wrong *checks) {
		wrong.body("instance_id", odometer.ValidID("instance", string(ask.ID)))
		ask.check(wrong)
	})
	if err != nil {
		return err
	}
	v, err := s.Registered.Register(r.Context(), actor(r), once, odometer.Registered{Instance: ask.ID, Name: ask.Name, Labels: ask.Labels})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/instances/"+url.PathEscape(string(v.Instance)))
	return writeVersion(w, http.StatusCreated, v.Version, KeptInstance{v.Instance, RecordOf(&v)})
}

func (s *server) putInstance(w http.ResponseWriter, r *http.Request) error {
	if s.Registered == nil {
		return absent("accounts")
	}
	var ask InstanceChange
	if _, err := asked(r, &ask, ask.check); err != nil {
		return err
	}
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	owns, err := s.owned(r)
	if err != nil {
		return err
	}
	v, err := s.Registered.SetRegistered(r.Context(), actor(r), owns, version, odometer.Registered{Name: ask.Name, Labels: ask.Labels})
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, KeptInstance{v.Instance, RecordOf(&v)})
}

func (s *server) deleteInstance(w http.ResponseWriter, r *http.Request) error {
	if s.Registered == nil {
		return absent("accounts")
	}
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	v, err := s.Registered.DeleteRegistered(r.Context(), actor(r), odometer.InstanceID(queryOf(r).text("id")), version)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, KeptInstance{v.Instance, RecordOf(&v)})
}
