package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"
	"time"
	"unicode"

	"example.org/odometer"
)

// QuarantineItem is something that was received and not booked, with the
// reason. It is named by its partition and number.
type QuarantineItem struct {
	Partition int                 `json:"partition" schema:"minimum=0,maximum=63"`
	No        int64               `json:"no" schema:"minimum=1"`
	Reason    string              `json:"reason"` // a word
	Detail    string              `json:"detail,omitempty"`
	EventID   string              `json:"event_id,omitempty"`
	Instance  odometer.InstanceID `json:"instance_id,omitempty"`
	At        time.Time           `json:"at"`
	Released  *time.Time          `json:"released_at"`     // null while it is in quarantine
	Event     json.RawMessage     `json:"event,omitempty"` // as it was received, where the ledger gives it
}

// QuarantineAnswer is the body of GET /api/v1/quarantine.
type QuarantineAnswer struct {
	Items []QuarantineItem `json:"items"` // newest first
}

// Status is the body of GET /api/v1/status: what `odometer status` shows.
type Status struct {
	Version       string        `json:"version"`
	StartedAt     time.Time     `json:"started_at"`
	UptimeSeconds int64         `json:"uptime_seconds"`
	DataDir       string        `json:"data_dir,omitempty"`
	Ledger        LedgerStatus  `json:"ledger"`
	Agents        []AgentStatus `json:"agents"`
	// Conflicts are the instances that several agents say run with them now.
	Conflicts []InstanceConflict `json:"conflicts"`
	Pipeline  map[string]uint64  `json:"pipeline"` // emitted, acknowledged, receipted … of this process
	Health    Health             `json:"health"`
}

// LedgerStatus is the ledger's part of [Status].
type LedgerStatus struct {
	ID         odometer.LedgerID `json:"id"`
	Generation uint64            `json:"generation"`
	Schema     int               `json:"schema_version,omitempty"`
	Entries    int64             `json:"entries"`
	Instances  int64             `json:"instances"`
	Epochs     int64             `json:"epochs"`
	Held       int64             `json:"held"`
	Quarantine int64             `json:"quarantine"`
	Counts     map[string]int64  `json:"counts"`      // received and each outcome
	LastCommit *time.Time        `json:"last_commit"` // null before the first
	// JournalFrom is the day from which on the journal is whole, absent where
	// it was never pruned.
	JournalFrom *time.Time `json:"journal_from,omitempty"`
	// Generations after the first: the ledger was restored from a backup.
	Generations []GenerationStatus `json:"generations,omitempty"`
}

// GenerationStatus says where a generation of the ledger begins.
type GenerationStatus struct {
	Generation uint64    `json:"generation"`
	Began      time.Time `json:"began"`
	// After is the ordinal of the last entry before it, by partition: what was
	// published beyond it in an earlier generation is void.
	After map[int]uint64 `json:"after"`
}

// AgentStatus is one agent as the server knows it.
type AgentStatus struct {
	ID       odometer.AgentID `json:"id"`
	Spool    odometer.SpoolID `json:"spool"`
	Position uint64           `json:"position"`  // of the spool, committed
	LastSeen *time.Time       `json:"last_seen"` // null where it was not heard since the start
	Open     int              `json:"open_periods"`
	// Instances that it described last, gone ones left out; null where it
	// describes none.
	Instances *int `json:"instances"`
	// OwnerDisagreements are its events that named another owner than is recorded,
	// since the server started. Who is recorded was charged.
	OwnerDisagreements uint64 `json:"owner_disagreements"`
}

// QueueAnswer is the body of GET /api/v1/queue: where an agent reaches the
// queue.
type QueueAnswer struct {
	URL string `json:"url"`
}

// serverRoutes are of the process, and an agent has none of them.
func (s *server) serverRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/status", access: reader, handle: whole(s.getStatus),
			id: "status", tag: "operation", summary: "Versions, counts, agents and the pipeline",
			description: "What `odometer status` shows.",
			replies:     []reply{answers(http.StatusOK, "The state of the server.", Status{})}, fails: missing,
		},
		{
			pattern: "GET /api/v1/queue", access: administrator, handle: s.getQueue,
			id: "queue", tag: "operation", summary: "Where agents reach the queue",
			description: "Not there where the queue takes no connections.",
			replies:     []reply{answers(http.StatusOK, "The address.", QueueAnswer{})}, fails: missing,
		},
	}
}

// correctionRoutes change what is booked, by a person's decision.
func (s *server) correctionRoutes() []route {
	return []route{
		{
			pattern: "POST /api/v1/entries/{id}/reverse", access: administrator, handle: s.postReverse,
			id: "reverse", tag: "events", summary: "Book the exact negation of an entry, once, with a cause",
			description: "What was booked stays; a correction is booked beside it, to the same owner for the same time, and published. " +
				"Who decided it and why is kept in the journal. A correction is an entry too and may itself be reversed. " +
				"Asked for again, it is a conflict that names the entry which has reversed it.",
			params: []*parameter{{
				name: "id", in: inPath, example: "10-1", description: "the entry_id: partition and number", pattern: "^[0-9]+-[0-9]+$",
				valid: func(s string) error { _, err := odometer.ParseEntryID(s); return err },
			}},
			takes:   takes(ReverseRequest{}),
			replies: []reply{answers(http.StatusOK, "The correction.", shape("Entry"))}, fails: conflict,
		},
		{
			pattern: "GET /api/v1/quarantine", access: administrator, handle: s.getQuarantine,
			id: "quarantine", tag: "events", summary: "What was received and not booked, with the reason, newest first",
			description: "An item stays when it is released, and says when that was.",
			params:      []*parameter{limitParam},
			replies:     []reply{answers(http.StatusOK, "At most `limit` items.", QuarantineAnswer{})}, fails: missing,
		},
		{
			pattern: "POST /api/v1/quarantine/{partition}/{no}/release", access: administrator, handle: s.postRelease,
			id: "release", tag: "events", summary: "Book an item of the quarantine after all",
			description: "What became of it may be that it is refused again, or a duplicate by now. One that was released before is a conflict.",
			params: []*parameter{
				{name: "partition", in: inPath, kind: asNumber, least: 0, most: odometer.Partitions - 1, example: "10", description: "the item's partition"},
				{name: "no", in: inPath, kind: asNumber, least: 1, most: anyNumber, example: "1", description: "the item's number"},
			},
			replies: []reply{answers(http.StatusOK, "What became of it.", odometer.Result{})}, fails: conflict,
		},
	}
}

func (s *server) getQuarantine(w http.ResponseWriter, r *http.Request) error {
	if s.Quarantine == nil {
		return absent("ledger")
	}
	items, err := s.Quarantine.Quarantine(r.Context(), queryOf(r).limit())
	if err != nil {
		return err
	}
	if items == nil {
		items = []QuarantineItem{}
	}
	return writeJSON(w, http.StatusOK, QuarantineAnswer{Items: items})
}

func (s *server) postRelease(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r)
	partition, no := int(p.number("partition")), p.number("no")
	if s.Quarantine == nil {
		return absent("ledger")
	}
	by := caller(r)
	result, err := s.Quarantine.Release(r.Context(), partition, no, by.String())
	if err != nil {
		return err
	}
	s.note(r, odometer.ActionQuarantineRelease, fmt.Sprintf("%d-%d", partition, no), strings.TrimSpace(result.EventID+" "+string(result.Outcome)))
	return writeJSON(w, http.StatusOK, result)
}

// ReverseRequest is the body of POST /api/v1/entries/{id}/reverse.
type ReverseRequest struct {
	// Cause is why, in one line of printable text for a person, of at most 512 bytes.
	Cause string `json:"cause" schema:"minLength=1,maxLength=512"`
}

// postReverse answers with the correction that reverses an entry.
func (s *server) postReverse(w http.ResponseWriter, r *http.Request) error {
	if s.Reversals == nil {
		return absent("ledger")
	}
	p := queryOf(r)
	errs := []error{p.done()}
	var ask ReverseRequest
	if err := readJSON(r, &ask); err != nil {
		errs = append(errs, err)
	} else if ask.Cause == "" {
		errs = append(errs, FieldError{"body", "$.cause", "is missing"})
	}
	if err := join(errs...); err != nil {
		return err
	}
	id, err := odometer.ParseEntryID(p.text("id"))
	if err != nil {
		return err // as the parameter's declaration has it
	}
	by := caller(r)
	entry, err := s.Reversals.Reverse(r.Context(), id, by.String(), ask.Cause)
	if err != nil {
		return err
	}
	s.note(r, odometer.ActionEntryReverse, id.String(), fmt.Sprintf("by entry %s: %s", entry.ID, ask.Cause))
	return writeJSON(w, http.StatusOK, &entry)
}

// readJSON reads a body that is one JSON object with no members but those of v.
func readJSON(r *http.Request, v any) error {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if charset := params["charset"]; err != nil || media != odometer.ContentJSON || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return fmt.Errorf("content type %q is not supported; send %s: %w", clip(r.Header.Get("Content-Type")), odometer.ContentJSON, errMediaType)
	}
	d := json.NewDecoder(r.Body) // limited by the router
	d.DisallowUnknownFields()
	err = d.Decode(&v) // null makes it nil
	switch {
	case err == nil && v == nil:
		err = errors.New("null is no object")
	case err == nil:
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more follows the object")
		}
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); err == nil || large {
		return err
	}
	if of, typed := errors.AsType[*json.UnmarshalTypeError](err); typed {
		return mistyped(of)
	}
	return FieldError{"body", "$", strings.TrimPrefix(err.Error(), "json: ")}
}

// mistyped names the field whose value cannot be what it has to be.
func mistyped(of *json.UnmarshalTypeError) error {
	field := "$"
	for part := range strings.SplitSeq(of.Field, ".") {
		if part != "" && !unicode.IsUpper(rune(part[0])) { // that of a struct within has no name of its own
			field += "." + part
		}
	}
	want := "an object"
	switch kind := of.Type.Kind(); {
	case kind == reflect.Bool:
		want = "true or false"
	case kind == reflect.String:
		want = "text"
	case kind == reflect.Slice:
		want = "a list"
	case kind == reflect.Float64:
		want = "a number within its range"
	case of.Type.ConvertibleTo(reflect.TypeFor[int64]()):
		want = "a whole number within its range"
	}
	return FieldError{"body", field, of.Value + " is not " + want}
}

func (s *server) getQueue(w http.ResponseWriter, r *http.Request) error {
	url := ""
	if s.QueueURL != nil {
		url = s.QueueURL()
	}
	if url == "" {
		return absent("queue that agents could reach")
	}
	return writeJSON(w, http.StatusOK, QueueAnswer{URL: url})
}

func (s *server) getStatus(w http.ResponseWriter, r *http.Request) error {
	if s.Status == nil {
		return absent("ledger")
	}
	status, err := s.Status.Status(r.Context())
	if err != nil {
		return err
	}
	status.Health, _ = s.health(r)
	status.Version, status.UptimeSeconds = s.Version, status.Health.UptimeSeconds
	status.StartedAt = s.router.started.UTC()
	if status.Agents == nil {
		status.Agents = []AgentStatus{}
	}
	if status.Conflicts == nil {
		status.Conflicts = []InstanceConflict{}
	}
	return writeJSON(w, http.StatusOK, status)
}
