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
	Version   int64           `json:"version" schema:"minimum=1"`
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

// MembersAnswer is the body of GET /api/v1/organizations/{id}/members.
type MembersAnswer struct {
	Members []Member `json:"members"` // in the order of the users' ids
	Next    *string  `json:"next"`    // cursor of the page that follows, null when there is none
}

func memberOf(m *odometer.Membership) Member {
	return Member{m.Org, m.User, m.Role, m.Version, m.Created, m.Updated}
}

func (s *server) memberRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/organizations/{id}/members", access: reader, handle: s.getMembers,
			id: "members", tag: "people", summary: "The members of an organisation that the caller sees",
			description: "Owners and admins see all, everybody himself.",
			params:      []*parameter{orgPath, afterCursor, limitParam},
			replies:     []reply{answers(http.StatusOK, "One page.", MembersAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "POST /api/v1/organizations/{id}/members", access: accountHolder, handle: s.postMember,
			id: "addMember", tag: "people", summary: "Make a user a member of an organisation",
			description: "Owners and admins add whom they see in any of their organisations; the administrator adds anybody.",
			params:      []*parameter{orgPath, onceHeader},
			takes:       takes(MemberRequest{}),
			replies:     []reply{answers(http.StatusCreated, "The membership.", Member{}, versioned, location)}, fails: creates,
		},
		{
			pattern: "GET /api/v1/organizations/{id}/members/{user}", access: reader, handle: s.getMember,
			id: "member", tag: "people", summary: "One membership",
			description: "What a user is in an organisation.",
			params:      []*parameter{orgPath, memberPath},
			replies:     []reply{answers(http.StatusOK, "The membership.", Member{}, versioned)}, fails: missing,
		},
		{
			pattern: "PUT /api/v1/organizations/{id}/members/{user}", access: accountHolder, handle: s.putMember,
			id: "setMember", tag: "people", summary: "Give a member another role",
			description: "To make or unmake an owner takes an owner, or the administrator. The last owner stays one.",
			params:      []*parameter{orgPath, memberPath, ifMatchHeader},
			takes:       takes(MemberChange{}),
			replies:     []reply{answers(http.StatusOK, "The membership as it is then.", Member{}, versioned)}, fails: changes,
		},
		{
			pattern: "DELETE /api/v1/organizations/{id}/members/{user}", access: accountHolder, handle: s.deleteMember,
			id: "removeMember", tag: "people", summary: "End a membership, at once",
			description: "Everybody may end his own. The last owner of an organisation stays.",
			params:      []*parameter{orgPath, memberPath, ifMatchHeader},
			replies:     []reply{answers(http.StatusOK, "The membership that there was.", Member{}, versioned)}, fails: changes,
		},
	}
}

func (s *server) getMembers(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	list, err := s.People.Members(r.Context(), caller(r), odometer.OrgID(p.text("id")), odometer.UserID(p.text("after")), p.limit()+1)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(m odometer.Membership) odometer.UserID { return m.User })
	answer := MembersAnswer{Members: []Member{}, Next: next}
	for i := range list {
		answer.Members = append(answer.Members, memberOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postMember(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	var ask MemberRequest
	once, err := asked(r, &ask, func(wrong *checks) {
		wrong.body("user_id", odometer.ValidUserID(ask.User))
		wrong.body("role", odometer.ValidRole(ask.Role))
	})
	if err != nil {
		return err
	}
	v, err := s.People.AddMember(r.Context(), actor(r), once, odometer.Membership{Org: odometer.OrgID(queryOf(r).text("id")), User: ask.User, Role: ask.Role})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/organizations/"+url.PathEscape(string(v.Org))+"/members/"+url.PathEscape(string(v.User)))
	return writeVersion(w, http.StatusCreated, v.Version, memberOf(&v))
}

func (s *server) getMember(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	v, err := s.People.Member(r.Context(), caller(r), odometer.OrgID(p.text("id")), odometer.UserID(p.text("user")))
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, memberOf(&v))
}

func (s *server) putMember(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	var ask MemberChange
	if _, err := asked(r, &ask, func(wrong *checks) { wrong.body("role", odometer.ValidRole(ask.Role)) }); err != nil {
		return err
	}
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	p := queryOf(r)
	v, err := s.People.SetMember(r.Context(), actor(r), odometer.OrgID(p.text("id")), odometer.UserID(p.text("user")), version, ask.Role)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, memberOf(&v))
}

func (s *server) deleteMember(w http.ResponseWriter, r *http.Request) error {
	if s.People == nil {
		return absent("accounts")
	}
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	p := queryOf(r)
	v, err := s.People.RemoveMember(r.Context(), actor(r), odometer.OrgID(p.text("id")), odometer.UserID(p.text("user")), version)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, v.Version, memberOf(&v))
}
