package notify

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	"example.org/odometer"
)

const (
	// MaxChannels bounds the channels of a user or an organisation: each has attempts
	// at once of its own, and is asked for in each round. The operator has as many as he
	// makes.
	MaxChannels = 50
	// MaxSecrets bounds the secrets by which a webhook signs at a time: each is a
	// header's worth of signature.
	MaxSecrets = 5
	// MaxKeep bounds for how long a secret that was replaced signs: as long as it may
	// take somebody to put the new one in place.
	MaxKeep = 30 * 24 * time.Hour
	// keepRepeats is for how long a key of a repeated request is remembered.
	keepRepeats = 24 * time.Hour
)

const channelColumns = `id, version, name, kind, usr, org, enabled, problem, url, recipients, events, created_us, changed_us, created_by,
	(SELECT count(*) FROM notify_secrets s WHERE s.channel = notify_channels.id AND s.purpose = 'sign' AND (s.until_us = 0 OR s.until_us > ?))`

type scanner interface{ Scan(...any) error }

func scanChannel(row scanner) (c odometer.Channel, err error) {
	var to, events string
	var created, changed int64
	err = row.Scan(&c.ID, &c.Version, &c.Name, &c.Kind, &c.Holder.User, &c.Holder.Org, &c.Enabled, &c.Problem, &c.URL, &to, &events, &created, &changed, &c.CreatedBy, &c.Secrets)
	if errors.Is(err, sql.ErrNoRows) {
		err = odometer.ErrNotFound
	}
	c.To = strings.Fields(to)
	for _, e := range strings.Fields(events) {
		c.Events = append(c.Events, odometer.EventKind(e))
	}
	c.Created, c.Changed = moment(created), moment(changed)
	return c, err
}

// channel returns one, whoever asks.
func channel(ctx context.Context, db querier, now int64, id odometer.ChannelID) (odometer.Channel, error) {
	return scanChannel(db.QueryRowContext(ctx, `SELECT `+channelColumns+` FROM notify_channels WHERE id = ?`, now, string(id)))
}

// channels returns those of a condition.
func channels(ctx context.Context, db querier, now int64, rest string, args ...any) ([]odometer.Channel, error) {
	rows, err := db.QueryContext(ctx, `SELECT `+channelColumns+` FROM notify_channels `+rest, append([]any{now}, args...)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []odometer.Channel{}
	for rows.Next() {
		c, err := scanChannel(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, rows.Err()
}

// managed returns a channel that by may change. What is another's is absent.
func managed(ctx context.Context, db querier, now int64, by *odometer.Caller, id odometer.ChannelID) (odometer.Channel, error) {
	c, err := channel(ctx, db, now, id)
	switch {
	case err != nil:
		return c, err
	case by.MayManage(c.Holder):
		return c, nil
	case by.MaySee(c.Holder):
		return c, fmt.Errorf("who keeps the thresholds and channels of its holder does that: %w", odometer.ErrForbidden)
	}
	return c, odometer.ErrNotFound
}

// seen returns a channel that by may see.
func (n *Notifier) seen(ctx context.Context, by *odometer.Caller, id odometer.ChannelID) (odometer.Channel, error) {
	c, err := channel(ctx, n.db, n.now(), id)
	if err == nil && !by.MaySee(c.Holder) {
		err = odometer.ErrNotFound
	}
	return c, unavailable(err)
}

// shown is what may be shown of a URL that is a secret: where it leads.
func shown(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host + "/…"
}

// valid returns everything that is wrong with a channel.
func (n *Notifier) valid(c *odometer.Channel) error {
	errs := []error{c.Valid()}
	if c.URL != "" {
		if err := n.guard.URL(c.URL); err != nil {
			errs = append(errs, fmt.Errorf("url: %w: %w", err, odometer.ErrInvalid))
		}
	}
	if c.Kind == odometer.ChannelEmail && n.o.SMTP.Addr == "" {
		errs = append(errs, fmt.Errorf("kind: this server has no server for e-mail: start it with --smtp-addr: %w", odometer.ErrInvalid))
	}
	return errors.Join(errs...)
}

// stored is what a column has of the URL of a channel.
func stored(c *odometer.Channel) string {
	if c.Kind == odometer.ChannelSlack {
		return shown(c.URL)
	}
	return c.URL
}

func joined[T ~string](list []T) string {
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = string(s)
	}
	return strings.Join(words, " ")
}

// detail says in the audit log what a channel is, without its secrets.
func detail(c *odometer.Channel) string {
	where := cmp.Or(stored(c), strings.Join(c.To, " "))
	return strings.TrimSpace(fmt.Sprintf("%s: %s %s", c.Name, c.Kind, where))
}

// Create makes a channel of c's holder and returns it, and the secret of a webhook: the
// one that is given, or a new one. It is told from now on. When it returns nil the
// channel and its line in the audit log are durable.
//
// The error wraps [odometer.ErrInvalid] and names each field that will not do,
// [odometer.ErrForbidden] where by may not, [odometer.ErrConflict] where the holder has
// one of this name, or [MaxChannels].
func (n *Notifier) Create(ctx context.Context, by odometer.Actor, c odometer.Channel, secrets Secrets, once odometer.Once) (odometer.Channel, string, error) {
	made, secret, err := n.create(ctx, by, c, secrets, once)
	if err != nil {
		return odometer.Channel{}, "", fmt.Errorf("create a channel: %w", err)
	}
	n.poke()
	return made, secret, nil
}

func (n *Notifier) create(ctx context.Context, by odometer.Actor, c odometer.Channel, secrets Secrets, once odometer.Once) (odometer.Channel, string, error) {
	if !by.MayManage(c.Holder) {
		if by.MaySee(c.Holder) {
			return c, "", odometer.ErrForbidden
		}
		return c, "", odometer.ErrNotFound
	}
	if err := errors.Join(n.valid(&c), secrets.valid(c.Kind)); err != nil {
		return c, "", err
	}
	after := ""
	if n.o.Entries != nil {
		var err error
		if after, err = n.o.Entries.End(ctx); err != nil {
			return c, "", err
		}
	}
	if c.Kind == odometer.ChannelWebhook && secrets.Sign == "" {
		secrets.Sign = newSignSecret()
	}
	now := n.now()
	secret := secrets.Sign
	err := n.transact(ctx, func(tx *sql.Tx) error {
		known, err := repeated(ctx, tx, now, &by, once)
		if err != nil {
			return err
		}
		if known != "" {
			if c, err = channel(ctx, tx, now, known); err != nil {
				return err
			}
			list, err := n.seal.secrets(ctx, tx, known, purposeSign, now)
			if len(list) > 0 {
				secret = list[0]
			}
			return err
		}
		c.ID, c.Version, c.Problem = odometer.ChannelID(newID("chn_", 16)), 1, ""
		if err := n.insert(ctx, tx, now, &by, &c, after, secrets); err != nil {
			return err
		}
		if err := remember(ctx, tx, now, &by, once, c.ID); err != nil {
			return err
		}
		if err := n.note(ctx, tx, by, odometer.ActionChannelCreate, string(c.ID), detail(&c)); err != nil {
			return err
		}
		c, err = channel(ctx, tx, now, c.ID)
		return err
	})
	return c, secret, err
}

func (n *Notifier) insert(ctx context.Context, tx *sql.Tx, now int64, by *odometer.Actor, c *odometer.Channel, after string, secrets Secrets) error {
	var all int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM notify_channels WHERE usr = ? AND org = ?`, string(c.Holder.User), string(c.Holder.Org)).Scan(&all); err != nil {
		return err
	}
	if all >= MaxChannels && c.Holder != (odometer.Bound{}) {
		return fmt.Errorf("its holder has %d channels, and more there cannot be: %w", MaxChannels, odometer.ErrConflict)
	}
	if err := named(ctx, tx, c); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO notify_channels (id, version, name, kind, usr, org, enabled, problem, url, recipients, events, after, created_us, changed_us, created_by)
		VALUES (?, 1, ?, ?, ?, ?, ?, '', ?, ?, ?, ?, ?, ?, ?)`, string(c.ID), c.Name, string(c.Kind), string(c.Holder.User), string(c.Holder.Org), flag(c.Enabled),
		stored(c), strings.Join(c.To, " "), joined(c.Events), after, now, now, by.String())
	if err == nil && c.Kind == odometer.ChannelSlack {
		err = n.seal.keep(ctx, tx, c.ID, purposeURL, c.URL, 0)
	}
	if err == nil && secrets.Sign != "" {
		err = n.seal.keep(ctx, tx, c.ID, purposeSign, secrets.Sign, 0)
	}
	if err == nil && secrets.Bearer != "" {
		err = n.seal.keep(ctx, tx, c.ID, purposeBearer, secrets.Bearer, 0)
	}
	return err
}

// keepBearer replaces the token of a channel that is changed.
func (n *Notifier) keepBearer(ctx context.Context, tx *sql.Tx, was, is *odometer.Channel, bearer *string) error {
	if bearer == nil {
		var has int // it need not be read, nor can it be where the key was lost
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM notify_secrets WHERE channel = ? AND purpose = ?`, string(is.ID), purposeBearer).Scan(&has)
		if has > 0 && shown(was.URL) != shown(is.URL) {
			err = fmt.Errorf("bearer: the token that the channel has is for %s: give the one for the other server, or an empty one: %w", shown(was.URL), odometer.ErrInvalid)
		}
		return err
	}
	if err := (&Secrets{Bearer: *bearer}).valid(is.Kind); err != nil {
		return err
	}
	if *bearer == "" {
		_, err := tx.ExecContext(ctx, `DELETE FROM notify_secrets WHERE channel = ? AND purpose = ?`, string(is.ID), purposeBearer)
		return err
	}
	return n.seal.keep(ctx, tx, is.ID, purposeBearer, *bearer, 0)
}

// named refuses a name that another channel of the holder has.
func named(ctx context.Context, tx *sql.Tx, c *odometer.Channel) error {
	var others int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM notify_channels WHERE usr = ? AND org = ? AND name = ? AND id <> ?`,
		string(c.Holder.User), string(c.Holder.Org), c.Name, string(c.ID)).Scan(&others)
	if err == nil && others > 0 {
		err = fmt.Errorf("name: its holder has a channel of this name: %w", odometer.ErrConflict)
	}
	return err
}

// repeated returns the channel that a key made before, "" for none.
func repeated(ctx context.Context, tx *sql.Tx, now int64, by *odometer.Actor, once odometer.Once) (odometer.ChannelID, error) {
	if once.Key == "" {
		return "", nil
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM notify_repeats WHERE at_us <= ?`, now-keepRepeats.Microseconds()); err != nil {
		return "", err
	}
	var request string
	var id odometer.ChannelID
	err := tx.QueryRowContext(ctx, `SELECT request, channel FROM notify_repeats WHERE holder = ? AND key = ?`, asker(by), once.Key).Scan(&request, &id)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "", nil
	case err == nil && request != hex.EncodeToString(once.Request[:]):
		return "", odometer.ErrReused
	}
	return id, err
}

func remember(ctx context.Context, tx *sql.Tx, now int64, by *odometer.Actor, once odometer.Once, id odometer.ChannelID) error {
	if once.Key == "" {
		return nil
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO notify_repeats (holder, key, request, channel, at_us) VALUES (?, ?, ?, ?, ?)`,
		asker(by), once.Key, hex.EncodeToString(once.Request[:]), string(id), now)
	return err
}

// asker is whose keys of repeated requests are one's own.
func asker(by *odometer.Actor) string {
	if by.User != "" {
		return "user:" + string(by.User)
	}
	return "token:" + string(by.ID)
}

// AnyVersion is the version to name where whatever there is shall be changed.
const AnyVersion = uint64(odometer.AnyVersion)

func checkVersion(named, is uint64) error {
	if named != AnyVersion && named != is {
		return fmt.Errorf("it is of version %d: %w", is, odometer.ErrStale)
	}
	return nil
}

// Update changes name, URL, addresses, event types of a channel and whether it is
// enabled, which takes away why the server disabled it. Kind and holder stay. The URL of
// Slack's may be given as it is shown, and stays then. The token of an Alertmanager is
// replaced by bearer, or taken away where that is "", and stays where it is nil; to another
// server it is not carried along unasked. The error wraps what [Create]'s does, and
// [odometer.ErrStale] where the channel is of another version.
func (n *Notifier) Update(ctx context.Context, by odometer.Actor, c odometer.Channel, version uint64, bearer *string) (is odometer.Channel, err error) {
	now := n.now()
	err = n.transact(ctx, func(tx *sql.Tx) error {
		was, err := managed(ctx, tx, now, &by.Caller, c.ID)
		if err == nil {
			err = checkVersion(version, was.Version)
		}
		if err != nil {
			return err
		}
		c.Kind, c.Holder = was.Kind, was.Holder
		same := c.Kind == odometer.ChannelSlack && c.URL == was.URL
		check := c
		if same {
			check.URL = strings.TrimSuffix(c.URL, "…")
		}
		if err := n.valid(&check); err != nil {
			return err
		}
		if err := named(ctx, tx, &c); err != nil {
			return err
		}
		if err := n.keepBearer(ctx, tx, &was, &c, bearer); err != nil {
			return err
		}
		url := stored(&c)
		if same {
			url = was.URL
		} else if c.Kind == odometer.ChannelSlack {
			if err := n.seal.keep(ctx, tx, c.ID, purposeURL, c.URL, 0); err != nil {
				return err
			}
		}
		if _, err = tx.ExecContext(ctx, `UPDATE notify_channels SET version = version + 1, name = ?, enabled = ?, problem = '', url = ?, recipients = ?, events = ?, changed_us = ? WHERE id = ?`,
			c.Name, flag(c.Enabled), url, strings.Join(c.To, " "), joined(c.Events), now, string(c.ID)); err != nil {
			return err
		}
		if err := n.note(ctx, tx, by, odometer.ActionChannelUpdate, string(c.ID), detail(&c)); err != nil {
			return err
		}
		is, err = channel(ctx, tx, now, c.ID)
		return err
	})
	if err != nil {
		return odometer.Channel{}, fmt.Errorf("change channel %s: %w", c.ID, err)
	}
	n.forget(c.ID)
	n.poke()
	return is, nil
}

// Rotate gives a webhook another secret and returns it. The one before signs beside it
// for a time, at most [MaxKeep]; for 0 it does not.
func (n *Notifier) Rotate(ctx context.Context, by odometer.Actor, id odometer.ChannelID, keep time.Duration) (secret string, err error) {
	secret = newSignSecret()
	now := n.now()
	if keep < 0 || keep > MaxKeep {
		return "", fmt.Errorf("change the secret of channel %s: keep_s: %d is not from 0 to %d: %w", id, int64(keep.Seconds()), int64(MaxKeep.Seconds()), odometer.ErrInvalid)
	}
	err = n.transact(ctx, func(tx *sql.Tx) error {
		c, err := managed(ctx, tx, now, &by.Caller, id)
		switch {
		case err != nil:
			return err
		case c.Kind != odometer.ChannelWebhook:
			return fmt.Errorf("a channel of kind %s has no secret: %w", c.Kind, odometer.ErrInvalid)
		case c.Secrets >= MaxSecrets && keep > 0:
			return fmt.Errorf("%d secrets sign already: %w", c.Secrets, odometer.ErrConflict)
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM notify_secrets WHERE until_us <> 0 AND until_us <= ?`, now); err != nil {
			return err
		}
		until := int64(0)
		if keep > 0 {
			until = now + keep.Microseconds()
		}
		if err := n.seal.keep(ctx, tx, id, purposeSign, secret, until); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE notify_channels SET version = version + 1, changed_us = ? WHERE id = ?`, now, string(id)); err != nil {
			return err
		}
		return n.note(ctx, tx, by, odometer.ActionChannelUpdate, string(id), "another secret; the one before signs for "+keep.String())
	})
	if err != nil {
		return "", fmt.Errorf("change the secret of channel %s: %w", id, err)
	}
	return secret, nil
}

// HeldIn refuses channels that a holder has not, those that there are not and others' in
// the same words, each by an [odometer.ThresholdProblem]; in a transaction of another room
// on the same file.
func (n *Notifier) HeldIn(ctx context.Context, tx *sql.Tx, holder odometer.Bound, list []odometer.ChannelID) error {
	var wrong []error
	for i, id := range list {
		c, err := channel(ctx, tx, n.now(), id)
		switch {
		case errors.Is(err, odometer.ErrNotFound) || err == nil && c.Holder != holder:
			wrong = append(wrong, odometer.ThresholdProblem{Field: fmt.Sprintf("channels[%d]", i), Why: fmt.Sprintf("its holder has no channel %s", id)})
		case err != nil:
			return err
		}
	}
	return errors.Join(wrong...)
}

// Delete takes a channel away that no threshold names, with all that was or is to be
// delivered to it.
func (n *Notifier) Delete(ctx context.Context, by odometer.Actor, id odometer.ChannelID, version uint64) error {
	now := n.now()
	err := n.transact(ctx, func(tx *sql.Tx) error {
		c, err := managed(ctx, tx, now, &by.Caller, id)
		if err == nil {
			err = checkVersion(version, c.Version)
		}
		if err == nil && n.o.Namer != nil {
			var name string
			if name, err = n.o.Namer(ctx, tx, c.Holder, id); name != "" {
				err = fmt.Errorf("the threshold %q names it: %w", name, odometer.ErrConflict)
			}
		}
		if err != nil {
			return err
		}
		for _, do := range []string{
			`DELETE FROM notify_attempts WHERE delivery IN (SELECT id FROM notify_deliveries WHERE channel = ?)`,
			`DELETE FROM notify_deliveries WHERE channel = ?`,
			`DELETE FROM notify_open WHERE channel = ?`,
			`DELETE FROM notify_secrets WHERE channel = ?`,
			`DELETE FROM notify_repeats WHERE channel = ?`,
			`DELETE FROM notify_channels WHERE id = ?`,
		} {
			if _, err := tx.ExecContext(ctx, do, string(id)); err != nil {
				return err
			}
		}
		return n.note(ctx, tx, by, odometer.ActionChannelDelete, string(id), detail(&c))
	})
	if err != nil {
		return fmt.Errorf("delete channel %s: %w", id, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.endpoints, id)
	return nil
}

// Get returns a channel. One that by may not see is absent.
func (n *Notifier) Get(ctx context.Context, by odometer.Caller, id odometer.ChannelID) (odometer.Channel, error) {
	c, err := n.seen(ctx, &by, id)
	if err != nil {
		return odometer.Channel{}, fmt.Errorf("channel %s: %w", id, err)
	}
	return c, nil
}

// List returns the channels that q asks for of those that by may see.
func (n *Notifier) List(ctx context.Context, by odometer.Caller, q odometer.ChannelQuery) ([]odometer.Channel, error) {
	cond, args := visible(&by)
	if q.Holder != nil {
		cond, args = cond+` AND usr = ? AND org = ?`, append(args, string(q.Holder.User), string(q.Holder.Org))
	}
	if q.Kind != "" {
		cond, args = cond+` AND kind = ?`, append(args, string(q.Kind))
	}
	limit := q.Limit
	if limit == 0 {
		limit = math.MaxInt32
	}
	list, err := channels(ctx, n.db, n.now(), `WHERE id > ? AND `+cond+` ORDER BY id LIMIT ?`, append(append([]any{string(q.After)}, args...), limit)...)
	if err != nil {
		return nil, fmt.Errorf("list channels: %w", unavailable(err))
	}
	return list, nil
}

// visible is the condition of [odometer.Caller.MaySee] on a holder.
func visible(by *odometer.Caller) (cond string, args []any) {
	v := by.View()
	if v.All() {
		return `1 = 1`, nil
	}
	cond = `(1 = 0`
	if u := v.User(); u != "" {
		cond, args = cond+` OR usr = ? AND org = ''`, append(args, string(u))
	}
	for _, o := range v.Orgs() {
		cond, args = cond+` OR org = ? AND usr = ''`, append(args, string(o))
	}
	return cond + `)`, args
}
