package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/notify"
	"example.org/odometer/threshold"
)

// everyone is the program itself, where it asks for what somebody else names.
var everyone = odometer.Caller{Name: "odometer", Scopes: []odometer.Scope{odometer.ScopeAdmin}}

// thresholds are the thresholds as [api.ThresholdAdmin], held to the channels that they
// name.
type thresholds struct {
	*threshold.Thresholds
	notifier *notify.Notifier // nil where notifications are absent
}

func (t thresholds) Create(ctx context.Context, by odometer.Actor, d odometer.Threshold, once odometer.Once) (odometer.Threshold, error) {
	if by.MayManage(d.Holder) { // who may not is told so, and nothing of channels
		if err := t.channels(ctx, d.Holder, d.Channels); err != nil {
			return d, err
		}
	}
	return t.Thresholds.Create(ctx, by, d, once)
}

func (t thresholds) Update(ctx context.Context, by odometer.Actor, d odometer.Threshold, version uint64) (odometer.Threshold, error) {
	had, err := t.Get(ctx, by.Caller, d.ID)
	if err == nil && by.MayManage(had.Holder) {
		if err := t.channels(ctx, had.Holder, d.Channels); err != nil {
			return d, err
		}
	}
	return t.Thresholds.Update(ctx, by, d, version)
}

// channels refuses channels that there are not, or that are another holder's, in the
// same words.
func (t thresholds) channels(ctx context.Context, h odometer.Bound, list []odometer.ChannelID) error {
	var wrong []error
	for i, id := range list {
		err := odometer.ErrNotFound
		var c odometer.Channel
		if t.notifier != nil {
			c, err = t.notifier.Get(ctx, everyone, id)
		}
		switch {
		case errors.Is(err, odometer.ErrNotFound) || err == nil && c.Holder != h:
			wrong = append(wrong, odometer.ThresholdProblem{Field: fmt.Sprintf("channels[%d]", i), Why: fmt.Sprintf("its holder has no channel %s", id)})
		case err != nil:
			return err
		}
	}
	return errors.Join(wrong...)
}

// channels is the notifier as [api.ChannelAdmin], which keeps channels that thresholds
// name.
type channels struct {
	n          *notify.Notifier
	thresholds *threshold.Thresholds // nil where they are absent
}

func (c channels) CreateChannel(ctx context.Context, by odometer.Actor, once odometer.Once, d odometer.Channel, given api.ChannelSecrets) (odometer.Channel, string, error) {
	return c.n.Create(ctx, by, d, notify.Secrets{Sign: given.Sign, Bearer: given.Bearer}, once)
}

func (c channels) Channel(ctx context.Context, by odometer.Caller, id odometer.ChannelID) (odometer.Channel, error) {
	return c.n.Get(ctx, by, id)
}

func (c channels) Channels(ctx context.Context, by odometer.Caller, q odometer.ChannelQuery) ([]odometer.Channel, error) {
	return c.n.List(ctx, by, q)
}

func (c channels) UpdateChannel(ctx context.Context, by odometer.Actor, d odometer.Channel, version uint64) (odometer.Channel, error) {
	return c.n.Update(ctx, by, d, version)
}

func (c channels) DeleteChannel(ctx context.Context, by odometer.Actor, id odometer.ChannelID, version uint64) error {
	d, err := c.n.Get(ctx, by.Caller, id)
	if err == nil && by.MayManage(d.Holder) && c.thresholds != nil {
		name, err := c.namedBy(ctx, &d)
		if err != nil {
			return err
		}
		if name != "" {
			return fmt.Errorf("channel %s: the threshold %q names it: %w", id, name, odometer.ErrConflict)
		}
	}
	return c.n.Delete(ctx, by, id, version)
}

// namedBy returns the name of a threshold that names a channel, "" for none.
func (c channels) namedBy(ctx context.Context, d *odometer.Channel) (string, error) {
	q := odometer.ThresholdQuery{Holder: &d.Holder, Limit: api.MaxPage}
	for {
		page, err := c.thresholds.List(ctx, everyone, q)
		if err != nil {
			return "", err
		}
		for i := range page {
			for _, id := range page[i].Channels {
				if id == d.ID {
					return page[i].Name, nil
				}
			}
		}
		if len(page) < q.Limit {
			return "", nil
		}
		q.After = page[len(page)-1].ID
	}
}

func (c channels) RotateSecret(ctx context.Context, by odometer.Actor, id odometer.ChannelID, keep time.Duration) (string, error) {
	return c.n.Rotate(ctx, by, id, keep)
}

func (c channels) TestChannel(ctx context.Context, by odometer.Actor, id odometer.ChannelID) (odometer.Attempt, error) {
	return c.n.Test(ctx, by, id)
}

func (c channels) Deliveries(ctx context.Context, by odometer.Caller, q odometer.DeliveryQuery) ([]odometer.Delivery, error) {
	return c.n.Deliveries(ctx, by, q)
}

// Attempts are those of a delivery of the channel.
func (c channels) Attempts(ctx context.Context, by odometer.Caller, channel odometer.ChannelID, id odometer.DeliveryID) ([]odometer.Attempt, error) {
	if _, err := c.n.Get(ctx, by, channel); err != nil {
		return nil, err
	}
	return c.n.Attempts(ctx, by, id)
}

func (c channels) RetryDeliveries(ctx context.Context, by odometer.Actor, channel odometer.ChannelID, id odometer.DeliveryID) (int, error) {
	return c.n.Retry(ctx, by, channel, id)
}
