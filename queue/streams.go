package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go/jetstream"
)

// Defaults of [Limits].
const (
	// INGEST holds only what the ledger has not taken yet: 2 GiB is 25 million
	// events, packed, and three days a long weekend without a server.
	DefaultIngestBytes = 2 << 30
	DefaultIngestAge   = 72 * time.Hour
	// USAGE is for consumers that come back after a while.
	DefaultUsageBytes = 8 << 30
	DefaultUsageAge   = 90 * 24 * time.Hour
	// VIOLATIONS is for the same consumers, as long; a change takes half a KiB, so
	// that this is a million of them.
	DefaultViolationBytes = 512 << 20
	DefaultViolationAge   = 90 * 24 * time.Hour
)

// Limits are the sizes of the streams. A stream that has reached its bytes
// refuses what is new; what has reached its age is deleted.
type Limits struct {
	IngestBytes int64
	IngestAge   time.Duration
	UsageBytes  int64
	UsageAge    time.Duration

	ViolationBytes int64
	ViolationAge   time.Duration
}

func (l Limits) orDefaults() Limits {
	if l.IngestBytes <= 0 {
		l.IngestBytes = DefaultIngestBytes
	}
	if l.IngestAge <= 0 {
		l.IngestAge = DefaultIngestAge
	}
	if l.UsageBytes <= 0 {
		l.UsageBytes = DefaultUsageBytes
	}
	if l.UsageAge <= 0 {
		l.UsageAge = DefaultUsageAge
	}
	if l.ViolationBytes <= 0 {
		l.ViolationBytes = DefaultViolationBytes
	}
	if l.ViolationAge <= 0 {
		l.ViolationAge = DefaultViolationAge
	}
	return l
}

// usageDuplicates is how long a stream remembers ids. It remembers them in
// memory, some 265 bytes each, and the feeds do not need it.
const usageDuplicates = time.Second

func (c *Conn) ingestConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        IngestStream,
		Description: "Frames of events on their way to the ledger",
		Subjects:    []string{ingestPrefix + ">"},
		// Only what the ledger has not taken counts against the limit,
		// which would otherwise stop the agents when all is well.
		Retention:  jetstream.WorkQueuePolicy,
		Discard:    jetstream.DiscardNew,
		MaxBytes:   c.limits.IngestBytes,
		MaxAge:     c.limits.IngestAge,
		Storage:    jetstream.FileStorage,
		Replicas:   max(1, c.replicas),
		Duplicates: usageDuplicates, // frames carry no message ids: the ledger knows duplicates
	}
}

func (c *Conn) usageConfig() jetstream.StreamConfig {
	return c.topic(UsageStream, "Entries as the ledger booked them, one a message, in ledger order", usagePrefix, c.limits.UsageBytes, c.limits.UsageAge)
}

func (c *Conn) violationConfig() jetstream.StreamConfig {
	return c.topic(ViolationStream, "What becomes of violations of thresholds, one change a message, in order", violationPrefix, c.limits.ViolationBytes, c.limits.ViolationAge)
}

// topic is a stream that is fed from the ledger's file, for consumers.
func (c *Conn) topic(name, description, prefix string, bytes int64, age time.Duration) jetstream.StreamConfig {
	// One copy need not wait for the disk, since the ledger can feed it again.
	// Several copies have a log between them that does, and take no such wish;
	// and a copy that is brought back to what the others have became unreadable
	// where its blocks were compressed (2.15.2: "s2: unsupported input").
	persist, compression := jetstream.AsyncPersistMode, jetstream.S2Compression
	if c.replicas > 1 {
		persist, compression = jetstream.DefaultPersistMode, jetstream.NoCompression
	}
	return jetstream.StreamConfig{
		Name:        name,
		Description: description,
		Subjects:    []string{prefix + ">"},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    bytes,
		MaxAge:      age,
		Storage:     jetstream.FileStorage,
		PersistMode: persist,
		Compression: compression,
		Replicas:    max(1, c.replicas),
		Duplicates:  usageDuplicates,
	}
}

// EnsureStreams creates the streams that are missing and brings the limits of
// the others up to date. It may be repeated. The server does it; agents need
// not, and an agent's connection may not.
func (c *Conn) EnsureStreams(ctx context.Context) error {
	_, err := c.ensure(ctx, c.ingestConfig())
	_, err2 := c.ensure(ctx, c.usageConfig())
	_, err3 := c.ensure(ctx, c.violationConfig())
	return errors.Join(err, err2, err3)
}

// ensure creates or updates one stream. An unchanged one is not written anew.
func (c *Conn) ensure(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	have, err := c.js.Stream(ctx, want.Name)
	switch {
	case err == nil:
		cfg := have.CachedInfo().Config
		if c.replicas == 0 {
			want.Replicas = cfg.Replicas
		}
		if cfg.MaxBytes == want.MaxBytes && cfg.MaxAge == want.MaxAge && cfg.Replicas == want.Replicas && cfg.Discard == want.Discard &&
			cfg.Duplicates == want.Duplicates && cfg.Compression == want.Compression && len(cfg.Subjects) == 1 && cfg.Subjects[0] == want.Subjects[0] {
			return have, nil
		}
		// What cannot be changed stays as it is, and what others noted.
		want.Retention, want.PersistMode, want.Storage, want.Metadata = cfg.Retention, cfg.PersistMode, cfg.Storage, cfg.Metadata
		if want.Replicas > 1 && cfg.PersistMode == jetstream.AsyncPersistMode {
			return nil, fmt.Errorf("queue: stream %s was created for one copy and cannot have %d: delete it, and it is created and fed again: %w",
				want.Name, want.Replicas, odometer.ErrConflict)
		}
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, unavailable("look for stream "+want.Name, err)
	}
	s, err := c.js.CreateOrUpdateStream(ctx, want)
	if err != nil {
		return nil, unavailable("create stream "+want.Name, err)
	}
	return s, nil
}

// Backlog returns how many messages of INGEST wait for the ledger.
func (c *Conn) Backlog(ctx context.Context) (uint64, error) {
	s, err := c.js.Stream(ctx, IngestStream)
	if err != nil {
		return 0, unavailable("look at stream "+IngestStream, err)
	}
	return s.CachedInfo().State.Msgs, nil
}

// streamID tells a stream from one that bears its name after it was lost.
func streamID(info *jetstream.StreamInfo) string {
	return info.Created.UTC().Format(time.RFC3339Nano)
}

func unavailable(doing string, err error) error {
	return fmt.Errorf("queue: %s: %w: %w", doing, odometer.ErrUnavailable, err)
}
