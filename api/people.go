package api

import (
	"context"
	"net/http"

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

// Parameters of routes about people.
var (
	orgPath = &parameter{
		name: "id", in: inPath, component: "OrganizationId", most: odometer.MaxIDBytes, valid: func(s string) error { return odometer.ValidOrgID(odometer.OrgID(s)) },
		example: "acme", description: "the organisation",
	}
	userPath = &parameter{
		name: "id", in: inPath, component: "UserId", most: odometer.MaxIDBytes, valid: validUser, example: "u-ada", description: "the user",
	}
	memberPath = &parameter{
		name: "user", in: inPath, component: "MemberId", most: odometer.MaxIDBytes, valid: validUser, example: "u-ada", description: "the user who is a member",
	}
	ifMatchHeader = &parameter{
		name: "If-Match", in: inHeader, example: "*", description: "the ETag of what is changed, or * for whatever there is; without it the answer is 428",
	}
	onceHeader = &parameter{
		name: "Idempotency-Key", in: inHeader, most: odometer.MaxOnceKey, example: "4be11b6f-4a5c", description: "printable ASCII: the same request under it is answered as the first time, for a day",
	}
)

func validUser(s string) error { return odometer.ValidUserID(odometer.UserID(s)) }

// versioned is the header of an answer that is of a version.
var (
	versioned = header{"ETag", "its version, for If-Match"}
	location  = header{"Location", "where it is"}
)

// Statuses of what a change of people may fail with.
var (
	creates = []int{http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity}
	changes = []int{http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired}
)

// checks gathers what is wrong with a request.
type checks []error

// body notes what is wrong with a member of the body.
func (c *checks) body(field string, err error) {
	if err != nil {
		*c = append(*c, FieldError{"body", "$." + field, reason(err)})
	}
}

// asked reads the body of a change, in which check then looks, and returns what
// names the change. All that is wrong is told at once.
func asked[T any](r *http.Request, ask *T, check func(*checks)) (odometer.Once, error) {
	once, err := onceOf(r)
	wrong := checks{queryOf(r).done(), err}
	if err := readJSON(r, ask); err != nil {
		wrong = append(wrong, err)
	} else {
		check(&wrong)
	}
	return once, join(wrong...)
}
