package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// settings is a command's configuration as a command would declare it.
type settings struct {
	dataDir  string
	interval time.Duration
	noAgent  bool
	label    []string
}

func newFlags(s *settings) *pflag.FlagSet {
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	flags.StringVar(&s.dataDir, "data-dir", "/default", "")
	flags.DurationVar(&s.interval, "interval", 30*time.Second, "")
	flags.BoolVar(&s.noAgent, "no-agent", false, "")
	flags.StringSliceVar(&s.label, "label", nil, "")
	flags.Bool("help", false, "")
	return flags
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "odometer.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
}

func TestFlagThenEnvironmentThenFileThenDefault(t *testing.T) {
	tests := []struct {
		name string
		args []string
		env  map[string]string
		file string
		want string
	}{
		{name: "nothing is given: the default", want: "/default"},
		{name: "the file beats the default", file: "data-dir: /file\n", want: "/file"},
		{name: "the environment beats the file", env: map[string]string{"ODOMETER_DATA_DIR": "/env"}, file: "data-dir: /file\n", want: "/env"},
		{name: "the flag beats both", args: []string{"--data-dir=/flag"}, env: map[string]string{"ODOMETER_DATA_DIR": "/env"}, file: "data-dir: /file\n", want: "/flag"},
		{name: "a flag that repeats the default still beats both", args: []string{"--data-dir=/default"}, env: map[string]string{"ODOMETER_DATA_DIR": "/env"}, want: "/default"},
		{name: "an empty variable is no variable", env: map[string]string{"ODOMETER_DATA_DIR": ""}, file: "data-dir: /file\n", want: "/file"},
		{name: "an empty file says nothing", file: "# nothing yet\n", want: "/default"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s settings
			flags := newFlags(&s)
			if err := flags.Parse(tt.args); err != nil {
				t.Fatal(err)
			}
			file := ""
			if tt.file != "" {
				file = write(t, tt.file)
			}
			if err := Load(flags, "ODOMETER", env(tt.env), file, "help"); err != nil {
				t.Fatal(err)
			}
			if s.dataDir != tt.want {
				t.Errorf("got %q, want %q", s.dataDir, tt.want)
			}
		})
	}
}

func TestEveryTypeOfFlagComesFromAFile(t *testing.T) {
	var s settings
	file := write(t, "interval: 5s\nno-agent: true\nlabel: [a, b]\n")
	if err := Load(newFlags(&s), "ODOMETER", env(nil), file, "help"); err != nil {
		t.Fatal(err)
	}
	if s.interval != 5*time.Second || !s.noAgent || strings.Join(s.label, "+") != "a+b" {
		t.Errorf("got %+v, want 5s, true, a+b", s)
	}
}

func TestAllErrorsAreReportedAtOnceWithTheirPlace(t *testing.T) {
	var s settings
	file := write(t, "data-dir: /x\nintervall: 5s\nno-agent: perhaps\ndata-dir: /y\nlabel: {a: 1}\nhelp: true\n")
	err := Load(newFlags(&s), "ODOMETER", env(map[string]string{"ODOMETER_INTERVAL": "soon"}), file, "help")
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{
		`ODOMETER_INTERVAL="soon": `,
		`odometer.yaml:2: unknown key "intervall"; did you mean "interval"?`,
		`odometer.yaml:3: no-agent: `,
		`odometer.yaml:4: key "data-dir" is there already, on line 1`,
		`odometer.yaml:5: label: one value or a list of values is expected`,
		`odometer.yaml:6: unknown key "help"; the keys are data-dir, interval, label, no-agent`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want it to contain %q", err, want)
		}
	}
}

func TestFilesThatAreNoConfiguration(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"a list at the top", "- a\n- b\n", "odometer.yaml:1: lines of the form"},
		{"two documents", "interval: 1s\n---\ninterval: 2s\n", "only one YAML document"},
		{"broken syntax", "interval: [1s\n", "odometer.yaml: yaml: line"},
		{"a key without a value", "interval:\n", "odometer.yaml:1: interval: one value"},
		{"larger than any configuration is", "# " + strings.Repeat("x", MaxFileBytes), "is larger than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Load(newFlags(new(settings)), "ODOMETER", env(nil), write(t, tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want it to contain %q", err, tt.want)
			}
		})
	}
	if err := Load(newFlags(new(settings)), "ODOMETER", env(nil), "/does/not/exist.yaml"); err == nil {
		t.Error("a missing file: got no error")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("interval: 5s\nlabel: [a, b]\n")
	f.Add("a: &x 1\nb: *x\n")
	f.Add("? [a]\n: b\n")
	f.Add("<<: {a: 1}\n---\n")
	f.Fuzz(func(t *testing.T, text string) {
		settings, errs := parse("f", []byte(text))
		for _, s := range settings {
			if s.line < 1 {
				t.Errorf("key %q is on line %d", s.key, s.line)
			}
		}
		for _, err := range errs {
			if err == nil {
				t.Error("got a nil error among the errors")
			}
		}
	})
}
