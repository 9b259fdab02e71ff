package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
)

// service is an account service whose answers are as the test says.
type service struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Pointer[http.HandlerFunc]
}

func newService(t *testing.T, answer http.HandlerFunc) *service {
	t.Helper()
	s := new(service)
	s.answers(answer)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		(*s.answer.Load())(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) answers(answer http.HandlerFunc) { s.answer.Store(&answer) }

// says answers with a text.
func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

func TestWhatAServiceSays(t *testing.T) {
	const instance = odometer.InstanceID("vm-7.ä?%")
	s := newService(t, nil)
	h, err := NewHTTP(s.URL+"/v1/", "secret", nil)
	if err != nil {
		t.Fatal(err)
	}
	since := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC).UnixMicro()
	ada := odometer.Ownership{Instance: instance, Owner: odometer.Owner{User: "u-ada", Org: "o-acme"}, From: since, Until: odometer.Forever}
	body := func(text string) http.HandlerFunc { return says(strings.ReplaceAll(text, "ID", string(instance))) }
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		want   odometer.Ownership
		fails  error
		says   string
	}{
		{"an owner", body(`{"instance":"ID","owner":"u-ada","organisation":"o-acme","since":"2026-01-02T15:00:00Z","more":1}`), ada, nil, ""},
		{"without naming the instance", body(`{"owner":"u-ada","organisation":"o-acme","since":"2026-01-02T16:00:00+01:00"}`), ada, nil, ""},
		{"nobody is known", http.NotFound, odometer.Ownership{}, odometer.ErrNotFound, ""},
		{"another instance", body(`{"instance":"vm-8","owner":"u-ada","since":"2026-01-02T15:00:00Z"}`), odometer.Ownership{}, odometer.ErrInvalid, `is of "vm-8"`},
		{"no owner", body(`{"instance":"ID","since":"2026-01-02T15:00:00Z"}`), odometer.Ownership{}, odometer.ErrInvalid, "names no owner"},
		{"no time", body(`{"instance":"ID","owner":"u-ada"}`), odometer.Ownership{}, odometer.ErrInvalid, "since when"},
		{"no JSON", body(`<html>`), odometer.Ownership{}, odometer.ErrInvalid, "invalid character"},
		{"two answers", body(`{"owner":"u-ada","since":"2026-01-02T15:00:00Z"}{}`), odometer.Ownership{}, odometer.ErrInvalid, "after top-level"},
		{"other types", body(`{"owner":7,"since":"yesterday"}`), odometer.Ownership{}, odometer.ErrInvalid, ""},
		{"too much", says(`{"owner":"` + strings.Repeat("u", maxAnswer) + `"}`), odometer.Ownership{}, odometer.ErrInvalid, "more than 16384 bytes"},
		{"an error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, odometer.Ownership{}, odometer.ErrUnavailable, "500"},
		{"it wants another token", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, odometer.Ownership{}, odometer.ErrUnavailable, "401"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, odometer.Ownership{}, odometer.ErrUnavailable, "leads elsewhere"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"owner":`)
		}, odometer.Ownership{}, odometer.ErrUnavailable, "EOF"},
		{"no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, odometer.Ownership{}, odometer.ErrUnavailable, "EOF"},
		{"slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, odometer.Ownership{}, odometer.ErrUnavailable, "deadline exceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.answers(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/instances/"+string(instance) || r.Header.Get("Authorization") != "Bearer secret" {
					t.Errorf("got %s by %q", r.URL.Path, r.Header.Get("Authorization"))
				}
				c.answer(w, r)
			})
			within := patience
			if c.name == "slow" {
				within = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			got, err := h.Owner(ctx, instance)
			if got != c.want || !errors.Is(err, c.fails) || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %+v, %v, want %+v, %v with %q", got, err, c.want, c.fails, c.says)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, which has the token in it", err)
			}
		})
	}
	for _, url := range []string{"", "nats://h:1", "http://", "https://u:p@h", "http://h?a=b", "http://h#f", "\x00"} {
		if _, err := NewHTTP(url, "", nil); !errors.Is(err, odometer.ErrInvalid) || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%q: got %v, want it refused", url, err)
		}
	}
}

const patience = 30 * time.Second

// world is a follower with instances, and what it had recorded.
type world struct {
	*Follower
	t *testing.T

	mu        sync.Mutex
	instances []odometer.InstanceID
	recorded  map[odometer.InstanceID]odometer.UserID
	records   int
	refuse    error
}

func follow(t *testing.T, s *service, instances ...odometer.InstanceID) *world {
	t.Helper()
	h, err := NewHTTP(s.URL, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, instances: instances, recorded: map[odometer.InstanceID]odometer.UserID{}}
	w.Follower, err = New(Options{
		Source: h, MaxAge: 40 * time.Millisecond, Timeout: 200 * time.Millisecond, rest: 300 * time.Millisecond,
		Instances: func() []odometer.InstanceID {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.instances
		},
		Record: func(_ context.Context, own odometer.Ownership) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.records++
			if w.refuse != nil {
				return w.refuse
			}
			w.recorded[own.Instance] = own.Owner.User
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within %s: %+v", what, patience, w.Stats())
		}
	}
}

func (w *world) owner(instance odometer.InstanceID) odometer.UserID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.recorded[instance]
}

func ownedBy(user string) http.HandlerFunc {
	return says(`{"owner":"` + user + `","since":"2026-01-02T15:00:00Z"}`)
}

// TestAServiceIsFollowed has a service change its mind, know somebody no longer, be
// wrong, be away and come back.
func TestAServiceIsFollowed(t *testing.T) {
	s := newService(t, ownedBy("u-ada"))
	w := follow(t, s, "vm-1", "vm-2")
	w.eventually("both are recorded", func() bool { return w.owner("vm-1") == "u-ada" && w.owner("vm-2") == "u-ada" })
	w.eventually("it is asked again", func() bool { return s.asked.Load() > 10 })
	w.mu.Lock()
	if w.records != 2 {
		t.Errorf("got %d records of the same answers, want one each", w.records)
	}
	w.instances = append(w.instances, "vm-3")
	w.mu.Unlock()
	w.eventually("a new one is asked for", func() bool { return w.owner("vm-3") == "u-ada" })
	s.answers(ownedBy("u-bob"))
	w.eventually("it says something else", func() bool { return w.owner("vm-1") == "u-bob" })

	for name, answer := range map[string]http.HandlerFunc{
		"nobody is known":   http.NotFound,
		"another instance":  says(`{"instance":"vm-9","owner":"u-eve","since":"2026-01-02T15:00:00Z"}`),
		"no JSON":           says(`u-eve`),
		"from the future":   says(`{"owner":"u-eve","since":"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `"}`),
		"no id of a user":   says(`{"owner":"u eve","since":"2026-01-02T15:00:00Z"}`),
		"before the epoch":  says(`{"owner":"u-eve","since":"0001-01-02T15:00:00Z"}`),
		"no organisation's": says(`{"owner":"u-eve","organisation":"\u0000","since":"2026-01-02T15:00:00Z"}`),
	} {
		s.answers(answer)
		before := w.Stats()
		w.eventually(name, func() bool {
			st := w.Stats()
			return st.Wrong+st.Unknown >= before.Wrong+before.Unknown+6
		})
		if got := w.owner("vm-1"); got != "u-bob" {
			t.Errorf("%s: got %s recorded, want what was", name, got)
		}
		if st := w.Stats(); st.Open {
			t.Errorf("%s: the service answers, and is left alone", name)
		}
	}

	s.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	w.eventually("it is left alone", func() bool { return w.Stats().Open })
	asked := s.asked.Load()
	time.Sleep(100 * time.Millisecond)
	if more := s.asked.Load() - asked; more > atOnce {
		t.Errorf("got %d questions while it is left alone", more)
	}
	if st := w.Stats(); !strings.Contains(st.Err, "503") || st.Failed == 0 {
		t.Errorf("got %+v, want it said", st)
	}
	s.answers(ownedBy("u-cleo"))
	w.eventually("it is back", func() bool { return w.owner("vm-1") == "u-cleo" && w.owner("vm-3") == "u-cleo" && !w.Stats().Open })
	w.mu.Lock()
	w.instances = nil
	w.mu.Unlock()
	w.eventually("all have gone", func() bool { return w.Stats().Instances == 0 })
}

// TestAServiceThatHangsHoldsNothingUp has a service that never answers for one instance.
func TestAServiceThatHangsHoldsNothingUp(t *testing.T) {
	s := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "vm-1") {
			<-r.Context().Done()
			return
		}
		ownedBy("u-ada")(w, r)
	})
	w := follow(t, s, "vm-1", "vm-2", "vm-3")
	w.eventually("the others are recorded", func() bool { return w.owner("vm-2") == "u-ada" && w.owner("vm-3") == "u-ada" })
	if got := w.owner("vm-1"); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}

// TestWhatCannotBeRecorded is tried again, unless something else was decided.
func TestWhatCannotBeRecorded(t *testing.T) {
	s := newService(t, ownedBy("u-ada"))
	w := follow(t, s)
	w.mu.Lock()
	w.refuse, w.instances = odometer.ErrUnavailable, []odometer.InstanceID{"vm-1"}
	w.mu.Unlock()
	records := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.records
	}
	w.eventually("it is tried", func() bool { return records() > 0 })
	w.mu.Lock()
	w.refuse = nil
	w.mu.Unlock()
	w.eventually("it is recorded", func() bool { return w.owner("vm-1") == "u-ada" })
	w.mu.Lock()
	w.refuse = odometer.ErrConflict
	w.mu.Unlock()
	s.answers(ownedBy("u-bob"))
	w.eventually("it is refused", func() bool { return w.Stats().Conflicts == 1 })
	n := records()
	asked := s.asked.Load()
	w.eventually("it is asked again", func() bool { return s.asked.Load() > asked+3 })
	if got := records(); got != n {
		t.Errorf("got %d records more of what was refused", got-n)
	}
}

func TestAFollowerWantsItsParts(t *testing.T) {
	if _, err := New(Options{}); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// FuzzReadAnswer reads what an account service may answer with: what is taken is of
// the instance that was asked for, names an owner and a time, and reads back as the
// same.
func FuzzReadAnswer(f *testing.F) {
	for _, s := range []string{
		`{"instance":"vm-1","owner":"u-ada","organisation":"o-1","since":"2026-01-02T15:00:00.123456+14:00"}`, `{"owner":"unassigned","since":"0001-01-01T00:00:00Z"}`,
		`{"owner":"u","since":"9999-12-31T23:59:59Z"}`, `{"instance":"vm-2","owner":"u","since":"2026-01-02T15:00:00Z"}`, `null`, `[]`, `{}{}`, `{"owner":7}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		own, err := readAnswer(body, "vm-1")
		if err != nil {
			if own != (odometer.Ownership{}) || !errors.Is(err, odometer.ErrInvalid) {
				t.Errorf("%q: got %+v, %v, want nothing and an error wrapping ErrInvalid", body, own, err)
			}
			return
		}
		if own.Instance != "vm-1" || own.Owner.User == "" || own.Until != odometer.Forever {
			t.Errorf("%q: got %+v", body, own)
		}
		again, err := json.Marshal(HTTPAnswer{own.Instance, own.Owner.User, own.Owner.Org, time.UnixMicro(own.From).UTC()})
		if err != nil {
			return // a year that no time is written with, which the follower refuses
		}
		if twice, err := readAnswer(again, "vm-1"); err != nil || twice != own {
			t.Errorf("%q: got %+v, %v from %s, want %+v", body, twice, err, again, own)
		}
	})
}
