package odometer

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Statement is what an organisation used in a month, as the ledger had it when the
// month was closed for it: what was used in the month, and what was booked in the
// month for earlier ones that were closed by then. It never changes. What is booked
// for its month later is an adjustment in the month in which it is booked.
type Statement struct {
	Ledger     LedgerID
	Generation uint64
	Month      Month
	Org        OrgID // "" for users without an organisation
	At         int64 // when it was closed, microseconds
	Actor      string
	Cause      string
	AsOf       []StatementMark // of each partition that had a record, in order
	Lines      []StatementLine // in order of month, user and instance
	Missing    []Missing       // that was accepted
}

// StatementMark is up to where a partition had been booked.
type StatementMark struct {
	Partition int
	Position  int64  // of its last record in the journal
	Entry     uint64 // the number of its last entry
}

// StatementLine is what a user used of an instance. Month is that of use: the
// statement's own, or an earlier one for an adjustment.
type StatementLine struct {
	Month     Month
	User      UserID
	Instance  InstanceID
	Totals    [Quantities]Sum
	Known     Known
	Recovered Sum
}

// Zero reports whether the line has nothing.
func (l *StatementLine) Zero() bool {
	return l.Totals == [Quantities]Sum{} && l.Recovered.IsZero()
}

// Compare orders lines as a statement has them.
func (l *StatementLine) Compare(b *StatementLine) int {
	return cmp.Or(cmp.Compare(l.Month, b.Month), cmp.Compare(l.User, b.User), cmp.Compare(l.Instance, b.Instance))
}

// Missing is something for which a month may not be complete.
type Missing struct {
	Kind     MissingKind
	Instance InstanceID // "" where it is not known
	Host     AgentID    // "" where it is not known
	From, To int64      // the time of use that may lack, microseconds; 0, 0 where it is not known
	Amount   int64      // of a gap its time in microseconds, of a backlog its events; else 1
}

// MissingKind says why a month may not be complete.
type MissingKind string

const (
	MissingGap        MissingKind = "gap"        // a time that nobody measured
	MissingHeld       MissingKind = "held"       // an event that waits for an earlier one or for its time
	MissingQuarantine MissingKind = "quarantine" // an event that was put aside
	MissingSilent     MissingKind = "silent"     // an agent was not heard of up to the end of the month
	MissingBacklog    MissingKind = "backlog"    // events that are not committed yet
)

var missingKinds = []MissingKind{MissingGap, MissingHeld, MissingQuarantine, MissingSilent, MissingBacklog}

// ID names a statement: its month, and 16 digits of the hash of its text.
func (s *Statement) ID() string { return StatementID(s.Month, s.AppendText(nil)) }

// StatementID returns the id of the statement of a month that has a text.
func StatementID(m Month, text []byte) string { return m.String() + "-" + StatementHash(text)[:16] }

// StatementHash returns the SHA-256 of a statement's text, in hexadecimal.
func StatementHash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// statementForm is the first line of a statement's text.
const statementForm = "odometer statement 1"

// AppendText appends the statement's canonical text, over which its hash goes: lines
// of fields that are separated by tabs, the first of which says what the line has.
// What is unknown is "-", and amounts are decimal digits. It is as follows, where
// lines with … may be there several times or not at all:
//
//	odometer statement 1
//	ledger      id  generation
//	month       2026-11  UTC
//	org         id, empty for none
//	closed      microseconds  by whom
//	cause       why
//	as_of       partition  position  entry …
//	columns     month  user  instance  quantities…  recovered_us
//	usage       as the columns say …
//	missing     kind  instance  host  from  to  amount …
//	end         number of lines of usage  number of lines of what is missing
func (s *Statement) AppendText(b []byte) []byte {
	line := func(fields ...string) {
		b = append(append(b, strings.Join(fields, "\t")...), '\n')
	}
	num := func(n int64) string { return strconv.FormatInt(n, 10) }
	line(statementForm)
	line("ledger", string(s.Ledger), strconv.FormatUint(s.Generation, 10))
	line("month", s.Month.String(), "UTC")
	line("org", string(s.Org))
	line("closed", num(s.At), s.Actor)
	line("cause", s.Cause)
	for _, m := range s.AsOf {
		line("as_of", num(int64(m.Partition)), num(m.Position), strconv.FormatUint(m.Entry, 10))
	}
	line(statementColumns()...)
	for i := range s.Lines {
		l := &s.Lines[i]
		fields := append(make([]string, 0, Quantities+5), "usage", l.Month.String(), string(l.User), string(l.Instance))
		for q, n := range l.Totals {
			text := "-"
			if l.Known.Has(Quantity(q)) {
				text = n.String()
			}
			fields = append(fields, text)
		}
		line(append(fields, l.Recovered.String())...)
	}
	for _, m := range s.Missing {
		line("missing", string(m.Kind), string(m.Instance), string(m.Host), num(m.From), num(m.To), num(m.Amount))
	}
	line("end", num(int64(len(s.Lines))), num(int64(len(s.Missing))))
	return b
}

func statementColumns() []string {
	names := []string{"columns", "month", "user", "instance"}
	for q := range Quantity(Quantities) {
		names = append(names, q.String())
	}
	return append(names, "recovered_us")
}

// ParseStatement reads what [Statement.AppendText] wrote, and nothing else: what it
// returns has this text again. The error wraps [ErrInvalid].
func ParseStatement(text []byte) (*Statement, error) {
	s := new(Statement)
	err := s.parse(string(text))
	if err == nil && !bytes.Equal(s.AppendText(nil), text) {
		err = fmt.Errorf("it is not in its canonical form: %w", ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	return s, nil
}

func (s *Statement) parse(text string) (err error) {
	if !strings.HasSuffix(text, "\n") {
		return fmt.Errorf("it is cut off: %w", ErrInvalid)
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if err := s.parseLine(fields); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return nil
}

// parseLine reads one line; that there are all of them, and in order, the comparison
// with what they come to tells.
func (s *Statement) parseLine(fields []string) (err error) {
	integer := func(i int) int64 {
		n, e := strconv.ParseInt(fields[i], 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("%q is no integer: %w", clip(fields[i]), ErrInvalid)
		}
		return n
	}
	want := map[string]int{
		statementForm: 1, "ledger": 3, "month": 3, "org": 2, "closed": 3, "cause": 2, "as_of": 4,
		"columns": Quantities + 5, "usage": Quantities + 5, "missing": 7, "end": 3,
	}[fields[0]]
	if len(fields) != want {
		return fmt.Errorf("%q with %d fields: %w", clip(fields[0]), len(fields), ErrInvalid)
	}
	switch fields[0] {
	case "ledger":
		s.Ledger, s.Generation = LedgerID(fields[1]), uint64(integer(2))
	case "month":
		if s.Month, err = ParseMonth(fields[1]); err != nil {
			return err
		}
	case "org":
		s.Org = OrgID(fields[1])
	case "closed":
		s.At, s.Actor = integer(1), fields[2]
	case "cause":
		s.Cause = fields[1]
	case "as_of":
		s.AsOf = append(s.AsOf, StatementMark{int(integer(1)), integer(2), uint64(integer(3))})
	case "usage":
		return s.parseUsage(fields[1:])
	case "missing":
		s.Missing = append(s.Missing, Missing{MissingKind(fields[1]), InstanceID(fields[2]), AgentID(fields[3]), integer(4), integer(5), integer(6)})
		if !slices.Contains(missingKinds, MissingKind(fields[1])) {
			return fmt.Errorf("what is missing is of the unknown kind %q: %w", clip(fields[1]), ErrInvalid)
		}
	}
	return err
}

func (s *Statement) parseUsage(fields []string) (err error) {
	l := StatementLine{User: UserID(fields[1]), Instance: InstanceID(fields[2])}
	if l.Month, err = ParseMonth(fields[0]); err != nil {
		return err
	}
	for q, text := range fields[3 : 3+Quantities] {
		if text == "-" {
			continue
		}
		l.Known = l.Known.With(Quantity(q))
		if l.Totals[q], err = ParseSum(text); err != nil {
			return err
		}
	}
	l.Recovered, err = ParseSum(fields[3+Quantities])
	s.Lines = append(s.Lines, l)
	return err
}

// ValidLine returns nil for one line of printable text, such as a statement has, and
// otherwise an error wrapping [ErrInvalid].
func ValidLine(kind, text string) error {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%s %q is not one line of printable text: %w", kind, clip(text), ErrInvalid)
	}
	return nil
}

// MonthClose says what is to be closed.
type MonthClose struct {
	Month Month
	Org   *OrgID // nil for all for whom the month is open
	// AcceptGaps closes it although something is missing.
	AcceptGaps bool
	// Backlog is what is known, beside the ledger, to be on its way.
	Backlog []Missing
	Actor   string
	Cause   string // in one line for a person
	Dry     bool   // change nothing, and say what would be
}

// MonthClosed is what became of a month that was closed, or would.
type MonthClosed struct {
	Statements []StatementInfo // in order of organisation
	Missing    []Missing       // what is missing, whoever's it is
}

// StatementInfo is what is told of a statement without its text.
type StatementInfo struct {
	ID      string
	Month   Month
	Org     OrgID // "" for users without an organisation
	At      int64 // when it was closed, microseconds
	Actor   string
	Cause   string
	Hash    string // SHA-256 of its text, hexadecimal
	Lines   int    // of usage
	Missing int    // things that were accepted as missing
}

// Info returns what is told of s without its text.
func (s *Statement) Info() StatementInfo {
	text := s.AppendText(nil)
	return StatementInfo{
		ID: StatementID(s.Month, text), Month: s.Month, Org: s.Org, At: s.At, Actor: s.Actor, Cause: s.Cause,
		Hash: StatementHash(text), Lines: len(s.Lines), Missing: len(s.Missing),
	}
}

// StatementQuery asks for statements. Empty filters match everything.
type StatementQuery struct {
	Month Month // 0 for all
	Org   OrgID
	View  View
	After string // the id of the last one of the page before
	Limit int    // at most this many; 0 for all
}

// SeesStatement reports whether v sees the statement of an organisation: only who
// sees all that is the organisation's does, and that of nobody's only who sees
// everything.
func (v View) SeesStatement(o OrgID) bool { return v.all || o != "" && slices.Contains(v.orgs, o) }

// ClosedMonth says for whom a month was closed.
type ClosedMonth struct {
	Month      Month
	Everybody  bool // and so for whoever is not named here
	At         int64
	Orgs       []OrgID // for which it was closed by themselves
	Statements int
}
