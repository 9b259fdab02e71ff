package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
)

// QuarantineItem is something that was received and not booked, with the
// reason. It is named by its partition and number.
type QuarantineItem struct {
	Partition int                 `json:"partition"`
	No        int64               `json:"no"`
	Reason    string              `json:"reason"` // a word
	Detail    string              `json:"detail,omitempty"`
	EventID   string              `json:"event_id,omitempty"`
	Instance  odometer.InstanceID `json:"instance_id,omitempty"`
	At        time.Time           `json:"at"`
	Released  *time.Time          `json:"released_at"`     // null while it is in quarantine
	Event     json.RawMessage     `json:"event,omitempty"` // as it was received, where the ledger gives it
}

// QuarantineAnswer is the body of GET /api/v1/quarantine, newest first.
type QuarantineAnswer struct {
	Items []QuarantineItem `json:"items"`
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
	Position uint64           `json:"position"` // of the spool, committed
	LastSeen *time.Time       `json:"last_seen"`
	Open     int              `json:"open_periods"`
	// Instances that it described last, gone ones left out; null where it
	// describes none.
	Instances *int `json:"instances"`
}

// QueueAnswer is the body of GET /api/v1/queue: where an agent reaches the
// queue.
type QueueAnswer struct {
	URL string `json:"url"`
}

func (s *server) getQuarantine(w http.ResponseWriter, r *http.Request) error {
	q := queryOf(r, s.router.clock())
	limit := q.number("limit", DefaultPage, MaxPage)
	if err := q.done(); err != nil {
		return err
	}
	if s.Quarantine == nil {
		return absent("ledger")
	}
	items, err := s.Quarantine.Quarantine(r.Context(), limit)
	if err != nil {
		return err
	}
	if items == nil {
		items = []QuarantineItem{}
	}
	return writeJSON(w, http.StatusOK, QuarantineAnswer{Items: items})
}

func (s *server) postRelease(w http.ResponseWriter, r *http.Request) error {
	errs := []error{queryOf(r, s.router.clock()).done()}
	partition, err := strconv.Atoi(r.PathValue("partition"))
	if err != nil || partition < 0 || partition >= odometer.Partitions {
		errs = append(errs, FieldError{"path", "partition", "is not a whole number from 0 to 63"})
	}
	no, err := strconv.ParseInt(r.PathValue("no"), 10, 64)
	if err != nil || no < 1 {
		errs = append(errs, FieldError{"path", "no", "is not a whole number from 1"})
	}
	if err := join(errs...); err != nil {
		return err
	}
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
	Cause string `json:"cause"` // why, for a person
}

// postReverse answers with the correction that reverses an entry.
func (s *server) postReverse(w http.ResponseWriter, r *http.Request) error {
	if s.Reversals == nil {
		return absent("ledger")
	}
	errs := []error{queryOf(r, s.router.clock()).done()}
	id, err := odometer.ParseEntryID(r.PathValue("id"))
	if err != nil {
		errs = append(errs, FieldError{"path", "id", reason(err)})
	}
	var ask ReverseRequest
	if err := readJSON(r, &ask); err != nil {
		errs = append(errs, err)
	} else if ask.Cause == "" {
		errs = append(errs, FieldError{"body", "$.cause", "is missing"})
	}
	if err := join(errs...); err != nil {
		return err
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
	err = d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more follows the object")
		}
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); err == nil || large {
		return err
	}
	return FieldError{"body", "$", strings.TrimPrefix(err.Error(), "json: ")}
}

func (s *server) getQueue(w http.ResponseWriter, r *http.Request) error {
	if err := queryOf(r, s.router.clock()).done(); err != nil {
		return err
	}
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
	if err := queryOf(r, s.router.clock()).done(); err != nil {
		return err
	}
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
