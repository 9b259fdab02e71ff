package odometer_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "example.org/odometer"

// section returns what stands in ARCHITECTURE.md between a line and the end
// of its block.
func section(t *testing.T, begin, end string) string {
	t.Helper()
	b, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, s, ok := strings.Cut(string(b), begin+"\n")
	if !ok {
		t.Fatalf("ARCHITECTURE.md has no line %q", begin)
	}
	s, _, _ = strings.Cut(s, end)
	return s
}

// goFiles calls each for every Go file of the module.
func goFiles(t *testing.T, each func(file string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && file != "." && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !d.IsDir() && filepath.Ext(file) == ".go" {
			each(filepath.ToSlash(file))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDrawing holds the imports between rooms to the drawing in
// ARCHITECTURE.md: no import that it does not show, no arrow that is not
// there, no room that it leaves out.
func TestDrawing(t *testing.T) {
	drawn := map[string][]string{}
	for line := range strings.Lines(section(t, "```imports", "```")) {
		room, to, _ := strings.Cut(line, "->")
		drawn[strings.TrimSpace(room)] = strings.Fields(to)
	}
	used := map[string]map[string]bool{}
	goFiles(t, func(file string) {
		if strings.HasSuffix(file, "_test.go") {
			return
		}
		room := path.Dir(file)
		if room == "." {
			room = path.Base(module)
		}
		if used[room] == nil {
			used[room] = map[string]bool{}
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Error(err)
			return
		}
		for _, spec := range f.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			rest, ours := strings.CutPrefix(imported, module)
			if !ours {
				continue
			}
			to := strings.TrimPrefix(rest, "/")
			if to == "" {
				to = path.Base(module)
			}
			used[room][to] = true
			if !slices.Contains(drawn[room], to) {
				t.Errorf("%s: %s imports %s, which the drawing does not show", file, room, to)
			}
		}
	})
	for room := range used {
		if _, ok := drawn[room]; !ok {
			t.Errorf("room %s is not in the drawing", room)
		}
	}
	for room, arrows := range drawn {
		for _, to := range arrows {
			if !used[room][to] {
				t.Errorf("the drawing shows %s -> %s, which no file imports", room, to)
			}
		}
	}
}

// TestPromises looks for the test that keeps each promise.
func TestPromises(t *testing.T) {
	tests := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	goFiles(t, func(file string) {
		if !strings.HasSuffix(file, "_test.go") {
			return
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			return
		}
		room := path.Dir(file)
		if room == "." {
			room = path.Base(module)
		}
		for _, m := range declared.FindAllStringSubmatch(string(b), -1) {
			tests[room+"."+m[1]] = true
		}
	})
	named := regexp.MustCompile("`([\\w/.]+\\.(?:Test|Fuzz)\\w+)`")
	rows := 0
	for line := range strings.Lines(section(t, "## Promises", "\n## ")) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| promise") || strings.HasPrefix(line, "|--") {
			continue
		}
		rows++
		names := named.FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("a promise without a test: %s", line)
		}
		for _, n := range names {
			if !tests[n[1]] {
				t.Errorf("there is no test %s", n[1])
			}
		}
	}
	if rows == 0 {
		t.Error("ARCHITECTURE.md lists no promises")
	}
}
