package api

import (
	"net/http"
	"net/url"
	"time"

	"example.org/odometer"
)

// User is a user as an answer has him. His version is his ETag.
type User struct {
	ID        odometer.UserID `json:"id"`
	Name      string          `json:"name"`  // empty once he is deleted
	Email     string          `json:"email"` // empty for none
	Version   int64           `json:"version" schema:"minimum=1"`
	CreatedAt time.Time       `json:"created_at"`
	UpdatedAt time.Time       `json:"updated_at"`
	DeletedAt *time.Time      `json:"deleted_at"` // null while he is not
}

// UserRequest is the body of POST /api/v1/users.
type UserRequest struct {
	ID odometer.UserID `json:"id"` // what usage names as its user; for good
	UserChange
}

// UserChange is the body of PUT /api/v1/users/{id}.
type UserChange struct {
	// Name is one line of printable text, for people.
	Name  string `json:"name" schema:"minLength=1,maxLength=128"`
	Email string `json:"email,omitempty" schema:"maxLength=254"` // absent or empty for none
}

// UsersAnswer is the body of GET /api/v1/users.
type UsersAnswer struct {
	Users []User  `json:"users"` // in the order of their ids
	Next  *string `json:"next"`  // cursor of the page that follows, null when there is none
}

func userOf(u *odometer.User) User {
	return User{u.ID, u.Name, u.Email, u.Version, u.Created, u.Updated, ever(u.Deleted)}
}

func (u *UserChange) check(wrong *checks) {
	wrong.body("name", odometer.ValidName(u.Name))
	wrong.body("email", odometer.ValidEmail(u.Email))
}

func (s *server) userRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/users", access: reader, handle: s.getUsers,
			id: "users", tag: "people", summary: "The users that the caller sees",
			description: "The administrator sees all, a user himself. Those that are deleted are left out.",
			params:      []*parameter{afterCursor, limitParam},
			replies:     []reply{answers(http.StatusOK, "One page.", UsersAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "POST /api/v1/users", access: administrator, handle: s.postUser,
			id: "createUser", tag: "people", summary: "Create a user",
			description: "The id is for good: it is not given again after the user is deleted.",
			params:      []*parameter{onceHeader},
			takes:       takes(UserRequest{}),
			replies:     []reply{answers(http.StatusCreated, "The user.", User{}, versioned, location)}, fails: creates,
		},
		{
			pattern: "GET /api/v1/users/{id}", access: reader, handle: s.getUser,
			id: "user", tag: "people", summary: "One user",
			description: "The administrator is shown one that is deleted, too.",
			params:      []*parameter{userPath},
			replies:     []reply{answers(http.StatusOK, "The user.", User{}, versioned)}, fails: missing,
		},
		{
			pattern: "PUT /api/v1/users/{id}", access: accountHolder, handle: s.putUser,
			id: "updateUser", tag: "people", summary: "Give a user another name and e-mail address",
			description: "The administrator does, and the user himself.",
			params:      []*parameter{userPath, ifMatchHeader},
			takes:       takes(UserChange{}),
			replies:     []reply{answers(http.StatusOK, "The user as he is then.", User{}, versioned)}, fails: changes,
		},
		{
			pattern: "DELETE /api/v1/users/{id}", access: administrator, handle: s.deleteUser,
			id: "deleteUser", tag: "people", summary: "Delete a user, for good",
			description: "His tokens are revoked and his memberships end, at once. Name and address are erased; his usage stays. The last owner of an organisation is not deleted.",
			params:      []*parameter{userPath, ifMatchHeader},
			replies:     []reply{answers(http.StatusOK, "What is left of him.", User{}, versioned)}, fails: changes,
		},
	}
}

func (s *server) getUsers(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	list, err := s.People.Users(r.Context(), caller(r), odometer.UserID(p.text("after")), p.limit()+1)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(u odometer.User) odometer.UserID { return u.ID })
	answer := UsersAnswer{Users: []User{}, Next: next}
	for i := range list {
		answer.Users = append(answer.Users, userOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postUser(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	var ask UserRequest
	once, err := asked(r, &ask, func(wrong *checks) {
		wrong.body("id", odometer.ValidUserID(ask.ID))
		ask.check(wrong)
	})
	if err != nil {
		return err
	}
	v, err := s.People.CreateUser(r.Context(), actor(r), once, odometer.User{ID: ask.ID, Name: ask.Name, Email: ask.Email})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/users/"+url.PathEscape(string(v.ID)))
	return writeVersion(w, http.StatusCreated, v.Version, userOf(&v))
}

func (s *server) getUser(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	v, err := s.People.User(r.Context(), caller(r), odometer.UserID(p.text("id")))
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, userOf(&v))
}

func (s *server) putUser(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	var ask UserChange
	if _, err := asked(r, &ask, ask.check); err != nil {
		return err
	}
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	p := queryOf(r)
	v, err := s.People.UpdateUser(r.Context(), actor(r), odometer.UserID(p.text("id")), version, ask.Name, ask.Email)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, userOf(&v))
}

func (s *server) deleteUser(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	p := queryOf(r)
	v, err := s.People.DeleteUser(r.Context(), actor(r), odometer.UserID(p.text("id")), version)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, userOf(&v))
}
