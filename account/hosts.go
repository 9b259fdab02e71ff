package account

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nkeys"

	"example.org/odometer"
)

//go:embed hosts.sql
var hostsSchema string

// Bounds of what hosts may fill.
const (
	// MaxHosts bounds the hosts and consumers that are let in at a time: the key of
	// each is held in memory.
	MaxHosts = 100_000
	// DefaultEnrolment and MaxEnrolment are for how long a one-time token is
	// valid: until somebody has walked to the host, and not until it is forgotten
	// in a script.
	DefaultEnrolment = time.Hour
	MaxEnrolment     = 30 * 24 * time.Hour
)

// Enrolment is refused in one of these ways. Who has no token learns nothing from
// it of others' tokens and hosts.
var (
	errEnrolmentToken = fmt.Errorf("the enrolment token is not accepted: it was used, has expired, was revoked, or is another server's: %w", odometer.ErrForbidden)
	errHostRevoked    = fmt.Errorf("the key of this host was revoked; a new enrolment token lets it in again: %w", odometer.ErrForbidden)
	errHostUnknown    = fmt.Errorf("the key of this host is not enrolled here: %w", odometer.ErrForbidden)
	errHostProof      = fmt.Errorf("the key of this host is not proven: %w", odometer.ErrForbidden)
)

// PeerOf returns who has a key. It looks at memory alone and waits for nothing: a
// key that is revoked is unknown.
func (a *Accounts) PeerOf(key odometer.Key) (odometer.Peer, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	p, ok := a.keys[key]
	return p, ok
}

// IsHost reports whether an agent is or was enrolled. It looks at memory alone.
func (a *Accounts) IsHost(agent odometer.AgentID) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.hosts[agent]
}

// PutOut reports whether a host was put out: it was enrolled, and its key is revoked. It
// looks at memory alone, and at all of it.
func (a *Accounts) PutOut(agent odometer.AgentID) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if !a.hosts[agent] {
		return false
	}
	for _, p := range a.keys {
		if p.Agent == agent {
			return false
		}
	}
	return true
}

// loadHosts reads which agents are hosts, and the keys that are not revoked.
func (a *Accounts) loadHosts(ctx context.Context) error {
	rows, err := a.db.QueryContext(ctx, `SELECT `+hostColumns+` FROM account_hosts`)
	if err != nil {
		return unavailable(err)
	}
	defer rows.Close()
	for rows.Next() {
		h, err := scanHost(rows)
		if err != nil {
			return err
		}
		a.hosts[h.Agent] = true
		if h.Revoked.IsZero() {
			a.keys[h.Key] = odometer.Peer{Agent: h.Agent}
		}
	}
	return unavailable(rows.Err())
}

// CreateEnrolment creates a one-time token that lets one host in, and returns it
// with its secret, which nobody is told again. Agent names the host, "" for any
// that is not enrolled; with replace it may be enrolled, and its key is revoked
// when the token is used. Both the token and the line of the audit log are durable
// when it returns.
//
// The error wraps [odometer.ErrInvalid] where agent or expiry will not do,
// [odometer.ErrConflict] where the agent is enrolled and not to be replaced, and
// [odometer.ErrUnavailable] where it cannot be written.
func (a *Accounts) CreateEnrolment(ctx context.Context, by odometer.Actor, agent odometer.AgentID, replace bool, expires time.Time) (e odometer.Enrolment, secret string, err error) {
	now := a.clock().UTC().Truncate(time.Microsecond)
	if expires.IsZero() {
		expires = now.Add(DefaultEnrolment)
	}
	e = odometer.Enrolment{Agent: agent, Replace: replace, Created: now, CreatedBy: by.String(), Expires: expires.UTC().Truncate(time.Microsecond)}
	if err = validEnrolment(&e); err == nil {
		e.ID, secret = odometer.EnrolmentID("enr_"+newID(a.random)), newSecret(a.random)
		err = a.transact(ctx, func(tx *sql.Tx) error { return createEnrolment(ctx, tx, by, &e, digestOf(secret)) })
	}
	if err != nil {
		return odometer.Enrolment{}, "", fmt.Errorf("create an enrolment token: %w", err)
	}
	return e, secret, nil
}

func validEnrolment(e *odometer.Enrolment) error {
	switch {
	case e.Agent == "" && e.Replace:
		return fmt.Errorf("what is to be replaced has no name: %w", odometer.ErrInvalid)
	case !e.Expires.After(e.Created):
		return fmt.Errorf("it would expire at %s, which is past: %w", e.Expires.Format(time.RFC3339), odometer.ErrInvalid)
	case e.Expires.After(e.Created.Add(MaxEnrolment)):
		return fmt.Errorf("it would expire at %s, and is to be used within %d days: %w", e.Expires.Format(time.RFC3339), MaxEnrolment/(24*time.Hour), odometer.ErrInvalid)
	case e.Agent == "":
		return nil
	}
	return odometer.ValidID("agent", string(e.Agent))
}

func createEnrolment(ctx context.Context, tx *sql.Tx, by odometer.Actor, e *odometer.Enrolment, hash digest) error {
	if e.Agent != "" && !e.Replace {
		if h, err := liveHost(ctx, tx, e.Agent); err == nil {
			return fmt.Errorf("host %s is enrolled since %s; say that it is to be replaced: %w", h.Agent, h.Enrolled.Format(time.RFC3339), odometer.ErrConflict)
		} else if !errors.Is(err, odometer.ErrNotFound) {
			return err
		}
	}
	replaces, detail := 0, "any host"
	if e.Agent != "" {
		detail = string(e.Agent)
	}
	if e.Replace {
		replaces, detail = 1, detail+", replacing the one that is enrolled"
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO account_enrolments (number, id, hash, agent, replaces, created_us, created_by, expires_us, used_us, used_by, revoked_us)
		VALUES ((SELECT coalesce(max(number), 0) + 1 FROM account_enrolments), ?, ?, ?, ?, ?, ?, ?, 0, '', 0)`,
		string(e.ID), hash.String(), string(e.Agent), replaces, micros(e.Created), e.CreatedBy, micros(e.Expires))
	if err != nil {
		return err
	}
	return note(ctx, tx, micros(e.Created), by, odometer.ActionEnrolmentCreate, string(e.ID), detail+", until "+e.Expires.Format(time.RFC3339))
}

// RevokeEnrolment ends the validity of a one-time token. Again, or after it was
// used, it changes nothing. The error wraps [odometer.ErrNotFound] where there is
// no such token.
func (a *Accounts) RevokeEnrolment(ctx context.Context, by odometer.Actor, id odometer.EnrolmentID) (e odometer.Enrolment, err error) {
	err = a.transact(ctx, func(tx *sql.Tx) error {
		e, err = scanEnrolment(tx.QueryRowContext(ctx, `SELECT `+enrolmentColumns+` FROM account_enrolments WHERE id = ?`, string(id)))
		if err != nil || !e.Revoked.IsZero() || !e.Used.IsZero() {
			return err
		}
		e.Revoked = a.clock().UTC().Truncate(time.Microsecond)
		if _, err := tx.ExecContext(ctx, `UPDATE account_enrolments SET revoked_us = ? WHERE id = ?`, micros(e.Revoked), string(id)); err != nil {
			return err
		}
		return note(ctx, tx, micros(e.Revoked), by, odometer.ActionEnrolmentRevoke, string(id), string(e.Agent))
	})
	if err != nil {
		return odometer.Enrolment{}, fmt.Errorf("revoke enrolment %s: %w", id, err)
	}
	return e, nil
}

// Enrolments returns at most limit one-time tokens, the newest first, used,
// expired and revoked ones too.
func (a *Accounts) Enrolments(ctx context.Context, limit int) ([]odometer.Enrolment, error) {
	list := []odometer.Enrolment{}
	rows, err := a.db.QueryContext(ctx, `SELECT `+enrolmentColumns+` FROM account_enrolments ORDER BY number DESC LIMIT ?`, limit)
	if err != nil {
		return nil, fmt.Errorf("list enrolments: %w", unavailable(err))
	}
	defer rows.Close()
	for rows.Next() {
		e, err := scanEnrolment(rows)
		if err != nil {
			return nil, fmt.Errorf("list enrolments: %w", err)
		}
		list = append(list, e)
	}
	return list, unavailable(rows.Err())
}

// Enrol lets a host in that has a one-time token, for good, or confirms that it is
// in: a host that got no answer asks again with the same key, with the token or
// without it, and gets the same. Replaced are the keys that PeerOf knows no more
// for it, whose connections are for the caller to end. The host, the use of the token and the line of the audit log are durable
// when it returns.
//
// The error wraps [odometer.ErrForbidden] where the host is not let in, which says
// no more than whose key and token it is may know; [odometer.ErrConflict] where the
// token is good and another host has the name; [odometer.ErrInvalid] where the
// request will not do; and [odometer.ErrUnavailable] where nothing can be written.
func (a *Accounts) Enrol(ctx context.Context, ask odometer.EnrolRequest) (h odometer.Host, replaced []odometer.Key, err error) {
	if err = errors.Join(odometer.ValidID("agent", string(ask.Agent)), odometer.ValidKey(string(ask.Key))); err == nil {
		err = proven(&ask)
	}
	if err == nil {
		h, err = hostOf(ctx, a.db, ask.Key) // who asks again waits for no change that is under way
	}
	switch {
	case errors.Is(err, odometer.ErrNotFound) && ask.Secret == "":
		err = errHostUnknown
	case errors.Is(err, odometer.ErrNotFound) && !wellFormed(ask.Secret):
		err = errEnrolmentToken
	case errors.Is(err, odometer.ErrNotFound), err == nil && h.Revoked.IsZero() && !a.knows(&h):
		h, replaced, err = a.admit(ctx, &ask)
	case err == nil:
		err = answer(&h, &ask)
	}
	if err != nil {
		return odometer.Host{}, nil, fmt.Errorf("enrol host: %w", unavailable(err))
	}
	return h, replaced, nil
}

// proven returns nil where whoever asks has the key.
func proven(ask *odometer.EnrolRequest) error {
	public, err := nkeys.FromPublicKey(string(ask.Key))
	if err != nil || !nkeys.IsValidPublicUserKey(string(ask.Key)) {
		return fmt.Errorf("%s is no public key: its checksum is wrong: %w", ask.Key, odometer.ErrInvalid)
	}
	if public.Verify(odometer.EnrolStatement(ask.Agent, ask.Key), ask.Proof) != nil {
		return errHostProof
	}
	return nil
}

// answer says whether a host that is in the file is let in.
func answer(h *odometer.Host, ask *odometer.EnrolRequest) error {
	switch {
	case !h.Revoked.IsZero():
		return errHostRevoked
	case h.Agent != ask.Agent:
		return fmt.Errorf("this host is enrolled as %s: %w", h.Agent, odometer.ErrForbidden)
	}
	return nil
}

func (a *Accounts) knows(h *odometer.Host) bool {
	p, ok := a.PeerOf(h.Key)
	return ok && p.Agent == h.Agent
}

// admit lets a host in that has a token, or that is in the file and not in
// memory, since the commit by which it came seemed to fail.
func (a *Accounts) admit(ctx context.Context, ask *odometer.EnrolRequest) (h odometer.Host, replaced []odometer.Key, err error) {
	took := false
	err = a.transact(ctx, func(tx *sql.Tx) error {
		h, err = hostOf(ctx, tx, ask.Key)
		if err == nil {
			err = answer(&h, ask)
		} else if errors.Is(err, odometer.ErrNotFound) {
			h, err = a.enrol(ctx, tx, ask)
		}
		if err != nil {
			return err
		}
		// Before the commit: it cannot be revoked until then.
		if took = a.takeKey(&h); !took {
			return fmt.Errorf("%d hosts are enrolled, and more there cannot be: %w", a.maxHosts, odometer.ErrConflict)
		}
		return nil
	})
	if err != nil {
		if took { // it may be in the file; it asks again
			a.dropKey(h.Key)
		}
		return odometer.Host{}, nil, err
	}
	return h, a.dropOthers(&h), nil
}

// enrol writes that a host is let in by a token, which is used by that.
func (a *Accounts) enrol(ctx context.Context, tx *sql.Tx, ask *odometer.EnrolRequest) (h odometer.Host, err error) {
	now := a.clock().UTC().Truncate(time.Microsecond)
	e, err := scanEnrolment(tx.QueryRowContext(ctx, `SELECT `+enrolmentColumns+` FROM account_enrolments WHERE hash = ?`, digestOf(ask.Secret).String()))
	switch {
	case errors.Is(err, odometer.ErrNotFound):
		return h, errEnrolmentToken
	case err != nil:
		return h, err
	case !e.Used.IsZero() || !e.Revoked.IsZero() || !now.Before(e.Expires):
		return h, errEnrolmentToken
	case e.Agent != "" && e.Agent != ask.Agent:
		return h, fmt.Errorf("the enrolment token is for host %s: %w", e.Agent, odometer.ErrForbidden)
	}
	var consumers int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM account_consumers WHERE public_key = ?`, string(ask.Key)).Scan(&consumers); err != nil {
		return h, err
	} else if consumers > 0 {
		return h, fmt.Errorf("the key is a consumer's: %w", odometer.ErrConflict)
	}
	by := odometer.Actor{Caller: odometer.Caller{Name: "host " + string(ask.Agent)}, Remote: ask.Remote} // no token is named "admin", and no host
	switch old, err := liveHost(ctx, tx, ask.Agent); {
	case errors.Is(err, odometer.ErrNotFound):
	case err != nil:
		return h, err
	case !e.Replace:
		return h, fmt.Errorf("another host is enrolled as %s; an enrolment token that replaces it lets this one in: %w", ask.Agent, odometer.ErrConflict)
	default:
		if err := revokeHost(ctx, tx, by, &old, now, "replaced by "+string(ask.Key)); err != nil {
			return h, err
		}
	}
	h = odometer.Host{Agent: ask.Agent, Key: ask.Key, Enrolment: e.ID, Remote: ask.Remote, Enrolled: now}
	if _, err := tx.ExecContext(ctx, `INSERT INTO account_hosts (number, agent, public_key, enrolment, remote, enrolled_us, revoked_us)
		VALUES ((SELECT coalesce(max(number), 0) + 1 FROM account_hosts), ?, ?, ?, ?, ?, 0)`,
		string(h.Agent), string(h.Key), string(h.Enrolment), h.Remote, micros(now)); err != nil {
		return h, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE account_enrolments SET used_us = ?, used_by = ? WHERE id = ?`, micros(now), string(h.Agent), string(e.ID)); err != nil {
		return h, err
	}
	return h, note(ctx, tx, micros(now), by, odometer.ActionHostEnrol, string(h.Agent), fmt.Sprintf("key %s, by %s of %s", h.Key, e.ID, e.CreatedBy))
}

// RevokeHost revokes the key of an agent for good and returns the host. When it
// returns nil PeerOf knows the key no more, nor after a crash; whoever is connected
// by it is for the caller to disconnect. Again it changes nothing. The error wraps
// [odometer.ErrNotFound] where no such host was ever enrolled; after any other one
// the host may be revoked or not, and it is to be revoked again.
func (a *Accounts) RevokeHost(ctx context.Context, by odometer.Actor, agent odometer.AgentID) (h odometer.Host, err error) {
	err = a.transact(ctx, func(tx *sql.Tx) error {
		if h, err = newestHost(ctx, tx, agent); err != nil || !h.Revoked.IsZero() {
			return err
		}
		return revokeHost(ctx, tx, by, &h, a.clock().UTC().Truncate(time.Microsecond), "key "+string(h.Key))
	})
	if err != nil {
		return odometer.Host{}, fmt.Errorf("revoke host %s: %w", agent, err)
	}
	a.dropKey(h.Key)
	return h, nil
}

func revokeHost(ctx context.Context, tx *sql.Tx, by odometer.Actor, h *odometer.Host, now time.Time, detail string) error {
	h.Revoked = now
	if _, err := tx.ExecContext(ctx, `UPDATE account_hosts SET revoked_us = ? WHERE public_key = ?`, micros(now), string(h.Key)); err != nil {
		return err
	}
	return note(ctx, tx, micros(now), by, odometer.ActionHostRevoke, string(h.Agent), detail)
}

// takeKey has PeerOf know a host's key, unless there are too many.
func (a *Accounts) takeKey(h *odometer.Host) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.keys) >= a.maxHosts {
		return false
	}
	a.keys[h.Key], a.hosts[h.Agent] = odometer.Peer{Agent: h.Agent}, true
	return true
}

func (a *Accounts) setKey(key odometer.Key, p odometer.Peer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys[key] = p
}

// dropOthers has PeerOf know no key of a host but its own, and returns which they
// were: the one that was revoked when it came.
func (a *Accounts) dropOthers(h *odometer.Host) (dropped []odometer.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, p := range a.keys {
		if p.Agent == h.Agent && k != h.Key {
			delete(a.keys, k)
			dropped = append(dropped, k)
		}
	}
	return dropped
}

func (a *Accounts) dropKey(key odometer.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.keys, key)
}

// Host returns the host that is enrolled as an agent, or that was last, or an error
// that wraps [odometer.ErrNotFound].
func (a *Accounts) Host(ctx context.Context, agent odometer.AgentID) (odometer.Host, error) {
	h, err := newestHost(ctx, a.db, agent)
	if err != nil {
		return h, fmt.Errorf("host %s: %w", agent, unavailable(err))
	}
	return h, nil
}

// Hosts returns at most limit hosts in order of their agents: each that is or was
// enrolled once, with its newest key; those after the agent named, or from the
// first on.
func (a *Accounts) Hosts(ctx context.Context, after odometer.AgentID, limit int) ([]odometer.Host, error) {
	rows, err := a.db.QueryContext(ctx, `SELECT `+hostColumns+` FROM account_hosts
		WHERE agent > ? AND number = (SELECT max(number) FROM account_hosts AS o WHERE o.agent = account_hosts.agent) ORDER BY agent LIMIT ?`, string(after), limit)
	if err != nil {
		return nil, fmt.Errorf("list hosts: %w", unavailable(err))
	}
	defer rows.Close()
	list := []odometer.Host{}
	for rows.Next() {
		h, err := scanHost(rows)
		if err != nil {
			return nil, fmt.Errorf("list hosts: %w", err)
		}
		list = append(list, h)
	}
	return list, unavailable(rows.Err())
}

const hostColumns = `agent, public_key, enrolment, remote, enrolled_us, revoked_us`

func scanHost(row scanner) (h odometer.Host, err error) {
	var enrolled, revoked int64
	err = row.Scan(&h.Agent, &h.Key, &h.Enrolment, &h.Remote, &enrolled, &revoked)
	if errors.Is(err, sql.ErrNoRows) {
		err = odometer.ErrNotFound
	}
	h.Enrolled, h.Revoked = moment(enrolled), moment(revoked)
	return h, err
}

func hostOf(ctx context.Context, db queryer, key odometer.Key) (odometer.Host, error) {
	return scanHost(db.QueryRowContext(ctx, `SELECT `+hostColumns+` FROM account_hosts WHERE public_key = ?`, string(key)))
}

func liveHost(ctx context.Context, db queryer, agent odometer.AgentID) (odometer.Host, error) {
	return scanHost(db.QueryRowContext(ctx, `SELECT `+hostColumns+` FROM account_hosts WHERE agent = ? AND revoked_us = 0`, string(agent)))
}

func newestHost(ctx context.Context, db queryer, agent odometer.AgentID) (odometer.Host, error) {
	return scanHost(db.QueryRowContext(ctx, `SELECT `+hostColumns+` FROM account_hosts WHERE agent = ? ORDER BY number DESC LIMIT 1`, string(agent)))
}

const enrolmentColumns = `id, agent, replaces, created_us, created_by, expires_us, used_us, used_by, revoked_us`

func scanEnrolment(row scanner) (e odometer.Enrolment, err error) {
	var replaces, created, expires, used, revoked int64
	err = row.Scan(&e.ID, &e.Agent, &replaces, &created, &e.CreatedBy, &expires, &used, &e.UsedBy, &revoked)
	if errors.Is(err, sql.ErrNoRows) {
		err = odometer.ErrNotFound
	}
	e.Replace, e.Created, e.Expires, e.Used, e.Revoked = replaces != 0, moment(created), moment(expires), moment(used), moment(revoked)
	return e, err
}
