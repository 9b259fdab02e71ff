package api

import (
	"fmt"
	"net/http"

	"example.org/odometer"
)

// Submitted is the answer to events that came by HTTP, given only after the
// ledger has committed all of them. Accepted + Duplicate + Refused is the
// number of events in the request.
type Submitted struct {
	Results   []SubmitResult `json:"results"` // in the order of the events
	Accepted  int            `json:"accepted"`
	Duplicate int            `json:"duplicate"`
	Refused   int            `json:"refused"`
}

// SubmitResult is what became of one event. Status is "accepted" (recorded, or
// held until what it waits for arrives), "duplicate" (it, or an event that
// covers it, is recorded already) or "refused" (put in quarantine, with the
// reason).
type SubmitResult struct {
	odometer.Result
	Status string `json:"status" schema:"enum=accepted|duplicate|refused"`
}

// statusOf sorts outcomes into the three answers that a sender needs.
var statusOf = map[odometer.Outcome]string{
	odometer.Recorded:    "accepted",
	odometer.Held:        "accepted",
	odometer.Duplicate:   "duplicate",
	odometer.Covered:     "duplicate",
	odometer.Quarantined: "refused",
}

// refusedError says that not one event of a request was accepted.
type refusedError struct{ answer Submitted }

func (e *refusedError) Error() string {
	if len(e.answer.Results) == 1 {
		r := e.answer.Results[0]
		return fmt.Sprintf("the event is in quarantine: %s: %s", r.Reason, r.Detail)
	}
	return fmt.Sprintf("all %d events are in quarantine; results has the reason of each", e.answer.Refused)
}

func (e *refusedError) Unwrap() error { return errRefused }

// postEvents takes CloudEvents. The answer's status is 200 when every event is
// accepted or a duplicate, 207 when some are refused, 422 (a problem with the
// same members) when all are. With any other status nothing was taken.
func (s *server) postEvents(w http.ResponseWriter, r *http.Request) error {
	if err := queryOf(r).done(); err != nil {
		return err
	}
	if s.Submit == nil {
		return absent("ledger")
	}
	records, err := readRecords(r)
	if err != nil {
		return err
	}
	answer := Submitted{Results: make([]SubmitResult, len(records))}
	if len(records) > 0 {
		results, err := s.Submit.Submit(r.Context(), records)
		if err != nil {
			return fmt.Errorf("nothing is known to be taken, send it again: %w", err)
		}
		if len(results) != len(records) {
			return fmt.Errorf("%d results for %d events: %w", len(results), len(records), errInternal)
		}
		for i, result := range results {
			status := statusOf[result.Outcome]
			switch status {
			case "accepted":
				answer.Accepted++
			case "duplicate":
				answer.Duplicate++
			case "refused":
				answer.Refused++
			default:
				return fmt.Errorf("event %d has the outcome %q: %w", i, result.Outcome, errInternal)
			}
			answer.Results[i] = SubmitResult{Result: result, Status: status}
		}
	}
	switch {
	case answer.Refused == 0:
		return writeJSON(w, http.StatusOK, answer)
	case answer.Refused < len(records):
		return writeJSON(w, http.StatusMultiStatus, answer)
	default:
		return &refusedError{answer}
	}
}
