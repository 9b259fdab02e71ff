package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"

	"example.org/odometer"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

// ledgerDisk is the disk below every ledger that is opened by this driver:
// while it is full no transaction of its writer begins.
type ledgerDisk struct {
	sqlite.Driver
	full atomic.Bool
}

const ledgerDiskName = "odometer-full-disk"

var theLedgersDisk = &ledgerDisk{}

func init() { sql.Register(ledgerDiskName, theLedgersDisk) }

func (d *ledgerDisk) Open(name string) (driver.Conn, error) {
	c, err := d.Driver.Open(name)
	if err != nil {
		return nil, err
	}
	return &ledgerConn{c.(sqliteConn), d, strings.Contains(name, "mode=rwc")}, nil
}

type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type ledgerConn struct {
	sqliteConn
	disk   *ledgerDisk
	writes bool
}

func (c *ledgerConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if c.writes && c.disk.full.Load() {
		return nil, errors.New("database or disk is full (13)")
	}
	return c.sqliteConn.BeginTx(ctx, o)
}

// line is a queue as the agents and the server see it: a work queue that keeps
// as much for as long as INGEST does, and delivers again what nobody
// acknowledges. It is the wire of each publisher, and ingest's
// receiver and receipts.
type line struct {
	ledger *ledger.Ledger
	full   atomic.Bool

	mu     sync.Mutex
	stored []*message
	more   chan struct{} // holds one element when there may be something to deliver
	takes  map[odometer.AgentID]func(odometer.Receipt)
	bytes  int // of what is stored
	most   int // … at once
	frames int // that were ever stored
}

type message struct {
	subject   string
	header    map[string][]string
	data      []byte
	at        time.Time
	delivered time.Time
}

func (q *line) Send(subject string, header map[string][]string, data []byte) (func(context.Context) error, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.full.Load() || q.bytes+len(data) > queue.DefaultIngestBytes {
		return nil, fmt.Errorf("the queue refused it: insufficient storage resources available: %w", odometer.ErrUnavailable)
	}
	for len(q.stored) > 0 && time.Since(q.stored[0].at) > queue.DefaultIngestAge {
		q.drop(q.stored[0])
	}
	q.stored = append(q.stored, &message{subject: subject, header: header, data: slices.Clone(data), at: time.Now()})
	q.bytes += len(data)
	q.most, q.frames = max(q.most, q.bytes), q.frames+1
	q.wake()
	return func(context.Context) error { return nil }, nil
}

func (q *line) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *line) LastReceipt(_ context.Context, agent odometer.AgentID, spool odometer.SpoolID) (odometer.Receipt, error) {
	r := q.ledger.Receipt(agent, spool)
	r.Frames = odometer.FrameFormatBinary
	return r, nil
}

func (q *line) Receipts(agent odometer.AgentID, take func(odometer.Receipt)) (stop func(), err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.takes[agent] = take
	return func() {}, nil
}

func (q *line) SendReceipt(r odometer.Receipt) error {
	q.mu.Lock()
	take := q.takes[r.Agent]
	q.mu.Unlock()
	r.Frames = odometer.FrameFormatBinary
	take(r)
	return nil
}

// redeliver is when a delivery is made again.
const redeliver = time.Minute

func (q *line) Receive(ctx context.Context) ([]ingest.Delivery, error) {
	again := time.NewTicker(redeliver)
	defer again.Stop()
	for {
		if list := q.due(); len(list) > 0 {
			return list, nil
		}
		select {
		case <-q.more:
		case <-again.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (q *line) due() (list []ingest.Delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for _, m := range q.stored {
		if len(list) == receiveMost {
			break
		}
		if now.Sub(m.delivered) < redeliver {
			continue
		}
		m.delivered = now
		got := queue.Read(m.subject, m.header, m.data)
		list = append(list, ingest.Delivery{Agent: got.Agent, Data: got.Data, Err: got.Err, Ack: func() error {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.drop(m)
			return nil
		}})
	}
	return list
}

func (q *line) drop(m *message) {
	if i := slices.Index(q.stored, m); i >= 0 {
		q.stored = slices.Delete(q.stored, i, i+1)
		q.bytes -= len(m.data)
	}
}
