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
type EventsAnswer struct {
	Events []json.RawMessage `json:"events" schema:"items=Entry"`
	// Next is the cursor of the page that follows, null when this page was not
	// full: there is nothing more for now.
	Next *string `json:"next"`
	// Cursor is where to go on later in either case: given as `after` it leads to
	// what is booked from then on.
	Cursor string `json:"cursor"`
}

var eventFields = fieldsParam("EventFields", "entry_id,instance_id,usage", odometer.EntryMembers())

func (s *server) eventRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/events", access: reader, handle: s.getEvents,
			id: "events", tag: "events", summary: "Ledger entries in the order in which they were booked",
			description: "Those whose time of use lies in what is asked for, or touches it; all without `from` and `to`. " +
				"Ask with Accept: application/cloudevents-batch+json for CloudEvents. As an export all that is booked when it begins is " +
				"answered, `limit` of it where that is given; Odometer-Cursor leads to what is booked later.",
			params: []*parameter{
				instanceParam, userParam, orgParam, fromParam, toParam,
				{name: "after", most: maxCursor, example: "m1", description: "cursor of an earlier answer: what was booked after it"},
				eventFields, limitParam, formatParam,
			},
			replies: []reply{{http.StatusOK, "One page, or in the forms of an export everything.", []header{nextPage, cursorIn, attached}, append([]content{
				{odometer.ContentJSON, EventsAnswer{}}, {odometer.ContentCloudBatch, shape("EntryCloudEvents")},
			}, exported...)}},
			fails: missing,
		},
		{
			pattern: "POST /api/v1/events", access: writer, budget: eventsBudget, handle: s.postEvents,
			id: "submit", tag: "events", summary: "Hand in usage events as CloudEvents 1.0",
			description: "Answered only after the ledger's commit. Structured, batch and binary mode, in which any +json type is as good as application/json. At most 1 MiB a request, 1000 events " +
				"a batch, 16 KiB an event. With 400, 413 and 415 nothing was taken; with 5xx nothing is known to be taken: send again, what " +
				"was taken is then a duplicate.",
			params: []*parameter{
				{name: "ce-specversion", in: inHeader, example: "1.0", description: "of binary mode, and needed there: 1.0"},
				{name: "ce-id", in: inHeader, example: "1", description: "of binary mode, and needed there: the event's id"},
				{name: "ce-source", in: inHeader, example: "/hosts/host-1", description: "of binary mode, and needed there: where it comes from"},
				{name: "ce-type", in: inHeader, example: odometer.CloudEventType, description: "of binary mode, and needed there: any type, since the data decides"},
			},
			takes: []content{
				{odometer.ContentCloudEvent, shape("UsageCloudEvent")}, {odometer.ContentCloudBatch, shape("UsageCloudEvents")}, {odometer.ContentJSON, shape("UsageEvent")},
			},
			replies: []reply{
				answers(http.StatusOK, "Every event is accepted or a duplicate.", Submitted{}),
				answers(http.StatusMultiStatus, "Some events are accepted or duplicates, some refused.", Submitted{}),
			},
			fails: []int{http.StatusNotFound, http.StatusUnprocessableEntity},
		},
	}
}

func (s *server) getEvents(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r)
	q := odometer.EntryQuery{
		Instance: odometer.InstanceID(p.text("instance")),
		User:     odometer.UserID(p.text("user")),
		Org:      odometer.OrgID(p.text("org")),
		From:     p.time("from", 0),
		To:       p.time("to", 0),
		After:    p.text("after"),
		Limit:    p.limit(),
	}
	if q.To != 0 {
		p.inOrder(q.From, q.To)
	}
	inCloudEvents := wantsCloudEvents(r.Header.Values("Accept"))
	if inCloudEvents && p.words("fields") != nil {
		p.fail("fields", "is not for CloudEvents, which are told whole")
	}
	if err := p.done(); err != nil {
		return err
	}
	if s.Entries == nil {
		return absent("ledger")
	}
	w.Header().Add("Vary", "Accept")
	if f := formOf(r); f != asDocument {
		return s.exportEvents(w, r, q, f)
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
	if inCloudEvents {
		return writeCloudEvents(w, entries)
	}
	for i := range entries {
		answer.Events = append(answer.Events, entries[i].AppendJSON(nil))
	}
	return writeList(w, r, answer, "events")
}

// pageAfter returns the request's address with another cursor, relative to the
// server so that it holds behind a proxy.
func pageAfter(u *url.URL, cursor string) string {
	values := u.Query()
	values.Set("after", cursor)
	return u.EscapedPath() + "?" + values.Encode()
}
