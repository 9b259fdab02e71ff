package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
)

// ViolationReader tells what thresholds were reached. What a view does not see wraps
// [odometer.ErrNotFound] as what there is not.
type ViolationReader interface {
	// Violations returns violations as they are now, the newest first.
	Violations(ctx context.Context, q odometer.ViolationQuery) ([]odometer.Violation, error)
	// Violation returns all changes of one, the first first.
	Violation(ctx context.Context, seen odometer.View, id odometer.ViolationID) ([]odometer.Violation, error)
}

// Violation is a violation of a threshold by one of its subjects, as it is after one of
// its changes; as CloudEvents have it, too.
type Violation struct {
	EventType string               `json:"event_type" schema:"enum=threshold_violation"`
	Version   string               `json:"version" schema:"enum=1.0"`
	ID        odometer.ViolationID `json:"violation_id" schema:"pattern=^vio_[a-z2-7]{26}$"`
	Change    uint64               `json:"change" schema:"minimum=1"` // which of its changes this is
	Standing  odometer.Standing    `json:"standing"`

	Threshold        odometer.ThresholdID `json:"threshold_id"`
	ThresholdVersion uint64               `json:"threshold_version"` // when it was reached
	Name             string               `json:"threshold_name"`
	About            *string              `json:"threshold_description"`
	HolderUser       *odometer.UserID     `json:"holder_user_id"` // whose the threshold is; null with holder_org_id for the operator's
	HolderOrg        *odometer.OrgID      `json:"holder_org_id"`
	Shared           bool                 `json:"shared"` // whether it is seen also by whoever sees the usage
	Level            string               `json:"level"`

	Instance *odometer.InstanceID `json:"instance_id"` // null for a sum
	User     *odometer.UserID     `json:"user_id"`     // the owner then, or whose sum it is
	Org      *odometer.OrgID      `json:"org_id"`
	Sum      bool                 `json:"sum"` // over the instances of a user, an organisation or all

	Resource  *odometer.Resource `json:"resource"` // null for silence and gaps
	Condition odometer.Condition `json:"condition"`
	Unit      odometer.Unit      `json:"unit"`
	Limit     float64            `json:"limit"`  // the level's value
	Before    float64            `json:"before"` // the value before that of this change, 0 where there was none lately
	Value     float64            `json:"value"`  // the value with which it was reached, or which changed it

	From     *time.Time           `json:"from"` // of a budget's period, or of the event
	To       *time.Time           `json:"to"`
	Crossed  *time.Time           `json:"crossed_at"`        // when it was reached, by the time of use
	Detected *time.Time           `json:"detected_at"`       // when that was found
	Changed  *time.Time           `json:"changed_at"`        // when this change was made
	Ended    *time.Time           `json:"ended_at"`          // when the value fell back, by the time of use; null for what has not
	EndedBy  *string              `json:"ended_by_event_id"` // of the event that did that, null where none did
	Reaches  *time.Time           `json:"reaches_at"`        // of a forecast: when the limit is reached; else null
	Event    *string              `json:"event_id"`          // of the event that did it, null for silence
	Entry    *string              `json:"entry_id"`          // of the ledger's entry, null for silence
	Late     bool                 `json:"late"`              // found by an event that came after later ones
	Action   odometer.Notify      `json:"action"`
	Channels []odometer.ChannelID `json:"channels"` // that it tells
}

// ViolationsAnswer is the body of GET /api/v1/violations.
type ViolationsAnswer struct {
	Violations []Violation `json:"violations"` // the newest first, each as it is now
	Next       *string     `json:"next"`       // cursor of the page that follows, null when there is none
}

// ViolationChanges is the body of GET /api/v1/violations/{id}.
type ViolationChanges struct {
	Changes []Violation `json:"changes"` // the first first
}

func violationOf(v *odometer.Violation) Violation {
	at := func(us int64) *time.Time {
		if us == 0 {
			return nil
		}
		return new(instant(us))
	}
	return Violation{
		EventType: odometer.ViolationType, Version: "1.0", ID: v.ID, Change: v.Change, Standing: v.Standing,
		Threshold: v.Threshold, ThresholdVersion: v.Version, Name: v.Name, About: named(v.About), HolderUser: named(v.Holder.User), HolderOrg: named(v.Holder.Org), Shared: v.Shared, Level: v.Level,
		Instance: named(v.Instance), User: named(v.Owner.User), Org: named(v.Owner.Org), Sum: v.Sum,
		Resource: named(v.Resource), Condition: v.Condition, Unit: v.Unit, Limit: v.Limit, Before: v.Before, Value: v.Value,
		From: at(v.From), To: at(v.To), Crossed: at(v.Crossed), Detected: at(v.Detected), Changed: at(v.Changed), Ended: at(v.Ended), EndedBy: named(v.EndedBy), Reaches: at(v.Reaches),
		Event: named(v.Event), Entry: named(v.Entry), Late: v.Late, Action: v.Action, Channels: append([]odometer.ChannelID{}, v.Channels...),
	}
}

func violationsOf(list []odometer.Violation) []Violation {
	out := make([]Violation, len(list))
	for i := range list {
		out[i] = violationOf(&list[i])
	}
	return out
}

var (
	violationPath = &parameter{
		name: "id", in: inPath, component: "ViolationId", most: odometer.MaxIDBytes, valid: odometer.ValidViolationID, pattern: "^vio_[a-z2-7]{26}$",
		example: exampleViolation, description: "the id of a violation",
	}
	resourceParam = &parameter{
		name: "resource", kind: asWord, words: asWordsOf(Resources...), example: "cpu", description: "only what watches this",
	}
	violationFields = fieldsParam("ViolationFields", "violation_id,level,value", fieldsOf[Violation]())

	// violationFilters are the parameters of every list of violations but whose
	// threshold it is.
	violationFilters = []*parameter{
		instanceParam, userParam, orgParam,
		{name: "level", component: "LevelName", most: odometer.MaxIDBytes, example: "warning", description: "only this level"},
		{name: "standing", component: "StandingFilter", kind: asWord, words: asWordsOf(odometer.StandingOpen, odometer.StandingRecovered, odometer.StandingRetracted), example: "open", description: "only those that are so now"},
		resourceParam,
		{name: "from", component: "CrossedFrom", kind: asMoment, example: "-24h", description: "only what was reached from then on, by the time of use"},
		{name: "to", component: "CrossedTo", kind: asMoment, example: "+1h", description: "only what was reached before"},
		violationFields, afterCursor, limitParam, formatParam,
	}
	// violationReplies are their answers.
	violationReplies = []reply{{http.StatusOK, "One page, or in the forms of an export everything.", []header{nextPage, attached}, append([]content{{odometer.ContentJSON, ViolationsAnswer{}}}, exported...)}}
)

// exampleViolation is the id of a violation that the server of the examples has.
const exampleViolation = "vio_22222222222222222222222226"

// Resources are those that can be watched.
var Resources = []odometer.Resource{
	odometer.ResourceCPU, odometer.ResourceMemory, odometer.ResourceStorage, odometer.ResourceNetworkEgress, odometer.ResourceNetworkIngress,
	odometer.ResourceDiskRead, odometer.ResourceDiskWrite, odometer.ResourceGPU,
}

func (s *server) violationRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/violations", access: reader, handle: s.getViolations,
			id: "violations", tag: "alerts", summary: "What thresholds were reached, the newest first",
			description: "Each violation once, as it is now, the one that changed last first: those of thresholds that the caller sees, and of those that are shared where he sees the usage. As an export all of them, or `limit` of them where that is given.",
			params:      append([]*parameter{{name: "threshold", component: "ThresholdFilter", most: odometer.MaxIDBytes, valid: odometer.ValidThresholdID, example: exampleThreshold, description: "only those of this threshold"}}, violationFilters...),
			replies:     violationReplies, fails: missing,
		},
		{
			pattern: "GET /api/v1/violations/{id}", access: reader, handle: s.getViolation,
			id: "violation", tag: "alerts", summary: "What became of one violation",
			description: "All of its changes: that it was reached, that the value fell back, that a correction undid it.",
			params:      []*parameter{violationPath},
			replies:     []reply{answers(http.StatusOK, "Its changes.", ViolationChanges{})}, fails: missing,
		},
	}
}

func (s *server) getViolations(w http.ResponseWriter, r *http.Request) error {
	return s.violations(w, r, odometer.ThresholdID(queryOf(r).text("threshold")))
}

// violations answers with what there is of a threshold, or of all where it is "".
func (s *server) violations(w http.ResponseWriter, r *http.Request, threshold odometer.ThresholdID) error {
	p := queryOf(r)
	q := odometer.ViolationQuery{
		Limit: p.limit() + 1, Threshold: threshold, Instance: odometer.InstanceID(p.text("instance")), User: odometer.UserID(p.text("user")), Org: odometer.OrgID(p.text("org")),
		Level: p.text("level"), Standing: odometer.Standing(p.text("standing")), Resource: odometer.Resource(p.text("resource")),
		From: p.time("from", 0), To: p.time("to", 0), View: new(seen(r)),
	}
	if q.To != 0 {
		p.inOrder(q.From, q.To)
	}
	if err := p.done(); err != nil {
		return err
	}
	if after := p.text("after"); after != "" {
		q.Before, _ = strconv.ParseUint(after, 10, 64) // as it was sealed
	}
	if s.Violations == nil {
		return absent("thresholds")
	}
	w.Header().Add("Vary", "Accept")
	if f := formOf(r); f != asDocument {
		return s.exportViolations(w, r, q, f)
	}
	list, err := s.Violations.Violations(r.Context(), q)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(v odometer.Violation) string { return strconv.FormatUint(v.Number, 10) })
	return writeList(w, r, ViolationsAnswer{violationsOf(list), next}, "violations")
}

func (s *server) getViolation(w http.ResponseWriter, r *http.Request) error {
	if s.Violations == nil {
		return absent("thresholds")
	}
	changes, err := s.Violations.Violation(r.Context(), seen(r), odometer.ViolationID(queryOf(r).text("id")))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, ViolationChanges{violationsOf(changes)})
}

// exportViolations answers with all violations that are asked for, or as many as limit
// says, page by page as they are now: one that changes meanwhile may come twice, or not
// at all, since it moves to the front.
func (s *server) exportViolations(w http.ResponseWriter, r *http.Request, q odometer.ViolationQuery, f form) error {
	ctx, cancel := long(w, r, ExportTimeout)
	defer cancel()
	out, p := newLines(w, r, f), queryOf(r)
	fields := p.words("fields")
	if fields == nil {
		fields = fieldsOf[Violation]()
	}
	if f == asCSV {
		if err := out.line(func(b []byte) []byte { return appendTitles(b, inTheirOrder(fields)...) }); err != nil {
			return err
		}
	}
	left := -1
	if p.has(limitParam.name) {
		left = p.limit()
	}
	for q.Limit = MaxPage; left != 0; {
		if left > 0 {
			q.Limit = min(left, MaxPage)
		}
		page, err := s.Violations.Violations(ctx, q)
		for i := 0; err == nil && i < len(page); i++ {
			var text []byte
			if text, err = encode(violationOf(&page[i])); err != nil {
				break
			}
			err = out.line(func(b []byte) []byte {
				if f == asCSV {
					return appendMembers(b, text, fields)
				}
				some, err := pick(text, fields)
				if err != nil {
					panic(err) // it is what was encoded
				}
				return append(b, some...)
			})
		}
		if err != nil || len(page) < q.Limit {
			return out.end(err)
		}
		q.Before, left = page[len(page)-1].Number, left-len(page)
	}
	return out.end(nil)
}

// inTheirOrder returns fields in the order in which a violation has them.
func inTheirOrder(fields []string) (names []string) {
	for _, name := range fieldsOf[Violation]() {
		if slices.Contains(fields, name) {
			names = append(names, name)
		}
	}
	return names
}

// appendMembers appends a cell for each member of an object that is named: nothing for
// null, and a list with spaces between its elements.
func appendMembers(b, object []byte, fields []string) []byte {
	_, err := rewrite(object, func(name string, value json.RawMessage) (json.RawMessage, error) {
		if !slices.Contains(fields, name) {
			return nil, nil
		}
		var v any
		if err := json.Unmarshal(value, &v); err != nil {
			return nil, err
		}
		switch v := v.(type) {
		case nil:
			b = append(b, ',')
		case string:
			b = appendText(b, v)
		case []any:
			b = appendText(b, strings.Trim(fmt.Sprint(v), "[]"))
		default: // a number or a truth value, as it stands
			b = append(append(b, value...), ',')
		}
		return nil, nil
	})
	if err != nil {
		panic(err) // it is what was encoded
	}
	return b
}
