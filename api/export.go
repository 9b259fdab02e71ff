package api

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"time"

	"example.org/odometer"
)

// An export is an answer of any length, one row a line, written as it is read: it
// takes as much memory as a page. What goes wrong before the first line is answered
// as a problem. Later it breaks the answer off, so that no client takes a part for
// the whole; NDJSON has the problem as its last line, in a member of that name.

// Exporter reads what is too much for one answer. The calls of each come one after
// the other, and what they are given holds until they return.
type Exporter interface {
	// EachUsage calls each for every row of the answer to q, all of one moment. By
	// instance they come in the order of the instances, and of time within each.
	EachUsage(ctx context.Context, seen odometer.View, q odometer.UsageQuery, each func(*odometer.UsageRow) error) error
	// EachEntry calls each for every entry that q asks for, without a limit, in the
	// order in which they were booked.
	EachEntry(ctx context.Context, seen odometer.View, q odometer.EntryQuery, each func(*odometer.Entry) error) error
	// End returns the cursor after everything that is booked.
	End(ctx context.Context) (cursor string, err error)
}

const (
	// ExportTimeout is how long an export of usage may take altogether, since it
	// keeps the moment of the ledger that it is of.
	ExportTimeout = 15 * time.Minute
	// someOfIt is how many bytes are written at once. A client may take as long to
	// read them as another answer may take altogether: see patience.
	someOfIt = 32 << 10
)

// form is how an answer is written.
type form string

const (
	asDocument form = odometer.ContentJSON
	asNDJSON   form = "application/x-ndjson"
	asCSV      form = "text/csv"
)

// formatParam asks for an export where a header cannot be sent.
var formatParam = &parameter{
	name: "format", kind: asWord, words: []string{"ndjson", "csv"}, example: "csv",
	description: "the whole answer as a stream of lines: `ndjson` or `csv`, as with Accept: application/x-ndjson or text/csv",
}

// exported are the forms of an export, for the declaration of a route.
var exported = []content{{string(asNDJSON), nil}, {string(asCSV), nil}}

// formOf returns what a request that may ask for an export asks for: by the
// parameter, or by the header Accept the first of the forms there are.
func formOf(r *http.Request) form {
	switch queryOf(r).text(formatParam.name) {
	case "ndjson":
		return asNDJSON
	case "csv":
		return asCSV
	}
	return accepted(r, asNDJSON, asCSV)
}

// accepted returns which of the forms the header Accept prefers, asDocument for
// none. They are never sent unless asked for by name.
func accepted(r *http.Request, forms ...form) form {
	best, weight := asDocument, 0.0
	for _, line := range r.Header.Values("Accept") {
		for _, part := range listed(line) {
			media, params, err := mime.ParseMediaType(part)
			if err != nil || form(media) != asDocument && !slices.Contains(forms, form(media)) {
				continue
			}
			q, err := strconv.ParseFloat(params["q"], 64)
			if err != nil {
				q = 1
			}
			if q > weight {
				best, weight = form(media), q
			}
		}
	}
	return best
}

type connectionKey struct{}

// long returns a context for an answer that may take longer than others, which ends
// with the connection, and takes the limits off the latter.
func long(w http.ResponseWriter, r *http.Request, most time.Duration) (context.Context, context.CancelFunc) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // where it has one: nothing more is read
	ctx := r.Context().Value(connectionKey{}).(context.Context)
	if most == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, most)
}

// patience returns how long a client may take to read some of an export, or of a
// stream: what the server gives it for a whole answer of another kind, which a slow
// line carries in a second.
func patience(r *http.Request) time.Duration {
	if srv, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && srv.WriteTimeout > 0 {
		return srv.WriteTimeout
	}
	return StandardConnLimits.AnswerWithin
}

// lines writes an export.
type lines struct {
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	within  time.Duration // for the client to read what is handed on at once
	form    form
	buf     []byte
	begin   func() // before anything is written; nil for nothing
	begun   bool
}

func newLines(w http.ResponseWriter, r *http.Request, f form) *lines {
	return &lines{w: w, r: r, control: http.NewResponseController(w), within: patience(r), form: f, buf: make([]byte, 0, someOfIt+4096)}
}

// errGone says that nobody reads an export any more, or not fast enough.
var errGone = fmt.Errorf("the client reads no more: %w", context.Canceled)

// line ends the line that write appends to what is there: in CSV in place of the
// comma after the last cell.
func (l *lines) line(write func([]byte) []byte) error {
	l.buf = write(l.buf)
	if l.form == asCSV {
		l.buf = append(l.buf[:len(l.buf)-1], '\r')
	}
	l.buf = append(l.buf, '\n')
	if len(l.buf) < someOfIt {
		return nil
	}
	return l.flush()
}

// extend gives the client time for what is written next.
func (l *lines) extend() {
	_ = l.control.SetWriteDeadline(time.Now().Add(l.within)) // where there is a connection
}

// flush hands on what there is, and gives the client time for it.
func (l *lines) flush() error {
	if !l.begun {
		l.begun = true
		if l.begin != nil {
			l.begin()
		}
		h := l.w.Header()
		h.Set("Content-Type", string(l.form)+"; charset=utf-8")
		if l.form == asCSV {
			h.Set("Content-Type", string(l.form)+"; charset=utf-8; header=present")
			h.Set("Content-Disposition", "attachment")
		}
		l.w.WriteHeader(http.StatusOK)
	}
	l.extend()
	_, err := l.w.Write(l.buf)
	l.buf = l.buf[:0]
	if err != nil {
		return errors.Join(errGone, err)
	}
	return nil
}

// end completes the export, or says with what it ended.
func (l *lines) end(err error) error {
	if err == nil {
		return l.flush()
	}
	if !l.begun || errors.Is(err, errGone) {
		return err
	}
	if l.form == asNDJSON {
		p, wrong := encode(map[string]Problem{"problem": problemOf(err, l.r.URL.EscapedPath(), l.w.Header().Get("X-Request-Id"))})
		if wrong == nil {
			l.buf = append(l.buf, p...)
		}
	}
	if l.flush() == nil {
		_ = l.control.Flush() // before the connection is closed
	}
	return err
}

// exportUsage answers with all rows.
func (s *server) exportUsage(w http.ResponseWriter, r *http.Request, q odometer.UsageQuery, e *edition, f form) error {
	if s.Exports == nil {
		return absent("ledger")
	}
	ctx, cancel := long(w, r, ExportTimeout)
	defer cancel()
	out := newLines(w, r, f)
	now, fields, words := queryOf(r).now, queryOf(r).words("fields"), queryOf(r).words("sort")
	titles := appendTitles(nil, "state")
	var cells []func([]byte, *Row) []byte
	usageColumns(q.GroupBy, fields, func(title string, cell func([]byte, *Row) []byte) {
		titles, cells = appendTitles(titles, title), append(cells, cell)
	})
	write := func(state string, row *Row) error {
		return out.line(func(b []byte) []byte {
			if f == asCSV {
				b = appendText(b, state)
				for _, cell := range cells {
					b = cell(b, row)
				}
				return b
			}
			b = append(append(append(b, `{"state":"`...), state...), '"')
			at := len(b)
			b = row.appendJSON(b)
			if fields != nil {
				some, err := pick(b[at:], fields)
				if err != nil {
					panic(err) // it is what was written
				}
				b = append(b[:at], some...)
			}
			if b[at] = ','; b[at+1] == '}' { // nothing of it
				b = append(b[:at], '}')
			}
			return b
		})
	}
	if f == asCSV {
		if err := out.line(func(b []byte) []byte { return append(b, titles...) }); err != nil {
			return err
		}
	}
	if q.Top != 0 || words != nil { // as many as an answer has, which are put in order
		recorded, open, err := s.usage(r, q, now)
		rowKeys.sort(recorded, words)
		rowKeys.sort(open, words)
		for i := 0; err == nil && i < len(recorded); i++ {
			err = write("recorded", &recorded[i])
		}
		for i := 0; err == nil && i < len(open); i++ {
			err = write("open", &open[i])
		}
		return out.end(err)
	}
	// What is open is read after what is recorded, as in getCurrent. An answer that
	// has an ETag is one of which nothing was open when it began.
	still := len(s.openOf(r, q, now)) == 0 && e.revision != ""
	if still {
		out.begin = func() { e.set(w, nil) }
	}
	row := Row{By: q.GroupBy, Zone: q.Zone}
	err := s.Exports.EachUsage(ctx, seen(r), q, func(u *odometer.UsageRow) error {
		row.UsageRow = *u
		return write("recorded", &row)
	})
	if err == nil && !still {
		for _, row := range s.openOf(r, q, now) {
			if err = write("open", &row); err != nil {
				break
			}
		}
	}
	return out.end(err)
}

var errEnough = errors.New("as much as was asked for")

// exportEvents answers with all entries, or as many as are asked for: those that are
// booked when it begins.
func (s *server) exportEvents(w http.ResponseWriter, r *http.Request, q odometer.EntryQuery, f form) (err error) {
	if s.Exports == nil {
		return absent("ledger")
	}
	if q.Before, err = s.Exports.End(r.Context()); err != nil {
		return err
	}
	ctx, cancel := long(w, r, 0)
	defer cancel()
	out := newLines(w, r, f)
	left := q.Limit
	if !queryOf(r).has(limitParam.name) {
		left = -1
		out.begin = func() { w.Header().Set("Odometer-Cursor", q.Before) }
	}
	fields := queryOf(r).words("fields")
	var titles []byte
	var cells []func([]byte, *odometer.Entry) []byte
	if f == asCSV {
		entryColumns(fields, func(title string, cell func([]byte, *odometer.Entry) []byte) {
			titles, cells = appendTitles(titles, title), append(cells, cell)
		})
		if len(cells) == 0 {
			return FieldError{"query", "fields", "names nothing that is a column of CSV"}
		}
		if err := out.line(func(b []byte) []byte { return append(b, titles...) }); err != nil {
			return err
		}
	}
	err = s.Exports.EachEntry(ctx, seen(r), q, func(e *odometer.Entry) error {
		if err := out.line(func(b []byte) []byte {
			for _, cell := range cells {
				b = cell(b, e)
			}
			if f == asCSV {
				return b
			}
			at := len(b)
			b = e.AppendJSON(b)
			if fields != nil {
				some, err := pick(b[at:], fields)
				if err != nil {
					panic(err) // it is what was written
				}
				b = append(b[:at], some...)
			}
			return b
		}); err != nil {
			return err
		}
		if left--; left == 0 {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return out.end(err)
}
