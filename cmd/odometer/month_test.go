package main

import (
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
	"example.org/odometer/ingest"
	"example.org/odometer/queue"
)

// TestABacklogIsWaitedFor for a while, and then it is missing, as it is where nobody
// can say what is in the queue.
func TestABacklogIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		name     string
		messages int64
		rate     int64 // taken a second
		want     bool  // something is missing
	}{
		{"nothing", 0, 0, false},
		{"it is taken in time", 30, 10, false},
		{"it is not", 60, 10, true},
		{"nobody knows", -1, 10, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				taken := func() int64 { return int64(time.Since(began).Seconds()) * c.rate }
				list := uncommitted(t.Context(), c.messages, taken, backlogWait)
				if (len(list) > 0) != c.want || c.want && list[0] != (odometer.Missing{Kind: odometer.MissingBacklog, Amount: c.messages}) {
					t.Errorf("got %+v, want something missing: %t", list, c.want)
				}
				if took := time.Since(began); took > backlogWait || c.messages <= 0 && took > 0 {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
	m := months{&parts{conn: func() *queue.Conn { return nil }, ingest: new(ingest.Ingest)}}
	if list := m.backlog(t.Context(), time.Minute); len(list) != 1 || list[0].Amount != -1 {
		t.Errorf("without a queue: got %+v, want a backlog that nobody knows", list)
	}
}
