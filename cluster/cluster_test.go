package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.org/odometer"
	"example.org/odometer/queue"
)

var discard = slog.New(slog.DiscardHandler)

func quickly(t *testing.T, seed uint64) options {
	return options{
		Seed: seed, Hosts: 4, Instances: 5, Tick: 40 * time.Millisecond, Apart: 6 * time.Second, Dir: t.TempDir(), Log: discard,
		Progress: func(what string) { t.Log(what) },
	}
}

func report(t *testing.T, f *figures, kinds []string, err error) {
	t.Helper()
	if f != nil {
		var b bytes.Buffer
		f.print(&b, kinds)
		t.Logf("\n%s", b.String())
	}
	if err == nil {
		err = f.proves(kinds)
	}
	if err != nil {
		t.Error(err)
	}
}

// TestAClusterThatFailsLosesNothing has faults happen to two clusters of three
// under load, one for the faults of one node each and one for those of all.
func TestAClusterThatFailsLosesNothing(t *testing.T) {
	t.Parallel()
	var quick []fault
	for _, f := range faults {
		if f.quick {
			quick = append(quick, f)
		}
	}
	half := len(quick) / 2
	all, mu := newFigures(), sync.Mutex{}
	t.Run("clusters", func(t *testing.T) {
		for i, kinds := range [][]fault{quick[:half], quick[half:]} {
			t.Run([]string{"nodes and stores", "streams and links"}[i], func(t *testing.T) {
				t.Parallel()
				o := quickly(t, uint64(i+1))
				o.Rounds = len(kinds)
				f, err := run(t.Context(), o, kinds)
				if err != nil {
					t.Error(err)
				}
				if f != nil {
					mu.Lock()
					defer mu.Unlock()
					all.add(f)
				}
			})
		}
	})
	report(t, all, names(quick), nil)
}

// TestTheEmbeddedQueueForgets wipes the embedded queue's store, or puts back an
// old copy, at random moments under load.
func TestTheEmbeddedQueueForgets(t *testing.T) {
	t.Parallel()
	o := quickly(t, 3)
	o.Rounds = 20
	f, err := forget(t.Context(), o)
	report(t, f, amnesias, err)
}

// TestAHerdComesBack has many agents come back at once when the server was
// away, with what gathered meanwhile.
func TestAHerdComesBack(t *testing.T) {
	t.Parallel()
	h, err := stampede(t.Context(), quickly(t, 4), 1000)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	h.print(&b)
	t.Logf("\n%s", b.String())
}

// TestCopiesOfStreams looks after streams with three copies, and leaves their
// number alone where it is told none.
func TestCopiesOfStreams(t *testing.T) {
	t.Parallel()
	c, err := form(t.Context(), t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	ensure := func(replicas int) {
		t.Helper()
		conn, err := queue.Connect(queue.ConnectOptions{URL: "nats://" + c.all[0].client, Replicas: replicas})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.EnsureStreams(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	copies := func(want int) {
		t.Helper()
		err := c.admin(t.Context(), func(ctx context.Context, js jetstream.JetStream, _ *nats.Conn) error {
			for _, name := range []string{queue.IngestStream, queue.UsageStream} {
				s, err := js.Stream(ctx, name)
				if err != nil {
					return err
				}
				if got := s.CachedInfo().Config.Replicas; got != want {
					t.Errorf("copies of %s: got %d, want %d", name, got, want)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ensure(3)
	copies(3)
	ensure(0)
	copies(3)
}

// TestSomethingElseWritesToTheTopic of a cluster, whose messages do not name
// the one before them: no entry is missing in it and none is out of order.
func TestSomethingElseWritesToTheTopic(t *testing.T) {
	t.Parallel()
	ctx, o := t.Context(), quickly(t, 5)
	x := &trial{o: o, witness: newWitness()}
	var err error
	if err := os.MkdirAll(filepath.Join(o.Dir, "site"), 0o700); err != nil {
		t.Fatal(err)
	}
	if x.nodes, err = form(ctx, o.Dir, ""); err != nil {
		t.Fatal(err)
	}
	defer x.nodes.close()
	if err := x.open(); err != nil {
		t.Fatal(err)
	}
	defer x.close()
	nc, err := nats.Connect("nats://" + x.nodes.all[1].client)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for i := range 200 {
		for _, h := range x.hosts {
			if err := h.append(); err != nil {
				t.Fatal(err)
			}
		}
		if i%20 == 19 {
			if err := nc.Publish("odometer.usage.o.u.foreign", []byte("foreign")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := recovered(ctx, x.hosts); err != nil {
		t.Fatal(err)
	}
	want := events(x.hosts)
	var last [odometer.Partitions]uint64
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		last = [odometer.Partitions]uint64{}
		var entries int64
		err := x.nodes.ask(ctx, time.Minute, func(ctx context.Context, js jetstream.JetStream, _ *nats.Conn) error {
			return read(ctx, js, func(m jetstream.Msg) error {
				e, err := odometer.DecodeEntry(m.Data())
				if err != nil {
					return nil // the foreign one
				}
				if last[e.ID.Partition]++; e.ID.Number != last[e.ID.Partition] {
					return fmt.Errorf("entry %s comes in the place of %d", e.ID, last[e.ID.Partition])
				}
				entries++
				return nil
			})
		})
		if err == nil && entries == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the topic has %d of %d entries: %v", entries, want, err)
		}
	}
}

func TestLink(t *testing.T) {
	echo := newEcho(t)
	k, err := newLink(echo)
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	c := dial(t, k.addr())
	talk(t, c, "passes", true)
	k.pass(there, false)
	talk(t, c, "stands still", false)
	k.pass(there, true)
	hear(t, c, "stands still", true)
	k.pass(back, false)
	talk(t, c, "is heard and not answered", false)
	k.mend()
	hear(t, c, "is heard and not answered", true)
	k.cutAfter(3)
	if _, err := c.Write([]byte("cut in the middle")); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 100)
	n, _ := c.Read(b)
	if got := string(b[:n]); len(got) > 3 {
		t.Errorf("after the cut: got %q, want at most three bytes", got)
	}
	if n, err := c.Read(b); err == nil {
		t.Errorf("after the cut: got %q more, want an end", b[:n])
	}
	talk(t, dial(t, k.addr()), "passes again", true)
}

func TestARunThatProvesNothing(t *testing.T) {
	f := newFigures()
	f.reached("one", time.Second)
	if f.proves([]string{"one", "another"}) == nil {
		t.Error("a kind that was never reached: got no error")
	}
	if f.proves([]string{"one"}) == nil {
		t.Error("a queue that forgot nothing: got no error")
	}
	f.Forgotten = 1
	if err := f.proves([]string{"one"}); err != nil {
		t.Error(err)
	}
}
