package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"example.org/odometer"
)

// PeopleAdmin keeps organisations, users and memberships, and decides what a caller
// sees and may change of them. What he does not see wraps [odometer.ErrNotFound] as
// what there is not, what he sees and may not change [odometer.ErrForbidden], what
// was changed since the version that he names [odometer.ErrStale], and another
// request under a key that was used [odometer.ErrReused]. Lists are in the order of
// their ids and begin after the one named.
type PeopleAdmin interface {
	CreateOrganisation(ctx context.Context, by odometer.Actor, once odometer.Once, o odometer.Organisation, owner odometer.UserID) (odometer.Organisation, error)
	Organisation(ctx context.Context, by odometer.Caller, id odometer.OrgID) (odometer.Organisation, error)
	Organisations(ctx context.Context, by odometer.Caller, after odometer.OrgID, limit int) ([]odometer.Organisation, error)
	UpdateOrganisation(ctx context.Context, by odometer.Actor, id odometer.OrgID, version int64, name string) (odometer.Organisation, error)
	DeleteOrganisation(ctx context.Context, by odometer.Actor, id odometer.OrgID, version int64) (odometer.Organisation, error)

	CreateUser(ctx context.Context, by odometer.Actor, once odometer.Once, u odometer.User) (odometer.User, error)
	User(ctx context.Context, by odometer.Caller, id odometer.UserID) (odometer.User, error)
	Users(ctx context.Context, by odometer.Caller, after odometer.UserID, limit int) ([]odometer.User, error)
	UpdateUser(ctx context.Context, by odometer.Actor, id odometer.UserID, version int64, name, email string) (odometer.User, error)
	DeleteUser(ctx context.Context, by odometer.Actor, id odometer.UserID, version int64) (odometer.User, error)

	AddMember(ctx context.Context, by odometer.Actor, once odometer.Once, m odometer.Membership) (odometer.Membership, error)
	Member(ctx context.Context, by odometer.Caller, org odometer.OrgID, user odometer.UserID) (odometer.Membership, error)
	Members(ctx context.Context, by odometer.Caller, org odometer.OrgID, after odometer.UserID, limit int) ([]odometer.Membership, error)
	SetMember(ctx context.Context, by odometer.Actor, org odometer.OrgID, user odometer.UserID, version int64, role odometer.Role) (odometer.Membership, error)
	RemoveMember(ctx context.Context, by odometer.Actor, org odometer.OrgID, user odometer.UserID, version int64) (odometer.Membership, error)
}

// Organisation is an organisation as an answer has it. Its version is its ETag.
type Organisation struct {
	ID        odometer.OrgID `json:"id"`
	Name      string         `json:"name"` // "" once it is deleted
	Version   int64          `json:"version"`
	CreatedAt time.Time      `json:"created_at"`
	UpdatedAt time.Time      `json:"updated_at"`
	DeletedAt *time.Time     `json:"deleted_at"` // null while it is not
}

// User is a user as an answer has him. His version is his ETag.
type User struct {
	ID        odometer.UserID `json:"id"`
	Name      string          `json:"name"` // "" once he is deleted
	Email     string          `json:"email"`
	Version   int64           `json:"version"`
	CreatedAt time.Time       `json:"created_at"`
	UpdatedAt time.Time       `json:"updated_at"`
	DeletedAt *time.Time      `json:"deleted_at"` // null while he is not
}

// OrganisationRequest is the body of POST /api/v1/organizations.
type OrganisationRequest struct {
	ID    odometer.OrgID  `json:"id"`
	Name  string          `json:"name"`
	Owner odometer.UserID `json:"owner_id,omitempty"` // its first owner; "" for none yet
}

// OrganisationChange is the body of PUT /api/v1/organizations/{id}.
type OrganisationChange struct {
	Name string `json:"name"`
}

// UserRequest is the body of POST /api/v1/users.
type UserRequest struct {
	ID odometer.UserID `json:"id"`
	UserChange
}

// UserChange is the body of PUT /api/v1/users/{id}.
type UserChange struct {
	Name  string `json:"name"`
	Email string `json:"email,omitempty"` // "" for none
}

// OrganisationsAnswer is the body of GET /api/v1/organizations, in the order of
// their ids. Next is the cursor of the page that follows, null when there is none.
type OrganisationsAnswer struct {
	Organisations []Organisation  `json:"organizations"`
	Next          *odometer.OrgID `json:"next"`
}

// UsersAnswer is the body of GET /api/v1/users, in the order of their ids. Next is
// the cursor of the page that follows, null when there is none.
type UsersAnswer struct {
	Users []User           `json:"users"`
	Next  *odometer.UserID `json:"next"`
}

func organisationOf(o *odometer.Organisation) Organisation {
	return Organisation{o.ID, o.Name, o.Version, o.Created, o.Updated, ever(o.Deleted)}
}

func userOf(u *odometer.User) User {
	return User{u.ID, u.Name, u.Email, u.Version, u.Created, u.Updated, ever(u.Deleted)}
}

// checks gathers what is wrong with a request.
type checks []error

// body notes what is wrong with a member of the body.
func (c *checks) body(field string, err error) {
	if err != nil {
		*c = append(*c, FieldError{"body", "$." + field, reason(err)})
	}
}

// path notes what is wrong with a part of the path.
func (c *checks) path(name string, err error) {
	if err != nil {
		*c = append(*c, FieldError{"path", name, reason(err)})
	}
}

// people begins a request that is about people and has no parameters.
func (s *server) people(r *http.Request) (checks, error) {
	if s.People == nil {
		return nil, absent("accounts")
	}
	if err := queryOf(r, s.router.clock()).done(); err != nil {
		return checks{err}, nil
	}
	return nil, nil
}

// pageOf reads the parameters of a list of people.
func (s *server) pageOf(r *http.Request) (after string, limit int, err error) {
	if s.People == nil {
		return "", 0, absent("accounts")
	}
	p := queryOf(r, s.router.clock())
	after, limit = p.id("after"), p.number("limit", DefaultPage, MaxPage)
	return after, limit, p.done()
}

// paged cuts a list that has one more than the limit where there are more, and
// says where it goes on.
func paged[T any, ID ~string](w http.ResponseWriter, r *http.Request, list []T, limit int, id func(T) ID) ([]T, *ID) {
	if len(list) <= limit {
		return list, nil
	}
	list = list[:limit]
	next := id(list[limit-1])
	w.Header().Add("Link", fmt.Sprintf("<%s>; rel=\"next\"", pageAfter(r.URL, string(next))))
	return list, &next
}

func (s *server) getOrganisations(w http.ResponseWriter, r *http.Request) error {
	after, limit, err := s.pageOf(r)
	if err != nil {
		return err
	}
	list, err := s.People.Organisations(r.Context(), caller(r), odometer.OrgID(after), limit+1)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, limit, func(o odometer.Organisation) odometer.OrgID { return o.ID })
	answer := OrganisationsAnswer{Organisations: []Organisation{}, Next: next}
	for i := range list {
		answer.Organisations = append(answer.Organisations, organisationOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postOrganisation(w http.ResponseWriter, r *http.Request) error {
	wrong, err := s.people(r)
	if err != nil {
		return err
	}
	var ask OrganisationRequest
	once, err := readOnce(r, &ask)
	if err != nil {
		wrong = append(wrong, err)
	} else {
		wrong.body("id", odometer.ValidOrgID(ask.ID))
		wrong.body("name", odometer.ValidName(ask.Name))
		if ask.Owner != "" {
			wrong.body("owner_id", odometer.ValidUserID(ask.Owner))
		}
	}
	if err := join(wrong...); err != nil {
		return err
	}
	o, err := s.People.CreateOrganisation(r.Context(), actor(r), once, odometer.Organisation{ID: ask.ID, Name: ask.Name}, ask.Owner)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/organizations/"+url.PathEscape(string(o.ID)))
	return writeVersion(w, http.StatusCreated, o.Version, organisationOf(&o))
}

// organisation returns which organisation the path names.
func (s *server) organisation(r *http.Request) (odometer.OrgID, checks, error) {
	wrong, err := s.people(r)
	id := odometer.OrgID(r.PathValue("id"))
	wrong.path("id", odometer.ValidOrgID(id))
	return id, wrong, err
}

func (s *server) getOrganisation(w http.ResponseWriter, r *http.Request) error {
	id, wrong, err := s.organisation(r)
	if err == nil {
		err = join(wrong...)
	}
	if err != nil {
		return err
	}
	o, err := s.People.Organisation(r.Context(), caller(r), id)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, o.Version, organisationOf(&o))
}

func (s *server) putOrganisation(w http.ResponseWriter, r *http.Request) error {
	id, wrong, err := s.organisation(r)
	if err != nil {
		return err
	}
	var ask OrganisationChange
	if err := readJSON(r, &ask); err != nil {
		wrong = append(wrong, err)
	} else {
		wrong.body("name", odometer.ValidName(ask.Name))
	}
	version, err := s.changes(r, wrong)
	if err != nil {
		return err
	}
	o, err := s.People.UpdateOrganisation(r.Context(), actor(r), id, version, ask.Name)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, o.Version, organisationOf(&o))
}

// changes returns which version a request changes, where nothing else is wrong
// with it.
func (s *server) changes(r *http.Request, wrong checks) (int64, error) {
	if err := join(wrong...); err != nil {
		return 0, err
	}
	return ifMatch(r)
}

func (s *server) deleteOrganisation(w http.ResponseWriter, r *http.Request) error {
	id, wrong, err := s.organisation(r)
	if err != nil {
		return err
	}
	version, err := s.changes(r, wrong)
	if err != nil {
		return err
	}
	o, err := s.People.DeleteOrganisation(r.Context(), actor(r), id, version)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, o.Version, organisationOf(&o))
}

func (s *server) getUsers(w http.ResponseWriter, r *http.Request) error {
	after, limit, err := s.pageOf(r)
	if err != nil {
		return err
	}
	list, err := s.People.Users(r.Context(), caller(r), odometer.UserID(after), limit+1)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, limit, func(u odometer.User) odometer.UserID { return u.ID })
	answer := UsersAnswer{Users: []User{}, Next: next}
	for i := range list {
		answer.Users = append(answer.Users, userOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postUser(w http.ResponseWriter, r *http.Request) error {
	wrong, err := s.people(r)
	if err != nil {
		return err
	}
	var ask UserRequest
	once, err := readOnce(r, &ask)
	if err != nil {
		wrong = append(wrong, err)
	} else {
		wrong.body("id", odometer.ValidUserID(ask.ID))
		ask.check(&wrong)
	}
	if err := join(wrong...); err != nil {
		return err
	}
	u, err := s.People.CreateUser(r.Context(), actor(r), once, odometer.User{ID: ask.ID, Name: ask.Name, Email: ask.Email})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/users/"+url.PathEscape(string(u.ID)))
	return writeVersion(w, http.StatusCreated, u.Version, userOf(&u))
}

func (u *UserChange) check(wrong *checks) {
	wrong.body("name", odometer.ValidName(u.Name))
	wrong.body("email", odometer.ValidEmail(u.Email))
}

// user returns which user the path names.
func (s *server) user(r *http.Request) (odometer.UserID, checks, error) {
	wrong, err := s.people(r)
	id := odometer.UserID(r.PathValue("id"))
	wrong.path("id", odometer.ValidUserID(id))
	return id, wrong, err
}

func (s *server) getUser(w http.ResponseWriter, r *http.Request) error {
	id, wrong, err := s.user(r)
	if err == nil {
		err = join(wrong...)
	}
	if err != nil {
		return err
	}
	u, err := s.People.User(r.Context(), caller(r), id)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, u.Version, userOf(&u))
}

func (s *server) putUser(w http.ResponseWriter, r *http.Request) error {
	id, wrong, err := s.user(r)
	if err != nil {
		return err
	}
	var ask UserChange
	if err := readJSON(r, &ask); err != nil {
		wrong = append(wrong, err)
	} else {
		ask.check(&wrong)
	}
	version, err := s.changes(r, wrong)
	if err != nil {
		return err
	}
	u, err := s.People.UpdateUser(r.Context(), actor(r), id, version, ask.Name, ask.Email)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, u.Version, userOf(&u))
}

func (s *server) deleteUser(w http.ResponseWriter, r *http.Request) error {
	id, wrong, err := s.user(r)
	if err != nil {
		return err
	}
	version, err := s.changes(r, wrong)
	if err != nil {
		return err
	}
	u, err := s.People.DeleteUser(r.Context(), actor(r), id, version)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, u.Version, userOf(&u))
}
