package api

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"time"

	"example.org/odometer"
)

// An answer about usage has an ETag, made of everything that it follows from: what was
// asked, by whose eyes, the revision of that time in the ledger, and what is open in
// it. Who asks again with If-None-Match is told that nothing changed, at the cost of
// looking at these. Usage of hours that are over stays the same for months, and what
// changes it (a late event, a reversal, a move) changes the revision.

// Reviser tells whether anything was booked in a time: see
// [example.org/odometer/ledger.Ledger.Revision].
type Reviser interface {
	Revision(from, to int64) string
}

// etagHeader and matchParam declare both for a route.
var (
	etagHeader = header{"ETag", "of the whole answer; absent where something is booked or open in its time right now"}
	cacheable  = []reply{{http.StatusNotModified, "The answer with the ETag in If-None-Match is still the answer.", []header{etagHeader}, nil}}
	matchParam = &parameter{
		name: "If-None-Match", in: inHeader, example: `"0"`, description: "ETags of answers that the client has: if the answer is one of these, it is not sent again",
	}
)

// edition is what an answer about a time follows from.
type edition struct {
	s        *server
	r        *http.Request
	from, to int64
	asked    string
	revision string // when it was begun; "" where there is to be no ETag
}

// edition begins an answer to r about [from, to), in a form.
func (s *server) edition(r *http.Request, from, to int64, f form) *edition {
	e := &edition{s: s, r: r, from: from, to: to}
	if s.Revisions == nil {
		return e
	}
	e.revision = s.Revisions.Revision(from, to)
	v := seen(r)
	e.asked = fmt.Sprintf("%q %q %q %d %d %v %q %q %v", r.URL.Path, r.URL.Query().Encode(), f, from, to, v.All(), v.User(), v.Orgs(), v.Granted())
	return e
}

// tag returns the ETag of an answer with what is open, "" for none.
func (e *edition) tag(open []Row) string {
	if e.revision == "" {
		return ""
	}
	h := sha256.New()
	fmt.Fprintf(h, "%q %s", e.revision, e.asked)
	var b []byte
	for i := range open {
		b = open[i].appendJSON(b[:0])
		h.Write(b)
	}
	return `"` + base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18]) + `"`
}

// had answers with 304 where the client has the answer, and reports whether it did.
func (e *edition) had(w http.ResponseWriter, open func() []Row) bool {
	given := e.r.Header.Values("If-None-Match")
	if e.revision == "" || len(given) == 0 {
		return false
	}
	tag := e.tag(open())
	for _, line := range given {
		for _, have := range listed(line) {
			have = strings.TrimPrefix(have, "W/")
			if have == "*" {
				have = tag
			}
			if have == tag || have == strings.TrimSuffix(tag, `"`)+packedTag+`"` {
				e.mark(w, have)
				w.WriteHeader(http.StatusNotModified)
				return true
			}
		}
	}
	return false
}

// set gives an answer that was read meanwhile, with what is open, its ETag. It has none
// where something was booked while it was read.
func (e *edition) set(w http.ResponseWriter, open []Row) {
	if e.revision != "" && e.s.Revisions.Revision(e.from, e.to) == e.revision {
		e.mark(w, e.tag(open))
	}
}

// mark has the client keep the answer for itself, and ask each time whether it is
// still the answer.
func (e *edition) mark(w http.ResponseWriter, tag string) {
	w.Header().Set("ETag", tag)
	w.Header().Set("Cache-Control", "private, no-cache")
	w.Header().Add("Vary", "Authorization")
}

// openOf returns what is open of what q asks for, which by booking is nothing.
func (s *server) openOf(r *http.Request, q odometer.UsageQuery, now time.Time) []Row {
	if s.Live == nil || q.Booked || q.AsOf != 0 {
		return []Row{}
	}
	return openRows(s.Live.Open(seen(r), q.Instance), q, now)
}
