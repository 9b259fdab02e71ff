package api

import (
	"context"
	"encoding/base64"
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
	Agent   *odometer.AgentID `json:"agent_id,omitempty" schema:"nullable"` // the host that it is for; null for any that is not enrolled
	Replace bool              `json:"replace,omitempty"`                    // the host may be enrolled, and its key is then revoked
	// ExpiresAt is RFC 3339, or relative to now such as +1h, by the server's clock, at
	// most 30 days from now; null for an hour.
	ExpiresAt *string `json:"expires_at,omitempty" schema:"nullable"`
}

// Enrolment is a one-time token as an answer has it.
type Enrolment struct {
	ID        odometer.EnrolmentID `json:"id"`
	Agent     *odometer.AgentID    `json:"agent_id"` // the host that it is for; null for any that is not enrolled
	Replace   bool                 `json:"replace"`  // the host may be enrolled, and its key is then revoked
	State     string               `json:"state" schema:"enum=valid|used|expired|revoked"`
	CreatedAt time.Time            `json:"created_at"`
	CreatedBy string               `json:"created_by"`
	ExpiresAt time.Time            `json:"expires_at"`
	UsedAt    *time.Time           `json:"used_at"`    // null while it is not
	UsedBy    *odometer.AgentID    `json:"used_by"`    // the host that it let in
	RevokedAt *time.Time           `json:"revoked_at"` // null while it is not
}

// CreatedEnrolment is the answer to POST /api/v1/enrolments: the one time that the
// secret is told.
type CreatedEnrolment struct {
	Enrolment
	Secret string `json:"token" schema:"pattern=^odm_[a-z2-7]{58}$"` // the secret: it lets one host in, once
}

// EnrolmentsAnswer is the body of GET /api/v1/enrolments.
type EnrolmentsAnswer struct {
	Enrolments []Enrolment `json:"enrolments"` // the newest first
}

// EnrolRequest is the body of POST /api/v1/hosts/enrol.
type EnrolRequest struct {
	Agent odometer.AgentID `json:"agent_id"`
	Key   odometer.Key     `json:"public_key"` // ed25519, as NATS writes the key of a user
	// Proof is the signature of "odometer: host AGENT_ID has key PUBLIC_KEY" by the
	// key, in base64.
	Proof string `json:"proof"`
	// Token is the one-time token; null where the host is enrolled already.
	Token *string `json:"token,omitempty" schema:"nullable"`
}

// Enrolled is the answer to POST /api/v1/hosts/enrol: what a host that is let in
// needs to connect.
type Enrolled struct {
	Agent      odometer.AgentID `json:"agent_id"`
	Key        odometer.Key     `json:"public_key"`
	EnrolledAt time.Time        `json:"enrolled_at"`
	QueueURL   string           `json:"queue_url"` // nats:// or tls:// addresses, separated by commas
}

// Host is a host as an answer has it.
type Host struct {
	Agent      odometer.AgentID     `json:"agent_id"`
	State      string               `json:"state" schema:"enum=enrolled|revoked"`
	Key        odometer.Key         `json:"public_key"`
	EnrolledAt time.Time            `json:"enrolled_at"`
	Remote     string               `json:"remote"` // address that it was enrolled from
	Enrolment  odometer.EnrolmentID `json:"enrolment_id"`
	RevokedAt  *time.Time           `json:"revoked_at"` // null while it is not
}

// HostsAnswer is the body of GET /api/v1/hosts.
type HostsAnswer struct {
	Hosts []Host  `json:"hosts"` // in order of their agents
	Next  *string `json:"next"`  // cursor of the page that follows, null when there is none
}

var (
	hostPath = &parameter{
		name: "id", in: inPath, component: "HostId", most: odometer.MaxIDBytes, valid: identifier("agent"), example: "host-1", description: "the host, by the id of its agent",
	}
	enrolmentPath = &parameter{
		name: "id", in: inPath, component: "EnrolmentId", most: odometer.MaxIDBytes, valid: odometer.ValidEnrolmentID, pattern: "^enr_[a-z2-7]{16}$",
		example: "enr_3w54azzzfz35caaj", description: "the id of a one-time token, which is no secret",
	}
)

func (s *server) hostRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/enrolments", access: administrator, handle: s.getEnrolments,
			id: "enrolments", tag: "access", summary: "The one-time tokens of hosts, the newest first",
			description: "Those that were used, expired or were revoked too.",
			params:      []*parameter{limitParam},
			replies:     []reply{answers(http.StatusOK, "The newest.", EnrolmentsAnswer{})}, fails: missing,
		},
		{
			pattern: "POST /api/v1/enrolments", access: administrator, handle: s.postEnrolment,
			id: "createEnrolment", tag: "access", summary: "Create a one-time token that lets one host in",
			description: "The answer is the only one that ever has the secret: the server keeps a hash of it. For a host that is enrolled it is a conflict, unless that is to be replaced: its key is then revoked when the token is used.",
			takes:       takes(EnrolmentRequest{}),
			replies:     []reply{answers(http.StatusCreated, "The one-time token, with its secret.", CreatedEnrolment{})}, fails: conflict,
		},
		{
			pattern: "DELETE /api/v1/enrolments/{id}", access: administrator, handle: s.deleteEnrolment,
			id: "revokeEnrolment", tag: "access", summary: "Revoke a one-time token",
			description: "No host is let in with it after the answer. Revoking it again, or after it was used, changes nothing.",
			params:      []*parameter{enrolmentPath},
			replies:     []reply{answers(http.StatusOK, "The one-time token.", Enrolment{})}, fails: missing,
		},
		{
			pattern: "POST /api/v1/hosts/enrol", access: anybody, budget: enrolBudget, handle: s.postEnrol,
			id: "enrolHost", tag: "access", summary: "Let a host in, or confirm that it is",
			description: "No bearer token is needed: the host proves that it has the key by its signature, and that it may come in by a one-time token. Who got no answer asks again with the same key, with the token or without it, and gets the same. A token that was used, has expired, was revoked or is another server's is refused in the same words.",
			takes:       takes(EnrolRequest{}),
			replies:     []reply{answers(http.StatusOK, "The host is let in; where its queue is.", Enrolled{})},
			fails:       []int{http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusInternalServerError, http.StatusServiceUnavailable},
		},
		{
			pattern: "GET /api/v1/hosts", access: administrator, handle: s.getHosts,
			id: "hosts", tag: "access", summary: "The hosts that were enrolled, in order of their agents",
			description: "Those that were revoked too, each with its newest key. Agents that connect with a token are none of them.",
			params: []*parameter{
				afterCursor,
				limitParam,
			},
			replies: []reply{answers(http.StatusOK, "One page.", HostsAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "GET /api/v1/hosts/{id}", access: administrator, handle: s.getHost,
			id: "host", tag: "access", summary: "One host",
			description: "The one that is enrolled by this name, or was last.",
			params:      []*parameter{hostPath},
			replies:     []reply{answers(http.StatusOK, "The host.", Host{})}, fails: missing,
		},
		{
			pattern: "DELETE /api/v1/hosts/{id}", access: administrator, handle: s.deleteHost,
			id: "revokeHost", tag: "access", summary: "Revoke the key of a host, for good and at once",
			description: "Its connection to the queue is ended before the answer, and no other is let in. What it used stays. Revoking it again changes nothing.",
			params:      []*parameter{hostPath},
			replies:     []reply{answers(http.StatusOK, "The host, which is revoked.", Host{})}, fails: missing,
		},
	}
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
	p := queryOf(r)
	now, errs := p.now, []error{p.done()}
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
	p := queryOf(r)
	now, limit := p.now, p.limit()
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
	if s.Hosts == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	e, err := s.Hosts.RevokeEnrolment(r.Context(), actor(r), odometer.EnrolmentID(p.text("id")))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, enrolmentOf(&e, p.now))
}

// postEnrol answers a host that has no token for the API: what it sends says who it
// is.
func (s *server) postEnrol(w http.ResponseWriter, r *http.Request) error {
	errs := []error{queryOf(r).done()}
	r.Body = http.MaxBytesReader(w, r.Body, maxEnrolBytes)
	var ask EnrolRequest
	var proof []byte
	if err := readJSON(r, &ask); err != nil {
		errs = append(errs, err)
	} else {
		if proof, err = base64.StdEncoding.DecodeString(ask.Proof); err != nil {
			errs = append(errs, FieldError{"body", "$.proof", "it is no base64"})
		}
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
	h, err := s.Hosts.Enrol(r.Context(), odometer.EnrolRequest{Agent: ask.Agent, Key: ask.Key, Proof: proof, Secret: secret, Remote: actor(r).Remote})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, Enrolled{Agent: h.Agent, Key: h.Key, EnrolledAt: h.Enrolled, QueueURL: queue})
}

func (s *server) getHosts(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r)
	after, limit := p.text("after"), p.limit()
	if s.Hosts == nil {
		return absent("accounts")
	}
	list, err := s.Hosts.Hosts(r.Context(), odometer.AgentID(after), limit+1) // one more says whether there are more
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(h odometer.Host) odometer.AgentID { return h.Agent })
	answer := HostsAnswer{Hosts: []Host{}, Next: next}
	for i := range list {
		answer.Hosts = append(answer.Hosts, hostOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

// host answers with what do returns for the host in the path.
func (s *server) host(w http.ResponseWriter, r *http.Request, do func(odometer.AgentID) (odometer.Host, error)) error {
	if s.Hosts == nil {
		return absent("accounts")
	}
	h, err := do(odometer.AgentID(queryOf(r).text("id")))
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
