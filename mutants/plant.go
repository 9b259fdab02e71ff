package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// bug is one change of the program that a test must notice.
type bug struct {
	name string // what is wrong with the program then
	file string // that it is planted in
	old  string // stands exactly once in the file
	new  string // takes its place
	test string // that must fail: room.TestName, of the room whose tests notice
}

// room is the directory of the test, from the module's root.
func (b bug) room() string {
	room, _, _ := strings.Cut(b.test, ".")
	if room == "odometer" {
		return "."
	}
	return room
}

func (b bug) testName() string {
	_, name, _ := strings.Cut(b.test, ".")
	return name
}

// planted says in one line what the program says instead.
func planted(b bug) string {
	old, new := strings.Join(strings.Fields(b.old), " "), strings.Join(strings.Fields(b.new), " ")
	switch {
	case new == "":
		return fmt.Sprintf("without %q", old)
	case strings.Contains(new, old):
		return fmt.Sprintf("%q", new)
	}
	return fmt.Sprintf("%q for %q", new, old)
}

// errStale says that a bug's text is not in its file exactly once: the program
// went on and the table of bugs did not.
var errStale = errors.New("stale")

// mutate returns the file with the bug in it.
func (b bug) mutate(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, b.file))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errStale, err)
	}
	if n := bytes.Count(text, []byte(b.old)); n != 1 {
		return nil, fmt.Errorf("%w: %s has the text %d times", errStale, b.file, n)
	}
	return bytes.Replace(text, []byte(b.old), []byte(b.new), 1), nil
}

// testTimeout is how long the test of one bug may take: minutes beyond any that
// passes.
const testTimeout = 3 * time.Minute

// plant plants each bug by itself and tells of what became of it. Jobs of them
// are planted at once.
func plant(ctx context.Context, root string, list []bug, jobs int, tell func(result)) error {
	work, err := os.MkdirTemp("", "odometer-mutants-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	broken, err := healthy(ctx, root, list)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	next := make(chan int)
	for range jobs {
		wg.Go(func() {
			for i := range next {
				start := time.Now()
				b := list[i]
				missed := broken[b.test]
				if missed == "" {
					missed = plantOne(ctx, root, filepath.Join(work, fmt.Sprint(i)), b)
				}
				tell(result{name: b.name, where: b.file, planted: planted(b), by: b.test, missed: missed, took: time.Since(start)})
			}
		})
	}
	for i := range list {
		next <- i
	}
	close(next)
	wg.Wait()
	return ctx.Err()
}

// healthy runs the tests without any bug, all of a room at once, and returns
// why a test is good for nothing: it fails anyway, or did not run.
func healthy(ctx context.Context, root string, list []bug) (broken map[string]string, err error) {
	rooms := map[string]map[string]bool{}
	for _, b := range list {
		if rooms[b.room()] == nil {
			rooms[b.room()] = map[string]bool{}
		}
		rooms[b.room()][b.testName()] = true
	}
	passed := map[string]bool{}
	for _, room := range slices.Sorted(maps.Keys(rooms)) {
		names := slices.Sorted(maps.Keys(rooms[room]))
		cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "-v", "-timeout=10m", "-run", "^("+strings.Join(names, "|")+")$", "./"+room)
		cmd.Dir = root
		out, _ := cmd.CombinedOutput() // a test that fails is seen by its not having passed
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for _, name := range names {
			passed[path.Join(room, name)] = says(out, "PASS", name)
		}
	}
	broken = map[string]string{}
	for _, b := range list {
		if !passed[path.Join(b.room(), b.testName())] {
			broken[b.test] = "its test does not pass without it"
		}
	}
	return broken, nil
}

// says reports whether the output of a verbose test run says that the test has
// passed or failed.
func says(output []byte, what, test string) bool {
	return regexp.MustCompile(`(?m)^--- ` + what + `: ` + regexp.QuoteMeta(test) + ` `).Match(output)
}

// plantOne builds the room's test with the bug in it and runs the one test. It
// returns why the bug is not caught, "" where it is.
func plantOne(ctx context.Context, root, base string, b bug) (missed string) {
	text, err := b.mutate(root)
	if err != nil {
		return err.Error()
	}
	abs, err := filepath.Abs(filepath.Join(root, b.file))
	if err != nil {
		return err.Error()
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{abs: base + ".go"}})
	if err != nil {
		return err.Error()
	}
	if err := errors.Join(os.WriteFile(base+".go", text, 0o600), os.WriteFile(base+".json", overlay, 0o600)); err != nil {
		return err.Error()
	}
	binary := base + ".test"
	defer os.Remove(binary)
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", base+".json", "-o", binary, "./"+b.room())
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Sprintf("it does not compile: %v: %s", err, shorten(out))
	}
	ctx, cancel := context.WithTimeout(ctx, testTimeout+time.Minute)
	defer cancel()
	args := []string{"-test.v", "-test.timeout", testTimeout.String(), "-test.run", "^" + b.testName() + "$"}
	if uses(filepath.Join(root, b.room()), rapid) {
		// That it fails is enough: no search for the smallest case, no file of it.
		args = append(args, "-rapid.nofailfile", "-rapid.shrinktime=1ns")
	}
	test := exec.CommandContext(ctx, binary, args...)
	test.Dir = filepath.Join(root, b.room())
	out, err := test.CombinedOutput()
	switch {
	case err == nil:
		return "the test passes"
	case says(out, "FAIL", b.testName()):
		return ""
	case bytes.Contains(out, []byte("\npanic: ")) && !bytes.Contains(out, []byte("panic: test timed out")):
		return "" // in a goroutine of the program: the test's own end is not printed then
	}
	return fmt.Sprintf("the test did not fail, it ended with %v: %s", err, shorten(out))
}

const rapid = `"pgregory.net/rapid"`

// uses reports whether a test of the room imports a package.
func uses(room, path string) bool {
	files, _ := filepath.Glob(filepath.Join(room, "*_test.go"))
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && bytes.Contains(text, []byte(path))
	})
}

// shorten returns the end of what a command printed, in one line.
func shorten(out []byte) string {
	const most = 300
	s := strings.Join(strings.Fields(string(out)), " ")
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}
