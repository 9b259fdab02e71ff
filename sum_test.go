package odometer

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// bigOf returns s as big.Int has it.
func bigOf(t interface{ Fatalf(string, ...any) }, s Sum) *big.Int {
	n, ok := new(big.Int).SetString(s.String(), 10)
	if !ok {
		t.Fatalf("%q is not an integer", s)
	}
	return n
}

func TestSumsAgreeWithBigIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s, last Sum
		want, wantLast := new(big.Int), new(big.Int)
		for range rapid.IntRange(0, 20).Draw(t, "steps") {
			last, wantLast = s, new(big.Int).Set(want)
			n := rapid.Int64().Draw(t, "n")
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				s.Add(n)
				want.Add(want, big.NewInt(n))
			case 1:
				s.AddSum(s)
				want.Add(want, want)
			case 2:
				s.SubSum(SumOf(n))
				want.Sub(want, big.NewInt(n))
			case 3:
				s.AddSum(SumOf(n))
				want.Add(want, big.NewInt(n))
			}
		}
		if got := bigOf(t, s); got.Cmp(want) != 0 {
			t.Fatalf("got %d, want %d", got, want)
		}
		if got := s.Cmp(last); got != want.Cmp(wantLast) {
			t.Fatalf("%s against %s: got %d, want %d", s, last, got, want.Cmp(wantLast))
		}
		if s.IsZero() != (want.Sign() == 0) {
			t.Fatalf("%s: IsZero: got %v", s, s.IsZero())
		}
		if n, ok := s.Int64(); ok != want.IsInt64() || ok && n != want.Int64() {
			t.Fatalf("%s: Int64: got %d, %v", s, n, ok)
		}
		if f, _ := new(big.Float).SetInt(want).Float64(); math.Abs(s.Float64()-f) > math.Abs(f)*1e-15 {
			t.Fatalf("%s: Float64: got %v, want %v", s, s.Float64(), f)
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if exact := want.CmpAbs(big.NewInt(MaxExact)) <= 0; exact == (text[0] == '"') {
			t.Fatalf("got %s, want a string only beyond 2^53 - 1", text)
		}
		var back Sum
		if err := json.Unmarshal(text, &back); err != nil || back != s {
			t.Fatalf("%s: got %s back, %v", text, back, err)
		}
	})
}

func TestSumsAtTheirEdges(t *testing.T) {
	for text, json := range map[string]string{
		"0": `0`, "-1": `-1`, "9007199254740991": `9007199254740991`, "9007199254740992": `"9007199254740992"`,
		"-9007199254740991": `-9007199254740991`, "-9007199254740992": `"-9007199254740992"`,
		"9223372036854775807": `"9223372036854775807"`, "9223372036854775808": `"9223372036854775808"`,
		"-9223372036854775808": `"-9223372036854775808"`, "-9223372036854775809": `"-9223372036854775809"`,
		"18446744073709551616":                     `"18446744073709551616"`,
		"170141183460469231731687303715884105727":  `"170141183460469231731687303715884105727"`,
		"-170141183460469231731687303715884105728": `"-170141183460469231731687303715884105728"`,
	} {
		s, err := ParseSum(text)
		if err != nil || s.String() != text || string(s.AppendJSON(nil)) != json {
			t.Errorf("%s: got %s, %s, %v", text, s, s.AppendJSON(nil), err)
		}
	}
	big, _ := ParseSum("9223372036854775808")
	if n, ok := big.Int64(); ok || n != math.MaxInt64 {
		t.Errorf("beyond 64 bits: got %d, %v, want the nearest and false", n, ok)
	}
	big, _ = ParseSum("-9223372036854775809")
	if n, ok := big.Int64(); ok || n != math.MinInt64 {
		t.Errorf("beyond 64 bits: got %d, %v, want the nearest and false", n, ok)
	}
}

func TestSumsAreRefusedWhenTheyAreNone(t *testing.T) {
	for _, text := range []string{"", "-", "1.5", "1e3", "+1", " 1", "0x1", "1_000", "170141183460469231731687303715884105728", "-170141183460469231731687303715884105729", "99999999999999999999999999999999999999999"} {
		if s, err := ParseSum(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %s, %v, want %v", text, s, err, ErrInvalid)
		}
	}
	var s Sum
	if err := json.Unmarshal([]byte(`"x"`), &s); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, want %v", err, ErrInvalid)
	}
}
