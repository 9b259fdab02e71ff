package threshold

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// TestALockedDatabaseDelaysAndLosesNothing has nothing stored for a while.
func TestALockedDatabaseDelaysAndLosesNothing(t *testing.T) {
	w := newWatchtower(t)
	w.Close()
	w.options.Wait = 20 * time.Millisecond
	w.open()
	w.run()
	w.create(twoLevels(odometer.Threshold{Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod}))
	w.settled()
	db, err := sql.Open("sqlite", "file:"+w.path+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	e := w.event("vm-1", ada, &epoch{began: begin, at: begin}, 30*time.Second, cpu(99))
	w.pass(time.Minute)
	w.stop() // so that it is booked before anybody looks
	w.book(e)
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	w.run()
	w.await("it fails", func() bool { return w.Stats().Err != nil })
	if _, err := w.Create(t.Context(), admin, monthlyOf(ada), odometer.Once{}); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("create meanwhile: got %v, want ErrUnavailable", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	w.is("vm-1 warning open 99", "vm-1 critical open 99")
}

// TestOneOfTwoServersDecides has another process take the ledger over: the first one ends,
// and what is told is told once.
func TestOneOfTwoServersDecides(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	w.create(twoLevels(odometer.Threshold{Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod}))
	w.use("vm-1", ada, 30*time.Second, cpu(85))
	w.is("vm-1 warning open 85")
	w.stop()
	first := w.Thresholds
	l, err := ledger.Open(t.Context(), ledger.Options{Path: w.path, Clock: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w.ledger, w.options.Ledger, w.options.Owns = l, l, l.Owns
	w.use("vm-1", ada, 30*time.Second, cpu(96)) // which both see
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := first.Run(ctx); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("the first: got %v, want ErrFenced", err)
	}
	if _, err := first.Create(t.Context(), admin, monthlyOf(ada), odometer.Once{}); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("create at the first: got %v, want ErrFenced", err)
	}
	first.Close()
	w.open()
	w.run()
	w.is("vm-1 warning open 85", "vm-1 critical open 96")
}

// TestTablesOfANewerVersionAreLeft, untouched.
func TestTablesOfANewerVersionAreLeft(t *testing.T) {
	w := newWatchtower(t)
	if _, err := w.db.Exec(`UPDATE threshold_meta SET value = '99' WHERE key = 'schema_version'`); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), w.options); !errors.Is(err, ErrNewer) {
		t.Errorf("got %v, want ErrNewer", err)
	}
}
