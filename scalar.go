package odometer

import "math"

// wrong notes that the value is not of the kind due, and passes over it.
func (s *scanner) wrong(due string) {
	kind := "a number"
	switch s.peek() {
	case '{':
		kind = "an object"
	case '[':
		kind = "an array"
	case '"':
		kind = "a string"
	case 't', 'f':
		kind = "a boolean"
	case 'n':
		kind = "null"
	}
	at := len(s.problems)
	s.note("%s where %s is due", kind, due)
	if s.value(); s.err != nil && len(s.problems) > at {
		s.problems = s.problems[:at] // it is no value at all
	}
}

// string reads the value as a string, not nil where ok.
func (s *scanner) string() ([]byte, bool) {
	if s.peek() != '"' {
		s.wrong("a string")
		return nil, false
	}
	return s.text()
}

// idText reads an identifier that must not be empty.
func (s *scanner) idText() string {
	t, ok := s.string()
	if ok && len(t) == 0 {
		s.note("is empty")
	}
	return string(t)
}

// digits reads an integer, as a number or as a string of digits.
func (s *scanner) digits() (value uint64, negative, ok bool) {
	switch c := s.peek(); {
	case c == '-' || c-'0' <= 9:
		n, ok := s.number()
		if !ok {
			return 0, false, false
		}
		value, whole, fits := n.integer()
		switch {
		case !whole:
			s.note("%s where an integer is due", clip(string(n.raw)))
		case !fits:
			s.note("%s does not fit in 64 bits", clip(string(n.raw)))
		default:
			return value, n.negative && value != 0, true
		}
	case c == '"':
		t, ok := s.text()
		if !ok {
			return 0, false, false
		}
		inner := scanner{data: t}
		if len(t) > 0 && (t[0] == '-' || t[0]-'0' <= 9) {
			n, ok := inner.number()
			if ok && inner.pos == len(t) && n.frac == 0 && !n.exponent && !(n.negative && n.digits == 0) {
				if n.overflow {
					s.note("%s does not fit in 64 bits", clip(string(t)))
					return 0, false, false
				}
				return n.digits, n.negative, true
			}
		}
		s.note("%q where an integer is due", clip(string(t)))
	default:
		s.wrong("an integer")
	}
	return 0, false, false
}

func (s *scanner) int() int64 {
	v, negative, ok := s.digits()
	switch {
	case !ok:
	case negative && v <= 1<<63:
		return -int64(v)
	case !negative && v <= math.MaxInt64:
		return int64(v)
	default:
		s.note("%s%d does not fit in 64 bits", map[bool]string{true: "-"}[negative], v)
	}
	return 0
}

func (s *scanner) uint() uint64 {
	v, negative, ok := s.digits()
	if ok && negative {
		s.note("-%d is negative", v)
		return 0
	}
	return v
}

func (s *scanner) float() float64 {
	if c := s.peek(); c != '-' && c-'0' > 9 {
		s.wrong("a number")
		return 0
	}
	n, ok := s.number()
	if !ok {
		return 0
	}
	f, ok := n.float()
	if !ok {
		s.note("%s is too large", clip(string(n.raw)))
		return 0
	}
	return f
}

// parseDigits reads an integer as it is written canonically.
func parseDigits(text string) (uint64, bool) {
	if text == "" || text[0]-'0' > 9 {
		return 0, false
	}
	s := scanner{data: []byte(text)}
	n, ok := s.number()
	return n.digits, ok && s.pos == len(text) && n.frac == 0 && !n.exponent && !n.overflow
}
