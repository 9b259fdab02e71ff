package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"example.org/odometer"
)

// ThresholdAdmin keeps thresholds and decides what a caller sees and may change of them,
// with errors as [PeopleAdmin] has them. A problem with a threshold is an
// [odometer.ErrInvalid] that names the member; see inBody.
type ThresholdAdmin interface {
	Create(ctx context.Context, by odometer.Actor, d odometer.Threshold, once odometer.Once) (odometer.Threshold, error)
	Get(ctx context.Context, by odometer.Caller, id odometer.ThresholdID) (odometer.Threshold, error)
	List(ctx context.Context, by odometer.Caller, q odometer.ThresholdQuery) ([]odometer.Threshold, error)
	Update(ctx context.Context, by odometer.Actor, d odometer.Threshold, version uint64) (odometer.Threshold, error)
	Delete(ctx context.Context, by odometer.Actor, id odometer.ThresholdID, version uint64) error
	// Test tells what a threshold would have done in [from, to), microseconds, and
	// how it stands now. It writes nothing.
	Test(ctx context.Context, by odometer.Caller, d odometer.Threshold, from, to int64) (odometer.ThresholdTest, error)
}

// ThresholdScope is whom a threshold covers: one of the first four.
type ThresholdScope struct {
	Instance odometer.InstanceID `json:"instance_id,omitempty"`
	User     odometer.UserID     `json:"user_id,omitempty"` // all of this user's
	Org      odometer.OrgID      `json:"org_id,omitempty"`  // all of this organisation's
	All      bool                `json:"all,omitempty"`     // all that its holder sees
	Sum      bool                `json:"sum,omitempty"`     // the sum over them, in place of each by itself
}

// ThresholdLevel is a value from which on, itself included, a violation is told. It has
// a value or a percentage of the threshold's limit.
type ThresholdLevel struct {
	Name    string  `json:"name,omitempty" schema:"maxLength=32"` // such as warning; absent for the percentage
	Value   float64 `json:"value,omitempty"`                      // in the threshold's unit; of a percentage it follows
	Percent float64 `json:"percent,omitempty"`                    // of the limit
}

// ThresholdChange is the body of PUT /api/v1/thresholds/{id}: all of what can be changed.
type ThresholdChange struct {
	// Name is one line of printable text, for people.
	Name        string             `json:"name" schema:"minLength=1,maxLength=128"`
	Description string             `json:"description,omitempty" schema:"maxLength=1024"`
	Enabled     *bool              `json:"enabled,omitempty" schema:"nullable"` // absent for true
	Shared      bool               `json:"shared,omitempty"`                    // its violations are seen also by whoever sees the usage
	Scope       ThresholdScope     `json:"scope"`
	Resource    odometer.Resource  `json:"resource,omitempty"` // absent for silence and gaps
	Condition   odometer.Condition `json:"condition"`
	Unit        odometer.Unit      `json:"unit,omitempty"`  // of the limit and the levels; absent for the usual one
	Limit       float64            `json:"limit,omitempty"` // that percentages of levels are of
	Levels      []ThresholdLevel   `json:"levels"`          // rising

	Every odometer.Cycle `json:"every,omitempty"` // of a budget
	// Timezone is where days and months of a budget begin, of the IANA's database;
	// absent for UTC.
	Timezone   string  `json:"timezone,omitempty"`
	For        string  `json:"for,omitempty"`        // of what is sustained: how long it lasts before it is told, such as 10m
	Hysteresis float64 `json:"hysteresis,omitempty"` // by how many percent of a level's value the value falls below it before it can be reached again
	CoolDown   string  `json:"cool_down,omitempty"`  // between two violations of one level and subject, such as 1h
	Forecast   bool    `json:"forecast,omitempty"`   // of a budget: tell also when the limit will be reached at this rate

	Action   odometer.Notify      `json:"action,omitempty"`   // absent for notify where channels are named, else for log
	Channels []odometer.ChannelID `json:"channels,omitempty"` // that it tells
}

// ThresholdRequest is the body of POST /api/v1/thresholds.
type ThresholdRequest struct {
	User *odometer.UserID `json:"user_id,omitempty" schema:"nullable"` // whose it is; absent with org_id for the caller's own
	Org  *odometer.OrgID  `json:"org_id,omitempty" schema:"nullable"`
	ThresholdChange
}

// Threshold is a threshold as an answer has it. Its version is its ETag.
type Threshold struct {
	ID   odometer.ThresholdID `json:"id" schema:"pattern=^thr_[a-z2-7]{16}$"`
	User *odometer.UserID     `json:"user_id"` // whose it is; null with org_id for the operator's
	Org  *odometer.OrgID      `json:"org_id"`
	ThresholdChange
	Managed   *string   `json:"managed_by"` // "file" for what the server's file of thresholds has, which alone changes it; else null
	Version   uint64    `json:"version" schema:"minimum=1"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
	UpdatedAt time.Time `json:"updated_at"`
}

// ThresholdsAnswer is the body of GET /api/v1/thresholds.
type ThresholdsAnswer struct {
	Thresholds []Threshold `json:"thresholds"` // in the order of their ids
	Next       *string     `json:"next"`       // cursor of the page that follows, null when there is none
}

// ThresholdTest is what a threshold would have done in a time that is past, and how it
// stands now.
type ThresholdTest struct {
	From    time.Time     `json:"from"`
	To      time.Time     `json:"to"`
	Changes []Violation   `json:"changes"` // that it would have made, in order
	Now     []SubjectTest `json:"now"`     // those that have reached most first
}

// SubjectTest is how a threshold stands for one of its subjects.
type SubjectTest struct {
	Instance *odometer.InstanceID `json:"instance_id"` // null for a sum
	User     *odometer.UserID     `json:"user_id"`
	Org      *odometer.OrgID      `json:"org_id"`
	Value    float64              `json:"value"`   // in the threshold's unit
	Reached  []string             `json:"reached"` // the levels that it has reached
}

func thresholdOf(d *odometer.Threshold) Threshold {
	t := Threshold{
		ID: d.ID, User: named(d.Holder.User), Org: named(d.Holder.Org), Managed: named(d.Managed), Version: d.Version, CreatedAt: d.Created, CreatedBy: d.CreatedBy, UpdatedAt: d.Changed,
		ThresholdChange: ThresholdChange{
			Name: d.Name, Description: d.Description, Enabled: &d.Enabled, Shared: d.Shared,
			Scope:    ThresholdScope{Instance: d.Scope.Instance, User: d.Scope.User, Org: d.Scope.Org, All: d.Scope.All, Sum: d.Scope.Sum},
			Resource: d.Resource, Condition: d.Condition, Unit: d.Unit, Limit: d.Limit, Levels: []ThresholdLevel{}, Every: d.Every,
			For: lasting(d.For), Hysteresis: d.Hysteresis, CoolDown: lasting(d.CoolDown), Forecast: d.Forecast,
			Action: d.Action, Channels: d.Channels,
		},
	}
	if d.Zone != nil {
		t.Timezone = d.Zone.String()
	}
	for _, l := range d.Levels {
		t.Levels = append(t.Levels, ThresholdLevel{l.Name, l.Value, l.Percent})
	}
	return t
}

// threshold returns what a body describes, which is the form in which the vocabulary
// writes thresholds, and notes what is wrong with it.
func (c *ThresholdChange) threshold(wrong *checks) odometer.Threshold {
	text, err := json.Marshal(c)
	if err != nil {
		*wrong = append(*wrong, FieldError{"body", "$", err.Error()})
		return odometer.Threshold{}
	}
	d, err := odometer.ParseThreshold(text)
	*wrong = append(*wrong, inBody(err))
	return d
}

// lasting writes a duration, "" for none.
func lasting(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

var thresholdPath = &parameter{
	name: "id", in: inPath, component: "ThresholdId", most: odometer.MaxIDBytes, valid: odometer.ValidThresholdID, pattern: "^thr_[a-z2-7]{16}$",
	example: exampleThreshold, description: "the id of a threshold",
}

// exampleThreshold is the id of a threshold that the server of the examples has.
const exampleThreshold = "thr_2222222222222225"

// testSpan is how much of the past a threshold is tried on where nobody says.
const testSpan = 7 * 24 * time.Hour

func (s *server) thresholdRoutes() []route {
	testFrom := &parameter{name: "from", component: "TestedFrom", kind: asMoment, example: "-7d", description: "where the past begins on which it is tried; seven days ago where it is absent"}
	return []route{
		{
			pattern: "GET /api/v1/thresholds", access: reader, handle: s.getThresholds,
			id: "thresholds", tag: "alerts", summary: "The thresholds that the caller sees",
			description: "The operator sees all, a user his own and those of organisations whose usage he sees. Those of the server's file are among them.",
			params: []*parameter{
				holderParam, resourceParam,
				{name: "enabled", kind: asWord, words: []string{"true", "false"}, example: "true", description: "only those that are, or are not"},
				afterCursor, limitParam,
			},
			replies: []reply{answers(http.StatusOK, "One page.", ThresholdsAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "POST /api/v1/thresholds", access: accountHolder, handle: s.postThreshold,
			id: "createThreshold", tag: "alerts", summary: "Create a threshold",
			description: "Of the caller's own, unless the body names a user or an organisation for whom he may. It covers nothing that its holder does not see. It counts from the beginning of the running period, and tells what is reached already.",
			params:      []*parameter{onceHeader},
			takes:       takes(ThresholdRequest{}),
			replies:     []reply{answers(http.StatusCreated, "The threshold.", Threshold{}, versioned, location)}, fails: creates,
		},
		{
			pattern: "GET /api/v1/thresholds/{id}", access: reader, handle: s.getThreshold,
			id: "threshold", tag: "alerts", summary: "One threshold",
			description: "As it is now.",
			params:      []*parameter{thresholdPath},
			replies:     []reply{answers(http.StatusOK, "The threshold.", Threshold{}, versioned)}, fails: missing,
		},
		{
			pattern: "PUT /api/v1/thresholds/{id}", access: accountHolder, handle: s.putThreshold,
			id: "updateThreshold", tag: "alerts", summary: "Change a threshold",
			description: "All that can be changed is in the body; its holder is for good. One of the server's file is changed there.",
			params:      []*parameter{thresholdPath, ifMatchHeader},
			takes:       takes(ThresholdChange{}),
			replies:     []reply{answers(http.StatusOK, "The threshold as it is then.", Threshold{}, versioned)}, fails: changes,
		},
		{
			pattern: "DELETE /api/v1/thresholds/{id}", access: accountHolder, handle: s.deleteThreshold,
			id: "deleteThreshold", tag: "alerts", summary: "Delete a threshold",
			description: "What it told stays.",
			params:      []*parameter{thresholdPath, ifMatchHeader},
			replies:     []reply{{http.StatusNoContent, "It is gone.", nil, nil}}, fails: changes,
		},
		{
			pattern: "GET /api/v1/thresholds/{id}/violations", access: reader, handle: s.getThresholdViolations,
			id: "thresholdViolations", tag: "alerts", summary: "What was reached of a threshold, the newest first",
			description: "Also after it was changed.",
			params:      append([]*parameter{thresholdPath}, violationFilters...),
			replies:     violationReplies, fails: missing,
		},
		{
			pattern: "POST /api/v1/thresholds/test", access: reader, handle: s.testThreshold,
			id: "testThreshold", tag: "alerts", summary: "What a threshold would have done",
			description: "Nothing is changed and nobody is told: it is tried on what the ledger has of the past.",
			params:      []*parameter{testFrom, toParam},
			takes:       takes(ThresholdRequest{}),
			replies:     []reply{answers(http.StatusOK, "What it would have done, and how it would stand.", ThresholdTest{})}, fails: conflict,
		},
		{
			pattern: "POST /api/v1/thresholds/{id}/test", access: reader, handle: s.testThresholdOf,
			id: "testThresholdById", tag: "alerts", summary: "What a threshold would have done that there is",
			description: "Nothing is changed and nobody is told: as it is now, it is tried on what the ledger has of the past.",
			params:      []*parameter{thresholdPath, testFrom, toParam},
			replies:     []reply{answers(http.StatusOK, "What it would have done, and how it stands.", ThresholdTest{})}, fails: conflict,
		},
	}
}

func (s *server) getThresholds(w http.ResponseWriter, r *http.Request) error {
	if s.Thresholds == nil {
		return absent("thresholds")
	}
	p := queryOf(r)
	q := odometer.ThresholdQuery{After: odometer.ThresholdID(p.text("after")), Limit: p.limit() + 1, Holder: heldBy(p), Resource: odometer.Resource(p.text("resource"))}
	if word := p.text("enabled"); word != "" {
		q.Enabled = new(word == "true")
	}
	list, err := s.Thresholds.List(r.Context(), caller(r), q)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(d odometer.Threshold) odometer.ThresholdID { return d.ID })
	answer := ThresholdsAnswer{Thresholds: []Threshold{}, Next: next}
	for i := range list {
		answer.Thresholds = append(answer.Thresholds, thresholdOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postThreshold(w http.ResponseWriter, r *http.Request) error {
	if s.Thresholds == nil {
		return absent("thresholds")
	}
	var ask ThresholdRequest
	var d odometer.Threshold
	once, err := asked(r, &ask, func(wrong *checks) {
		d = ask.threshold(wrong)
		d.Holder = holderOf(r, ask.User, ask.Org, wrong)
	})
	if err != nil {
		return err
	}
	if d, err = s.Thresholds.Create(r.Context(), actor(r), d, once); err != nil {
		return inBody(err)
	}
	w.Header().Set("Location", "/api/v1/thresholds/"+url.PathEscape(string(d.ID)))
	return writeVersion(w, http.StatusCreated, int64(d.Version), thresholdOf(&d))
}

// threshold returns the threshold in the path.
func (s *server) threshold(r *http.Request) (odometer.Threshold, error) {
	if s.Thresholds == nil {
		return odometer.Threshold{}, absent("thresholds")
	}
	return s.Thresholds.Get(r.Context(), caller(r), odometer.ThresholdID(queryOf(r).text("id")))
}

func (s *server) getThreshold(w http.ResponseWriter, r *http.Request) error {
	d, err := s.threshold(r)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, int64(d.Version), thresholdOf(&d))
}

func (s *server) putThreshold(w http.ResponseWriter, r *http.Request) error {
	if s.Thresholds == nil {
		return absent("thresholds")
	}
	var ask ThresholdChange
	var d odometer.Threshold
	if _, err := asked(r, &ask, func(wrong *checks) { d = ask.threshold(wrong) }); err != nil {
		return err
	}
	version, err := versionOf(r)
	if err != nil {
		return err
	}
	d.ID = odometer.ThresholdID(queryOf(r).text("id"))
	if d, err = s.Thresholds.Update(r.Context(), actor(r), d, version); err != nil {
		return inBody(err)
	}
	return writeVersion(w, http.StatusOK, int64(d.Version), thresholdOf(&d))
}

func (s *server) deleteThreshold(w http.ResponseWriter, r *http.Request) error {
	if s.Thresholds == nil {
		return absent("thresholds")
	}
	version, err := versionOf(r)
	if err != nil {
		return err
	}
	if err := s.Thresholds.Delete(r.Context(), actor(r), odometer.ThresholdID(queryOf(r).text("id")), version); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// getThresholdViolations answers about a threshold that the caller sees, and then what
// of its subjects he sees.
func (s *server) getThresholdViolations(w http.ResponseWriter, r *http.Request) error {
	d, err := s.threshold(r)
	if err != nil {
		return err
	}
	return s.violations(w, r, d.ID)
}

func (s *server) testThreshold(w http.ResponseWriter, r *http.Request) error {
	if s.Thresholds == nil {
		return absent("thresholds")
	}
	var ask ThresholdRequest
	var d odometer.Threshold
	var from, to int64
	if _, err := asked(r, &ask, func(wrong *checks) {
		d = ask.threshold(wrong)
		d.Holder = holderOf(r, ask.User, ask.Org, wrong)
	}); err != nil {
		return err
	}
	p := queryOf(r)
	from, to = p.span(testSpan)
	if err := p.done(); err != nil {
		return err
	}
	return s.tested(w, r, d, from, to)
}

func (s *server) testThresholdOf(w http.ResponseWriter, r *http.Request) error {
	d, err := s.threshold(r)
	if err != nil {
		return err
	}
	p := queryOf(r)
	from, to := p.span(testSpan)
	if err := p.done(); err != nil {
		return err
	}
	return s.tested(w, r, d, from, to)
}

func (s *server) tested(w http.ResponseWriter, r *http.Request, d odometer.Threshold, from, to int64) error {
	t, err := s.Thresholds.Test(r.Context(), caller(r), d, from, to)
	if err != nil {
		return inBody(err)
	}
	answer := ThresholdTest{From: instant(t.From), To: instant(t.To), Changes: violationsOf(t.Changes), Now: []SubjectTest{}}
	for _, n := range t.Now {
		answer.Now = append(answer.Now, SubjectTest{named(n.Instance), named(n.Owner.User), named(n.Owner.Org), n.Value, append([]string{}, n.Reached...)})
	}
	return writeJSON(w, http.StatusOK, answer)
}
