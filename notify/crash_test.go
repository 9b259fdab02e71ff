package notify

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"modernc.org/sqlite"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// failing is a driver whose n-th commit from now fails: before it is stored, or after.
type failing struct {
	sqlite.Driver
	left  atomic.Int64 // commits until the one that fails; none does while it is 0
	after atomic.Bool
}

var theDisk = &failing{}

func init() { sql.Register("notify-failing", theDisk) }

func (d *failing) Open(name string) (driver.Conn, error) {
	c, err := d.Driver.Open(name)
	if err != nil {
		return nil, err
	}
	return &failingConn{c.(conn), d}, nil
}

type conn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
}

type failingConn struct {
	conn
	d *failing
}

func (c *failingConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := c.conn.BeginTx(ctx, o)
	return &failingTx{tx, c.d}, err
}

type failingTx struct {
	driver.Tx
	d *failing
}

var errDisk = errors.New("the disk does not answer")

func (tx *failingTx) Commit() error {
	if tx.d.left.Load() == 0 || tx.d.left.Add(-1) > 0 {
		return tx.Tx.Commit()
	}
	if !tx.d.after.Load() {
		return errors.Join(errDisk, tx.Rollback())
	}
	return errors.Join(errDisk, tx.Tx.Commit())
}

// TestEveryCommitFails has each commit fail, without and with having been stored, and the
// process go on or die there: every change comes at least once under one id, each lane in
// order, and who drops repetitions has each once.
func TestEveryCommitFails(t *testing.T) {
	step := int64(1)
	if testing.Short() {
		step = 5
	}
	for _, stored := range []bool{false, true} {
		for _, dies := range []bool{false, true} {
			for n := int64(1); ; n += step {
				name := fmt.Sprintf("commit %d, persisted %v, killed %v", n, stored, dies)
				w := newOffice(t, Options{Driver: "notify-failing"})
				r := newReceiver(t, nil)
				r.set(func(rw http.ResponseWriter, _ *http.Request) { // each third fails
					if all := r.requests(); len(all)%3 == 0 {
						rw.WriteHeader(http.StatusBadGateway)
					}
				})
				c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
				theDisk.after.Store(stored)
				theDisk.left.Store(n)
				var want []string
				for i := range 3 {
					w.log.add(violation("vm-1", i), violation("vm-2", i))
					want = append(want, fmt.Sprintf("vio_vm-1%d.1", i), fmt.Sprintf("vio_vm-2%d.1", i))
					_, err := w.round(t.Context(), t.Context())
					w.flight.Wait()
					if err != nil && dies {
						w.restart()
					}
				}
				for range 20 {
					if _, err := w.round(t.Context(), t.Context()); err != nil && dies {
						w.flight.Wait()
						w.restart()
					}
					w.flight.Wait()
					w.after(claimFor + retryFirst)
				}
				failed := theDisk.left.Swap(0) == 0
				w.goOn(time.Minute)
				got := r.events(t)
				for _, vm := range []string{"vio_vm-1", "vio_vm-2"} {
					of := func(list []string) []string {
						return slices.DeleteFunc(slices.Clone(list), func(id string) bool { return !strings.HasPrefix(id, vm) })
					}
					if !slices.Equal(of(got), of(want)) {
						t.Errorf("%s: got %v, want %v", name, of(got), of(want))
					}
				}
				if d := w.deliveries(c.ID, odometer.DeliveryDelivered); len(d) != len(want) {
					t.Errorf("%s: got %d delivered, want %d", name, len(d), len(want))
				}
				if !failed {
					if n < 5 {
						t.Errorf("only %d commits were made to fail", n-1)
					}
					break
				}
			}
		}
	}
}

// TestTwoServers: of two that have the ledger's file open the one that opened it last
// delivers. What the other had claimed is attempted again when the claim is over, under
// its id, and what the other then finds out changes nothing.
func TestTwoServers(t *testing.T) {
	first := newOffice(t, Options{})
	l1 := newBook(t, first.o.Path)
	first.o.Owns = l1.Owns
	first.restart()
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	r := newReceiver(t, nil)
	r.set(func(rw http.ResponseWriter, q *http.Request) {
		if len(r.requests()) == 1 {
			<-hold
		}
	})
	c, _ := first.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	first.log.add(violation("vm-1", 1))
	if _, err := first.round(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	for len(r.requests()) == 0 {
		time.Sleep(time.Millisecond)
	}

	l2 := newBook(t, first.o.Path)
	second := &office{t: t, o: first.o, log: first.log, time: first.now()}
	second.o.Owns, second.o.Clock = l2.Owns, second.now
	second.open()
	defer second.Close()
	second.rest()
	if got := len(r.requests()); got != 1 {
		t.Fatalf("got %d requests while the first server's claim lasts, want its one", got)
	}
	first.log.add(violation("vm-1", 2), violation("vm-2", 1))
	if _, err := first.round(t.Context(), t.Context()); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("the first server: got %v, want ErrFenced", err)
	}
	release()
	within, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := first.Run(within); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("the first server's Run: got %v, want ErrFenced", err)
	}
	second.rest()
	second.after(claimFor)
	second.rest()
	got := r.events(t)
	if want := []string{"vio_vm-11.1", "vio_vm-12.1", "vio_vm-21.1"}; !sameIDs(got, want) || len(r.requests()) != 4 {
		t.Errorf("got %v in %d requests, want %v and one of them twice under one id", got, len(r.requests()), want)
	}
	if d := second.deliveries(c.ID, odometer.DeliveryDelivered); len(d) != 3 {
		t.Errorf("got %+v, want 3 delivered", d)
	}
	if _, _, err := first.Create(t.Context(), admin, odometer.Channel{Name: "x", Kind: "slack", URL: "https://example.com/"}, Secrets{}, odometer.Once{}); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("a channel at the first server: got %v, want ErrFenced", err)
	}
}

// TestTablesOfANewerVersion are left as they are.
func TestTablesOfANewerVersion(t *testing.T) {
	w := newOffice(t, Options{})
	if _, err := w.db.Exec(`UPDATE notify_meta SET value = '2' WHERE key = 'schema_version'`); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), w.o); !errors.Is(err, ErrNewer) {
		t.Errorf("got %v, want ErrNewer", err)
	}
}

// TestWhatIsDoneIsTakenOut: of what came to an end the newest are kept, for a time.
func TestWhatIsDoneIsTakenOut(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, nil)
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	w.keepMost = 10
	for i := range 30 {
		w.log.add(violation(fmt.Sprintf("vm-%d", i), i))
	}
	w.rest()
	w.goOn(2 * trimEvery)
	list := w.deliveries(c.ID, "")
	if len(list) != 11 && len(list) != 10 {
		t.Errorf("got %d, want the newest 10", len(list))
	}
	w.log.add(violation("vm-x", 1))
	w.goOn(keepDone - time.Hour)
	if got := len(w.deliveries(c.ID, "")); got < 10 {
		t.Errorf("after some days: got %d, want them kept", got)
	}
	w.goOn(2 * time.Hour)
	var attempts int
	if err := w.db.QueryRow(`SELECT count(*) FROM notify_attempts`).Scan(&attempts); err != nil || attempts != 0 || len(w.deliveries(c.ID, "")) != 0 {
		t.Errorf("after a month: got %d deliveries and %d attempts, %v, want none", len(w.deliveries(c.ID, "")), attempts, err)
	}
}
