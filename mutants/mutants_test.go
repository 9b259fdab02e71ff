package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The table goes with the code: each text stands once where a bug would be
// planted, and the test that must notice exists.
func TestEveryBugHasItsText(t *testing.T) {
	all := bugs()
	if len(all) < 100 {
		t.Errorf("%d bugs in the table, want a hundred at least", len(all))
	}
	names := map[string]bool{}
	for _, b := range all {
		if names[b.name] {
			t.Errorf("two bugs are called %q", b.name)
		}
		names[b.name] = true
		if _, err := b.mutate(".."); err != nil {
			t.Errorf("%q: %v", b.name, err)
		}
		if !declares(t, filepath.Join("..", b.room()), b.testName()) {
			t.Errorf("%q: there is no test %s", b.name, b.test)
		}
	}
}

func declares(t *testing.T, room, test string) bool {
	files, err := filepath.Glob(filepath.Join(room, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && bytes.Contains(text, []byte("\nfunc "+test+"("))
	})
}

// sample is a module with one room, a test that looks at Twice and one that
// looks away.
var sample = map[string]string{
	"go.mod":         "module example.org/sample\n\ngo 1.26\n",
	"room/room.go":   "package room\n\nfunc Twice(n int) int { return n + n }\n\nfunc Never() {}\n",
	"room/r_test.go": "package room\n\nimport \"testing\"\n\nfunc TestTwice(t *testing.T) {\n\tif Twice(2) != 4 {\n\t\tt.Error(\"no\")\n\t}\n}\n\nfunc TestAway(t *testing.T) {}\n\nfunc TestFails(t *testing.T) { t.Error(\"always\") }\n\nfunc TestRuns(t *testing.T) {\n\tdone := make(chan bool)\n\tgo func() {\n\t\tNever()\n\t\tdone <- true\n\t}()\n\t<-done\n}\n",
}

func TestPlant(t *testing.T) {
	root := t.TempDir()
	for name, text := range sample {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		bug
		missed string // how the reason begins, "" where it is caught
	}{
		{bug{"caught", "room/room.go", "n + n", "n + n + 1", "room.TestTwice"}, ""},
		{bug{"caught by a panic in a goroutine", "room/room.go", "Never() {}", "Never() { panic(1) }", "room.TestRuns"}, ""},
		{bug{"not looked at", "room/room.go", "n + n", "n * 3", "room.TestAway"}, "the test passes"},
		{bug{"harmless", "room/room.go", "n + n", "2 * n", "room.TestTwice"}, "the test passes"},
		{bug{"no Go", "room/room.go", "n + n", "n +", "room.TestTwice"}, "it does not compile"},
		{bug{"gone", "room/room.go", "n - n", "n", "room.TestTwice"}, "stale"},
		{bug{"not the only one", "room/room.go", "n", "m", "room.TestTwice"}, "stale"},
		{bug{"in no file", "room/none.go", "n", "m", "room.TestTwice"}, "stale"},
		{bug{"a test that fails anyway", "room/room.go", "n + n", "0", "room.TestFails"}, "its test does not pass without it"},
		{bug{"no such test", "room/room.go", "n + n", "0", "room.TestNone"}, "its test does not pass without it"},
	}
	var list []bug
	for _, c := range cases {
		list = append(list, c.bug)
	}
	var got []result
	tally := &tally{out: new(bytes.Buffer)}
	if err := plant(t.Context(), root, list, 2, func(r result) { tally.add(r); got = append(got, r) }); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		i := slices.IndexFunc(got, func(r result) bool { return r.name == c.name })
		switch {
		case i < 0:
			t.Errorf("%s: got no result", c.name)
		case c.missed == "" && got[i].missed != "", !strings.HasPrefix(got[i].missed, c.missed):
			t.Errorf("%s: got %q, want %q", c.name, got[i].missed, c.missed)
		}
	}
	if tally.caught != 2 || tally.missed != len(cases)-2 {
		t.Errorf("tally: got %d caught and %d not, want 2 and %d", tally.caught, tally.missed, len(cases)-2)
	}
	for name, text := range sample {
		if now, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(now) != text {
			t.Errorf("%s was changed", name)
		}
	}
}

func TestForgeriesAreReadFromTheTestsOutput(t *testing.T) {
	out := strings.Join([]string{
		`not JSON`,
		`{"Action":"run","Test":"TestCorruption"}`,
		`{"Action":"attr","Test":"TestCorruption/a_row_is_gone","Key":"where","Value":"hours"}`,
		`{"Action":"attr","Test":"TestCorruption/a_row_is_gone","Key":"finding","Value":"hours"}`,
		`{"Action":"pass","Test":"TestCorruption/a_row_is_gone","Elapsed":0.5}`,
		`{"Action":"attr","Test":"TestCorruption/unseen","Key":"where","Value":"days"}`,
		`{"Action":"attr","Test":"TestCorruption/unseen","Key":"finding","Value":"days"}`,
		`{"Action":"fail","Test":"TestCorruption/unseen","Elapsed":0}`,
		`{"Action":"pass","Test":"TestCorruption/silent","Elapsed":0}`,
		`{"Action":"skip","Test":"TestTopicForged/skipped","Elapsed":0}`,
		`{"Action":"fail","Test":"TestCorruption"}`,
	}, "\n")
	list, err := readForgeries([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range list {
		got = append(got, r.name+" | "+r.where+" | "+r.by+" | "+r.missed)
	}
	want := []string{
		"a row is gone | hours | audit: hours | ",
		"unseen | days | audit: days | audit.TestCorruption fails",
		"silent |  | audit:  | audit.TestCorruption does not say what was forged and found",
		"skipped |  | audit:  | audit.TestTopicForged was skipped",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := readForgeries([]byte(`FAIL example.org/odometer/audit [build failed]`)); err == nil {
		t.Error("no forgery at all: got no error")
	}
}

func TestChoose(t *testing.T) {
	all := bugs()
	anything := regexp.MustCompile("")
	if got := choose(bugs(), options{only: anything}); len(got) != len(all) {
		t.Errorf("all: got %d, want %d", len(got), len(all))
	}
	a, b, c := choose(bugs(), options{only: anything, sample: 20, seed: 1}), choose(bugs(), options{only: anything, sample: 20, seed: 1}), choose(bugs(), options{only: anything, sample: 20, seed: 2})
	if len(a) != 20 || !slices.Equal(a, b) || slices.Equal(a, c) {
		t.Errorf("samples of 20: got %d, the same twice %t, the same for another seed %t; want 20, true, false", len(a), slices.Equal(a, b), slices.Equal(a, c))
	}
	for _, b := range choose(bugs(), options{only: regexp.MustCompile("^spool/")}) {
		if !strings.HasPrefix(b.file, "spool/") {
			t.Errorf("only ^spool/: got one of %s", b.file)
		}
	}
}

func TestFlags(t *testing.T) {
	var out bytes.Buffer
	if ok, err := run(t.Context(), []string{"-list", "-only", "watermark"}, &out, &out); err != nil || !ok || !strings.Contains(out.String(), "ledger/fold.go") {
		t.Errorf("-list: got %t, %v and\n%s", ok, err, out.String())
	}
	for _, args := range [][]string{{"-jobs", "0"}, {"-only", "("}, {"leftover"}, {"-nonsense"}} {
		if _, err := run(t.Context(), args, new(bytes.Buffer), new(bytes.Buffer)); err == nil {
			t.Errorf("%q: got no error", args)
		}
	}
}
