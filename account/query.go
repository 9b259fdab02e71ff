package account

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"example.org/odometer"
)

// What an instance's status may be beside its state.
const (
	Gone       = "gone"       // its agent no longer has it
	Unobserved = "unobserved" // its agent is silent
)

// Claim is what one agent says of an instance.
type Claim struct {
	odometer.Description
	Agent     odometer.AgentID
	First     time.Time // when it was first described
	Described time.Time // when it was last described
	Gone      time.Time // since when it is gone from there, zero while it is not
	Silent    bool      // the agent was not heard for as long as [Silence]
}

// Status is [Gone], [Unobserved] or the state.
func (c *Claim) Status() string {
	switch {
	case !c.Gone.IsZero():
		return Gone
	case c.Silent:
		return Unobserved
	}
	return string(c.State)
}

// Instance is what is known of one instance: what its holder says, what others
// said before or say too, newest first, and the conflict that they are in.
type Instance struct {
	Claim
	Others   []Claim
	Conflict *Conflict // nil for none
}

// Query selects instances in order of their ids. Empty fields select all; the
// others are compared with what the holder says.
type Query struct {
	After     odometer.InstanceID
	Limit     int // at most so many; 0 for all
	Instance  odometer.InstanceID
	Agent     odometer.AgentID // also where it is in a conflict with the holder
	Status    string
	Name      string
	Attribute string // its name; "" for any
	Value     string // of the attribute
}

// batch is how many instances are looked at in one question to the file.
const batch = 500

// Instances returns those that are asked for. While nothing can be written (see
// [Directory.Stats]) they are as they were written last.
func (d *Directory) Instances(ctx context.Context, q Query) ([]Instance, error) {
	d.mu.Lock()
	due := len(d.changed) > 0 && d.failed == nil
	d.mu.Unlock()
	if due {
		d.write(context.WithoutCancel(ctx)) // a client that hangs up is no fault of the file's
	}
	list := []Instance{}
	for {
		some, last, err := d.some(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("read the directory of instances: %w", damage(err))
		}
		for _, i := range some {
			if q.matches(&i) {
				list = append(list, i)
			}
			if q.Limit > 0 && len(list) == q.Limit {
				return list, nil
			}
		}
		if last == "" {
			return list, nil
		}
		q.After = last
	}
}

// matches decides what depends on who holds the instance, and on the time.
func (q *Query) matches(i *Instance) bool {
	value, there := i.Attributes[q.Attribute]
	return (q.Agent == "" || i.Agent == q.Agent || i.Conflict != nil && slices.Contains(i.Conflict.Agents, q.Agent)) &&
		(q.Status == "" || i.Status() == q.Status) &&
		(q.Name == "" || i.Name == q.Name) &&
		(q.Attribute == "" || there && value == q.Value)
}

// some returns the next instances that may match q, and where to go on; "" when
// there are no more.
func (d *Directory) some(ctx context.Context, q Query) (list []Instance, last odometer.InstanceID, err error) {
	table, key := `claims c`, `c.instance`
	var cond string
	var args []any
	if q.Attribute != "" { // of which few have the same, as a rule
		table, key = `attributes a CROSS JOIN claims c ON c.instance = a.instance AND c.agent = a.agent`, `a.instance`
		cond, args = `a.name = ? AND a.value = ? AND `, []any{q.Attribute, q.Value}
	}
	cond, args = cond+key+` > ?`, append(args, string(q.After))
	also := func(more string, value any) { cond, args = cond+` AND `+more, append(args, value) }
	if q.Instance != "" {
		also(key+` = ?`, string(q.Instance))
	}
	if q.Agent != "" {
		also(`c.agent = ?`, string(q.Agent))
	}
	if q.Name != "" {
		also(`c.name = ?`, q.Name)
	}
	if odometer.State(q.Status).Valid() {
		also(`c.state = ?`, q.Status)
	}
	rows, err := d.db.QueryContext(ctx, `SELECT instance, agent, body, first_us, described_us, gone_us FROM claims WHERE instance IN (
		SELECT DISTINCT `+key+` FROM `+table+` WHERE `+cond+` ORDER BY `+key+` LIMIT ?) ORDER BY instance, agent`, append(args, batch)...)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	now, n := d.clock(), 0
	var claims []Claim
	next := func() {
		if len(claims) > 0 {
			n++
			last = claims[0].Instance
			list = append(list, d.join(claims, now))
			claims = nil
		}
	}
	for rows.Next() {
		c, err := d.scan(rows, now)
		if err != nil {
			return nil, "", err
		}
		if len(claims) > 0 && claims[0].Instance != c.Instance {
			next()
		}
		claims = append(claims, c)
	}
	next()
	if n < batch {
		last = ""
	}
	return list, last, rows.Err()
}

// scan reads a claim, with what is known of it since it was written.
func (d *Directory) scan(rows *sql.Rows, now time.Time) (c Claim, err error) {
	var k key
	var body []byte
	var first, described, gone int64
	if err := rows.Scan(&k.instance, &k.agent, &body, &first, &described, &gone); err != nil {
		return c, err
	}
	if err := json.Unmarshal(body, &c.Description); err != nil {
		return c, fmt.Errorf("instance %s of %s: %w: %w", k.instance, k.agent, ErrDamaged, err)
	}
	c.Instance, c.Agent = k.instance, k.agent
	c.First, c.Described = time.UnixMicro(first).UTC(), time.UnixMicro(described).UTC()
	if gone != 0 {
		c.Gone = time.UnixMicro(gone).UTC()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Silent = d.silent(k.agent, now)
	if m := d.claim(k); m != nil {
		c.Described = m.described.UTC()
		c.Gone = m.gone.UTC()
	}
	return c, nil
}

// join makes one instance of what several agents say of it.
func (d *Directory) join(claims []Claim, now time.Time) Instance {
	rank := func(c *Claim) int {
		switch {
		case !c.Gone.IsZero():
			return 3
		case c.Silent:
			return 2
		case c.State == odometer.Stopped:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(claims, func(a, b Claim) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), b.Described.Compare(a.Described))
	})
	d.mu.Lock()
	defer d.mu.Unlock()
	i := Instance{Claim: claims[0], Others: claims[1:], Conflict: d.conflict(claims[0].Instance, now)}
	if i.Conflict != nil { // who said so first holds it, however the others are ordered
		for at := range claims {
			if claims[at].Agent == i.Conflict.Agents[0] {
				claims[0], claims[at] = claims[at], claims[0]
				i.Claim = claims[0]
			}
		}
	}
	return i
}
