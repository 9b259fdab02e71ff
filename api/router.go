package api

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
)

// handler answers a request or returns why it cannot. It returns an error only
// before it has written anything.
type handler func(w http.ResponseWriter, r *http.Request) error

// route is one row of the table of routes: who may use it, what a request to it
// may carry, and what it answers. The OpenAPI document is generated from it.
type route struct {
	pattern string // of http.ServeMux, with its method
	access  access
	budget  budget
	handle  handler

	id          string // of the operation
	tag         string // which group it is in
	summary     string
	description string // beyond the summary
	params      []*parameter
	// Lenient lets a parameter that is not declared pass: for probes of other
	// people's making.
	lenient bool
	takes   []content // the forms of its body; nil for none
	replies []reply
	fails   []int // statuses of problems beside those that follow: see problems
}

// router does for every route what is the same for all of them: request id,
// headers, time limit, authorisation, errors, recovery, log and metrics.
type router struct {
	mux     *http.ServeMux
	table   map[string]route
	auth    Authenticator
	logger  *slog.Logger
	clock   func() time.Time
	started time.Time
	metrics *metrics
	limits  *limiter
	refused *Refusals // nil for none

	cursorKey []byte
}

func newRouter(version string, logger *slog.Logger, clock func() time.Time, auth Authenticator, stats Stats, routes func(*router) []route) *router {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if clock == nil {
		clock = time.Now
	}
	rt := &router{
		mux: http.NewServeMux(), table: make(map[string]route),
		auth: auth, logger: logger, clock: clock, started: clock(),
		metrics: newMetrics(version, stats), limits: newLimiter(Limits{}), cursorKey: cursorKey(nil),
	}
	for _, row := range routes(rt) {
		rt.table[row.pattern] = row
		rt.mux.HandleFunc(row.pattern, func(w http.ResponseWriter, r *http.Request) { rt.serve(row, w, r) })
	}
	return rt
}

// ServeHTTP answers every request, whatever it is, and panics only to abort
// the connection when an answer breaks off in the middle.
func (rt *router) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	w := &answer{ResponseWriter: packing(rw, r), id: requestID(r)}
	plainHeaders(w.Header(), w.id)

	_, pattern := rt.mux.Handler(r)
	if _, ok := rt.table[pattern]; !ok || path.Clean(r.URL.Path) != r.URL.Path {
		pattern = "unmatched" // the mux would redirect a path that is not clean, whoever asks
	}
	defer func() {
		w.finish()
		took := time.Since(begin)
		rt.metrics.observe(pattern, w.code(), took)
		rt.logger.Debug("request", "request_id", w.id, "method", r.Method, "route", pattern,
			"status", w.code(), "bytes", w.bytes, "took", took, "remote", r.RemoteAddr)
	}()
	defer rt.recover(w, r)

	ctx, cancel := context.WithTimeout(r.Context(), RequestTimeout)
	defer cancel()
	r = r.WithContext(context.WithValue(ctx, connectionKey{}, r.Context()))
	r.Body = http.MaxBytesReader(w, r.Body, MaxBodyBytes)
	if pattern == "unmatched" {
		rt.serve(route{pattern: pattern, access: holder, lenient: true, handle: rt.unmatched}, w, r)
		return
	}
	rt.mux.ServeHTTP(w, r) // sets the path's values and calls serve
}

// plainHeaders sets those that every answer has.
func plainHeaders(h http.Header, id string) {
	h.Set("X-Request-Id", id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
}

// serve answers one request to one route. Nothing is read of a request before
// its caller is authorised and has asked seldom enough. What is wrong with the
// parameters is said before the route's handler is asked, or by it, together with
// what is wrong with the body.
func (rt *router) serve(row route, w http.ResponseWriter, r *http.Request) {
	r, err := rt.admit(&row, w, r)
	if err == nil && row.takes != nil {
		err = plainBody(r)
	}
	if err == nil {
		q := readQuery(row.params, r, rt.clock(), &cursors{rt.cursorKey, row.pattern, caller(r)})
		if row.lenient {
			q.errs = nil
		}
		if row.takes == nil {
			err = q.done()
		}
		if err == nil {
			err = row.handle(w, r.WithContext(context.WithValue(r.Context(), queryKey{}, q)))
		}
	}
	if err != nil {
		rt.refused.change(r, caller(r), row.pattern, err)
		rt.fail(w.(*answer), r, err)
	}
}

// admit lets a request through to its route, or says why not. A token that is known
// pays for what it is refused, too; one that is not is counted.
func (rt *router) admit(row *route, w http.ResponseWriter, r *http.Request) (*http.Request, error) {
	r, err := authorise(rt.auth, row.access, r)
	now := rt.clock()
	if errors.Is(err, errUnauthorized) {
		if r.Header["Authorization"] != nil {
			rt.refused.login(r)
			err = cmp.Or(rt.limits.guess(r, now), err)
		}
		return r, err
	}
	by := caller(r)
	return r, cmp.Or(rt.limits.take(w, r, row, &by, now), err)
}

// plainBody refuses a body that is compressed: what one becomes is not to be known
// before it is unpacked, and what a request may carry is small.
func plainBody(r *http.Request) error {
	for _, e := range r.Header.Values("Content-Encoding") {
		if !strings.EqualFold(e, "identity") {
			return fmt.Errorf("content encoding %q is not supported, send the body as it is: %w", clip(e), errMediaType)
		}
	}
	return nil
}

// fail answers with the problem that err is, unless an answer has begun.
func (rt *router) fail(w *answer, r *http.Request, err error) {
	p := problemOf(err, r.URL.EscapedPath(), w.id)
	if p.Status >= 500 {
		rt.logger.Error("request failed", "request_id", w.id, "method", r.Method, "path", odometer.HideSecrets(r.URL.Path), "status", p.Status, "error", odometer.HideSecrets(err.Error()))
	}
	if w.status != 0 {
		w.broken = true
		panic(http.ErrAbortHandler) // what was sent is no complete answer: say so by breaking off
	}
	if c := challenge(err); c != "" {
		w.Header().Set("WWW-Authenticate", c)
	}
	if e, ok := errors.AsType[*limitError](err); ok {
		w.Header().Set("Retry-After", strconv.Itoa(e.seconds()))
	}
	writeProblem(w, p)
}

// recover turns a panic in a handler into a problem with status 500.
func (rt *router) recover(w *answer, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		w.broken = true
		panic(v)
	}
	rt.logger.Error("panic", "request_id", w.id, "method", r.Method, "path", odometer.HideSecrets(r.URL.Path), "panic", v, "stack", string(debug.Stack()))
	rt.fail(w, r, fmt.Errorf("panic: %v: %w", v, errInternal))
}

// unmatched answers requests that no route of the table takes.
func (rt *router) unmatched(w http.ResponseWriter, r *http.Request) error {
	h, _ := rt.mux.Handler(r)
	probe := &discard{header: make(http.Header)}
	h.ServeHTTP(probe, r)
	if probe.status == http.StatusMethodNotAllowed {
		allow := probe.header.Get("Allow")
		w.Header().Set("Allow", allow)
		return fmt.Errorf("%s is not possible here, only %s: %w", r.Method, allow, errMethod)
	}
	return fmt.Errorf("%s is not a route of this server; GET /openapi.json lists them: %w", r.URL.Path, errNoRoute)
}

// requestID returns the id that the client gave the request, where it is 1 to
// 64 letters, digits, dots, dashes and underscores and no token, and otherwise a
// new one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	if id != "" && len(id) <= 64 && strings.Trim(id, allowed) == "" && odometer.HideSecrets(id) == id {
		return id
	}
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// answer remembers what was written to a response.
type answer struct {
	http.ResponseWriter
	id     string
	status int // 0 until the header is written
	bytes  int64
	broken bool // it breaks off
}

// finish completes the answer, unless it breaks off.
func (a *answer) finish() {
	if p, ok := a.ResponseWriter.(*packer); ok && !a.broken {
		p.close()
	}
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) code() int {
	if a.status == 0 {
		return http.StatusOK
	}
	return a.status
}

// discard is a response that nobody reads.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(status int)      { d.status = status }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
