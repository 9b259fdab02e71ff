package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.org/odometer/internal/port"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestReadme follows the README's worked example word for word, and then what
// docs/usage.md asks of it: what it says to type is typed, and what it says is
// answered has to be answered. Only the addresses and directories are this test's own.
func TestReadme(t *testing.T) {
	var text []byte
	for _, name := range []string{"README.md", "docs/usage.md"} {
		more, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, more...)
	}
	readings, sessions := "", ""
	script := "exec odometer serve --instance-id web-01 &serve&\nawait data/server.json\n"
	files, commands := "", 0
	for i, block := range strings.Split(string(text), "```") {
		if i%2 == 0 {
			continue // outside of a block
		}
		language, body, _ := strings.Cut(block, "\n")
		switch {
		case language == "json" && strings.Contains(body, `"event":"started"`):
			readings = body
		case strings.HasPrefix(body, "$ odometer "):
			sessions += body + "\n"
		}
	}
	if readings == "" || sessions == "" {
		t.Fatal("the README has no worked example")
	}
	own := strings.NewReplacer("~/.local/share/odometer", "$DATA", "/tmp/replay", "$WORK/replay", "/tmp/backup", "$WORK/backup", "http://127.0.0.1:8640", "http://$ODOMETER_HTTP")
	for session := range strings.SplitSeq(sessions, "$ odometer ") {
		command, want, _ := strings.Cut(session, "\n")
		if command == "" {
			continue
		}
		commands++
		script += fmt.Sprintf("exec odometer %s\nsays want-%d\n", own.Replace(command), commands)
		files += fmt.Sprintf("-- want-%d --\n%s\n", commands, strings.TrimSpace(want))
	}
	script += "kill -INT serve\nwait serve\n-- vm.ndjson --\n" + readings + files

	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "worked-example.txtar"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"ODOMETER_HTTP", "ODOMETER_NATS"} {
				addr, err := port.Free()
				if err != nil {
					return err
				}
				env.Setenv(name, addr)
			}
			env.Setenv("DATA", filepath.Join(env.WorkDir, "data"))
			env.Setenv("ODOMETER_SOURCE", "machine") // not the guests of other tests
			env.Setenv("ODOMETER_DATA_DIR", filepath.Join(env.WorkDir, "data"))
			return nil
		},
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"await": awaitFile, "says": says},
		RequireExplicitExec: true,
	})
}

// What differs from one run to the next: how long it took, and in what an
// audit counts the machine that the reader tries it on; and tokens, with when
// they were created.
var (
	took   = regexp.MustCompile(`in \d+\.\d+ s`)
	counts = regexp.MustCompile(`\d+`)
	id     = regexp.MustCompile(`[0-9a-f]{32}`)
	token  = regexp.MustCompile(`(tok|enr|odm|vio|thr|chn)_[a-z2-7…]+`)
	when   = regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:.]+Z`)
)

// says compares what the last command printed with a file: says FILE.
func says(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: says file")
	}
	same := func(s string) string {
		s = took.ReplaceAllString(strings.TrimSpace(s), "in T s")
		if strings.Contains(s, "\nreceived ") { // an audit
			s = counts.ReplaceAllString(s, "N")
		}
		if token.MatchString(s) {
			s = when.ReplaceAllString(token.ReplaceAllString(s, "${1}_ID"), "WHEN")
		}
		if strings.Contains(s, " is backed up in ") {
			s = strings.ReplaceAll(s, ts.Getenv("WORK")+"/backup", "/tmp/backup")
			s = counts.ReplaceAllString(id.ReplaceAllString(s, "ID"), "N")
		}
		return s
	}
	got, want := same(ts.ReadFile("stdout")), same(ts.ReadFile(args[0]))
	if got != want {
		ts.Fatalf("got\n%s\nwant, as the README has it,\n%s", got, want)
	}
}

// TestContinuousIntegrationRunsWhatTheReadmeSays holds the two together.
func TestContinuousIntegrationRunsWhatTheReadmeSays(t *testing.T) {
	for file, want := range map[string]string{
		"README.md": "\n    make test\n",
		".ci/run":   "make test\n",
		"Makefile":  "\ntest:\n",
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s: got no %q in it", file, want)
		}
	}
}
