package odometer

import (
	"cmp"
	"slices"
)

// View is whose usage, entries and instances somebody may see. It is made from a
// [Caller] and put into each question as a condition. The zero View sees nothing.
type View struct {
	all    bool
	user   UserID
	orgs   []OrgID
	grants []Grant // in order of their instances, one of each
}

// Everything is the View of the program itself and of its operator.
var Everything = View{all: true}

// View returns what the caller may see. A user sees what he owns, all of the
// organisations in which his role gives it, and what grants show him; what is bound to
// an organisation sees that. Who is bound to neither is the operator's and sees everything, where a
// scope of his reads at all.
func (c *Caller) View() View {
	switch {
	case c.User != "":
		v := View{user: c.User, grants: c.Grants}
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

// Sees reports whether v sees what is the owner's, of whatever instance and time.
// What is nobody's only who sees everything sees.
func (v View) Sees(o Owner) bool {
	return v.all || v.user != "" && o.User == v.user || o.Org != "" && slices.Contains(v.orgs, o.Org)
}

// SeesUse reports whether v sees what an instance used for an owner at a moment, in
// microseconds.
func (v View) SeesUse(instance InstanceID, o Owner, at int64) bool {
	from, sees := v.SeesFrom(instance, o)
	return sees && at >= from
}

// SeesFrom returns from which moment on v sees what an instance uses for an owner, in
// microseconds, and false where it sees nothing of that.
func (v View) SeesFrom(instance InstanceID, o Owner) (us int64, sees bool) {
	if v.Sees(o) {
		return 0, true
	}
	if g := v.grant(instance); g != nil && g.shows(o) {
		return g.Since.UnixMicro(), true
	}
	return 0, false
}

// Granted returns the grants of which v sees more than is owned by whom it sees, in
// order of their instances. The list must not be changed.
func (v View) Granted() []Grant {
	if v.all {
		return nil
	}
	return v.grants
}

func (v View) grant(instance InstanceID) *Grant {
	i, there := slices.BinarySearchFunc(v.grants, instance, func(g Grant, i InstanceID) int { return cmp.Compare(g.Instance, i) })
	if !there {
		return nil
	}
	return &v.grants[i]
}
