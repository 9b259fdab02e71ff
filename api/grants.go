package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"example.org/odometer"
)

// GrantAdmin keeps the grants on instances and decides what a caller sees and may
// change of them, with errors as [PeopleAdmin] has them. Owns says whose the instance
// is now as it is recorded, and until when: the zero Owner where it is not.
type GrantAdmin interface {
	AddGrant(ctx context.Context, by odometer.Actor, once odometer.Once, owns odometer.Ownership, g odometer.Grant) (odometer.Grant, error)
	Grant(ctx context.Context, by odometer.Caller, owns odometer.Ownership, user odometer.UserID) (odometer.Grant, error)
	Grants(ctx context.Context, by odometer.Caller, owns odometer.Ownership, after odometer.UserID, limit int) ([]odometer.Grant, error)
	SetGrant(ctx context.Context, by odometer.Actor, owns odometer.Ownership, user odometer.UserID, version int64, level odometer.Level, expires time.Time) (odometer.Grant, error)
	EndGrant(ctx context.Context, by odometer.Actor, owns odometer.Ownership, user odometer.UserID, version int64) (odometer.Grant, error)
	// Transferred ends what is in the name of who had the instance before o.
	Transferred(ctx context.Context, by odometer.Actor, o odometer.Ownership) error
}

// Grant is a grant on an instance as an answer has it. Its version is its ETag.
type Grant struct {
	Instance odometer.InstanceID `json:"instance_id"`
	User     odometer.UserID     `json:"user_id"` // who holds it
	Level    odometer.Level      `json:"level"`
	// OfUser and OfOrg are the owner in whose name it is given: what is charged to
	// that owner it shows. Both are null for what the operator gave, which shows
	// whatever the instance uses.
	OfUser    *odometer.UserID `json:"of_user_id"`
	OfOrg     *odometer.OrgID  `json:"of_org_id"`
	Since     time.Time        `json:"since"`      // what is used from then on is seen: the beginning of an hour (UTC)
	ExpiresAt *time.Time       `json:"expires_at"` // null for never
	GivenBy   *odometer.UserID `json:"given_by"`   // who gave it or changed it last, null for the operator
	Version   int64            `json:"version" schema:"minimum=1"`
	CreatedAt time.Time        `json:"created_at"`
	UpdatedAt time.Time        `json:"updated_at"`
}

// GrantRequest is the body of POST /api/v1/instances/{id}/grants.
type GrantRequest struct {
	User odometer.UserID `json:"user_id"`
	// Since is RFC 3339, or relative to now such as -30d; absent for now. The hour in
	// which it lies is seen as a whole.
	Since string `json:"since,omitempty"`
	GrantChange
}

// GrantChange is the body of PUT /api/v1/instances/{id}/grants/{user}.
type GrantChange struct {
	Level odometer.Level `json:"level"`
	// ExpiresAt is RFC 3339, or relative to now such as +90d; absent or null for never.
	ExpiresAt *string `json:"expires_at,omitempty" schema:"nullable"`
}

// GrantsAnswer is the body of GET /api/v1/instances/{id}/grants.
type GrantsAnswer struct {
	Grants []Grant `json:"grants"` // in the order of the users' ids
	Next   *string `json:"next"`   // cursor of the page that follows, null when there is none
}

func grantOf(g *odometer.Grant) Grant {
	return Grant{
		Instance: g.Instance, User: g.User, Level: g.Level, OfUser: named(g.Of.User), OfOrg: named(g.Of.Org), Since: g.Since, ExpiresAt: ever(g.Expires),
		GivenBy: named(g.By), Version: g.Version, CreatedAt: g.Created, UpdatedAt: g.Updated,
	}
}

var holderPath = &parameter{
	name: "user", in: inPath, component: "HolderId", most: odometer.MaxIDBytes, valid: validUser, example: "u-bob", description: "the user who holds the grant",
}

func (s *server) grantRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/instances/{id}/grants", access: reader, handle: s.getGrants,
			id: "grants", tag: "instances", summary: "The grants on an instance that the caller sees",
			description: "Who sees the instance as its owner, and owners and managers by a grant, see all; everybody his own. " +
				"An instance on which none is seen has an empty list, whether it is there or not.",
			params:  []*parameter{instancePath, afterCursor, limitParam},
			replies: []reply{answers(http.StatusOK, "One page.", GrantsAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "POST /api/v1/instances/{id}/grants", access: accountHolder, handle: s.postGrant,
			id: "addGrant", tag: "instances", summary: "Let a user see an instance, from a moment on",
			description: "Its owner as it is recorded does, the owners and admins of the organisation whose it is, and who holds a grant of a higher level, " +
				"to whom they see in any of their organisations; the operator to anybody. A grant ends when the instance changes hands, " +
				"unless the operator gave it.",
			params:  []*parameter{instancePath, onceHeader},
			takes:   takes(GrantRequest{}),
			replies: []reply{answers(http.StatusCreated, "The grant.", Grant{}, versioned, location)}, fails: creates,
		},
		{
			pattern: "GET /api/v1/instances/{id}/grants/{user}", access: reader, handle: s.getGrant,
			id: "grant", tag: "instances", summary: "One grant",
			description: "What a user is given on an instance.",
			params:      []*parameter{instancePath, holderPath},
			replies:     []reply{answers(http.StatusOK, "The grant.", Grant{}, versioned)}, fails: missing,
		},
		{
			pattern: "PUT /api/v1/instances/{id}/grants/{user}", access: accountHolder, handle: s.putGrant,
			id: "setGrant", tag: "instances", summary: "Give a grant another level and another end",
			description: "Who does might give both levels. What the operator gave he changes.",
			params:      []*parameter{instancePath, holderPath, ifMatchHeader},
			takes:       takes(GrantChange{}),
			replies:     []reply{answers(http.StatusOK, "The grant as it is then.", Grant{}, versioned)}, fails: changes,
		},
		{
			pattern: "DELETE /api/v1/instances/{id}/grants/{user}", access: accountHolder, handle: s.deleteGrant,
			id: "endGrant", tag: "instances", summary: "End a grant, at once",
			description: "Who might give it does, and everybody ends his own.",
			params:      []*parameter{instancePath, holderPath, ifMatchHeader},
			replies:     []reply{answers(http.StatusOK, "The grant that there was.", Grant{}, versioned)}, fails: changes,
		},
	}
}

// owned returns whose the instance of a request is now as it is recorded, and until
// when at least.
func (s *server) owned(r *http.Request) (o odometer.Ownership, err error) {
	p := queryOf(r)
	o.Instance = odometer.InstanceID(p.text("id"))
	if s.Grants == nil {
		return o, absent("accounts")
	}
	if s.Ownership == nil {
		return o, absent("ledger")
	}
	list, err := s.Ownership.Ownership(r.Context(), o.Instance)
	if err == nil {
		o.From = p.now.UnixMicro()
		o.Owner, o.Until = odometer.OwnerAt(list, o.From, odometer.Owner{})
	}
	return o, err
}

// transferred ends the grants that end where an instance is assigned to an owner.
func (s *server) transferred(r *http.Request, o *odometer.Ownership) error {
	if s.Grants == nil {
		return nil
	}
	if err := s.Grants.Transferred(r.Context(), actor(r), *o); err != nil {
		return fmt.Errorf("%s is assigned; assign it again, so that grants of before are ended too: %w", o.Instance, err)
	}
	return nil
}

// expiry reads when a grant ends.
func (c *GrantChange) expiry(wrong *checks, now time.Time) (at time.Time) {
	if c.ExpiresAt == nil {
		return at
	}
	at, err := ParseTime(*c.ExpiresAt, now)
	if err == nil && !at.After(now) {
		err = fmt.Errorf("%s is past", formatMicros(at.UnixMicro()))
	}
	wrong.body("expires_at", err)
	return at
}

func (s *server) getGrants(w http.ResponseWriter, r *http.Request) error {
	owns, err := s.owned(r)
	if err != nil {
		return err
	}
	p := queryOf(r)
	list, err := s.Grants.Grants(r.Context(), caller(r), owns, odometer.UserID(p.text("after")), p.limit()+1)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(g odometer.Grant) odometer.UserID { return g.User })
	answer := GrantsAnswer{Grants: []Grant{}, Next: next}
	for i := range list {
		answer.Grants = append(answer.Grants, grantOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postGrant(w http.ResponseWriter, r *http.Request) error {
	if s.Grants == nil {
		return absent("accounts")
	}
	var ask GrantRequest
	g := odometer.Grant{Instance: odometer.InstanceID(queryOf(r).text("id"))}
	now := queryOf(r).now
	once, err := asked(r, &ask, func(wrong *checks) {
		wrong.body("user_id", odometer.ValidUserID(ask.User))
		wrong.body("level", odometer.ValidLevel(ask.Level))
		if ask.Since != "" {
			var err error
			if g.Since, err = ParseTime(ask.Since, now); err == nil && g.Since.After(now) {
				err = fmt.Errorf("%s is not past", formatMicros(g.Since.UnixMicro()))
			}
			wrong.body("since", err)
		}
		g.User, g.Level, g.Expires = ask.User, ask.Level, ask.expiry(wrong, now)
	})
	if err != nil {
		return err
	}
	owns, err := s.owned(r)
	if err != nil {
		return err
	}
	v, err := s.Grants.AddGrant(r.Context(), actor(r), once, owns, g)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/instances/"+url.PathEscape(string(v.Instance))+"/grants/"+url.PathEscape(string(v.User)))
	return writeVersion(w, http.StatusCreated, v.Version, grantOf(&v))
}

func (s *server) getGrant(w http.ResponseWriter, r *http.Request) error {
	owns, err := s.owned(r)
	if err != nil {
		return err
	}
	v, err := s.Grants.Grant(r.Context(), caller(r), owns, odometer.UserID(queryOf(r).text("user")))
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, grantOf(&v))
}

func (s *server) putGrant(w http.ResponseWriter, r *http.Request) error {
	if s.Grants == nil {
		return absent("accounts")
	}
	var ask GrantChange
	var expires time.Time
	if _, err := asked(r, &ask, func(wrong *checks) {
		wrong.body("level", odometer.ValidLevel(ask.Level))
		expires = ask.expiry(wrong, queryOf(r).now)
	}); err != nil {
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
	v, err := s.Grants.SetGrant(r.Context(), actor(r), owns, odometer.UserID(queryOf(r).text("user")), version, ask.Level, expires)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, grantOf(&v))
}

func (s *server) deleteGrant(w http.ResponseWriter, r *http.Request) error {
	if s.Grants == nil {
		return absent("accounts")
	}
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	owns, err := s.owned(r)
	if err != nil {
		return err
	}
	v, err := s.Grants.EndGrant(r.Context(), actor(r), owns, odometer.UserID(queryOf(r).text("user")), version)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, grantOf(&v))
}
