package ledger

import (
	"errors"
	"testing"

	"example.org/odometer"
)

// FuzzParseCursor reads the places at which lists of entries go on: what is taken is
// a place, whose own cursor leads to it.
func FuzzParseCursor(f *testing.F) {
	for _, s := range []spot{{}, {1, 2}, {1 << 62, 1 << 31}} {
		f.Add(s.cursor())
	}
	f.Add("LTEuMQ")
	f.Add("MS4tMQ")
	f.Add("MQ==")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseCursor(text)
		if err != nil {
			if s != (spot{}) || !errors.Is(err, odometer.ErrInvalid) {
				t.Errorf("%q: got %v, %v, want nothing and an error wrapping ErrInvalid", text, s, err)
			}
			return
		}
		if again, err := parseCursor(s.cursor()); err != nil || again != s || s.id < 0 || s.index < 0 {
			t.Errorf("%q: got %v, and from its own cursor %v, %v", text, s, again, err)
		}
	})
}
