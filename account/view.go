package account

import (
	"context"
	"errors"
	"fmt"

	"example.org/odometer"
)

// ViewOf returns what a holder sees at this moment, whoever asks: a user what is his
// own and what his memberships and grants give, an organisation what is its own, and
// the zero one everything. Who was deleted sees nothing; who was never created, and is
// known by the name that usage has, sees what is his own.
func (a *Accounts) ViewOf(ctx context.Context, h odometer.Bound) (odometer.View, error) {
	c := odometer.Caller{Bound: h, Scopes: []odometer.Scope{odometer.ScopeRead}}
	a.mu.RLock()
	members, there := a.people.users[h.User]
	granted := a.people.grants[h.User]
	if h.User == "" {
		there = h.Org == "" || a.people.orgs[h.Org]
	}
	a.mu.RUnlock()
	if !there {
		known, err := a.known(ctx, h)
		if err != nil {
			return odometer.View{}, fmt.Errorf("whether %s%s is there: %w", h.User, h.Org, unavailable(err))
		}
		if known {
			return odometer.View{}, nil
		}
	}
	if h.User != "" {
		c.Memberships, c.Grants = members, a.grantsNow(h.User, granted, a.clock().UnixMicro())
	}
	return c.View(), nil
}

// known reports whether a user or an organisation was ever created.
func (a *Accounts) known(ctx context.Context, h odometer.Bound) (bool, error) {
	var err error
	if h.User != "" {
		_, err = userOf(ctx, a.db, h.User)
	} else {
		_, err = orgOf(ctx, a.db, h.Org)
	}
	if errors.Is(err, odometer.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
