package main

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	_ "modernc.org/sqlite"
)

// bareJetStream stores frames in a file stream that syncs every message, with
// 64 messages in flight.
func bareJetStream(dir string, frames []packedFrame) (time.Duration, error) {
	s, err := server.NewServer(&server.Options{JetStream: true, StoreDir: dir, DontListen: true, SyncAlways: true, NoLog: true, NoSigs: true})
	if err != nil {
		return 0, err
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		return 0, fmt.Errorf("server is not ready")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(64))
	if err != nil {
		return 0, err
	}
	ctx := context.Background()
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "BARE", Subjects: []string{"bare"}, Storage: jetstream.FileStorage})
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	for _, f := range frames {
		if _, err := js.PublishAsync("bare", f.data, jetstream.WithStallWait(time.Minute)); err != nil {
			return 0, err
		}
	}
	<-js.PublishAsyncComplete()
	took := time.Since(begin)
	info, err := stream.Info(ctx)
	if err == nil && info.State.Msgs != uint64(len(frames)) {
		err = fmt.Errorf("%d of %d messages were stored", info.State.Msgs, len(frames))
	}
	return took, err
}

// bareSQLite writes, for each event, the open state of its instance and nothing
// else, eight to a row as the ledger does, 10,000 to a transaction that is
// synced. The time is that of states; those before are written first.
func bareSQLite(path string, before, states []state) (time.Duration, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return 0, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(`CREATE TABLE IF NOT EXISTS open (first TEXT PRIMARY KEY, states BLOB NOT NULL)`); err != nil {
		return 0, err
	}
	if err := upsert(db, before); err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := upsert(db, states); err != nil {
		return 0, err
	}
	return time.Since(begin), nil
}

func upsert(db *sql.DB, states []state) error {
	for transaction := range slices.Chunk(states, 10_000) {
		tx, err := db.Begin()
		if err != nil {
			return err
		}
		stmt, err := tx.Prepare(`INSERT INTO open VALUES (?, ?) ON CONFLICT (first) DO UPDATE SET states = excluded.states`)
		if err != nil {
			return err
		}
		var row []byte
		for eight := range slices.Chunk(transaction, 8) {
			row = row[:0]
			for _, s := range eight {
				row = append(row, s.data...)
			}
			if _, err := stmt.Exec(eight[0].instance, row); err != nil {
				return err
			}
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	return nil
}
