package account

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"example.org/odometer"
)

//go:embed grants.sql
var grantsSchema string

// MaxUserGrants bounds the grants that a user holds: each is held in memory, and is
// asked for with each of his questions.
const MaxUserGrants = 1000

// Whose an instance is the ledger knows, and who asks brings it: see owns below. A
// transfer that comes between the two gives nobody more than was decided, since a
// grant shows what is charged to the owner in whose name it was given.

const grantColumns = `instance, usr, level, of_usr, of_org, since_us, expires_us, given_by, version, created_us, updated_us`

func scanGrant(row scanner) (g odometer.Grant, err error) {
	var since, expires, created, updated int64
	err = row.Scan(&g.Instance, &g.User, &g.Level, &g.Of.User, &g.Of.Org, &since, &expires, &g.By, &g.Version, &created, &updated)
	if errors.Is(err, sql.ErrNoRows) {
		err = odometer.ErrNotFound
	}
	g.Since, g.Expires, g.Created, g.Updated = time.UnixMicro(since).UTC(), moment(expires), moment(created), moment(updated)
	return g, err
}

// grantsOf returns the grants of a condition that were not ended, by user and
// instance.
func grantsOf(ctx context.Context, db lister, cond string, args ...any) ([]odometer.Grant, error) {
	rows, err := db.QueryContext(ctx, `SELECT `+grantColumns+` FROM account_grants WHERE ended_us = 0 AND (`+cond+`) ORDER BY usr, instance`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []odometer.Grant{}
	for rows.Next() {
		g, err := scanGrant(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, g)
	}
	return list, rows.Err()
}

// standingGrant returns the grant that a user holds on an instance.
func standingGrant(ctx context.Context, db queryer, now int64, instance odometer.InstanceID, user odometer.UserID) (odometer.Grant, error) {
	return scanGrant(db.QueryRowContext(ctx, `SELECT `+grantColumns+` FROM account_grants
		WHERE instance = ? AND usr = ? AND ended_us = 0 AND (expires_us = 0 OR expires_us > ?)`, string(instance), string(user), now))
}

// givenTo are the grants that a user holds, in order of their instances. The list is
// replaced as a whole.
type givenTo struct {
	list []odometer.Grant
	next int64 // when the first of them expires, 0 for never
}

func holdGrants(list []odometer.Grant, now int64) (g givenTo) {
	for i := range list {
		if !list[i].Standing(now) {
			continue
		}
		g.list = append(g.list, list[i])
		if expires := micros(list[i].Expires); expires != 0 && (g.next == 0 || expires < g.next) {
			g.next = expires
		}
	}
	return g
}

// grantsNow returns the grants of held that stand now. Those that expired are put out
// of memory.
func (a *Accounts) grantsNow(user odometer.UserID, held givenTo, now int64) []odometer.Grant {
	if held.next == 0 || now < held.next {
		return held.list
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	held = holdGrants(a.people.grants[user].list, now)
	a.people.grants[user] = held
	return held.list
}

// power is what somebody may do with the grants of an instance.
type power struct {
	operator bool
	owner    bool            // it is his, or he gives grants for the organisation whose it is
	sees     bool            // all of its grants
	holds    *odometer.Grant // on it, nil for none
}

// powerOver returns what by may do with the grants of an instance, of which owns says
// whose it is recorded to be.
func powerOver(ctx context.Context, tx queryer, now int64, by *odometer.Caller, owns *odometer.Ownership) (p power, err error) {
	if by.May(odometer.ScopeAdmin) {
		return power{operator: true, sees: true}, nil
	}
	p.owner = by.User != "" && by.User == owns.Owner.User
	p.sees = p.owner
	if org := owns.Owner.Org; org != "" {
		role, err := roleIn(ctx, tx, by, org)
		if err != nil {
			return p, err
		}
		p.owner = p.owner || role.Gives(odometer.ManageGrants) && by.User != ""
		p.sees = p.sees || role.Gives(odometer.SeeUsage)
	}
	if by.User == "" {
		view := by.View()
		p.sees = p.sees || view.All()
		return p, nil
	}
	g, err := standingGrant(ctx, tx, now, owns.Instance, by.User)
	if errors.Is(err, odometer.ErrNotFound) || err == nil && !inForce(&g, owns) {
		return p, nil
	}
	p.holds, p.sees = &g, p.sees || g.Level.Gives(odometer.LevelReadOnly)
	return p, err
}

// inForce reports whether a grant is in the name of the instance's owner, or of the
// operator.
func inForce(g *odometer.Grant, owns *odometer.Ownership) bool {
	return g.Of == odometer.Owner{} || g.Of == owns.Owner
}

// reaches refuses to give, change or end grants of some levels. Who does not even see
// the instance is told that there is none.
func (p *power) reaches(levels ...odometer.Level) error {
	if p.operator || p.owner {
		return nil
	}
	if p.holds == nil {
		if p.sees {
			return fmt.Errorf("its owner gives grants, and who may for the organisation whose it is: %w", odometer.ErrForbidden)
		}
		return odometer.ErrNotFound
	}
	for _, l := range levels {
		if !p.holds.Level.Gives(l) {
			return fmt.Errorf("a grant of level %s gives none of level %s: %w", p.holds.Level, l, odometer.ErrForbidden)
		}
	}
	return nil
}

// changes refuses to change or end a grant.
func (p *power) changes(g *odometer.Grant, owns *odometer.Ownership) error {
	if err := p.reaches(g.Level); err != nil {
		return err
	}
	switch {
	case p.operator, p.owner && g.Of == owns.Owner:
		return nil
	case p.holds != nil && p.holds.Level.Gives(g.Level) && (p.holds.Of == odometer.Owner{} || p.holds.Of == g.Of):
		return nil
	}
	return fmt.Errorf("it is the operator's, who changes and ends it: %w", odometer.ErrForbidden)
}

// bounds refuses a grant that shows more than who gives it sees, or for longer.
func (p *power) bounds(g *odometer.Grant) error {
	if p.operator || p.owner {
		return nil
	}
	h := p.holds
	if g.Since.Before(h.Since) {
		return fmt.Errorf("it would show what was used before %s, which who gives it does not see: %w", h.Since.Format(time.RFC3339), odometer.ErrForbidden)
	}
	if !h.Expires.IsZero() && (g.Expires.IsZero() || g.Expires.After(h.Expires)) {
		return fmt.Errorf("it would last longer than the grant of who gives it, which expires at %s: %w", h.Expires.Format(time.RFC3339), odometer.ErrForbidden)
	}
	return nil
}

// validGrant refuses what will not do, whoever asks.
func validGrant(g *odometer.Grant, now int64) error {
	err := errors.Join(odometer.ValidID("instance", string(g.Instance)), odometer.ValidUserID(g.User), odometer.ValidLevel(g.Level))
	if !g.Since.IsZero() && g.Since.UnixMicro() > now {
		err = errors.Join(err, fmt.Errorf("since %s is not past: %w", g.Since.UTC().Format(time.RFC3339), odometer.ErrInvalid))
	}
	if !g.Since.IsZero() && g.Since.UnixMicro() < 0 {
		err = errors.Join(err, fmt.Errorf("since %s is before 1970: %w", g.Since.UTC().Format(time.RFC3339), odometer.ErrInvalid))
	}
	if !g.Expires.IsZero() && g.Expires.UnixMicro() <= now {
		err = errors.Join(err, fmt.Errorf("it would expire at %s, which is past: %w", g.Expires.UTC().Format(time.RFC3339), odometer.ErrInvalid))
	}
	return err
}

// within ends a grant that is in an owner's name no later than his time.
func within(g *odometer.Grant, owns *odometer.Ownership) {
	if (g.Of == odometer.Owner{}) || owns.Until == 0 || owns.Until == odometer.Forever {
		return
	}
	if until := moment(owns.Until); g.Expires.IsZero() || g.Expires.After(until) {
		g.Expires = until
	}
}

// AddGrant gives a user a grant, of which g says on which instance and to whom, the
// level, since when, which is zero for now, and until when. The owner of the instance
// does, as owns has it recorded, who may for the organisation whose it is, who holds a
// grant of a higher level on it, and the operator. It begins with the hour in which it
// begins. When it returns the user's next request sees what it shows.
func (a *Accounts) AddGrant(ctx context.Context, by odometer.Actor, once odometer.Once, owns odometer.Ownership, g odometer.Grant) (made odometer.Grant, err error) {
	now := a.now()
	err = cmpErr(validGrant(&g, now), maker(&by))
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			p, err := powerOver(ctx, tx, now, &by.Caller, &owns)
			if err == nil {
				err = p.reaches(g.Level)
			}
			if err != nil {
				return err
			}
			t.users = []odometer.UserID{g.User}
			made, err = repeatable(ctx, tx, now, &by, once, "instance:"+string(g.Instance), func() (odometer.Grant, error) {
				return addGrant(ctx, tx, now, &by, &p, &owns, g)
			})
			return err
		})
	}
	if err != nil {
		return odometer.Grant{}, fmt.Errorf("grant on %s to %s: %w", g.Instance, g.User, err)
	}
	return made, nil
}

func addGrant(ctx context.Context, tx *sql.Tx, now int64, by *odometer.Actor, p *power, owns *odometer.Ownership, g odometer.Grant) (odometer.Grant, error) {
	u, err := userOf(ctx, tx, g.User)
	if err == nil && !p.operator {
		err = sharesWith(ctx, tx, by.User, g.User)
	}
	if errors.Is(err, odometer.ErrNotFound) || err == nil && !u.Deleted.IsZero() {
		err = fmt.Errorf("there is no user %s to whom it could be given: %w", g.User, odometer.ErrInvalid)
	}
	if err != nil {
		return g, err
	}
	switch {
	case p.operator:
		g.Of = odometer.Owner{}
	case p.owner:
		g.Of = owns.Owner
	default:
		g.Of = p.holds.Of
	}
	if g.Since.IsZero() {
		g.Since = moment(now)
	}
	g.Since, g.Expires = time.UnixMicro(odometer.Hour(g.Since.UnixMicro())).UTC(), g.Expires.Truncate(time.Microsecond)
	within(&g, owns)
	if err := p.bounds(&g); err != nil {
		return g, err
	}
	old, err := standingGrant(ctx, tx, now, g.Instance, g.User)
	if err == nil && inForce(&old, owns) {
		return g, fmt.Errorf("there is one already, of level %s: %w", old.Level, odometer.ErrConflict)
	}
	if err != nil && !errors.Is(err, odometer.ErrNotFound) {
		return g, err
	}
	// One that expired, or is in a former owner's name, makes room.
	if _, err := tx.ExecContext(ctx, `UPDATE account_grants SET ended_us = ? WHERE instance = ? AND usr = ? AND ended_us = 0`, now, string(g.Instance), string(g.User)); err != nil {
		return g, err
	}
	var held int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM account_grants WHERE usr = ? AND ended_us = 0 AND (expires_us = 0 OR expires_us > ?)`, string(g.User), now).Scan(&held); err != nil {
		return g, err
	}
	if held >= MaxUserGrants {
		return g, fmt.Errorf("user %s holds %d grants, and more there cannot be: %w", g.User, held, odometer.ErrConflict)
	}
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) + 1 FROM account_grants WHERE usr = ? AND instance = ?`, string(g.User), string(g.Instance)).Scan(&g.Version); err != nil {
		return g, err
	}
	g.By, g.Created, g.Updated = by.User, moment(now), moment(now)
	if err := insertGrant(ctx, tx, &g); err != nil {
		return g, err
	}
	return g, note(ctx, tx, now, *by, odometer.ActionGrantAdd, objectOf(&g), describeGrant(&g))
}

func insertGrant(ctx context.Context, tx *sql.Tx, g *odometer.Grant) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO account_grants (number, `+grantColumns+`, ended_us)
		VALUES ((SELECT coalesce(max(number), 0) + 1 FROM account_grants), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)`,
		string(g.Instance), string(g.User), string(g.Level), string(g.Of.User), string(g.Of.Org), g.Since.UnixMicro(), micros(g.Expires), string(g.By), g.Version,
		micros(g.Created), micros(g.Updated))
	return err
}

// objectOf names a grant in the audit log.
func objectOf(g *odometer.Grant) string { return string(g.Instance) + "/" + string(g.User) }

func describeGrant(g *odometer.Grant) string {
	words := []string{"level: " + string(g.Level), "since " + g.Since.Format(time.RFC3339)}
	if !g.Expires.IsZero() {
		words = append(words, "until "+g.Expires.Format(time.RFC3339))
	}
	return strings.Join(words, ", ")
}

// seenGrant returns the grant that a user holds on an instance where by sees it:
// everybody sees his own.
func seenGrant(ctx context.Context, db queryer, now int64, by *odometer.Caller, owns *odometer.Ownership, user odometer.UserID) (g odometer.Grant, p power, err error) {
	if p, err = powerOver(ctx, db, now, by, owns); err != nil {
		return g, p, err
	}
	own := by.User != "" && by.User == user
	if !p.sees && !own {
		return g, p, odometer.ErrNotFound
	}
	g, err = standingGrant(ctx, db, now, owns.Instance, user)
	if err == nil && !p.operator && !own && !inForce(&g, owns) {
		err = odometer.ErrNotFound
	}
	return g, p, err
}

// Grant returns the grant that a user holds on an instance, of which owns says whose
// it is.
func (a *Accounts) Grant(ctx context.Context, by odometer.Caller, owns odometer.Ownership, user odometer.UserID) (odometer.Grant, error) {
	g, _, err := seenGrant(ctx, a.db, a.now(), &by, &owns, user)
	if err != nil {
		return odometer.Grant{}, fmt.Errorf("grant of %s on %s: %w", user, owns.Instance, unavailable(err))
	}
	return g, nil
}

// Grants returns at most limit grants on an instance that by sees, in the order of
// their users' ids, after the one named.
func (a *Accounts) Grants(ctx context.Context, by odometer.Caller, owns odometer.Ownership, after odometer.UserID, limit int) ([]odometer.Grant, error) {
	now := a.now()
	p, err := powerOver(ctx, a.db, now, &by, &owns)
	cond, args := `instance = ? AND usr > ? AND (expires_us = 0 OR expires_us > ?)`, []any{string(owns.Instance), string(after), now}
	if !p.operator {
		cond += ` AND (of_usr = '' AND of_org = '' OR of_usr = ? AND of_org = ? OR usr = ?)`
		args = append(args, string(owns.Owner.User), string(owns.Owner.Org), string(by.User))
	}
	if !p.sees {
		cond, args = cond+` AND usr = ?`, append(args, string(by.User))
	}
	var list []odometer.Grant
	if err == nil {
		list, err = grantsOf(ctx, a.db, cond+` AND usr IN (SELECT usr FROM account_grants WHERE ended_us = 0 AND `+cond+` ORDER BY usr LIMIT ?)`, append(append(args, args...), limit)...)
	}
	if err != nil {
		return nil, fmt.Errorf("grants on %s: %w", owns.Instance, unavailable(err))
	}
	return list, nil
}

// replaceGrant ends a grant and has another one stand in its place, nil for none.
func replaceGrant(ctx context.Context, tx *sql.Tx, now int64, old, with *odometer.Grant) error {
	if _, err := tx.ExecContext(ctx, `UPDATE account_grants SET ended_us = ? WHERE instance = ? AND usr = ? AND ended_us = 0`, now, string(old.Instance), string(old.User)); err != nil {
		return err
	}
	if with == nil {
		return nil
	}
	with.Version, with.Updated = old.Version+1, moment(now)
	return insertGrant(ctx, tx, with)
}

// SetGrant gives a grant another level and another end, zero for none, where it is of
// the version named. Who changes it might give both it and what becomes of it.
func (a *Accounts) SetGrant(ctx context.Context, by odometer.Actor, owns odometer.Ownership, user odometer.UserID, version int64, level odometer.Level, expires time.Time) (g odometer.Grant, err error) {
	now := a.now()
	err = cmpErr(validGrant(&odometer.Grant{Instance: owns.Instance, User: user, Level: level, Expires: expires}, now), maker(&by))
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			old, p, err := seenGrant(ctx, tx, now, &by.Caller, &owns, user)
			if err != nil {
				return err
			}
			if err := cmpErr(p.changes(&old, &owns), p.reaches(level)); err != nil {
				return err
			}
			if err := checkVersion(version, old.Version); err != nil {
				return err
			}
			g = old
			g.Level, g.Expires, g.By = level, expires.Truncate(time.Microsecond), by.User
			within(&g, &owns)
			if err := p.bounds(&g); err != nil {
				return err
			}
			t.users = []odometer.UserID{user}
			if err := replaceGrant(ctx, tx, now, &old, &g); err != nil {
				return err
			}
			return note(ctx, tx, now, by, odometer.ActionGrantUpdate, objectOf(&g), describeGrant(&g)+", was "+string(old.Level))
		})
	}
	if err != nil {
		return odometer.Grant{}, fmt.Errorf("change the grant of %s on %s: %w", user, owns.Instance, err)
	}
	return g, nil
}

// EndGrant ends a grant, where it is of the version named; everybody may end his own.
// When it returns the user's next request sees nothing by it.
func (a *Accounts) EndGrant(ctx context.Context, by odometer.Actor, owns odometer.Ownership, user odometer.UserID, version int64) (g odometer.Grant, err error) {
	now := a.now()
	err = maker(&by)
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			var p power
			if g, p, err = seenGrant(ctx, tx, now, &by.Caller, &owns, user); err != nil {
				return err
			}
			if by.User == "" || by.User != user {
				if err := p.changes(&g, &owns); err != nil {
					return err
				}
			}
			if err := checkVersion(version, g.Version); err != nil {
				return err
			}
			t.users = []odometer.UserID{user}
			if err := replaceGrant(ctx, tx, now, &g, nil); err != nil {
				return err
			}
			return note(ctx, tx, now, by, odometer.ActionGrantEnd, objectOf(&g), "was "+string(g.Level))
		})
	}
	if err != nil {
		return odometer.Grant{}, fmt.Errorf("end the grant of %s on %s: %w", user, owns.Instance, err)
	}
	return g, nil
}

// Transferred ends the grants on an instance that are in the name of another owner
// than it has by o: at once, or when o begins. What the operator gave stays.
func (a *Accounts) Transferred(ctx context.Context, by odometer.Actor, o odometer.Ownership) error {
	now := a.now()
	if o.Until != 0 && o.Until <= now {
		return nil
	}
	err := a.change(ctx, func(tx *sql.Tx, t *touched) error {
		list, err := grantsOf(ctx, tx, `instance = ? AND NOT (of_usr = '' AND of_org = '') AND NOT (of_usr = ? AND of_org = ?)`, string(o.Instance), string(o.Owner.User), string(o.Owner.Org))
		if err != nil || o.From <= now {
			return cmpErr(err, endGrants(ctx, tx, now, by, t, list, "it has another owner"))
		}
		for i := range list {
			g := list[i]
			if from := moment(o.From); g.Expires.IsZero() || g.Expires.After(from) {
				g.Expires = from
				t.users = append(t.users, g.User)
				if err := replaceGrant(ctx, tx, now, &list[i], &g); err != nil {
					return err
				}
				if err := note(ctx, tx, now, by, odometer.ActionGrantUpdate, objectOf(&g), describeGrant(&g)+", when it has another owner"); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("end the grants on %s: %w", o.Instance, err)
	}
	return nil
}

// endGrants ends grants because of something else.
func endGrants(ctx context.Context, tx *sql.Tx, now int64, by odometer.Actor, t *touched, list []odometer.Grant, because string) error {
	for i := range list {
		g := &list[i]
		t.users = append(t.users, g.User)
		if err := replaceGrant(ctx, tx, now, g, nil); err != nil {
			return err
		}
		if err := note(ctx, tx, now, by, odometer.ActionGrantEnd, objectOf(g), "was "+string(g.Level)+": "+because); err != nil {
			return err
		}
	}
	return nil
}
