package audit

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.org/odometer"
)

func TestShare(t *testing.T) {
	const hour = odometer.HourMicros
	for _, c := range []struct {
		name     string
		total    int64
		span     odometer.Span
		from, to int64
		want     int64
	}{
		{"all of it", 10, odometer.Span{Start: 0, End: 3}, 0, 3, 10},
		{"the first third is rounded down", 10, odometer.Span{Start: 0, End: 3}, 0, 1, 3},
		{"the last third takes what is left over", 10, odometer.Span{Start: 0, End: 3}, 2, 3, 4},
		{"a time before the span has nothing", 10, odometer.Span{Start: 5, End: 8}, 0, 5, 0},
		{"a time after the span has nothing", 10, odometer.Span{Start: 5, End: 8}, 8, 9, 0},
		{"a time around the span has everything", 10, odometer.Span{Start: 5, End: 8}, 0, 9, 10},
		{"less than nothing is shared like its opposite", -10, odometer.Span{Start: 0, End: 3}, 0, 1, -3},
		{"products beyond 64 bits", 1 << 62, odometer.Span{Start: 0, End: 3 * hour}, hour, 2 * hour, 1537228672809129301},
		{"an instant has nothing", 10, odometer.Span{Start: 5, End: 8}, 6, 6, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := odometer.Usage{Vector: odometer.Vector{c.total}, Known: 1}
			if got := share(&u, c.span, c.from, c.to); got.Vector[0] != c.want || got.Known != 1 {
				t.Errorf("share of %d over %v in %d to %d: got %d, want %d", c.total, c.span, c.from, c.to, got.Vector[0], c.want)
			}
		})
	}
}

// The two ways of sharing were written apart and must agree everywhere.
func FuzzShare(f *testing.F) {
	f.Add(int64(10), int64(0), int64(3), int64(1), int64(2))
	f.Add(int64(-1<<63+1), int64(1), int64(1<<62), int64(5), int64(1<<61))
	f.Add(int64(1<<63-1), int64(1772366400000000), int64(3600000001), int64(1772366400000007), int64(1772370000000000))
	f.Fuzz(func(t *testing.T, total, start, length, from, to int64) {
		if start < 0 || length <= 0 || start+length < start || total == -1<<63 {
			t.Skip()
		}
		span := odometer.Span{Start: start, End: start + length}
		u := odometer.Usage{Vector: odometer.Vector{total}, Known: 1}
		if got, want := share(&u, span, from, to), u.Between(span, from, to); got != want {
			t.Errorf("share of %d over %v in %d to %d: got %d, want %d", total, span, from, to, got.Vector[0], want.Vector[0])
		}
	})
}

func TestHourAndDay(t *testing.T) {
	for _, c := range []struct{ at, hour, day int64 }{
		{0, 0, 0}, {-1, -odometer.HourMicros, -odometer.DayMicros}, {odometer.HourMicros, odometer.HourMicros, 0},
		{odometer.DayMicros - 1, 23 * odometer.HourMicros, 0}, {odometer.DayMicros, odometer.DayMicros, odometer.DayMicros},
	} {
		if h, d := hourOf(c.at), dayOf(c.at); h != c.hour || d != c.day {
			t.Errorf("%d: got hour %d and day %d, want %d and %d", c.at, h, d, c.hour, c.day)
		}
	}
}

func TestBalance(t *testing.T) {
	for _, maxKeys := range []int{1, 7, 1000} {
		b := newBalance(&Options{maxKeys: maxKeys, maxBytes: 256, TempDir: t.TempDir()})
		r := rand.New(rand.NewPCG(1, 2))
		type half struct {
			key    int
			booked bool
		}
		var all []half
		for key := range 100 {
			all = append(all, half{key, true}, half{key, false})
		}
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, h := range all {
			u := odometer.Usage{Vector: odometer.Vector{int64(h.key), -5}, Known: 3}
			recovered := int64(h.key)
			switch {
			case h.key == 17 && h.booked:
				u.Vector[1]--
			case h.key == 18 && h.booked:
				u.Known = 1
			case h.key == 19 && h.booked:
				recovered++
			case h.key == 20 && h.booked:
				continue
			}
			if err := b.put(fmt.Appendf(nil, "key %03d", h.key), h.booked, &u, recovered); err != nil {
				t.Fatal(err)
			}
		}
		var uneven []string
		if err := b.settle(func(key string, a *amount) { uneven = append(uneven, key) }); err != nil {
			t.Fatal(err)
		}
		slices.Sort(uneven)
		if want := []string{"key 017", "key 018", "key 019", "key 020"}; !slices.Equal(uneven, want) {
			t.Errorf("with %d keys in memory: got %q uneven, want %q", maxKeys, uneven, want)
		}
	}
}

func TestOnce(t *testing.T) {
	type n = note
	id := func(b byte) [16]byte { return [16]byte{b} }
	said := func(b byte) [8]byte { return [8]byte{b} }
	for _, c := range []struct {
		name             string
		notes            []note
		booked           int64
		twice, unfounded int
	}{
		{"each once", []n{{identity: id(1), position: 1, what: 'b'}, {identity: id(2), position: 1, index: 1, what: 'b'}}, 2, 0, 0},
		{"one twice", []n{{identity: id(1), position: 1, what: 'b'}, {identity: id(1), position: 2, what: 'b'}}, 1, 1, 0},
		{"one thrice", []n{{identity: id(1), position: 1, what: 'b'}, {identity: id(1), position: 2, what: 'b'}, {identity: id(1), position: 3, what: 'b'}}, 1, 2, 0},
		{"a duplicate", []n{{identity: id(1), position: 1, what: 'b'}, {identity: id(1), position: 2, what: 'd'}}, 1, 0, 0},
		{"a duplicate that came first", []n{{identity: id(1), position: 2, what: 'b'}, {identity: id(1), position: 1, what: 'd'}}, 1, 0, 1},
		{"a duplicate with other content", []n{{identity: id(1), content: said(1), position: 1, what: 'b'}, {identity: id(1), content: said(2), position: 2, what: 'd'}}, 1, 0, 1},
		{"a duplicate of a duplicate of nothing", []n{{identity: id(1), position: 1, what: 'd'}, {identity: id(1), position: 2, what: 'd'}}, 0, 0, 2},
		{"a duplicate of what is in quarantine", []n{{identity: id(1), position: 1, what: 'k'}, {identity: id(1), position: 2, what: 'd'}}, 0, 0, 0},
		{"held, then booked", []n{{identity: id(1), position: 1, what: 'k'}, {identity: id(1), position: 2, what: 'b'}}, 1, 0, 0},
		{"held, then a duplicate of nothing but itself", []n{{identity: id(1), position: 1, what: 'k'}, {identity: id(1), position: 2, what: 's'}}, 0, 0, 1},
		{"held, then a duplicate of another", []n{{identity: id(1), position: 1, what: 'k'}, {identity: id(1), position: 2, what: 'b'}, {identity: id(1), position: 3, what: 's'}}, 1, 0, 0},
		{"two sources of one period", []n{{identity: id(1), source: said(1), position: 1, what: 'b'}, {identity: id(1), source: said(2), position: 2, what: 'b'}}, 2, 0, 0},
		{"a duplicate of another source's", []n{{identity: id(1), source: said(1), position: 1, what: 'b'}, {identity: id(1), source: said(2), position: 2, what: 'd'}}, 1, 0, 1},
		{"a duplicate of what is in quarantine, from anybody", []n{{identity: id(1), position: 1, what: 'k'}, {identity: id(1), source: said(2), position: 2, what: 'd'}}, 0, 0, 0},
	} {
		for _, maxBytes := range []int{1, 1 << 20} {
			t.Run(fmt.Sprintf("%s, %d bytes in memory", c.name, maxBytes), func(t *testing.T) {
				o := newOnce(&Options{maxBytes: maxBytes, TempDir: t.TempDir()})
				for _, n := range c.notes {
					if err := o.put(n); err != nil {
						t.Fatal(err)
					}
				}
				var twice, unfounded int
				booked, err := o.settle(func(note) { twice++ }, func(note) { unfounded++ })
				if err != nil {
					t.Fatal(err)
				}
				if booked != c.booked || twice != c.twice || unfounded != c.unfounded {
					t.Errorf("got %d booked, %d twice, %d unfounded; want %d, %d, %d", booked, twice, unfounded, c.booked, c.twice, c.unfounded)
				}
			})
		}
	}
}

func TestSpill(t *testing.T) {
	s := &spill{dir: t.TempDir(), limit: 100}
	defer s.close()
	for i := range 1000 {
		if err := s.add(byte(i), fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files that a killed audit would leave: got %q, %v, want none", left, err)
	}
	for b := range spillBuckets {
		want := b
		err := s.bucket(b, func(rec []byte) error {
			for want%256%spillBuckets != b {
				want++
			}
			if string(rec) != fmt.Sprint(want) {
				t.Errorf("bucket %d: got %s, want %d", b, rec, want)
			}
			want++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSpillWithoutRoom(t *testing.T) {
	s := &spill{dir: filepath.Join(t.TempDir(), "none"), limit: 1}
	if err := s.add(0, []byte("record")); err == nil || !strings.Contains(err.Error(), "make room") {
		t.Errorf("spill into a directory that is missing: got error %v, want one that says so", err)
	}
}

func TestToken(t *testing.T) {
	for _, c := range []struct{ id, want string }{
		{"", "_"}, {"_", "=5F"}, {"o-acme", "o-acme"}, {"a_b", "a_b"}, {"a.b *>", "a=2Eb=20=2A=3E"}, {"é", "=C3=A9"}, {"=", "=3D"},
	} {
		if got := token(c.id); got != c.want {
			t.Errorf("token of %q: got %q, want %q", c.id, got, c.want)
		}
	}
}

func TestEscapePath(t *testing.T) {
	if got, want := escapePath("/a?b#c%d e"), "/a%3Fb%23c%25d e"; got != want {
		t.Errorf("path in a URI: got %q, want %q", got, want)
	}
}

func FuzzEachPart(f *testing.F) {
	u := odometer.Usage{Vector: odometer.Vector{1, 2, 3}, Known: 7}
	day := binary.AppendVarint(u.AppendBinary([]byte{5}), 9)
	f.Add(day)
	f.Add(append(day, day...))
	f.Add(day[:len(day)-1])
	f.Add([]byte{24, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = eachPart(data, 24, func(hour int64, sums *odometer.Usage, recovered int64) error {
			if hour < 0 || hour > 23 {
				t.Errorf("hour: got %d, want 0 to 23", hour)
			}
			return nil
		})
	})
}

func FuzzRecall(f *testing.F) {
	f.Add([]byte{3, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{31, 40, 1, 2, 3, 4, 5, 6, 7})
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		var whole, twice epochRow
		if whole.recall(2, data, nil) == nil && twice.recall(2, append(slices.Clone(data), data...), nil) == nil && twice.memory != 2*whole.memory {
			t.Errorf("memory of %x twice: got %d, want twice %d", data, twice.memory, whole.memory)
		}
	})
}
