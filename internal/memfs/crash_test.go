package memfs

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// states lists what crashes leave, each once: name=content, in order of names.
func states(m *FS, sector, most int) []string {
	found := map[string]bool{}
	for c := range m.Crashes(sector, most, rand.New(rand.NewPCG(1, 1)), nil) {
		var b strings.Builder
		for _, p := range c.Names() {
			fmt.Fprintf(&b, " %s=%s", p[len("/d/"):], strings.ReplaceAll(string(c.Data(p)), "\x00", "0"))
		}
		found[strings.TrimSpace(b.String())] = true
	}
	return slices.Sorted(maps.Keys(found))
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f File, s string) {
	t.Helper()
	_, err := f.Write([]byte(s))
	must(t, err)
}

func TestCrashes(t *testing.T) {
	failing := errors.New("input/output error")
	for name, c := range map[string]struct {
		do   func(t *testing.T, m *FS, f File) // f is /d/a, synced with content ab, cut at 4
		want []string
	}{
		"what is synced is there": {func(t *testing.T, m *FS, f File) { write(t, f, "cd"); must(t, f.Sync()) }, []string{"a=abcd"}},
		"a write is torn at sectors, and its size is apart from it": {
			func(t *testing.T, m *FS, f File) { write(t, f, "cdEF") },
			[]string{"a=ab", "a=ab0000", "a=ab00EF", "a=abcd00", "a=abcdEF"},
		},
		"a later write without the earlier one": {
			func(t *testing.T, m *FS, f File) { write(t, f, "cd"); write(t, f, "EF") },
			[]string{"a=ab", "a=ab00", "a=ab0000", "a=ab00EF", "a=abcd", "a=abcd00", "a=abcdEF"},
		},
		"what was cut off does not come back once other bytes are synced there": {
			func(t *testing.T, m *FS, f File) {
				write(t, f, "cd")
				must(t, f.Truncate(2))
				write(t, f, "x")
				must(t, f.Sync())
			},
			[]string{"a=abx"},
		},
		"an unsynced cut": {
			func(t *testing.T, m *FS, f File) { must(t, f.Truncate(1)) }, []string{"a=a", "a=ab"},
		},
		"a write whose sync failed is there or not, whatever is synced after it": {
			func(t *testing.T, m *FS, f File) {
				write(t, f, "cd")
				m.Fault = func(int, string) Fault { return Fault{Err: failing} }
				if err := f.Sync(); !errors.Is(err, failing) {
					t.Fatal(err)
				}
				m.Fault = nil
				write(t, f, "EF")
				must(t, f.Sync())
			},
			[]string{"a=ab00EF", "a=abcdEF"},
		},
		"a name that is not synced": {
			func(t *testing.T, m *FS, f File) {
				g, err := m.Create("/d/b")
				must(t, err)
				write(t, g, "x")
				must(t, g.Sync())
			},
			[]string{"a=ab", "a=ab b=x"},
		},
		"a rename over another file, half of it": {
			func(t *testing.T, m *FS, f File) {
				g, err := m.Create("/d/t")
				must(t, err)
				write(t, g, "x")
				must(t, g.Sync(), m.SyncDir("/d"), m.Rename("/d/t", "/d/a"))
			},
			[]string{"a=ab", "a=ab t=x", "a=x", "a=x t=x"},
		},
		"a removal whose directory could not be synced": {
			func(t *testing.T, m *FS, f File) {
				must(t, m.Remove("/d/a"))
				m.Fault = func(int, string) Fault { return Fault{Err: failing} }
				if err := m.SyncDir("/d"); !errors.Is(err, failing) {
					t.Fatal(err)
				}
				m.Fault = nil
				must(t, m.SyncDir("/d"))
			},
			[]string{"", "a=ab"},
		},
		"the sync of another directory": {
			func(t *testing.T, m *FS, f File) { must(t, m.Remove("/d/a"), m.SyncDir("/")) }, []string{"", "a=ab"},
		},
		"a file that is emptied": {
			func(t *testing.T, m *FS, f File) { _, err := m.Create("/d/a"); must(t, err) }, []string{"a=", "a=ab"},
		},
		"a torn sync": {
			func(t *testing.T, m *FS, f File) {
				write(t, f, "c")
				m.Fault = func(int, string) Fault { return Fault{Err: failing, Tear: true} }
				if err := f.Sync(); !errors.Is(err, failing) {
					t.Fatal(err)
				}
				m.Fault = nil
			},
			[]string{"a=00", "a=000", "a=00c"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := New()
			f, err := m.Create("/d/a")
			must(t, err)
			write(t, f, "ab")
			must(t, f.Sync(), m.SyncDir("/d"))
			c.do(t, m, f)
			got := states(m, 4, 1<<10)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			// Fewer than all of them are some of them, nothing and everything
			// unsynced among them, and a restart changes nothing of it.
			for _, s := range states(m.Restarted(), 4, 3) {
				if !slices.Contains(c.want, s) {
					t.Errorf("sampled %q", s)
				}
			}
			for seed := range 20 {
				if s := states(m.PowerCut(rand.New(rand.NewPCG(uint64(seed), 1))), 4, 2); len(s) != 1 {
					t.Errorf("after a power cut there are doubts left: %q", s)
				}
			}
			none := states(m.PowerCut(nil), 4, 1)
			for range m.Crashes(4, 1<<10, nil, nil) {
				if !slices.Contains(c.want, none[0]) {
					t.Errorf("nothing unsynced: %q", none)
				}
				break
			}
		})
	}
}
