package api

import (
	"net/http"
	"net/url"
	"time"

	"example.org/odometer"
)

// Organisation is an organisation as an answer has it. Its version is its ETag.
type Organisation struct {
	ID        odometer.OrgID `json:"id"`
	Name      string         `json:"name"` // empty once it is deleted
	Version   int64          `json:"version" schema:"minimum=1"`
	CreatedAt time.Time      `json:"created_at"`
	UpdatedAt time.Time      `json:"updated_at"`
	DeletedAt *time.Time     `json:"deleted_at"` // null while it is not
}

// OrganisationRequest is the body of POST /api/v1/organizations.
type OrganisationRequest struct {
	ID odometer.OrgID `json:"id"` // what usage names as its organisation; for good
	// Name is one line of printable text, for people.
	Name  string          `json:"name" schema:"minLength=1,maxLength=128"`
	Owner odometer.UserID `json:"owner_id,omitempty"` // its first owner; absent for none yet
}

// OrganisationChange is the body of PUT /api/v1/organizations/{id}.
type OrganisationChange struct {
	// Name is one line of printable text, for people.
	Name string `json:"name" schema:"minLength=1,maxLength=128"`
}

// OrganisationsAnswer is the body of GET /api/v1/organizations.
type OrganisationsAnswer struct {
	Organisations []Organisation `json:"organizations"` // in the order of their ids
	Next          *string        `json:"next"`          // cursor of the page that follows, null when there is none
}

func organisationOf(o *odometer.Organisation) Organisation {
	return Organisation{o.ID, o.Name, o.Version, o.Created, o.Updated, ever(o.Deleted)}
}

func (s *server) organisationRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/organizations", access: reader, handle: s.getOrganisations,
			id: "organizations", tag: "people", summary: "The organisations that the caller sees",
			description: "The administrator sees all, a user those that he is a member of, a service that is bound to one that. Those that are deleted are left out.",
			params:      []*parameter{afterCursor, limitParam},
			replies:     []reply{answers(http.StatusOK, "One page.", OrganisationsAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "POST /api/v1/organizations", access: administrator, handle: s.postOrganisation,
			id: "createOrganization", tag: "people", summary: "Create an organisation",
			description: "Its id is for good: it is not given again after the organisation is deleted.",
			params:      []*parameter{onceHeader},
			takes:       takes(OrganisationRequest{}),
			replies:     []reply{answers(http.StatusCreated, "The organisation.", Organisation{}, versioned, location)}, fails: creates,
		},
		{
			pattern: "GET /api/v1/organizations/{id}", access: reader, handle: s.getOrganisation,
			id: "organization", tag: "people", summary: "One organisation",
			description: "The administrator is shown one that is deleted, too.",
			params:      []*parameter{orgPath},
			replies:     []reply{answers(http.StatusOK, "The organisation.", Organisation{}, versioned)}, fails: missing,
		},
		{
			pattern: "PUT /api/v1/organizations/{id}", access: accountHolder, handle: s.putOrganisation,
			id: "updateOrganization", tag: "people", summary: "Give an organisation another name",
			description: "Its owners and admins do, and the administrator.",
			params:      []*parameter{orgPath, ifMatchHeader},
			takes:       takes(OrganisationChange{}),
			replies:     []reply{answers(http.StatusOK, "The organisation as it is then.", Organisation{}, versioned)}, fails: changes,
		},
		{
			pattern: "DELETE /api/v1/organizations/{id}", access: accountHolder, handle: s.deleteOrganisation,
			id: "deleteOrganization", tag: "people", summary: "Delete an organisation, for good",
			description: "Nobody is its member any more, and tokens that are bound to it are revoked, at once. Its name is erased; its usage stays. Its owners do, and the administrator.",
			params:      []*parameter{orgPath, ifMatchHeader},
			replies:     []reply{answers(http.StatusOK, "What is left of it.", Organisation{}, versioned)}, fails: changes,
		},
	}
}

func (s *server) getOrganisations(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	list, err := s.People.Organisations(r.Context(), caller(r), odometer.OrgID(p.text("after")), p.limit()+1)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(o odometer.Organisation) odometer.OrgID { return o.ID })
	answer := OrganisationsAnswer{Organisations: []Organisation{}, Next: next}
	for i := range list {
		answer.Organisations = append(answer.Organisations, organisationOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postOrganisation(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	var ask OrganisationRequest
	once, err := asked(r, &ask, func(wrong *checks) {
		wrong.body("id", odometer.ValidOrgID(ask.ID))
		wrong.body("name", odometer.ValidName(ask.Name))
		if ask.Owner != "" {
			wrong.body("owner_id", odometer.ValidUserID(ask.Owner))
		}
	})
	if err != nil {
		return err
	}
	v, err := s.People.CreateOrganisation(r.Context(), actor(r), once, odometer.Organisation{ID: ask.ID, Name: ask.Name}, ask.Owner)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/organizations/"+url.PathEscape(string(v.ID)))
	return writeVersion(w, http.StatusCreated, v.Version, organisationOf(&v))
}

func (s *server) getOrganisation(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	v, err := s.People.Organisation(r.Context(), caller(r), odometer.OrgID(p.text("id")))
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, organisationOf(&v))
}

func (s *server) putOrganisation(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	var ask OrganisationChange
	if _, err := asked(r, &ask, func(wrong *checks) { wrong.body("name", odometer.ValidName(ask.Name)) }); err != nil {
		return err
	}
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	p := queryOf(r)
	v, err := s.People.UpdateOrganisation(r.Context(), actor(r), odometer.OrgID(p.text("id")), version, ask.Name)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, organisationOf(&v))
}

func (s *server) deleteOrganisation(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	p := queryOf(r)
	v, err := s.People.DeleteOrganisation(r.Context(), actor(r), odometer.OrgID(p.text("id")), version)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, organisationOf(&v))
}
