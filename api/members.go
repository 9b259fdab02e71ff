package api

import (
	"net/http"
	"net/url"
	"time"

	"example.org/odometer"
)

// Member is a membership as an answer has it. Its version is its ETag.
type Member struct {
	Org       odometer.OrgID  `json:"org_id"`
	User      odometer.UserID `json:"user_id"`
	Role      odometer.Role   `json:"role"`
	Version   int64           `json:"version"`
	CreatedAt time.Time       `json:"created_at"`
	UpdatedAt time.Time       `json:"updated_at"`
}

// MemberRequest is the body of POST /api/v1/organizations/{id}/members.
type MemberRequest struct {
	User odometer.UserID `json:"user_id"`
	MemberChange
}

// MemberChange is the body of PUT /api/v1/organizations/{id}/members/{user}.
type MemberChange struct {
	Role odometer.Role `json:"role"`
}

// MembersAnswer is the body of GET /api/v1/organizations/{id}/members, in the order
// of the users' ids. Next is the cursor of the page that follows, null when there
// is none.
type MembersAnswer struct {
	Members []Member         `json:"members"`
	Next    *odometer.UserID `json:"next"`
}

func memberOf(m *odometer.Membership) Member {
	return Member{m.Org, m.User, m.Role, m.Version, m.Created, m.Updated}
}

func (s *server) getMembers(w http.ResponseWriter, r *http.Request) error {
	after, limit, err := s.pageOf(r)
	org := odometer.OrgID(r.PathValue("id"))
	var wrong checks
	wrong.path("id", odometer.ValidOrgID(org))
	if err := join(append(wrong, err)...); err != nil {
		return err
	}
	list, err := s.People.Members(r.Context(), caller(r), org, odometer.UserID(after), limit+1)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, limit, func(m odometer.Membership) odometer.UserID { return m.User })
	answer := MembersAnswer{Members: []Member{}, Next: next}
	for i := range list {
		answer.Members = append(answer.Members, memberOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postMember(w http.ResponseWriter, r *http.Request) error {
	org, wrong, err := s.organisation(r)
	if err != nil {
		return err
	}
	var ask MemberRequest
	once, err := readOnce(r, &ask)
	if err != nil {
		wrong = append(wrong, err)
	} else {
		wrong.body("user_id", odometer.ValidUserID(ask.User))
		wrong.body("role", odometer.ValidRole(ask.Role))
	}
	if err := join(wrong...); err != nil {
		return err
	}
	m, err := s.People.AddMember(r.Context(), actor(r), once, odometer.Membership{Org: org, User: ask.User, Role: ask.Role})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/organizations/"+url.PathEscape(string(m.Org))+"/members/"+url.PathEscape(string(m.User)))
	return writeVersion(w, http.StatusCreated, m.Version, memberOf(&m))
}

// member returns which membership the path names.
func (s *server) member(r *http.Request) (odometer.OrgID, odometer.UserID, checks, error) {
	org, wrong, err := s.organisation(r)
	user := odometer.UserID(r.PathValue("user"))
	wrong.path("user", odometer.ValidUserID(user))
	return org, user, wrong, err
}

func (s *server) getMember(w http.ResponseWriter, r *http.Request) error {
	org, user, wrong, err := s.member(r)
	if err == nil {
		err = join(wrong...)
	}
	if err != nil {
		return err
	}
	m, err := s.People.Member(r.Context(), caller(r), org, user)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, m.Version, memberOf(&m))
}

func (s *server) putMember(w http.ResponseWriter, r *http.Request) error {
	org, user, wrong, err := s.member(r)
	if err != nil {
		return err
	}
	var ask MemberChange
	if err := readJSON(r, &ask); err != nil {
		wrong = append(wrong, err)
	} else {
		wrong.body("role", odometer.ValidRole(ask.Role))
	}
	version, err := s.changes(r, wrong)
	if err != nil {
		return err
	}
	m, err := s.People.SetMember(r.Context(), actor(r), org, user, version, ask.Role)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, m.Version, memberOf(&m))
}

func (s *server) deleteMember(w http.ResponseWriter, r *http.Request) error {
	org, user, wrong, err := s.member(r)
	if err != nil {
		return err
	}
	version, err := s.changes(r, wrong)
	if err != nil {
		return err
	}
	m, err := s.People.RemoveMember(r.Context(), actor(r), org, user, version)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, m.Version, memberOf(&m))
}
