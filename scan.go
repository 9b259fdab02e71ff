package odometer

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep objects and arrays may nest, the outermost counted.
// The format itself needs four; the rest is for members it does not know.
const maxDepth = 32

// scanner reads one JSON text in a single pass. A mistake of syntax ends it
// (err); a value that is wrong in itself is noted (problems) and passed over,
// so that everything wrong is reported at once.
type scanner struct {
	data     []byte
	pos      int
	depth    int
	err      error
	problems []error

	in   string // the object being read, as in Member.In
	name []byte // the member being read, or read last
}

// where names the place that an error is about.
func (s *scanner) where() string {
	switch {
	case s.name == nil && s.in == "":
		return ""
	case s.name == nil:
		return s.in + ": "
	case s.in == "":
		return clip(string(s.name)) + ": "
	}
	return s.in + "." + clip(string(s.name)) + ": "
}

// fail ends the scan: the text is not JSON, or not within the limits.
func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("%s%s at byte %d: %w", s.where(), fmt.Sprintf(format, args...), s.pos, ErrInvalid)
	}
	s.pos = len(s.data)
}

// maxProblems is how many problems of one text are reported.
const maxProblems = 32

// note records what is wrong with the member being read.
func (s *scanner) note(format string, args ...any) {
	if len(s.problems) < maxProblems {
		s.problems = append(s.problems, fmt.Errorf("%s%s: %w", s.where(), fmt.Sprintf(format, args...), ErrInvalid))
	}
}

// result joins everything that is wrong.
func (s *scanner) result() error {
	if s.err != nil {
		return errors.Join(append(s.problems, s.err)...)
	}
	return errors.Join(s.problems...)
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek returns the next byte that is not space, 0 at the end.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) && s.data[s.pos] > ' ' {
		return s.data[s.pos]
	}
	s.space()
	if s.pos == len(s.data) {
		return 0
	}
	return s.data[s.pos]
}

// end checks that nothing follows.
func (s *scanner) end() {
	if s.err == nil && s.peek() != 0 {
		s.fail("trailing data %q", clip(string(s.data[s.pos:])))
	}
}

// open enters an object or array.
func (s *scanner) open(bracket byte) bool {
	if s.peek() != bracket {
		return false
	}
	s.pos++
	if s.depth++; s.depth > maxDepth {
		s.fail("nested more than %d deep", maxDepth)
		return false
	}
	return true
}

// member goes to the next member of an object and returns its name, or false
// behind the last. The name may be a part of the text.
func (s *scanner) member(first *bool) ([]byte, bool) {
	c := s.peek()
	if c == '}' {
		s.name = nil
		s.pos++
		s.depth--
		return nil, false
	}
	if !*first {
		if c != ',' {
			s.unexpected("a comma or a closing brace")
			return nil, false
		}
		s.pos++
		c = s.peek()
	}
	*first = false
	if c != '"' {
		s.unexpected("the name of a member")
		return nil, false
	}
	name, ok := s.text()
	if !ok {
		return nil, false
	}
	s.name = name
	if s.peek() != ':' {
		s.unexpected("a colon")
		return nil, false
	}
	s.pos++
	return name, true
}

// element goes to the next element of an array, and returns false behind the
// last.
func (s *scanner) element(first *bool) bool {
	c := s.peek()
	if c == ']' {
		s.pos++
		s.depth--
		return false
	}
	if !*first {
		if c != ',' {
			s.unexpected("a comma or a closing bracket")
			return false
		}
		s.pos++
	}
	*first = false
	return s.err == nil
}

func (s *scanner) unexpected(due string) {
	if s.peek() == 0 {
		s.fail("the text ends where %s is due", due)
		return
	}
	r, _ := utf8.DecodeRune(s.data[s.pos:])
	s.fail("%q where %s is due", r, due)
}

// text reads a string, at whose quote the scanner stands, without copying it
// where it has no escapes.
func (s *scanner) text() ([]byte, bool) {
	s.pos++
	start := s.pos
	data := s.data
	for i := start; i < len(data); i++ {
		c := data[i]
		if plain[c] || c >= utf8.RuneSelf {
			continue
		}
		if c == '"' {
			s.pos = i + 1
			return data[start:i], true
		}
		s.pos = i
		if c == '\\' {
			return s.escaped(start)
		}
		s.fail("control character %q in a string", c)
		return nil, false
	}
	s.pos = len(data)
	s.fail("a string is not closed")
	return nil, false
}

// escaped reads on from the first backslash of a string that began at start.
func (s *scanner) escaped(start int) ([]byte, bool) {
	text := append([]byte(nil), s.data[start:s.pos]...)
	for s.pos < len(s.data) {
		c := s.data[s.pos]
		switch {
		case c == '"':
			s.pos++
			return text, true
		case c < ' ':
			s.fail("control character %q in a string", c)
			return nil, false
		case c != '\\':
			text = append(text, c)
			s.pos++
		default:
			r, n := unescape(s.data[s.pos:])
			if n == 0 {
				s.fail("bad escape in a string")
				return nil, false
			}
			text = utf8.AppendRune(text, r)
			s.pos += n
		}
	}
	s.fail("a string is not closed")
	return nil, false
}

// unescape reads one escape and returns its length, 0 where it is none. Half
// a surrogate pair is none: no UTF-8 can say it.
func unescape(b []byte) (rune, int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch b[1] {
	case '"', '\\', '/':
		return rune(b[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
	default:
		return 0, 0
	}
	r, ok := hex4(b)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if low, ok := hex4(b[6:]); ok {
		if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
			return r, 12
		}
	}
	return 0, 0
}

func hex4(b []byte) (r rune, ok bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// number is a JSON number in pieces.
type number struct {
	raw       []byte
	digits    uint64 // all digits, the point left out
	frac      int    // how many of them follow the point
	negative  bool
	overflow  bool // digits do not fit in 64 bits
	exponent  bool
	fractured bool // a digit other than 0 follows the point
}

// number reads a number, at whose first byte the scanner stands.
func (s *scanner) number() (n number, ok bool) {
	data, start := s.data, s.pos
	i := start
	if data[i] == '-' {
		n.negative = true
		i++
	}
	whole := i
	safe := min(len(data), whole+18) // so many digits always fit
	var digits uint64
	for ; i < safe && data[i]-'0' <= 9; i++ {
		digits = digits*10 + uint64(data[i]-'0')
	}
	n.digits = digits
	for ; i < len(data) && data[i]-'0' <= 9; i++ {
		n.push(data[i] - '0')
	}
	if i == whole || data[whole] == '0' && i > whole+1 {
		if i == whole && i < len(data) && data[i]|0x20 == 'i' {
			s.fail("infinity is not allowed")
			return n, false
		}
		s.fail("bad number")
		return n, false
	}
	if i < len(data) && data[i] == '.' {
		i++
		point := i
		for ; i < len(data) && data[i]-'0' <= 9; i++ {
			n.push(data[i] - '0')
			n.fractured = n.fractured || data[i] != '0'
		}
		if n.frac = i - point; n.frac == 0 {
			s.fail("bad number")
			return n, false
		}
	}
	if i < len(data) && data[i]|0x20 == 'e' {
		n.exponent = true
		i++
		if i < len(data) && (data[i] == '+' || data[i] == '-') {
			i++
		}
		digits := i
		for i < len(data) && data[i]-'0' <= 9 {
			i++
		}
		if i == digits {
			s.fail("bad number")
			return n, false
		}
	}
	n.raw = data[start:i]
	s.pos = i
	return n, true
}

func (n *number) push(digit byte) {
	const most = math.MaxUint64 / 10 // …161, and the last digit of MaxUint64 is 5
	if n.overflow || n.digits > most || n.digits == most && digit > math.MaxUint64%10 {
		n.overflow = true
		return
	}
	n.digits = n.digits*10 + uint64(digit)
}

// integer returns the value of a number that is written without exponent and
// whose fraction, if it has one, is 0.
func (n *number) integer() (value uint64, whole, fits bool) {
	if n.exponent || n.fractured {
		return 0, false, false
	}
	if n.frac == 0 {
		return n.digits, true, !n.overflow
	}
	point := len(n.raw) - n.frac - 1
	digits := n.raw[:point]
	if n.negative {
		digits = digits[1:]
	}
	v, err := strconv.ParseUint(string(digits), 10, 64)
	return v, true, err == nil
}

var pow10 = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// float returns the nearest float, and false beyond the range of floats.
func (n *number) float() (float64, bool) {
	if !n.overflow && !n.exponent && n.digits <= MaxExact+1 && n.frac < len(pow10) {
		f := float64(n.digits) / pow10[n.frac] // both exact, so rounded once
		if n.negative && f != 0 {
			f = -f
		}
		return f, true
	}
	f, err := strconv.ParseFloat(string(n.raw), 64)
	if f == 0 {
		f = 0 // not the negative one
	}
	return f, err == nil
}

// value passes over any value and checks that it is JSON.
func (s *scanner) value() {
	switch c := s.peek(); {
	case c == '"':
		s.text()
	case c == '-' || c-'0' <= 9:
		s.number()
	case c == '{':
		s.object()
	case c == '[':
		if !s.open('[') {
			return
		}
		for first := true; s.element(&first); {
			s.value()
		}
	default:
		s.literal()
	}
}

// object passes over an object of which nothing is known but that no name
// stands in it twice.
func (s *scanner) object() {
	if !s.open('{') {
		return
	}
	outer := s.name
	var names names
	for first := true; s.err == nil; {
		name, ok := s.member(&first)
		if s.name = outer; !ok {
			break
		}
		if !names.add(name) {
			s.note("the member %q stands twice in an object", clip(string(name)))
		}
		s.value()
	}
}

var literals = [...]string{"null", "true", "false"}

func (s *scanner) literal() {
	rest := s.data[s.pos:]
	for _, l := range literals {
		if len(rest) >= len(l) && string(rest[:len(l)]) == l {
			s.pos += len(l)
			return
		}
	}
	for _, l := range [...]string{"NaN", "Infinity", "nan", "inf", "Inf"} {
		if len(rest) >= len(l) && string(rest[:len(l)]) == l {
			s.fail("%s is not allowed", l)
			return
		}
	}
	s.unexpected("a value")
}

// bracketed passes over an object or array by its brackets and strings alone:
// it need not be JSON within, and may nest as deep as it likes.
func (s *scanner) bracketed() bool {
	depth, quoted := 0, false
	for i := s.pos; i < len(s.data); i++ {
		c := s.data[i]
		switch {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				s.pos = i + 1
				return true
			}
		}
	}
	return false
}

// raw passes over a value and returns its bytes.
func (s *scanner) raw() json.RawMessage {
	s.peek()
	start := s.pos
	s.value()
	if s.err != nil {
		return nil
	}
	return s.data[start:s.pos:s.pos]
}

// names is a set of member names: a list while it is short.
type names struct {
	list []string
	set  map[string]struct{}
}

// add adds a name and reports whether it was new.
func (n *names) add(name []byte) bool {
	if n.set != nil {
		if _, old := n.set[string(name)]; old {
			return false
		}
		n.set[string(name)] = struct{}{}
		return true
	}
	for _, old := range n.list {
		if old == string(name) {
			return false
		}
	}
	n.list = append(n.list, string(name))
	if len(n.list) > 16 {
		n.set = make(map[string]struct{}, 64)
		for _, old := range n.list {
			n.set[old] = struct{}{}
		}
	}
	return true
}
