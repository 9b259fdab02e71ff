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
		f.Add(s.cursor(1))
		f.Add(s.cursor(29_000_000))
	}
	f.Add("LTEuMQ")
	f.Add("MS4tMQ")
	f.Add("MQ==")
	f.Fuzz(func(t *testing.T, text string) {
		s, gen, err := parseCursor(text)
		if err != nil {
			if s != (spot{}) || gen != 0 || !errors.Is(err, odometer.ErrInvalid) {
				t.Errorf("%q: got %v, %v, want nothing and an error wrapping ErrInvalid", text, s, err)
			}
			return
		}
		if again, g, err := parseCursor(s.cursor(gen)); err != nil || again != s || g != gen || gen == 0 || s.id < 0 || s.index < 0 {
			t.Errorf("%q: got %v, and from its own cursor %v, %v", text, s, again, err)
		}
	})
}
