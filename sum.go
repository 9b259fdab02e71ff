package odometer

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"strconv"
)

// MaxExact is the largest integer, of either sign, that every JSON reader
// keeps exactly: 2^53 − 1. What is larger travels as a string of digits.
const MaxExact = 1<<53 - 1

// Sum is a sum of integers over many instances, 128 bits wide and signed, so
// that adding fewer than 2^63 of them cannot overflow. The zero Sum is 0.
type Sum struct {
	hi int64 // two's complement, together with lo
	lo uint64
}

// SumOf returns n as a Sum.
func SumOf(n int64) Sum { return Sum{hi: n >> 63, lo: uint64(n)} }

// Add adds n.
func (s *Sum) Add(n int64) { s.AddSum(SumOf(n)) }

// AddSum adds t.
func (s *Sum) AddSum(t Sum) {
	lo, carry := bits.Add64(s.lo, t.lo, 0)
	hi, _ := bits.Add64(uint64(s.hi), uint64(t.hi), carry)
	s.hi, s.lo = int64(hi), lo
}

// SubSum subtracts t.
func (s *Sum) SubSum(t Sum) {
	lo, borrow := bits.Sub64(s.lo, t.lo, 0)
	hi, _ := bits.Sub64(uint64(s.hi), uint64(t.hi), borrow)
	s.hi, s.lo = int64(hi), lo
}

// AppendBinary appends s's binary form to b: the upper 64 bits as a signed
// varint, the lower as an unsigned one. It is the form the ledger stores.
func (s Sum) AppendBinary(b []byte) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, s.hi), s.lo)
}

// CutSum decodes a [Sum] that AppendBinary wrote from the front of b and
// returns it with the bytes that follow.
func CutSum(b []byte) (Sum, []byte, error) {
	hi, n := binary.Varint(b)
	if n <= 0 {
		return Sum{}, nil, fmt.Errorf("sum is cut off: %w", ErrInvalid)
	}
	lo, m := binary.Uvarint(b[n:])
	if m <= 0 {
		return Sum{}, nil, fmt.Errorf("sum is cut off: %w", ErrInvalid)
	}
	return Sum{hi, lo}, b[n+m:], nil
}

// Cmp returns -1, 0 or +1 as s is less than, equal to or greater than t.
func (s Sum) Cmp(t Sum) int {
	if c := cmp.Compare(s.hi, t.hi); c != 0 {
		return c
	}
	return cmp.Compare(s.lo, t.lo)
}

// IsZero reports whether s is 0.
func (s Sum) IsZero() bool { return s == Sum{} }

// Int64 returns s and whether it fits; where it does not, the nearest value
// that does.
func (s Sum) Int64() (int64, bool) {
	if n := int64(s.lo); s.hi == n>>63 {
		return n, true
	}
	if s.hi < 0 {
		return -1 << 63, false
	}
	return 1<<63 - 1, false
}

// String returns s in decimal digits.
func (s Sum) String() string {
	if n, ok := s.Int64(); ok {
		return strconv.FormatInt(n, 10)
	}
	return s.big().String()
}

// big returns s as a big integer.
func (s Sum) big() *big.Int {
	n := new(big.Int).Lsh(big.NewInt(s.hi), 64)
	return n.Add(n, new(big.Int).SetUint64(s.lo))
}

// bigShare is [Share] of a sum that 64 bits do not hold.
func (s Sum) bigShare(elapsed, span int64) Sum {
	n := s.big()
	n.Mul(n, big.NewInt(elapsed)).Quo(n, big.NewInt(span)) // toward 0, as Share rounds
	hi := new(big.Int).Rsh(n, 64)
	return Sum{hi.Int64(), new(big.Int).And(n, new(big.Int).SetUint64(1<<64-1)).Uint64()}
}

// Float64 returns s as a float, rounded; for showing, never for adding up.
func (s Sum) Float64() float64 {
	if n, ok := s.Int64(); ok {
		return float64(n)
	}
	return float64(s.hi)*(1<<64) + float64(s.lo)
}

// AppendJSON appends s as a JSON number, or as a string of digits beyond
// ±[MaxExact].
func (s Sum) AppendJSON(b []byte) []byte {
	if n, ok := s.Int64(); ok {
		return appendInt(b, n)
	}
	b = append(b, '"')
	b = append(b, s.String()...)
	return append(b, '"')
}

// MarshalJSON returns what AppendJSON appends.
func (s Sum) MarshalJSON() ([]byte, error) { return s.AppendJSON(nil), nil }

// UnmarshalJSON reads a JSON integer or a string of decimal digits.
func (s *Sum) UnmarshalJSON(data []byte) error {
	text := string(data)
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	sum, err := ParseSum(text)
	if err != nil {
		return err
	}
	*s = sum
	return nil
}

// ParseSum reads decimal digits with an optional minus sign, the form that
// [Sum.String] writes.
func ParseSum(text string) (Sum, error) {
	digits := text
	if len(digits) > 0 && digits[0] == '-' {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 40 {
		return Sum{}, fmt.Errorf("sum %q is not an integer: %w", clip(text), ErrInvalid)
	}
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return Sum{}, fmt.Errorf("sum %q is not an integer: %w", clip(text), ErrInvalid)
		}
	}
	n, _ := new(big.Int).SetString(text, 10)
	hi := new(big.Int).Rsh(n, 64)
	if !hi.IsInt64() {
		return Sum{}, fmt.Errorf("sum %s does not fit in 128 bits: %w", clip(text), ErrInvalid)
	}
	lo := new(big.Int).And(n, new(big.Int).SetUint64(1<<64-1))
	return Sum{hi: hi.Int64(), lo: lo.Uint64()}, nil
}

// clip shortens text from outside for an error message.
func clip(s string) string {
	const most = 48
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
