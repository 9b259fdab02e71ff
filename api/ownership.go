package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"example.org/odometer"
)

// OwnershipAdmin keeps who owned which instance when. Assign wraps
// [odometer.ErrInvalid] for what will not do, and [odometer.ErrConflict] where
// Until is 0 and later changes are recorded.
type OwnershipAdmin interface {
	// Ownership returns what is recorded of an instance, in order of time.
	Ownership(ctx context.Context, instance odometer.InstanceID) ([]odometer.Ownership, error)
	// Assign records an ownership and moves usage. With dry nothing is changed.
	Assign(ctx context.Context, o odometer.Ownership, actor, cause string, dry bool) (odometer.Assignment, error)
}

// OwnershipPeriod is a time in which an instance is somebody's.
type OwnershipPeriod struct {
	User  odometer.UserID `json:"user_id"` // unassigned for nobody
	Org   *odometer.OrgID `json:"org_id"`  // null for none
	From  time.Time       `json:"from"`
	Until *time.Time      `json:"until"` // null for no end
}

// OwnershipAnswer is the body of GET /api/v1/instances/{id}/ownership.
type OwnershipAnswer struct {
	Instance odometer.InstanceID `json:"instance_id"`
	// Ownership is what is recorded and seen, in order of time. In between, and where
	// nothing is recorded, usage is charged to whom its events name.
	Ownership []OwnershipPeriod `json:"ownership"`
}

// OwnershipRequest is the body of POST /api/v1/instances/{id}/ownership.
type OwnershipRequest struct {
	User odometer.UserID `json:"user_id"` // unassigned for nobody
	Org  *odometer.OrgID `json:"org_id,omitempty" schema:"nullable"`
	// From is RFC 3339, or relative to now such as -2d; absent for now.
	From string `json:"from,omitempty"`
	// Until is the same; absent for no end, which is refused where later changes are
	// recorded, since they would go: "forever" has them go.
	Until string `json:"until,omitempty"`
	// Cause is why, in one line of printable text for a person, of at most 512 bytes.
	Cause  string `json:"cause" schema:"minLength=1,maxLength=512"`
	DryRun bool   `json:"dry_run,omitempty"` // change nothing, and say what would be
}

// OwnershipChange is the answer to POST /api/v1/instances/{id}/ownership.
type OwnershipChange struct {
	Instance odometer.InstanceID `json:"instance_id"`
	OwnershipPeriod
	Replaces    []OwnershipPeriod `json:"replaces"`    // what was recorded of that time before
	Moved       []MovedUsage      `json:"moved"`       // what was used in that time and charged to others
	Corrections int               `json:"corrections"` // that are booked, two for each epoch, hour and account
	DryRun      bool              `json:"dry_run"`
}

// MovedUsage is what is taken out of one account and put into another.
type MovedUsage struct {
	FromUser odometer.UserID `json:"from_user_id"`
	FromOrg  *odometer.OrgID `json:"from_org_id"`
	ToUser   odometer.UserID `json:"to_user_id"`
	ToOrg    *odometer.OrgID `json:"to_org_id"`
	Usage    Row             `json:"usage"`
}

func periodOf(o *odometer.Ownership) OwnershipPeriod {
	p := OwnershipPeriod{User: o.Owner.User, Org: named(o.Owner.Org), From: instant(o.From)}
	if o.Until != odometer.Forever {
		p.Until = new(instant(o.Until))
	}
	return p
}

// changeOf writes an assignment, with what is moved between two accounts as one sum.
func changeOf(a *odometer.Assignment, dry bool) OwnershipChange {
	c := OwnershipChange{Instance: a.Instance, OwnershipPeriod: periodOf(&a.Ownership), Replaces: []OwnershipPeriod{}, Moved: []MovedUsage{}, DryRun: dry}
	for i := range a.Replaces {
		c.Replaces = append(c.Replaces, periodOf(&a.Replaces[i]))
	}
	c.Corrections = 2 * len(a.Moves)
	at := map[[2]odometer.Owner]int{}
	for i := range a.Moves {
		m := &a.Moves[i]
		k := [2]odometer.Owner{m.From, m.To}
		n, ok := at[k]
		if !ok {
			n = len(c.Moved)
			at[k] = n
			c.Moved = append(c.Moved, MovedUsage{FromUser: m.From.User, FromOrg: named(m.From.Org), ToUser: m.To.User, ToOrg: named(m.To.Org)})
		}
		u := &c.Moved[n].Usage
		for q, amount := range m.Usage.Vector {
			u.Totals[q].Add(amount)
		}
		u.Known |= m.Usage.Known
		if m.Recovered {
			u.Recovered.Add(m.Usage.Vector[odometer.MeasuredTime] + m.Usage.Vector[odometer.EstimatedTime])
		}
	}
	return c
}

func (s *server) ownershipRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/instances/{id}/ownership", access: reader, handle: s.getOwnership,
			id: "ownership", tag: "instances", summary: "Who owned an instance when",
			description: "What is recorded, in order of time: of others' time somebody sees nothing. An instance of which nothing is recorded, " +
				"or seen, has an empty list, whether it is there or not.",
			params:  []*parameter{instancePath},
			replies: []reply{answers(http.StatusOK, "What is recorded and seen.", OwnershipAnswer{})}, fails: missing,
		},
		{
			pattern: "POST /api/v1/instances/{id}/ownership", access: administrator, handle: s.postOwnership,
			id: "assign", tag: "instances", summary: "Say whose an instance is, from when to when",
			description: "It holds for what is used from then on, and before: what others were charged in that time is moved by corrections, " +
				"for each hour out of one account and into the other. Who decided it and why is kept in the journal. " +
				"The instance need not be there yet. What is so already is answered and changes nothing.",
			params:  []*parameter{instancePath},
			takes:   takes(OwnershipRequest{}),
			replies: []reply{answers(http.StatusOK, "What was changed, or would be.", OwnershipChange{})}, fails: conflict,
		},
	}
}

func (s *server) getOwnership(w http.ResponseWriter, r *http.Request) error {
	if s.Ownership == nil {
		return absent("ledger")
	}
	p := queryOf(r)
	instance := odometer.InstanceID(p.text("id"))
	list, err := s.Ownership.Ownership(r.Context(), instance)
	if err != nil {
		return err
	}
	answer := OwnershipAnswer{Instance: instance, Ownership: []OwnershipPeriod{}}
	view := seen(r)
	for i := range list {
		from, sees := view.SeesFrom(instance, list[i].Owner)
		if list[i].From = max(list[i].From, from); sees && list[i].From < list[i].Until {
			answer.Ownership = append(answer.Ownership, periodOf(&list[i]))
		}
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postOwnership(w http.ResponseWriter, r *http.Request) error {
	if s.Ownership == nil {
		return absent("ledger")
	}
	p := queryOf(r)
	now := p.now
	o := odometer.Ownership{Instance: odometer.InstanceID(p.text("id")), From: now.UnixMicro()}
	wrong := checks{p.done()}
	var ask OwnershipRequest
	if err := readJSON(r, &ask); err != nil {
		wrong = append(wrong, err)
	} else {
		moment := func(field, text string, into *int64) {
			if text == "" {
				return
			}
			t, err := ParseTime(text, now)
			wrong.body(field, err)
			*into = t.UnixMicro()
		}
		moment("from", ask.From, &o.From)
		if ask.Until == "forever" {
			o.Until = odometer.Forever
		} else {
			moment("until", ask.Until, &o.Until)
		}
		o.Owner.User = ask.User
		wrong.body("user_id", odometer.ValidID("user", string(ask.User)))
		if ask.Org != nil {
			o.Owner.Org = *ask.Org
			wrong.body("org_id", odometer.ValidID("org", string(*ask.Org)))
		}
		if o.Until != 0 && o.Until <= o.From {
			wrong = append(wrong, FieldError{"body", "$.until", fmt.Sprintf("%s does not lie after %s", formatMicros(o.Until), formatMicros(o.From))})
		}
		if ask.Cause == "" {
			wrong = append(wrong, FieldError{"body", "$.cause", "is missing"})
		}
	}
	if err := join(wrong...); err != nil {
		return err
	}
	by := caller(r)
	a, err := s.Ownership.Assign(r.Context(), o, by.String(), ask.Cause, ask.DryRun)
	if err != nil {
		return err
	}
	c := changeOf(&a, ask.DryRun)
	if !ask.DryRun {
		until := "for good"
		if a.Until != odometer.Forever {
			until = "until " + formatMicros(a.Until)
		}
		s.note(r, odometer.ActionInstanceAssign, string(a.Instance), fmt.Sprintf("to %s/%s from %s %s, %d corrections: %s",
			a.Owner.Org, a.Owner.User, formatMicros(a.From), until, c.Corrections, ask.Cause))
		if err := s.transferred(r, &a.Ownership); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, c)
}
