package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

var update = flag.Bool("update", false, "write what is answered into the transcripts")

// TestTranscripts replays testdata/*.txt: each is a conversation with a new
// server. Lines that begin with > are a request (its line, headers, an empty
// line, the body), those with < the answer, # is a comment. In a body,
//
//	@event(vm-1 2 ada acme)  is the second event of vm-1, owned by ada of acme
//	@changed(vm-1 2)         is the same with another content
//	@lived(vm-1 1)           tells what happened, too
//
// and in the place of an address @next is that of the page after the last one;
// and these lines change the server between requests:
//
//	! hear vm-1 3            the third period of vm-1 is open
//	! describe vm-1 host-1 running web rack=r1   its agent says so, with a name and attributes
//	! fail                   the ledger is unavailable from here on
//	! breaker open           the circuit breaker is open
//
// Every answer is also held to the OpenAPI document. -update writes the answers.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d transcripts, %v, want some", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("%s: the answers differ:\n%s", file, difference(string(text), got))
			}
		})
	}
}

// replay returns the transcript with the answers that the server gives now.
func replay(t *testing.T, text string) string {
	f := NewFixture(t)
	server := serverOf(t, f.Deps)
	agent := handlers(t, f)["agent"]
	var out, request []string
	next := "" // the address of the page after the last one
	flush := func() {
		if len(request) == 0 {
			return
		}
		h := http.Handler(server)
		if before, ok := strings.CutSuffix(request[0], " (agent)"); ok {
			request[0], h = before, agent
		}
		request[0] = strings.Replace(request[0], "@next", next, 1)
		answer := exchange(t, h, request)
		for _, line := range answer {
			if link, ok := strings.CutPrefix(line, "< Link: <"); ok {
				next, _, _ = strings.Cut(link, ">")
			}
		}
		out, request = append(out, answer...), nil
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		switch {
		case line == "<" || strings.HasPrefix(line, "< "):
			continue // what was answered before
		case line == ">" || strings.HasPrefix(line, "> "):
			request = append(request, strings.TrimPrefix(strings.TrimPrefix(line, ">"), " "))
			out = append(out, line)
			continue
		}
		flush()
		out = append(out, line)
		if command, ok := strings.CutPrefix(line, "! "); ok {
			words := strings.Fields(command)
			switch words[0] {
			case "hear":
				n, _ := strconv.ParseUint(words[2], 10, 64)
				f.Hear(SampleEvent(odometer.InstanceID(words[1]), n, odometer.Owner{User: "ada", Org: "acme"}), Now.Add(-2*time.Second))
			case "describe":
				f.Describe(odometer.InstanceID(words[1]), odometer.AgentID(words[2]), odometer.State(words[3]), words[4], words[5:]...)
			case "fail":
				f.Fails = fmt.Errorf("the ledger is closed: %w", odometer.ErrUnavailable)
				f.Health.Facts.Ledger.Writable = false
			case "breaker":
				f.Health.Facts.Publish.Breaker = words[1]
			default:
				t.Fatalf("unknown command %q", line)
			}
		}
	}
	flush()
	return strings.Join(out, "\n") + "\n"
}

var macro = regexp.MustCompile(`@(event|changed|lived)\(([^)]*)\)`)

// exchange makes one request and returns the lines of the answer.
func exchange(t *testing.T, h http.Handler, lines []string) []string {
	method, path, _ := strings.Cut(lines[0], " ")
	end := slices.Index(lines, "")
	if end < 0 {
		end = len(lines)
	}
	body := macro.ReplaceAllStringFunc(strings.Join(lines[min(end+1, len(lines)):], "\n"), func(call string) string {
		m := macro.FindStringSubmatch(call)
		words := append(strings.Fields(m[2]), "", "")
		n, _ := strconv.ParseUint(words[1], 10, 64)
		e := SampleEvent(odometer.InstanceID(words[0]), n, odometer.Owner{User: odometer.UserID(words[2]), Org: odometer.OrgID(words[3])})
		if m[1] == "changed" {
			e.Usage.Vector[odometer.CPU]++
			e.Readings.End.Vector[odometer.CPU]++
		}
		if m[1] == "lived" {
			e.Lifecycle = []odometer.Change{
				{Kind: odometer.ChangeStarted, At: odometer.Moment{Boot: 1_000_000, Wall: e.Span.Start}},
				{Kind: odometer.ChangeDeviceAdded, At: odometer.Moment{Boot: 9_500_000, Wall: e.Span.Start + 8_500_000}, Device: "vdb", Detail: "20 GiB"},
			}
		}
		return string(e.AppendJSON(nil))
	})
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("X-Request-Id", "t-1")
	for _, line := range lines[1:end] {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)

	answer := []string{"< " + strconv.Itoa(w.Code)}
	for _, name := range []string{"Content-Type", "ETag", "Allow", "Link", "Odometer-Cursor", "Retry-After", "WWW-Authenticate"} {
		for _, value := range w.Header().Values(name) {
			answer = append(answer, "< "+name+": "+value)
		}
	}
	shown := w.Body.Bytes()
	if strings.Contains(w.Header().Get("Content-Type"), "json") {
		var b bytes.Buffer
		if err := json.Indent(&b, shown, "", "  "); err != nil {
			t.Errorf("%s: %v", lines[0], err)
		}
		shown = b.Bytes()
	}
	answer = append(answer, "<")
	for line := range strings.SplitSeq(strings.TrimSpace(string(shown)), "\n") {
		answer = append(answer, strings.TrimSuffix("< "+line, " "))
	}
	return answer
}

// difference shows the first lines in which two texts differ.
func difference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("line %d\n want %s\n got  %s", i+1, strings.Join(a[i:min(i+8, len(a))], "\n      "), strings.Join(b[i:min(i+8, len(b))], "\n      "))
		}
	}
	return fmt.Sprintf("got %d lines, want %d", len(b), len(a))
}
