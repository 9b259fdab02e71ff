package odometer

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func someStatement() *Statement {
	s := &Statement{
		Ledger: "0123456789abcdef0123456789abcdef", Generation: 1, Month: 1772323200000000, Org: "o-acme", At: 1775001600000000, Actor: "user u-ada", Cause: "it is over",
		AsOf:    []StatementMark{{3, 7, 12}, {51, 2, 100_000_000_001}},
		Lines:   []StatementLine{{Month: 1769904000000000, User: "u-ada", Instance: "vm-7"}, {Month: 1772323200000000, User: "u-ada", Instance: "vm-ü"}},
		Missing: []Missing{{MissingGap, "vm-7", "host-1", 1772323200000000, 1775001600000000, 3_600_000_000}, {Kind: MissingQuarantine, Amount: 1}},
	}
	s.Lines[0].Known = Known(0).With(CPU).With(GapTime)
	s.Lines[0].Totals[CPU], s.Lines[0].Totals[GapTime] = SumOf(-7), SumOf(3_600_000_000)
	s.Lines[1].Known = AllKnown
	for range 4 {
		s.Lines[1].Totals[DiskRead].Add(1<<63 - 1)
	}
	return s
}

// TestAStatementIsItsText and its id has the hash of that.
func TestAStatementIsItsText(t *testing.T) {
	s := someStatement()
	text := s.AppendText(nil)
	const want = `odometer statement 1
ledger	0123456789abcdef0123456789abcdef	1
month	2026-03	UTC
org	o-acme
closed	1775001600000000	user u-ada
cause	it is over
as_of	3	7	12
as_of	51	2	100000000001
columns	month	user	instance	cpu_us	gpu_us	gpu_busy_us	vcpu_us	memory_mib_s	memory_allocated_mib_s	storage_mib_s	storage_provisioned_mib_s	network_egress_bytes	network_ingress_bytes	disk_read_bytes	disk_write_bytes	measured_us	estimated_us	gap_us	recovered_us
usage	2026-02	u-ada	vm-7	-7	-	-	-	-	-	-	-	-	-	-	-	-	-	3600000000	0
usage	2026-03	u-ada	vm-ü	0	0	0	0	0	0	0	0	0	0	36893488147419103228	0	0	0	0	0
missing	gap	vm-7	host-1	1772323200000000	1775001600000000	3600000000
missing	quarantine			0	0	1
end	2	2
`
	if string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
	again, err := ParseStatement(text)
	if err != nil || !bytes.Equal(again.AppendText(nil), text) || again.ID() != s.ID() || !strings.HasPrefix(s.ID(), "2026-03-") || len(s.ID()) != len("2026-03-")+16 {
		t.Errorf("read again: got %+v, %v, want %s", again, err, s.ID())
	}
}

func TestStatementsAreRefused(t *testing.T) {
	text := string(someStatement().AppendText(nil))
	for _, c := range []struct{ name, old, new string }{
		{"another form", "statement 1", "statement 2"},
		{"no month", "month\t2026-03", "month\tMarch"},
		{"another time zone", "UTC", "CET"},
		{"an amount that is no number", "\t-7\t", "\t-x\t"},
		{"an amount with a zero before it", "\t-7\t", "\t-07\t"},
		{"an entry number with a sign", "\t12\n", "\t+12\n"},
		{"a mark that is no number", "as_of\t3", "as_of\tthree"},
		{"a column less", "\tcpu_us", ""},
		{"columns in another order", "cpu_us\tgpu_us", "gpu_us\tcpu_us"},
		{"a line that nobody knows", "cause\t", "why\t"},
		{"what is missing for an unknown reason", "missing\tgap", "missing\tluck"},
		{"lines in another order", "cause\tit is over\nas_of\t3\t7\t12\n", "as_of\t3\t7\t12\ncause\tit is over\n"},
		{"another number of lines", "end\t2\t2", "end\t1\t2"},
		{"no end", "end\t2\t2\n", ""},
		{"an end that is cut off", "end\t2\t2\n", "end\t2\t2"},
		{"a month of use that is none", "usage\t2026-02", "usage\t2026-13"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Count(text, c.old) == 0 {
				t.Fatalf("no %q", c.old)
			}
			if s, err := ParseStatement([]byte(strings.Replace(text, c.old, c.new, 1))); !errors.Is(err, ErrInvalid) {
				t.Errorf("got %+v, %v, want %v", s, err, ErrInvalid)
			}
		})
	}
}

func FuzzParseStatement(f *testing.F) {
	f.Add(someStatement().AppendText(nil))
	f.Add([]byte("odometer statement 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseStatement(text)
		if err == nil && !bytes.Equal(s.AppendText(nil), text) {
			t.Errorf("%q is read and written otherwise", text)
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("got %v, want %v", err, ErrInvalid)
		}
	})
}

func TestMonths(t *testing.T) {
	m, err := ParseMonth("2024-02")
	if err != nil || m.End()-m.Start() != 29*DayMicros || m.Next().String() != "2024-03" || MonthOf(m.End()-1) != m || MonthOf(m.Start()) != m {
		t.Errorf("got %v, %v, from %d to %d", m, err, m.Start(), m.End())
	}
	if december, _ := ParseMonth("2025-12"); december.Next().String() != "2026-01" {
		t.Errorf("after December 2025: got %s", december.Next())
	}
	for _, text := range []string{"", "2026", "2026-1", "2026-13", "1969-12", "2026-01-01", " 2026-01", "12026-01"} {
		if m, err := ParseMonth(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v, %v", text, m, err)
		}
	}
}

// TestAdjustsSurvives what an entry is written and read as.
func TestAdjustsSurvives(t *testing.T) {
	e, err := DecodeEntry(golden(t, "entry-1.1.json"))
	if err != nil {
		t.Fatal(err)
	}
	e.Adjusts = []Month{1769904000000000, 1772323200000000}
	text := e.AppendJSON(nil)
	if !bytes.HasSuffix(text, []byte(`,"adjusts":["2026-02","2026-03"]}`)) {
		t.Errorf("got %s", text)
	}
	again, err := DecodeEntry(text)
	if err != nil || !bytes.Equal(again.AppendJSON(nil), text) {
		t.Errorf("read again: got %+v, %v", again, err)
	}
	for _, bad := range []string{`"2026-02"`, `["2026-02"`, `[7]`, `["Feb"]`} {
		if _, err := DecodeEntry(bytes.Replace(text, []byte(`["2026-02","2026-03"]`), []byte(bad), 1)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "adjusts") && bad != `["2026-02"` {
			t.Errorf("adjusts %s: got %v", bad, err)
		}
	}
}
