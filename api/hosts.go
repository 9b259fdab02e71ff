package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"example.org/odometer"
)

// HostAdmin enrols hosts and puts them out. CreateEnrolment returns the secret,
// once; a time that is zero stands for the usual one. What will not do wraps
// [odometer.ErrInvalid], what there is not [odometer.ErrNotFound], a name that
// another host has [odometer.ErrConflict]; where nothing can be written it is
// [odometer.ErrUnavailable].
type HostAdmin interface {
	CreateEnrolment(ctx context.Context, by odometer.Actor, agent odometer.AgentID, replace bool, expires time.Time) (e odometer.Enrolment, secret string, err error)
	// Enrolments lists the newest first.
	Enrolments(ctx context.Context, limit int) ([]odometer.Enrolment, error)
	RevokeEnrolment(ctx context.Context, by odometer.Actor, id odometer.EnrolmentID) (odometer.Enrolment, error)
	// Enrol lets a host in, or wraps [odometer.ErrForbidden].
	Enrol(ctx context.Context, ask odometer.EnrolRequest) (odometer.Host, error)
	// Hosts lists them in order of their agents, from the one after the one named.
	Hosts(ctx context.Context, after odometer.AgentID, limit int) ([]odometer.Host, error)
	Host(ctx context.Context, agent odometer.AgentID) (odometer.Host, error)
	// RevokeHost ends a host's connection before it returns; again it changes
	// nothing.
	RevokeHost(ctx context.Context, by odometer.Actor, agent odometer.AgentID) (odometer.Host, error)
}

// maxEnrolBytes bounds what is read of somebody who has shown nothing yet.
const maxEnrolBytes = 4 << 10

// EnrolmentRequest is the body of POST /api/v1/enrolments.
type EnrolmentRequest struct {
	Agent   *odometer.AgentID `json:"agent_id"` // null for any that is not enrolled
	Replace bool              `json:"replace"`
	// ExpiresAt is a time as [ParseTime] reads it, such as +1h, by the server's
	// clock; null for the usual time.
	ExpiresAt *string `json:"expires_at"`
}

// Enrolment is a one-time token as an answer has it. What is null has not happened.
type Enrolment struct {
	ID        odometer.EnrolmentID `json:"id"`
	Agent     *odometer.AgentID    `json:"agent_id"` // null for any that is not enrolled
	Replace   bool                 `json:"replace"`
	State     string               `json:"state"` // valid, used, expired or revoked
	CreatedAt time.Time            `json:"created_at"`
	CreatedBy string               `json:"created_by"`
	ExpiresAt time.Time            `json:"expires_at"`
	UsedAt    *time.Time           `json:"used_at"`
	UsedBy    *odometer.AgentID    `json:"used_by"`
	RevokedAt *time.Time           `json:"revoked_at"`
}

// CreatedEnrolment is the answer to POST /api/v1/enrolments: the one time that the
// secret is told.
type CreatedEnrolment struct {
	Enrolment
	Secret string `json:"token"`
}

// EnrolmentsAnswer is the body of GET /api/v1/enrolments, the newest first.
type EnrolmentsAnswer struct {
	Enrolments []Enrolment `json:"enrolments"`
}

// EnrolRequest is the body of POST /api/v1/hosts/enrol.
type EnrolRequest struct {
	Agent odometer.AgentID `json:"agent_id"`
	Key   odometer.Key     `json:"public_key"`
	// Proof is the signature of [odometer.EnrolStatement] by the key.
	Proof []byte `json:"proof"`
	// Token is the one-time token, null where the host is enrolled already.
	Token *string `json:"token"`
}

// Enrolled is the answer to POST /api/v1/hosts/enrol: what a host that is let in
// needs to connect.
type Enrolled struct {
	Agent      odometer.AgentID `json:"agent_id"`
	Key        odometer.Key     `json:"public_key"`
	EnrolledAt time.Time        `json:"enrolled_at"`
	QueueURL   string           `json:"queue_url"`
}

// Host is a host as an answer has it.
type Host struct {
	Agent      odometer.AgentID     `json:"agent_id"`
	State      string               `json:"state"` // enrolled or revoked
	Key        odometer.Key         `json:"public_key"`
	EnrolledAt time.Time            `json:"enrolled_at"`
	Remote     string               `json:"remote"` // address that it was enrolled from
	Enrolment  odometer.EnrolmentID `json:"enrolment_id"`
	RevokedAt  *time.Time           `json:"revoked_at"` // null while it is not
}

// HostsAnswer is the body of GET /api/v1/hosts, in order of their agents. Next is
// the cursor of the page that follows, null when there is none.
type HostsAnswer struct {
	Hosts []Host            `json:"hosts"`
	Next  *odometer.AgentID `json:"next"`
}

func hostOf(h *odometer.Host) Host {
	state := "enrolled"
	if !h.Revoked.IsZero() {
		state = "revoked"
	}
	return Host{Agent: h.Agent, State: state, Key: h.Key, EnrolledAt: h.Enrolled, Remote: h.Remote, Enrolment: h.Enrolment, RevokedAt: ever(h.Revoked)}
}

// enrolmentOf writes a one-time token as it is at a moment.
func enrolmentOf(e *odometer.Enrolment, now time.Time) Enrolment {
	state := "valid"
	switch {
	case !e.Used.IsZero():
		state = "used"
	case !e.Revoked.IsZero():
		state = "revoked"
	case !now.Before(e.Expires):
		state = "expired"
	}
	some := func(id odometer.AgentID) *odometer.AgentID {
		if id == "" {
			return nil
		}
		return &id
	}
	return Enrolment{
		ID: e.ID, Agent: some(e.Agent), Replace: e.Replace, State: state, CreatedAt: e.Created, CreatedBy: e.CreatedBy,
		ExpiresAt: e.Expires, UsedAt: ever(e.Used), UsedBy: some(e.UsedBy), RevokedAt: ever(e.Revoked),
	}
}

func (s *server) postEnrolment(w http.ResponseWriter, r *http.Request) error {
	if s.Hosts == nil {
		return absent("accounts")
	}
	now := s.router.clock()
	errs := []error{queryOf(r, now).done()}
	var ask EnrolmentRequest
	var agent odometer.AgentID
	var expires time.Time
	if err := readJSON(r, &ask); err != nil {
		errs = append(errs, err)
	} else {
		wrong := func(field string, err error) {
			if err != nil {
				errs = append(errs, FieldError{"body", "$." + field, reason(err)})
			}
		}
		if ask.Agent != nil {
			agent = *ask.Agent
			wrong("agent_id", odometer.ValidID("it", string(agent)))
		} else if ask.Replace {
			wrong("replace", fmt.Errorf("agent_id does not say which host"))
		}
		if ask.ExpiresAt != nil {
			var err error
			if expires, err = ParseTime(*ask.ExpiresAt, now); err == nil && !expires.After(now) {
				err = fmt.Errorf("%s is past", formatMicros(expires.UnixMicro()))
			}
			wrong("expires_at", err)
		}
	}
	if err := join(errs...); err != nil {
		return err
	}
	e, secret, err := s.Hosts.CreateEnrolment(r.Context(), actor(r), agent, ask.Replace, expires)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, CreatedEnrolment{enrolmentOf(&e, now), secret})
}

func (s *server) getEnrolments(w http.ResponseWriter, r *http.Request) error {
	now := s.router.clock()
	p := queryOf(r, now)
	limit := p.number("limit", DefaultPage, MaxPage)
	if err := p.done(); err != nil {
		return err
	}
	if s.Hosts == nil {
		return absent("accounts")
	}
	list, err := s.Hosts.Enrolments(r.Context(), limit)
	if err != nil {
		return err
	}
	answer := EnrolmentsAnswer{Enrolments: []Enrolment{}}
	for i := range list {
		answer.Enrolments = append(answer.Enrolments, enrolmentOf(&list[i], now))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) deleteEnrolment(w http.ResponseWriter, r *http.Request) error {
	now := s.router.clock()
	errs := []error{queryOf(r, now).done()}
	id := r.PathValue("id")
	if err := odometer.ValidEnrolmentID(id); err != nil {
		errs = append(errs, FieldError{"path", "id", reason(err)})
	}
	if err := join(errs...); err != nil {
		return err
	}
	if s.Hosts == nil {
		return absent("accounts")
	}
	e, err := s.Hosts.RevokeEnrolment(r.Context(), actor(r), odometer.EnrolmentID(id))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, enrolmentOf(&e, now))
}

// postEnrol answers a host that has no token for the API: what it sends says who it
// is.
func (s *server) postEnrol(w http.ResponseWriter, r *http.Request) error {
	errs := []error{queryOf(r, s.router.clock()).done()}
	r.Body = http.MaxBytesReader(w, r.Body, maxEnrolBytes)
	var ask EnrolRequest
	if err := readJSON(r, &ask); err != nil {
		errs = append(errs, err)
	} else {
		if err := odometer.ValidID("it", string(ask.Agent)); err != nil {
			errs = append(errs, FieldError{"body", "$.agent_id", reason(err)})
		}
		if err := odometer.ValidKey(string(ask.Key)); err != nil {
			errs = append(errs, FieldError{"body", "$.public_key", reason(err)})
		}
	}
	if err := join(errs...); err != nil {
		return err
	}
	if s.Hosts == nil {
		return absent("accounts")
	}
	queue := ""
	if s.QueueURL != nil {
		queue = s.QueueURL()
	}
	if queue == "" {
		return absent("queue that agents could reach")
	}
	secret := ""
	if ask.Token != nil {
		secret = *ask.Token
	}
	h, err := s.Hosts.Enrol(r.Context(), odometer.EnrolRequest{Agent: ask.Agent, Key: ask.Key, Proof: ask.Proof, Secret: secret, Remote: actor(r).Remote})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, Enrolled{Agent: h.Agent, Key: h.Key, EnrolledAt: h.Enrolled, QueueURL: queue})
}

func (s *server) getHosts(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r, s.router.clock())
	after, limit := p.text("after"), p.number("limit", DefaultPage, MaxPage)
	if after != "" {
		if err := odometer.ValidID("it", after); err != nil {
			p.fail("after", "%s", reason(err))
		}
	}
	if err := p.done(); err != nil {
		return err
	}
	if s.Hosts == nil {
		return absent("accounts")
	}
	list, err := s.Hosts.Hosts(r.Context(), odometer.AgentID(after), limit+1) // one more says whether there are more
	if err != nil {
		return err
	}
	answer := HostsAnswer{Hosts: []Host{}}
	if len(list) > limit {
		list = list[:limit]
		answer.Next = new(list[limit-1].Agent)
		w.Header().Add("Link", fmt.Sprintf("<%s>; rel=\"next\"", pageAfter(r.URL, string(*answer.Next))))
	}
	for i := range list {
		answer.Hosts = append(answer.Hosts, hostOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

// host answers with what do returns for the host in the path of a request that has
// no parameters.
func (s *server) host(w http.ResponseWriter, r *http.Request, do func(odometer.AgentID) (odometer.Host, error)) error {
	errs := []error{queryOf(r, s.router.clock()).done()}
	id := r.PathValue("id")
	if err := odometer.ValidID("it", id); err != nil {
		errs = append(errs, FieldError{"path", "id", reason(err)})
	}
	if err := join(errs...); err != nil {
		return err
	}
	if s.Hosts == nil {
		return absent("accounts")
	}
	h, err := do(odometer.AgentID(id))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, hostOf(&h))
}

func (s *server) getHost(w http.ResponseWriter, r *http.Request) error {
	return s.host(w, r, func(id odometer.AgentID) (odometer.Host, error) { return s.Hosts.Host(r.Context(), id) })
}

func (s *server) deleteHost(w http.ResponseWriter, r *http.Request) error {
	return s.host(w, r, func(id odometer.AgentID) (odometer.Host, error) {
		return s.Hosts.RevokeHost(r.Context(), actor(r), id)
	})
}
