package main

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	_ "modernc.org/sqlite"

	"example.org/odometer"
)

// bareJetStream stores the events as packed frames in a file stream that
// syncs every message, with 64 messages in flight.
func bareJetStream(dir string, records []odometer.Record) (time.Duration, error) {
	var frames [][]byte
	for at := 0; at < len(records); at += framesEvents {
		f := odometer.Frame{Agent: agent, Records: records[at:min(at+framesEvents, len(records))]}
		b, err := f.Encode()
		if err != nil {
			return 0, err
		}
		frames = append(frames, b)
	}
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
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "BARE", Subjects: []string{"bare"}, Storage: jetstream.FileStorage}); err != nil {
		return 0, err
	}
	begin := time.Now()
	for _, b := range frames {
		if _, err := js.PublishAsync("bare", b, jetstream.WithStallWait(time.Minute)); err != nil {
			return 0, err
		}
	}
	<-js.PublishAsyncComplete()
	return time.Since(begin), nil
}

// bareSQLite writes, for each event, the row of its instance's open state and
// nothing else, 10,000 to a transaction that is synced.
func bareSQLite(path string, records []odometer.Record) (time.Duration, error) {
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)")
	if err != nil {
		return 0, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(`CREATE TABLE open (instance TEXT PRIMARY KEY, vector BLOB NOT NULL, sums BLOB NOT NULL)`); err != nil {
		return 0, err
	}
	begin := time.Now()
	for at := 0; at < len(records); at += 10_000 {
		tx, err := db.Begin()
		if err != nil {
			return 0, err
		}
		stmt, err := tx.Prepare(`INSERT INTO open VALUES (?, ?, ?) ON CONFLICT (instance) DO UPDATE SET vector = excluded.vector, sums = excluded.sums`)
		if err != nil {
			return 0, err
		}
		for _, r := range records[at:min(at+10_000, len(records))] {
			if _, err := stmt.Exec(string(r.Event.Instance), r.Event.Readings.End.AppendBinary(nil), r.Event.Usage.AppendBinary(nil)); err != nil {
				return 0, err
			}
		}
		if err := tx.Commit(); err != nil {
			return 0, err
		}
	}
	return time.Since(begin), nil
}
