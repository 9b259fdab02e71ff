package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"example.org/odometer"
	"github.com/nats-io/nats.go/jetstream"
)

// topics are the streams that consumers read, each with the prefix of its subjects. What
// thresholds find of an organisation's machines is not all the organisation's: others
// watch them for themselves. Therefore a consumer of one has no place there.
var topics = []struct {
	stream, prefix string
	ofOne          bool // whether consumers of one organisation read it
}{{UsageStream, usagePrefix, true}, {ViolationStream, violationPrefix, false}}

// Subjects by which a consumer reads a topic, before the stream's name.
const (
	nextPrefix         = "$JS.API.CONSUMER.MSG.NEXT."
	consumerInfoPrefix = "$JS.API.CONSUMER.INFO."
	ackPrefix          = "$JS.ACK."
	// accountInfo nobody may ask for. An account that does not have it from another
	// is given JetStream's interface of its own whenever that is opened or the
	// configuration read again (2.15.2), and this answers that there are no streams.
	accountInfo = "$JS.API.INFO"
)

// readerPrefix begins the names of the durable consumers that are made here, as the
// ids of consumers do.
const readerPrefix = "con_"

// InboxPrefix is where a consumer has to have its answers sent: clients are told so
// when they connect.
func InboxPrefix(id odometer.ConsumerID) string { return inboxPrefix + string(id) }

// EnsureReaders gives each consumer its place in each topic that it reads, which is a
// durable consumer of its name, filtered to its organisation, and takes away all others. It may be repeated. A consumer whose place was lost with the
// stream is given everything again.
func (c *Conn) EnsureReaders(ctx context.Context, consumers []odometer.Consumer) error {
	var errs []error
	for _, t := range topics {
		read := consumers
		if !t.ofOne {
			read = slices.DeleteFunc(slices.Clone(consumers), func(c odometer.Consumer) bool { return c.Org != "" })
		}
		errs = append(errs, c.ensureReaders(ctx, t.stream, t.prefix, read))
	}
	return errors.Join(errs...)
}

func (c *Conn) ensureReaders(ctx context.Context, topic, prefix string, consumers []odometer.Consumer) error {
	stream, err := c.js.Stream(ctx, topic)
	if err != nil {
		return unavailable("look for stream "+topic, err)
	}
	there := map[string]bool{}
	names := stream.ConsumerNames(ctx)
	for name := range names.Name() {
		there[name] = strings.HasPrefix(name, readerPrefix)
	}
	if err := names.Err(); err != nil {
		return unavailable("list the consumers of "+topic, err)
	}
	var errs []error
	for i := range consumers {
		name := string(consumers[i].ID)
		if !there[name] {
			_, err := stream.CreateConsumer(ctx, readerConfig(&consumers[i], prefix))
			if err != nil {
				errs = append(errs, unavailable("create consumer "+name+" of "+topic, err))
			}
		}
		delete(there, name)
	}
	for name, ours := range there {
		if !ours {
			continue
		}
		if err := stream.DeleteConsumer(ctx, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			errs = append(errs, unavailable("delete consumer "+name+" of "+topic, err))
		}
	}
	return errors.Join(errs...)
}

func readerConfig(c *odometer.Consumer, prefix string) jetstream.ConsumerConfig {
	filter := prefix + ">"
	if c.Org != "" {
		filter = prefix + Token(string(c.Org)) + ".>"
	}
	return jetstream.ConsumerConfig{
		Durable:       string(c.ID),
		Description:   fmt.Sprintf("Read by a consumer that `odometer consumer list` shows as %s", c.ID),
		FilterSubject: filter,
		DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1,
		MaxAckPending: feedBatch,
	}
}
