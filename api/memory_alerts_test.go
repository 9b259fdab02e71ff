package api

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
)

// Alerts keeps thresholds, violations and channels in memory, with the promises of the
// interfaces of this package. It detects nothing and sends nothing.
type Alerts struct {
	mu         sync.Mutex
	made       uint64
	thresholds []odometer.Threshold // in the order in which they were created, which is that of their ids
	violations []odometer.Violation // every change, in order
	channels   []odometer.Channel
	deliveries []odometer.Delivery
	once       map[odometer.Once]string
	// Fails is what every call answers while it is set.
	Fails error
}

// NewAlerts returns what has none.
func NewAlerts() *Alerts { return &Alerts{once: map[odometer.Once]string{}} }

// ID makes the id of number n of a kind, of so many characters. They are in the order of
// their numbers.
func ID(prefix string, n uint64, chars int) string {
	const digits = "234567abcdefghijklmnopqrstuvwxyz"
	b := bytes.Repeat([]byte{digits[0]}, chars)
	for i := chars - 1; n > 0; i-- {
		b[i] = digits[n%32]
		n /= 32
	}
	return prefix + string(b)
}

// next makes the next id of a kind.
func (a *Alerts) next(prefix string, chars int) string {
	a.made++
	return ID(prefix, a.made, chars)
}

// may refuses who may not change what is of a holder; who does not even see it is told
// that there is none.
func may(by *odometer.Caller, h odometer.Bound) error {
	switch {
	case by.MayManage(h):
		return nil
	case by.MaySee(h):
		return fmt.Errorf("who may not keep its thresholds and channels: %w", odometer.ErrForbidden)
	}
	return odometer.ErrNotFound
}

// held reports whether something of a holder is one of those that are asked for, and
// seen.
func held(by *odometer.Caller, want *odometer.Bound, h odometer.Bound) bool {
	return by.MaySee(h) && (want == nil || *want == h)
}

func (a *Alerts) Create(_ context.Context, by odometer.Actor, d odometer.Threshold, once odometer.Once) (odometer.Threshold, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Fails != nil {
		return d, a.Fails
	}
	if err := may(&by.Caller, d.Holder); err != nil {
		return d, err
	}
	if id, had := a.once[once]; had && once.Key != "" {
		return *a.threshold(odometer.ThresholdID(id)), nil
	}
	if err := a.valid(&d); err != nil {
		return d, fmt.Errorf("create a threshold: %w", err)
	}
	d.ID, d.Version, d.Created, d.Changed, d.CreatedBy = odometer.ThresholdID(a.next("thr_", 16)), 1, Now, Now, by.Caller.String()
	a.thresholds = append(a.thresholds, d)
	a.once[once] = string(d.ID)
	return d, nil
}

// valid is a part of what there is to be said of a threshold.
func (a *Alerts) valid(d *odometer.Threshold) error {
	var wrong several
	if odometer.ValidName(d.Name) != nil {
		wrong = append(wrong, fmt.Errorf("name: is no line: %w", odometer.ErrInvalid))
	}
	if len(d.Levels) == 0 {
		wrong = append(wrong, fmt.Errorf("levels: there are none: %w", odometer.ErrInvalid))
	}
	for i := range d.Levels {
		l := &d.Levels[i]
		if l.Percent != 0 {
			l.Value, l.Name = d.Limit*l.Percent/100, cmp.Or(l.Name, fmt.Sprintf("%g%%", l.Percent))
		}
		if i > 0 && l.Value <= d.Levels[i-1].Value {
			wrong = append(wrong, fmt.Errorf("levels[%d].value: %g does not lie above %g: %w", i, l.Value, d.Levels[i-1].Value, odometer.ErrInvalid))
		}
	}
	for i, id := range d.Channels {
		if c := a.channel(id); c == nil || c.Holder != d.Holder {
			wrong = append(wrong, fmt.Errorf("channels[%d]: there is no channel %s: %w", i, id, odometer.ErrInvalid))
		}
	}
	if wrong == nil {
		return nil
	}
	return wrong
}

// several are errors as [errors.Join] has them.
type several []error

func (s several) Error() string   { return fmt.Sprint([]error(s)) }
func (s several) Unwrap() []error { return s }

func (a *Alerts) threshold(id odometer.ThresholdID) *odometer.Threshold {
	i := slices.IndexFunc(a.thresholds, func(d odometer.Threshold) bool { return d.ID == id })
	if i < 0 {
		return nil
	}
	return &a.thresholds[i]
}

func (a *Alerts) Get(_ context.Context, by odometer.Caller, id odometer.ThresholdID) (odometer.Threshold, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.threshold(id)
	if a.Fails != nil {
		return odometer.Threshold{}, a.Fails
	}
	if d == nil || !by.MaySee(d.Holder) {
		return odometer.Threshold{}, fmt.Errorf("threshold %s: %w", id, odometer.ErrNotFound)
	}
	return *d, nil
}

func (a *Alerts) List(_ context.Context, by odometer.Caller, q odometer.ThresholdQuery) (list []odometer.Threshold, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.thresholds {
		if d.ID > q.After && held(&by, q.Holder, d.Holder) && (q.Resource == "" || q.Resource == d.Resource) && (q.Enabled == nil || *q.Enabled == d.Enabled) && len(list) < q.Limit {
			list = append(list, d)
		}
	}
	return list, a.Fails
}

// changing returns the threshold of a version, where somebody may change it.
func (a *Alerts) changing(by odometer.Actor, id odometer.ThresholdID, version uint64) (*odometer.Threshold, error) {
	d := a.threshold(id)
	if a.Fails != nil {
		return nil, a.Fails
	}
	if d == nil {
		return nil, fmt.Errorf("threshold %s: %w", id, odometer.ErrNotFound)
	}
	if err := may(&by.Caller, d.Holder); err != nil {
		return nil, fmt.Errorf("threshold %s: %w", id, err)
	}
	if version != uint64(odometer.AnyVersion) && version != d.Version {
		return nil, fmt.Errorf("threshold %s: %w", id, odometer.ErrStale)
	}
	return d, nil
}

func (a *Alerts) Update(_ context.Context, by odometer.Actor, d odometer.Threshold, version uint64) (odometer.Threshold, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	had, err := a.changing(by, d.ID, version)
	if err != nil {
		return d, err
	}
	d.Holder, d.Version, d.Created, d.CreatedBy, d.Changed = had.Holder, had.Version+1, had.Created, had.CreatedBy, Now
	if err := a.valid(&d); err != nil {
		return d, fmt.Errorf("threshold %s: %w", d.ID, err)
	}
	*had = d
	return d, nil
}

func (a *Alerts) Delete(_ context.Context, by odometer.Actor, id odometer.ThresholdID, version uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, err := a.changing(by, id, version)
	if err == nil {
		a.thresholds = slices.DeleteFunc(a.thresholds, func(d odometer.Threshold) bool { return d.ID == id })
	}
	return err
}

// Test says that each instance of the scope has reached every level.
func (a *Alerts) Test(_ context.Context, by odometer.Caller, d odometer.Threshold, from, to int64) (t odometer.ThresholdTest, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Fails != nil {
		return t, a.Fails
	}
	if !by.MaySee(d.Holder) {
		return t, odometer.ErrNotFound
	}
	if err := a.valid(&d); err != nil {
		return t, fmt.Errorf("test a threshold: %w", err)
	}
	t = odometer.ThresholdTest{From: from, To: to}
	now := odometer.SubjectTest{Instance: d.Scope.Instance, Owner: odometer.Owner{User: d.Scope.User, Org: d.Scope.Org}}
	for n, l := range d.Levels {
		t.Changes = append(t.Changes, violate(&d, odometer.ViolationID(ID("vio_", uint64(n)+1, 26)), l, now.Owner))
		now.Value, now.Reached = l.Value, append(now.Reached, l.Name)
	}
	t.Now = []odometer.SubjectTest{now}
	return t, nil
}

// violate is a violation of a level by an owner's instance.
func violate(d *odometer.Threshold, id odometer.ViolationID, l odometer.ThresholdLevel, owner odometer.Owner) odometer.Violation {
	at := Now.Add(-time.Minute).UnixMicro()
	return odometer.Violation{
		ID: id, Change: 1, Threshold: d.ID, Version: d.Version, Name: d.Name, Holder: d.Holder, Shared: d.Shared, Level: l.Name, Standing: odometer.StandingOpen,
		Instance: d.Scope.Instance, Owner: owner, Sum: d.Scope.Sum, Resource: d.Resource, Condition: d.Condition, Unit: d.Unit,
		Limit: l.Value, Before: l.Value - 1, Value: l.Value + 1, From: at - 30_000_000, To: at, Crossed: at, Detected: at + 1000, Changed: at + 1000,
		Event: "vm-1:1", Entry: "3-1", Action: d.Action, Channels: d.Channels,
	}
}

// Violate has a level of a threshold be reached by an owner's instance.
func (a *Alerts) Violate(id odometer.ThresholdID, level int, owner odometer.Owner) odometer.ViolationID {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.threshold(id)
	v := violate(d, odometer.ViolationID(a.next("vio_", 26)), d.Levels[level], owner)
	v.Number = uint64(len(a.violations)) + 1
	a.violations = append(a.violations, v)
	return v.ID
}

// Recover has the value of a violation fall back.
func (a *Alerts) Recover(id odometer.ViolationID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.violations, func(v odometer.Violation) bool { return v.ID == id })
	v := a.violations[i]
	v.Change, v.Number, v.Standing, v.Before, v.Value = v.Change+1, uint64(len(a.violations))+1, odometer.StandingRecovered, v.Value, v.Limit-10
	a.violations = append(a.violations, v)
}

func (a *Alerts) Violations(_ context.Context, q odometer.ViolationQuery) (list []odometer.Violation, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	told := map[odometer.ViolationID]bool{}
	for _, v := range slices.Backward(a.violations) {
		if told[v.ID] {
			continue
		}
		told[v.ID] = true
		if (q.Before == 0 || v.Number < q.Before) && (q.Threshold == "" || q.Threshold == v.Threshold) && (q.Instance == "" || q.Instance == v.Instance) &&
			(q.User == "" || q.User == v.Owner.User) && (q.Org == "" || q.Org == v.Owner.Org) && (q.Level == "" || q.Level == v.Level) && (q.Standing == "" || q.Standing == v.Standing) &&
			(q.Resource == "" || q.Resource == v.Resource) && v.Crossed >= q.From && (q.To == 0 || v.Crossed < q.To) && (q.View == nil || v.SeenBy(*q.View)) && len(list) < q.Limit {
			list = append(list, v)
		}
	}
	return list, a.Fails
}

func (a *Alerts) Violation(_ context.Context, seen odometer.View, id odometer.ViolationID) (changes []odometer.Violation, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, v := range a.violations {
		if v.ID == id && v.SeenBy(seen) {
			changes = append(changes, v)
		}
	}
	if a.Fails == nil && changes == nil {
		return nil, fmt.Errorf("violation %s: %w", id, odometer.ErrNotFound)
	}
	return changes, a.Fails
}

func (a *Alerts) CreateChannel(_ context.Context, by odometer.Actor, once odometer.Once, c odometer.Channel, given ChannelSecrets) (odometer.Channel, string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Fails != nil {
		return c, "", a.Fails
	}
	if err := may(&by.Caller, c.Holder); err != nil {
		return c, "", err
	}
	if err := validChannel(&c); err != nil {
		return c, "", err
	}
	c.ID, c.Version, c.Created, c.Changed, c.CreatedBy = odometer.ChannelID(a.next("chn_", 16)), 1, Now, Now, by.Caller.String()
	secret := ""
	if c.Kind == odometer.ChannelWebhook {
		c.Secrets, secret = 1, cmp.Or(given.Sign, exampleSecret)
	}
	a.channels = append(a.channels, c)
	return c, secret, nil
}

const exampleSecret = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

func validChannel(c *odometer.Channel) error {
	switch {
	case !slices.Contains(odometer.ChannelKinds, c.Kind):
		return fmt.Errorf("kind: %q is none: %w", c.Kind, odometer.ErrInvalid)
	case odometer.ValidName(c.Name) != nil:
		return fmt.Errorf("name: is no line: %w", odometer.ErrInvalid)
	case c.Kind != odometer.ChannelEmail && c.Kind != odometer.ChannelLog && !strings.HasPrefix(c.URL, "https://"):
		return fmt.Errorf("url: is no address outside: %w", odometer.ErrInvalid)
	}
	return nil
}

func (a *Alerts) channel(id odometer.ChannelID) *odometer.Channel {
	i := slices.IndexFunc(a.channels, func(c odometer.Channel) bool { return c.ID == id })
	if i < 0 {
		return nil
	}
	return &a.channels[i]
}

func (a *Alerts) Channel(_ context.Context, by odometer.Caller, id odometer.ChannelID) (odometer.Channel, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.channel(id)
	if a.Fails != nil {
		return odometer.Channel{}, a.Fails
	}
	if c == nil || !by.MaySee(c.Holder) {
		return odometer.Channel{}, fmt.Errorf("channel %s: %w", id, odometer.ErrNotFound)
	}
	return *c, nil
}

func (a *Alerts) Channels(_ context.Context, by odometer.Caller, q odometer.ChannelQuery) (list []odometer.Channel, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.channels {
		if c.ID > q.After && held(&by, q.Holder, c.Holder) && (q.Kind == "" || q.Kind == c.Kind) && len(list) < q.Limit {
			list = append(list, c)
		}
	}
	return list, a.Fails
}

// mine returns the channel of a version, where somebody may change it.
func (a *Alerts) mine(by odometer.Actor, id odometer.ChannelID, version uint64) (*odometer.Channel, error) {
	c := a.channel(id)
	if a.Fails != nil {
		return nil, a.Fails
	}
	if c == nil {
		return nil, fmt.Errorf("channel %s: %w", id, odometer.ErrNotFound)
	}
	if err := may(&by.Caller, c.Holder); err != nil {
		return nil, fmt.Errorf("channel %s: %w", id, err)
	}
	if version != uint64(odometer.AnyVersion) && version != c.Version {
		return nil, fmt.Errorf("channel %s: %w", id, odometer.ErrStale)
	}
	return c, nil
}

func (a *Alerts) UpdateChannel(_ context.Context, by odometer.Actor, c odometer.Channel, version uint64, _ *string) (odometer.Channel, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	had, err := a.mine(by, c.ID, version)
	if err != nil {
		return c, err
	}
	c.Kind, c.Holder, c.Version, c.Secrets, c.Created, c.CreatedBy, c.Changed = had.Kind, had.Holder, had.Version+1, had.Secrets, had.Created, had.CreatedBy, Now
	if err := validChannel(&c); err != nil {
		return c, err
	}
	*had = c
	return c, nil
}

func (a *Alerts) DeleteChannel(_ context.Context, by odometer.Actor, id odometer.ChannelID, version uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.mine(by, id, version); err != nil {
		return err
	}
	if slices.ContainsFunc(a.thresholds, func(d odometer.Threshold) bool { return slices.Contains(d.Channels, id) }) {
		return fmt.Errorf("channel %s: a threshold names it: %w", id, odometer.ErrConflict)
	}
	a.channels = slices.DeleteFunc(a.channels, func(c odometer.Channel) bool { return c.ID == id })
	return nil
}

func (a *Alerts) RotateSecret(_ context.Context, by odometer.Actor, id odometer.ChannelID, keep time.Duration) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, err := a.mine(by, id, 0)
	if err == nil && c.Kind != odometer.ChannelWebhook {
		err = fmt.Errorf("channel %s: %s has no secret that signs: %w", id, c.Kind, odometer.ErrConflict)
	}
	if err != nil {
		return "", err
	}
	c.Secrets = 2
	return exampleSecret, nil
}

// TestChannel is answered by a receiver that is well.
func (a *Alerts) TestChannel(_ context.Context, by odometer.Actor, id odometer.ChannelID) (odometer.Attempt, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.mine(by, id, 0); err != nil {
		return odometer.Attempt{}, err
	}
	return odometer.Attempt{At: Now, Latency: 12_345 * time.Microsecond, Status: 200, Answer: "ok"}, nil
}

// GiveUp has something been sent to a channel that was given up.
func (a *Alerts) GiveUp(channel odometer.ChannelID, event string) odometer.DeliveryID {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := odometer.Attempt{At: Now.Add(-time.Second), Latency: 5 * time.Millisecond, Status: 500, Answer: "no", Err: "the receiver answered 500"}
	id := odometer.DeliveryID(a.next("dlv_", 26))
	a.deliveries = append(a.deliveries, odometer.Delivery{
		ID: id, Channel: channel, Kind: odometer.EventViolation, Subject: "vm-1", Event: event, Events: 1, State: odometer.DeliveryDead, Attempts: 2,
		Created: Now.Add(-time.Hour), Done: Now, Last: last,
	})
	return id
}

func (a *Alerts) Deliveries(_ context.Context, by odometer.Caller, q odometer.DeliveryQuery) (list []odometer.Delivery, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.channel(q.Channel)
	if a.Fails == nil && (c == nil || !by.MaySee(c.Holder)) {
		return nil, fmt.Errorf("channel %s: %w", q.Channel, odometer.ErrNotFound)
	}
	for _, d := range slices.Backward(a.deliveries) {
		if d.Channel == q.Channel && (q.Before == "" || d.ID < q.Before) && (q.State == "" || q.State == d.State) && len(list) < q.Limit {
			list = append(list, d)
		}
	}
	return list, a.Fails
}

func (a *Alerts) Attempts(_ context.Context, by odometer.Caller, channel odometer.ChannelID, id odometer.DeliveryID) ([]odometer.Attempt, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.channel(channel)
	i := slices.IndexFunc(a.deliveries, func(d odometer.Delivery) bool { return d.ID == id && d.Channel == channel })
	if a.Fails != nil {
		return nil, a.Fails
	}
	if c == nil || !by.MaySee(c.Holder) || i < 0 {
		return nil, fmt.Errorf("delivery %s of channel %s: %w", id, channel, odometer.ErrNotFound)
	}
	return []odometer.Attempt{{At: Now.Add(-time.Minute), Err: "the connection was refused"}, a.deliveries[i].Last}, nil
}

func (a *Alerts) RetryDeliveries(_ context.Context, by odometer.Actor, channel odometer.ChannelID, id odometer.DeliveryID) (n int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.mine(by, channel, 0); err != nil {
		return 0, err
	}
	for i := range a.deliveries {
		if d := &a.deliveries[i]; d.Channel == channel && d.State == odometer.DeliveryDead && (id == "" || d.ID == id) {
			d.State, d.Next, d.Done = odometer.DeliveryWaiting, Now, time.Time{}
			n++
		}
	}
	if n == 0 && id != "" {
		return 0, fmt.Errorf("delivery %s of channel %s: %w", id, channel, odometer.ErrNotFound)
	}
	return n, nil
}
