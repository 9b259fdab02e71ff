package notify

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// TestAReceiverThatIsDeadForThreeDays: a delivery is tried with waits that grow, is then
// given up and listed with what each attempt came to, and can be sent again under its id.
func TestAReceiverThatIsDeadForThreeDays(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(rw, "out of\nmemory ", "odm_abcdefghijklmnop ", strings.Repeat("x", 2000))
	})
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	w.log.add(violation("vm-1", 1), violation("vm-2", 1))
	begin := w.now()
	w.goOn(GiveUpAfter + breakMost) // the last attempt of all may wait for the breaker
	list := w.deliveries(c.ID, odometer.DeliveryDead)
	if len(list) != 2 {
		t.Fatalf("got %+v, want both given up", list)
	}
	for _, d := range list {
		if d.Attempts == 0 || d.Done.Sub(begin) < GiveUpAfter || !d.Next.IsZero() {
			t.Errorf("got %+v, want it given up after three days", d)
		}
	}
	attempts, err := w.Attempts(t.Context(), admin.Caller, list[0].ID)
	if err != nil || len(attempts) < 20 || len(attempts) > 200 {
		t.Fatalf("got %d attempts, %v, want some 150", len(attempts), err)
	}
	longest := time.Duration(0)
	for i, a := range attempts {
		if a.Status != 500 || a.Err != "it answered 500" || len(a.Answer) > answerKept || !strings.HasPrefix(a.Answer, "out of memory odm_… xxx") {
			t.Fatalf("attempt %d: got %+v, want its status and the start of its answer", i+1, a)
		}
		if i > 0 {
			longest = max(longest, a.At.Sub(attempts[i-1].At))
		}
	}
	if longest < retryMost/2 || longest > retryMost+breakMost {
		t.Errorf("got a longest wait of %v, want it to have grown and to have an end", longest)
	}

	before := len(r.requests())
	r.set(nil)
	if _, err := w.Retry(t.Context(), admin, c.ID, "dlv_abcdefghijklmnopqrstuvwxyz"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("one that there is not: got %v, want ErrNotFound", err)
	}
	if n, err := w.Retry(t.Context(), admin, c.ID, list[0].ID); n != 1 || err != nil {
		t.Fatalf("got %d, %v, want one sent again", n, err)
	}
	w.rest()
	if got := r.requests()[before:]; len(got) != 1 || got[0].header.Get("webhook-id") != string(list[0].ID) {
		t.Errorf("got %v, want the one under its id", got)
	}
	if _, err := w.Retry(t.Context(), admin, c.ID, list[0].ID); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("one that was delivered: got %v, want ErrConflict", err)
	}
	if n, err := w.Retry(t.Context(), admin, c.ID, ""); n != 1 || err != nil {
		t.Fatalf("got %d, %v, want the other one sent again", n, err)
	}
	w.rest()
	if got := w.deliveries(c.ID, odometer.DeliveryDelivered); len(got) != 2 {
		t.Errorf("got %+v, want both delivered", got)
	}
}

// TestTheScheduleIsJitteredAndBounded: what is said of the times between attempts.
func TestTheScheduleIsJitteredAndBounded(t *testing.T) {
	for n := 1; n <= 200; n++ {
		most := retryMost
		if n < 15 {
			most = min(most, retryFirst<<(n-1))
		}
		sum := time.Duration(0)
		for range 100 {
			d := retryAfter(n)
			if d <= 0 || d > most {
				t.Fatalf("after failure %d: got %v, want up to %v", n, d, most)
			}
			sum += d / 100
		}
		if sum < most/4 || sum > most*3/4 {
			t.Errorf("after failure %d: got a mean of %v, want about half of %v", n, sum, most)
		}
	}
}

// TestAReceiverComesBackAfterADay: all that waited comes within the hour, in order.
func TestAReceiverComesBackAfterADay(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, status(http.StatusBadGateway))
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	var want []string
	for i := range 10 {
		w.log.add(violation("vm-1", i), violation("vm-2", i), violation(fmt.Sprintf("vm-x%d", i), i))
		want = append(want, fmt.Sprintf("vio_vm-1%d.1", i))
		w.goOn(144 * time.Minute)
	}
	if got := w.Stats().Open; got != 1 {
		t.Errorf("got %d open breakers, want 1", got)
	}
	failed := len(r.requests())
	if failed > 24*60 {
		t.Errorf("got %d requests in a day, want the breaker to let through one in some minutes", failed)
	}
	r.set(nil)
	w.goOn(retryMost)
	if list := w.deliveries(c.ID, odometer.DeliveryDelivered); len(list) != 30 {
		t.Errorf("got %d delivered an hour after it was back, want 30", len(list))
	}
	var got []string
	for _, id := range r.events(t) {
		if strings.HasPrefix(id, "vio_vm-1") {
			got = append(got, id)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if open := w.Stats().Open; open != 0 {
		t.Errorf("got %d open breakers, want none", open)
	}
}

// TestAReceiverAsksToBeLeftAlone: Retry-After is kept, in seconds and as a date, at 429
// and 503, for all of the channel and not for ever.
func TestAReceiverAsksToBeLeftAlone(t *testing.T) {
	for _, c := range []struct {
		name  string
		code  int
		after func(time.Time) string
		want  time.Duration
	}{
		{"429, in seconds", 429, func(time.Time) string { return "600" }, 10 * time.Minute},
		{"503, as a date", 503, func(now time.Time) string { return now.Add(time.Hour).UTC().Format(http.TimeFormat) }, time.Hour},
		{"429, for a year", 429, func(time.Time) string { return "31536000" }, retryAfterMost},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newOffice(t, Options{})
			begin := w.now()
			r := newReceiver(t, func(rw http.ResponseWriter, _ *http.Request) {
				rw.Header().Set("Retry-After", c.after(begin))
				rw.WriteHeader(c.code)
			})
			w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
			w.log.add(violation("vm-1", 1))
			w.rest()
			w.log.add(violation("vm-2", 1))
			w.goOn(c.want - time.Second)
			if got := len(r.requests()); got != 1 {
				t.Errorf("got %d requests before its time, want 1", got)
			}
			r.set(nil)
			w.goOn(time.Second)
			if got := len(r.requests()); got != 3 {
				t.Errorf("got %d requests after it, want both deliveries", got)
			}
		})
	}
}

// TestAReceiverThatIsGone: 410 disables the channel, says why, and what waits comes when
// it is enabled again.
func TestAReceiverThatIsGone(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, status(http.StatusGone))
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	w.log.add(violation("vm-1", 1))
	w.goOn(time.Hour)
	is, err := w.Get(t.Context(), admin.Caller, c.ID)
	if err != nil || is.Enabled || is.Problem != "the receiver answered 410: it is gone" || len(r.requests()) != 1 {
		t.Errorf("got %+v, %v after %d requests, want it disabled by the first", is, err, len(r.requests()))
	}
	if got := w.Stats().Disabled; got != 1 {
		t.Errorf("got %d disabled channels, want 1", got)
	}
	r.set(nil)
	is.Enabled = true
	if is, err = w.Update(t.Context(), admin, is, is.Version, nil); err != nil || is.Problem != "" {
		t.Fatalf("got %+v, %v, want it enabled", is, err)
	}
	w.goOn(retryFirst)
	if got := r.events(t); !slices.Equal(got, []string{"vio_vm-11.1"}) {
		t.Errorf("got %v, want what waited", got)
	}
}

// TestTheBreaker: it opens after so many failures in a row, lets one attempt through now
// and then, and closes by one that goes well.
func TestTheBreaker(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	e := &endpoint{flying: map[odometer.DeliveryID]bool{}}
	for i := range breakAfter {
		if n, _ := e.may(now); n != atOnce {
			t.Fatalf("after %d failures: got %d at once, want %d", i, n, atOnce)
		}
		e.ended(false, 0, now)
	}
	for i := range 20 {
		n, again := e.may(now)
		if n != 0 || !again.After(now) || again.Sub(now) > min(breakMost, breakFirst<<i) {
			t.Fatalf("open for the %d. time: got %d, again in %v", i+1, n, again.Sub(now))
		}
		now = again
		if n, _ := e.may(now); n != 1 {
			t.Fatalf("when its time is over: got %d, want 1", n)
		}
		e.flying["dlv_1"] = true
		if n, again := e.may(now); n != 0 || !again.IsZero() {
			t.Fatalf("while that goes on: got %d, want none", n)
		}
		delete(e.flying, "dlv_1")
		e.ended(false, 0, now)
	}
	if !e.ended(true, 0, now) {
		t.Error("got no breaker that closed")
	}
	if n, _ := e.may(now); n != atOnce || e.ended(true, 0, now) {
		t.Errorf("closed: got %d, want %d", n, atOnce)
	}
}

// TestManyAreGivenUpAndSentAgain: more than one transaction takes at a time.
func TestManyAreGivenUpAndSentAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("some thousand attempts")
	}
	w := newOffice(t, Options{})
	r := newReceiver(t, status(http.StatusInternalServerError))
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	const many = followAtOnce + 100
	for i := range many {
		w.log.add(violation(fmt.Sprintf("vm-%d", i%50), i))
	}
	w.goOn(GiveUpAfter + 3*time.Hour)
	if got := len(w.deliveries(c.ID, odometer.DeliveryDead)); got != many {
		t.Fatalf("got %d given up, want %d", got, many)
	}
	r.set(nil)
	if n, err := w.Retry(t.Context(), admin, c.ID, ""); n != many || err != nil {
		t.Fatalf("got %d, %v, want %d sent again", n, err, many)
	}
	w.goOn(time.Minute)
	if got := len(w.deliveries(c.ID, odometer.DeliveryDelivered)); got != many {
		t.Errorf("got %d delivered, want %d", got, many)
	}
}
