package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"example.org/odometer"
)

// EventsAnswer is the body of GET /api/v1/events: entries in the order in which
// they were booked.
//
// Next is the cursor of the page that follows, null when this page was not
// full: there is nothing more for now. Cursor is where to go on later in either
// case: give it as `after` to receive what is booked from then on.
type EventsAnswer struct {
	Events []json.RawMessage `json:"events"`
	Next   *string           `json:"next"`
	Cursor string            `json:"cursor"`
}

// maxCursor is more than any cursor of ours takes.
const maxCursor = 1024

func (s *server) getEvents(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r, s.router.clock())
	q := odometer.EntryQuery{
		Instance: odometer.InstanceID(p.id("instance")),
		From:     p.time("from", 0),
		To:       p.time("to", 0),
		After:    p.text("after"),
		Limit:    p.number("limit", DefaultPage, MaxPage),
	}
	if q.To != 0 {
		p.inOrder(q.From, q.To)
	}
	if len(q.After) > maxCursor {
		p.fail("after", "is no cursor of this server: it is longer than %d bytes", maxCursor)
	}
	if err := p.done(); err != nil {
		return err
	}
	if s.Entries == nil {
		return absent("ledger")
	}
	entries, next, err := s.Entries.Entries(r.Context(), seen(r), q)
	if err != nil {
		return fmt.Errorf("read entries: %w", err)
	}
	answer := EventsAnswer{Events: make([]json.RawMessage, 0, len(entries)), Cursor: next}
	if next == "" {
		answer.Cursor = q.After
	}
	if len(entries) >= q.Limit && next != "" {
		answer.Next = &next
		w.Header().Add("Link", fmt.Sprintf("<%s>; rel=\"next\"", pageAfter(r.URL, next)))
	}
	w.Header().Set("Odometer-Cursor", answer.Cursor)
	w.Header().Add("Vary", "Accept")
	if wantsCloudEvents(r.Header.Values("Accept")) {
		return writeCloudEvents(w, entries)
	}
	for i := range entries {
		answer.Events = append(answer.Events, entries[i].AppendJSON(nil))
	}
	return writeJSON(w, http.StatusOK, answer)
}

// pageAfter returns the request's address with another cursor, relative to the
// server so that it holds behind a proxy.
func pageAfter(u *url.URL, cursor string) string {
	values := u.Query()
	values.Set("after", cursor)
	return u.EscapedPath() + "?" + values.Encode()
}
