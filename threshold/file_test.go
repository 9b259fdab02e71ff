package threshold

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

func TestAFileOfThresholds(t *testing.T) {
	w := newWatchtower(t)
	path := filepath.Join(t.TempDir(), "thresholds.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		at := w.clock()
		if err := errors.Join(os.Chtimes(path+".new", at, at), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
		w.pass(fileLook)
	}
	const one = `
thresholds:
  - name: busy machines
    scope: {all: true}
    resource: cpu
    condition: period
    levels: [{name: warning, value: 80}]
`
	write(one)
	w.Close()
	w.options.File = path
	w.open()
	w.run()
	names := func() (list []string) {
		all, err := w.List(t.Context(), admin.Caller, odometer.ThresholdQuery{Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range all {
			list = append(list, fmt.Sprint(d.Name, " ", d.Version, " ", d.Levels[0].Value))
		}
		return list
	}
	has := func(want ...string) {
		t.Helper()
		w.await(fmt.Sprint("there are ", want), func() bool { return slices.Equal(names(), want) })
	}
	has("busy machines 1 80")
	w.use("vm-1", ada, 30*time.Second, cpu(85))
	w.await("it is told", func() bool { return w.Stats().Changes == 1 })
	write(strings.Replace(one, "80", "90", 1))
	has("busy machines 2 90")
	write(strings.Replace(one, "80", "not many", 1))
	w.await("it is said to be wrong", func() bool { return w.Stats().File != nil })
	has("busy machines 2 90")
	write(strings.Replace(one, "value: 80", "value: -1", 1))
	w.await("it is said what is wrong", func() bool {
		err := w.Stats().File
		return err != nil && strings.Contains(err.Error(), "thresholds[0]: levels[0].value: -1 is not a number above 0")
	})
	all, _ := w.List(t.Context(), admin.Caller, odometer.ThresholdQuery{Limit: 10})
	if err := w.Delete(t.Context(), admin, all[0].ID, 0); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("delete what the file has: got %v, want ErrConflict", err)
	}
	write("thresholds: []\n")
	w.await("the file is well again", func() bool { return w.Stats().File == nil })
	has()
	write(one)
	has("busy machines 1 80")
	for text, want := range map[string]string{
		"value: .nan": "thresholds[0]: levels[0].value: NaN is no number", "value: -.inf": "thresholds[0]: levels[0].value: -Inf is no number", "value: {3: 4}": "thresholds[0]: levels[0].value: has a field whose name is no text",
	} {
		if _, err := parseFile([]byte(strings.Replace(one, "value: 80", text, 1))); !errors.Is(err, odometer.ErrInvalid) || err.Error() != want {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	for says, text := range map[string]string{"no YAML": ":", "another field": "levels: []", "no list": "thresholds: 3", "two of one name": one + strings.TrimPrefix(one, "\nthresholds:\n"), "no threshold": "thresholds: [3]"} {
		if _, err := parseFile([]byte(text)); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", says, err)
		}
	}
}
