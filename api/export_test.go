package api

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
)

// made is an Exporter of as many rows and entries as are asked for.
type made struct {
	rows   int
	shared bool              // between days
	fails  error             // after these
	at     func(n int) error // before each; nil for nothing
}

func (m made) each(do func(n int) error) error {
	for n := range m.rows {
		if m.at != nil {
			if err := m.at(n); err != nil {
				return err
			}
		}
		if err := do(n); err != nil {
			return err
		}
	}
	return m.fails
}

func (m made) EachUsage(_ context.Context, _ odometer.View, _ odometer.UsageQuery, each func(*odometer.UsageRow) error) error {
	return m.each(func(n int) error {
		return each(&odometer.UsageRow{Instance: odometer.InstanceID(fmt.Sprintf("vm-%d", n)), Known: odometer.AllKnown, Apportioned: m.shared})
	})
}

func (m made) EachEntry(_ context.Context, _ odometer.View, _ odometer.EntryQuery, each func(*odometer.Entry) error) error {
	return m.each(func(n int) error {
		e := SampleEvent("vm-1", uint64(n+1), odometer.Owner{User: "ada"})
		return each(&odometer.Entry{Kind: odometer.KindUsage, Event: e})
	})
}

func (m made) End(context.Context) (string, error) { return "end", nil }

// TestExportsAreTheAnswers compares both forms of an export with the answer in JSON.
func TestExportsAreTheAnswers(t *testing.T) {
	f, _ := prepared(t)
	h := serverOf(t, f.Deps)
	get := func(target, accept string) string {
		t.Helper()
		w := do(h, "GET", target, "Accept", accept)
		if media, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";"); w.Code != 200 || media != accept {
			t.Fatalf("%s: got %d of type %s: %s", target, w.Code, w.Header().Get("Content-Type"), w.Body)
		}
		return w.Body.String()
	}
	const usage = "/api/v1/usage?from=-24h&group_by=instance,user,org,hour"
	var answer UsageAnswer
	if err := json.Unmarshal([]byte(get(usage, "application/json")), &answer); err != nil || len(answer.Rows) == 0 || len(answer.Open) == 0 {
		t.Fatalf("got %+v, %v, want rows and open ones", answer, err)
	}
	var rows []string
	for line := range strings.Lines(get(usage, string(asNDJSON))) {
		var state struct{ State string }
		var r Row
		if err := errors.Join(json.Unmarshal([]byte(line), &state), json.Unmarshal([]byte(line), &r)); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		text, _ := json.Marshal(r)
		rows = append(rows, state.State+string(text))
	}
	var want []string
	for state, list := range map[string][]Row{"recorded": answer.Rows, "open": answer.Open} {
		for _, r := range list {
			text, _ := json.Marshal(r)
			want = append(want, state+string(text))
		}
	}
	slices.Sort(rows)
	slices.Sort(want)
	if !slices.Equal(rows, want) {
		t.Errorf("NDJSON: got\n%q\nwant\n%q", rows, want)
	}
	cells, err := csv.NewReader(strings.NewReader(get(usage, string(asCSV)))).ReadAll() // which wants as many in each line
	if err != nil || len(cells) != 1+len(rows) {
		t.Fatalf("CSV: got %q, %v, want a title and %d rows", cells, err, len(rows))
	}
	column := func(line int, name string) string { return cells[line][slices.Index(cells[0], name)] }
	r := answer.Rows[0]
	for name, want := range map[string]string{
		"state": "recorded", "instance": string(r.Instance), "user": string(r.User), "org": string(r.Org), "start": formatMicros(r.Start), "cpu_us": r.Totals[odometer.CPU].String(),
		"gpu_us": "", "measured_us": r.Totals[odometer.MeasuredTime].String(), "recovered_us": "0", "age_s": "",
	} {
		if got := column(1, name); got != want {
			t.Errorf("CSV: %s: got %q, want %q", name, got, want)
		}
	}
	if column(len(rows), "state") != "open" || column(len(rows), "age_s") != "2" {
		t.Errorf("CSV: the last row is %q, want the open one", cells[len(rows)])
	}

	var events EventsAnswer
	if err := json.Unmarshal([]byte(get("/api/v1/events", "application/json")), &events); err != nil || len(events.Events) != 5 {
		t.Fatalf("got %+v, %v, want five events", events, err)
	}
	lines := ""
	for _, e := range events.Events {
		lines += string(e) + "\n"
	}
	if got := get("/api/v1/events", string(asNDJSON)); got != lines {
		t.Errorf("NDJSON: got\n%s\nwant\n%s", got, lines)
	}
	cells, err = csv.NewReader(strings.NewReader(get("/api/v1/events", string(asCSV)))).ReadAll()
	if err != nil || len(cells) != 6 || column(2, "instance_id") != "vm-1" || column(2, "cpu_us") != "12060000" || column(2, "gpu_us") != "" || column(2, "used_until") != "2026-01-02T14:01:00Z" {
		t.Errorf("CSV: got %q, %v", cells, err)
	}
	w := do(h, "GET", "/api/v1/events?format=ndjson&limit=2")
	if strings.Count(w.Body.String(), "\n") != 2 || w.Header().Get("Odometer-Cursor") != "" {
		t.Errorf("two of them: got %s, the cursor %q", w.Body, w.Header().Get("Odometer-Cursor"))
	}
	if w := do(h, "GET", "/api/v1/events?format=csv"); w.Header().Get("Odometer-Cursor") != events.Cursor || w.Header().Get("Content-Disposition") != "attachment" {
		t.Errorf("all of them: got the headers %v, want the cursor %q", w.Header(), events.Cursor)
	}
	if got := strings.Count(get("/api/v1/usage?group_by=instance&top=1", string(asNDJSON)), "\n"); got != 2 {
		t.Errorf("the top one: got %d lines, want it and what is open of it", got)
	}
	if w := do(h, "GET", "/api/v1/usage?format=xml"); w.Code != http.StatusBadRequest {
		t.Errorf("another format: got %d, want 400", w.Code)
	}
}

// TestExportsTakeWhatTheAnswerTakes has the rows of an export be those of the answer by
// every parameter that says which these are, and what of them, and in which order.
func TestExportsTakeWhatTheAnswerTakes(t *testing.T) {
	f, _ := prepared(t)
	h := serverOf(t, f.Deps)
	for _, query := range []string{
		"group_by=org,user&interval=hour", "group_by=instance&interval=day&timezone=Asia/Kolkata", "group_by=user&interval=total&user=ada", "group_by=instance&instance=vm-1&org=acme",
		"group_by=instance,hour&sort=-start,cpu_us", "group_by=instance,day&timezone=Asia/Kolkata&fields=start,cpu_us", "group_by=instance&sort=-instance&fields=instance,apportioned", "group_by=instance&top=1",
	} {
		target := "/api/v1/usage?from=-24h&" + query
		var answer struct{ Rows, Open []json.RawMessage }
		w := do(h, "GET", target)
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || len(answer.Rows) == 0 {
			t.Fatalf("%s: got %d %s, want rows", query, w.Code, w.Body)
		}
		var want []string
		for _, r := range answer.Rows {
			want = append(want, `{"state":"recorded",`+string(r[1:]))
		}
		for _, r := range answer.Open {
			want = append(want, `{"state":"open",`+string(r[1:]))
		}
		got := strings.Split(strings.TrimSuffix(do(h, "GET", target+"&format=ndjson").Body.String(), "\n"), "\n")
		if !strings.Contains(query, "sort=") { // by which alone it has the order of the answer
			slices.Sort(got)
			slices.Sort(want)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", query, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		cells, err := csv.NewReader(strings.NewReader(do(h, "GET", target+"&format=csv").Body.String())).ReadAll()
		if err != nil || len(cells) != 1+len(want) {
			t.Errorf("%s: got the CSV %q, %v, want %d rows", query, cells, err, len(want))
		}
		if strings.Contains(query, "fields=") && len(cells[0]) != 3 {
			t.Errorf("%s: got the columns %q, want the state and two", query, cells[0])
		}
	}
	f.Deps.Exports = made{rows: 2, shared: true}
	h = serverOf(t, f.Deps)
	for form, want := range map[string]string{"ndjson": `"apportioned":true`, "csv": ",true,"} {
		if w := do(h, "GET", "/api/v1/usage?group_by=instance&to=2026-01-01&from=2025-12-31&format="+form); strings.Count(w.Body.String(), want) != 2 {
			t.Errorf("%s: got %s, want two rows that are shared by time", form, w.Body)
		}
	}
}

func TestWhatAHeaderAcceptPrefers(t *testing.T) {
	for accept, want := range map[string]form{
		"": asDocument, "*/*": asDocument, "text/*": asDocument, "application/json": asDocument, "text/csv": asCSV, "Text/CSV; header=present": asCSV,
		"application/x-ndjson": asNDJSON, "text/csv;q=0": asDocument, "application/json;q=0.5, text/csv": asCSV, "text/csv;q=0.5, application/json": asDocument,
		"text/csv, application/x-ndjson": asCSV, "text/csv;q=0.1,application/x-ndjson;q=0.2": asNDJSON, "/": asDocument, "text/html,text/csv;q=x": asCSV,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept", accept)
		if got := accepted(r, asNDJSON, asCSV); got != want {
			t.Errorf("%q: got %q, want %q", accept, got, want)
		}
	}
}

// TestCSVIsNoFormula writes texts that a spreadsheet would take for a formula, and
// reads them back.
func TestCSVIsNoFormula(t *testing.T) {
	texts := []string{
		"vm-1", "", "=1+1", "+1", "-1", "@sum(a1)", "\tx", "\rx", "\nx", "'", "'=1", "''x", `a"b`, `"`, "a,b", "a\r\nb", "=HYPERLINK(\"http://x\",\"y\")",
		"äöü", " =1", "1-1", "a=1", "\u00a0=1",
	}
	var b []byte
	for _, s := range texts {
		b = appendText(b, s)
	}
	b[len(b)-1] = '\n'
	cells, err := csv.NewReader(strings.NewReader(string(b))).Read()
	if err != nil || len(cells) != len(texts) {
		t.Fatalf("got %q, %v", cells, err)
	}
	for i, c := range cells {
		if c != "" && strings.ContainsRune("=+-@\t\r\n", rune(c[0])) {
			t.Errorf("%q is written as %q, which is a formula", texts[i], c)
		}
		want := strings.ReplaceAll(texts[i], "\r\n", "\n") // which the reader does
		if got := strings.TrimPrefix(c, "'"); got != want {
			t.Errorf("%q is read back as %q", texts[i], got)
		}
	}
	var sum odometer.Sum
	for range 4 {
		sum.Add(-1 << 62)
	}
	for got, want := range map[string]string{string(appendCount(nil, -5)): "-5,", string(appendTotal(nil, odometer.SumOf(-7))): "-7,", string(appendTotal(nil, sum)): "-18446744073709551616,"} {
		if got != want {
			t.Errorf("a number: got %q, want %q", got, want)
		}
	}
}

// TestAnExportThatFailsIsNoWhole has the ledger fail before the first line and after
// thousands: no client takes what it got for all.
func TestAnExportThatFailsIsNoWhole(t *testing.T) {
	fails := fmt.Errorf("read page 7 of /data: %w", odometer.ErrUnavailable)
	for _, c := range []struct {
		path, accept, coding string
		rows                 int
	}{
		{"/api/v1/usage?group_by=instance", "application/x-ndjson", "identity", 5000},
		{"/api/v1/usage?group_by=instance", "text/csv", "identity", 5000},
		{"/api/v1/events", "application/x-ndjson", "identity", 5000},
		{"/api/v1/events", "text/csv", "gzip", 5000},
		{"/api/v1/events", "application/x-ndjson", "gzip", 5000},
		{"/api/v1/usage?group_by=instance", "text/csv", "identity", 0},
		{"/api/v1/events", "application/x-ndjson", "gzip", 3},
	} {
		t.Run(fmt.Sprint(c.path, " ", c.accept, " ", c.coding, " ", c.rows), func(t *testing.T) {
			f := NewFixture(t)
			f.Deps.Exports = made{rows: c.rows, fails: fails}
			s := httptest.NewServer(serverOf(t, f.Deps))
			defer s.Close()
			r, _ := http.NewRequest("GET", s.URL+c.path, nil)
			r.Header.Set("Accept", c.accept)
			r.Header.Set("Authorization", "Bearer secret")
			if c.coding == "identity" {
				r.Header.Set("Accept-Encoding", c.coding) // and otherwise the client asks for it and unpacks it
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if c.rows < 10 {
				var p Problem
				if json.Unmarshal(body, &p) != nil || err != nil || resp.StatusCode != http.StatusServiceUnavailable || p.Code != "unavailable" {
					t.Errorf("got %d %s, %v, want the problem", resp.StatusCode, body, err)
				}
				return
			}
			if resp.StatusCode != 200 || err == nil {
				t.Errorf("got %d and %d bytes to their end, want them to break off", resp.StatusCode, len(body))
			}
			lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
			var last struct{ Problem *Problem }
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); c.accept == "application/x-ndjson" && (err != nil || last.Problem == nil || last.Problem.Code != "unavailable" || len(lines) != c.rows+1) {
				t.Errorf("got %d lines, the last %q, want the problem", len(lines), lines[len(lines)-1])
			}
		})
	}
}

// nobody reads an answer and counts it.
type nobody struct {
	header http.Header
	bytes  int
}

func (n *nobody) Header() http.Header         { return n.header }
func (n *nobody) WriteHeader(int)             {}
func (n *nobody) Write(b []byte) (int, error) { n.bytes += len(b); return len(b), nil }

// TestAnExportTakesLittleMemory looks at what is alive early and late in a long one.
func TestAnExportTakesLittleMemory(t *testing.T) {
	for _, c := range []struct{ path, coding string }{
		{"/api/v1/usage?group_by=instance&format=ndjson", ""}, {"/api/v1/usage?group_by=instance&format=csv", "gzip"},
		{"/api/v1/events?format=ndjson", "gzip"}, {"/api/v1/events?format=csv", ""},
	} {
		const rows = 20_000
		var early, most uint64
		alive := func(n int) error {
			if n%5000 == 1000 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				if early == 0 {
					early = m.HeapAlloc
				}
				most = max(most, m.HeapAlloc)
			}
			return nil
		}
		f := NewFixture(t)
		f.Deps.Exports = made{rows: rows, at: alive}
		h := NewServer(f.Deps) // what checks an answer keeps it
		r := httptest.NewRequest("GET", c.path, nil)
		r.Header.Set("Authorization", "Bearer secret")
		r.Header.Set("Accept-Encoding", c.coding)
		w := &nobody{header: http.Header{}}
		h.ServeHTTP(w, r)
		if w.bytes < rows || most > early+1<<20 {
			t.Errorf("%s: got %d bytes written, and %d more in memory late than early", c.path, w.bytes, most-early)
		}
	}
}

// pipes is a listener in memory.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if c, ok := <-p; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil } // which http.Server does once
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects to the server and sends a request with the admin's token.
func (p pipes) dial(t *testing.T, target string, headers ...string) net.Conn {
	t.Helper()
	client, server := net.Pipe()
	p <- server
	text := "GET " + target + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
	for i := 0; i < len(headers); i += 2 {
		text += headers[i] + ": " + headers[i+1] + "\r\n"
	}
	if _, err := io.WriteString(client, text+"\r\n"); err != nil {
		t.Fatal(err)
	}
	return client
}

// TestASlowReaderIsCutOff has a client read the beginning and no more, and another one
// that reads an export for longer than any answer may take, a little at a time.
func TestASlowReaderIsCutOff(t *testing.T) {
	for _, path := range []string{"/api/v1/usage?group_by=instance&format=csv", "/api/v1/events?format=ndjson"} {
		synctest.Test(t, func(t *testing.T) {
			ended, rows := make(chan error, 1), 0
			exports := made{rows: 1 << 30, at: func(int) error { rows++; return nil }}
			d := Deps{Auth: Tokens{HashToken("admin", "secret")}, Usage: NewInMemory(), Entries: NewInMemory(), Exports: watched{exports, ended}}
			l := make(pipes)
			srv := StandardConnLimits.Configure(NewServer(d), nil)
			go srv.Serve(l)
			defer srv.Close()

			slow := l.dial(t, path)
			if _, err := bufio.NewReader(slow).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if err := <-ended; !errors.Is(err, errGone) || time.Since(begin) != StandardConnLimits.AnswerWithin {
				t.Errorf("%s: got %v after %s, want it to end after %s", path, err, time.Since(begin), StandardConnLimits.AnswerWithin)
			}
			slow.Close()

			steady := l.dial(t, path)
			buf := make([]byte, 4096)
			for time.Since(begin) < 5*time.Minute {
				if _, err := io.ReadFull(steady, buf); err != nil {
					t.Fatalf("%s: after %s: %v", path, time.Since(begin), err)
				}
				time.Sleep(time.Second)
			}
			steady.Close()
			<-ended
		})
	}
}

// watched tells how each export ended.
type watched struct {
	made
	ended chan<- error
}

func (w watched) EachUsage(ctx context.Context, seen odometer.View, q odometer.UsageQuery, each func(*odometer.UsageRow) error) error {
	err := w.made.EachUsage(ctx, seen, q, each)
	w.ended <- err
	return err
}

func (w watched) EachEntry(ctx context.Context, seen odometer.View, q odometer.EntryQuery, each func(*odometer.Entry) error) error {
	err := w.made.EachEntry(ctx, seen, q, each)
	w.ended <- err
	return err
}
