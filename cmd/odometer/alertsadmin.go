package main

import (
	"context"
	"time"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/notify"
)

// channels is the notifier as [api.ChannelAdmin].
type channels struct{ n *notify.Notifier }

func (c channels) CreateChannel(ctx context.Context, by odometer.Actor, once odometer.Once, d odometer.Channel, given api.ChannelSecrets) (odometer.Channel, string, error) {
	return c.n.Create(ctx, by, d, notify.Secrets{Sign: given.Sign, Bearer: given.Bearer}, once)
}

func (c channels) Channel(ctx context.Context, by odometer.Caller, id odometer.ChannelID) (odometer.Channel, error) {
	return c.n.Get(ctx, by, id)
}

func (c channels) Channels(ctx context.Context, by odometer.Caller, q odometer.ChannelQuery) ([]odometer.Channel, error) {
	return c.n.List(ctx, by, q)
}

func (c channels) UpdateChannel(ctx context.Context, by odometer.Actor, d odometer.Channel, version uint64, bearer *string) (odometer.Channel, error) {
	return c.n.Update(ctx, by, d, version, bearer)
}

func (c channels) DeleteChannel(ctx context.Context, by odometer.Actor, id odometer.ChannelID, version uint64) error {
	return c.n.Delete(ctx, by, id, version)
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
