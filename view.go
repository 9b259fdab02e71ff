package odometer

import "slices"

// View is whose usage, entries and instances somebody may see. It is made from a
// [Caller] and put into each question as a condition. The zero View sees nothing.
type View struct {
	all  bool
	user UserID
	orgs []OrgID
}

// Everything is the View of the program itself and of its operator.
var Everything = View{all: true}

// View returns what the caller may see. A user sees what he owns, and all of the
// organisations in which his role gives it; what is bound to an organisation sees
// that. Who is bound to neither is the operator's and sees everything, where a
// scope of his reads at all.
func (c *Caller) View() View {
	switch {
	case c.User != "":
		v := View{user: c.User}
		for i := range c.Memberships {
			if m := &c.Memberships[i]; m.Role.Gives(SeeUsage) {
				v.orgs = append(v.orgs, m.Org)
			}
		}
		return v
	case c.Org != "":
		return View{orgs: []OrgID{c.Org}}
	case c.May(ScopeRead):
		return Everything
	}
	return View{}
}

// All reports whether v sees everything.
func (v View) All() bool { return v.all }

// User returns the user whose own v sees, "" for nobody's.
func (v View) User() UserID { return v.user }

// Orgs returns the organisations of which v sees all. The list must not be
// changed.
func (v View) Orgs() []OrgID { return v.orgs }

// Sees reports whether v sees what is the owner's. What is nobody's only who sees
// everything sees.
func (v View) Sees(o Owner) bool {
	return v.all || v.user != "" && o.User == v.user || o.Org != "" && slices.Contains(v.orgs, o.Org)
}
