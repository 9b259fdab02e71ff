package odometer

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestIDsAreCheckedByOneGrammar(t *testing.T) {
	for _, c := range []struct{ name, id, want string }{
		{"a UUID", "6f1c2c1e-3c55-4a0f-9d6e-2f6f5d1f0a11", ""},
		{"an agent's own name for it", "host-12:vm.7_b@x=y+z,%~#?&*()[]{}|^$!;'`", ""},
		{"letters of any script", "сервер-日本-ü", ""},
		{"128 bytes", strings.Repeat("x", 128), ""},
		{"128 bytes that are 64 letters", strings.Repeat("ü", 64), ""},
		{"nothing", "", "vm is empty"},
		{"129 bytes", strings.Repeat("x", 129), "vm is 129 bytes long, at most 128 are allowed"},
		{"130 bytes that are 65 letters", strings.Repeat("ü", 65), "vm is 130 bytes long"},
		{"a space", "a b", "the character ' '"},
		{"a space that does not break", "a\u00a0b", `the character '\u00a0'`},
		{"a line break", "a\n", `the character '\n'`},
		{"a NUL", "a\x00", `the character '\x00'`},
		{"DEL", "a\x7f", `the character '\x7f'`},
		{"a slash", "a/b", "the character '/'"},
		{"a backslash", `a\b`, `the character '\\'`},
		{"a quote", `a"b`, `the character '"'`},
		{"an angle bracket", "a<b", "the character '<'"},
		{"the other angle bracket", "ü>b", "the character '>'"},
		{"a space of no width", "a\u200bb", `the character '\u200b'`},
		{"text that turns direction", "a\u202eb", `the character '\u202e'`},
		{"half of a letter", "a\xc3", "is not valid UTF-8"},
	} {
		err := ValidID("vm", c.id)
		if c.want == "" && err != nil {
			t.Errorf("%s: got %v, want accepted", c.name, err)
		}
		if c.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

func TestIDsOfASCIIAreJudgedLikeAnyOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringN(0, -1, 140).Draw(t, "id")
		want := id != "" && len(id) <= MaxIDBytes && utf8.ValidString(id)
		for _, r := range id {
			want = want && unicode.IsPrint(r) && r != ' ' && !strings.ContainsRune(notInID, r)
		}
		if got := ValidID("id", id) == nil; got != want {
			t.Fatalf("%q: got %v, want %v", id, got, want)
		}
	})
}

func TestPartitionsNeverChange(t *testing.T) {
	// The first byte of SHA-256, mod 64; computed with sha256sum.
	for agent, want := range map[AgentID]int{"host-12": 0x2e % 64, "web-01": 0x0b % 64, "": 0xe3 % 64} {
		if got := agent.Partition(); got != want {
			t.Errorf("%s: got %d, want %d", agent, got, want)
		}
	}
	hit := make(map[int]int)
	for i := range 10000 {
		hit[AgentID(strings.Repeat("x", i%100)+string(rune('a'+i/100))).Partition()]++
	}
	if len(hit) != Partitions {
		t.Errorf("10000 agents lie in %d partitions, want all %d", len(hit), Partitions)
	}
}

func TestEpochsFollowFromWhatTheyAreMadeOf(t *testing.T) {
	want := Epoch("f9e61b06f1e646dd9803ea4774010dd8") // SHA-256 of 14:odometer epoch,4:vm-7,7:host-12,4:a3f0,16:1763880000000000,
	got := NewEpoch("vm-7", "host-12", "a3f0", "1763880000000000")
	if got != want || got.Valid() != nil {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, other := range []Epoch{
		NewEpoch("vm-8", "host-12", "a3f0", "1763880000000000"), NewEpoch("vm-7", "host-13", "a3f0", "1763880000000000"),
		NewEpoch("vm-7", "host-12", "a3f1", "1763880000000000"), NewEpoch("vm-7", "host-12", "a3f0", "1763880000000001"),
		NewEpoch("vm-7h", "ost-12", "a3f0", "1763880000000000"), NewEpoch("vm-7", "host-12", "a3f01", "763880000000000"),
	} {
		if other == want {
			t.Errorf("two different epochs are both %s", other)
		}
	}
}

func TestEpochsAreHexDigits(t *testing.T) {
	for _, e := range []Epoch{"", "f9e6", "F9E61B06F1E646DD9803EA4774010DD8", "g9e61b06f1e646dd9803ea4774010dd8", "f9e61b06f1e646dd 803ea4774010dd8", "f9e61b06f1e646dd9803ea4774010dd8a"} {
		if err := e.Valid(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v, want %v", e, err, ErrInvalid)
		}
	}
}

func TestEntryIDsSurviveTheirText(t *testing.T) {
	for _, id := range []EntryID{{0, 1}, {17, 4211}, {63, 1<<64 - 1}} {
		if got, err := ParseEntryID(id.String()); err != nil || got != id {
			t.Errorf("%s: got %v, %v", id, got, err)
		}
	}
	for _, text := range []string{"", "-", "1", "1-", "-1", "64-1", "0-0", "01-1", "1-01", "1--1", "1-1-1", "+1-1", "1-1.0", "1-1e1", "1-18446744073709551616", " 1-1", "1-1 "} {
		if id, err := ParseEntryID(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v, %v, want %v", text, id, err, ErrInvalid)
		}
	}
}

func TestWithoutAUserAnOwnerIsUnassigned(t *testing.T) {
	if got, want := (Owner{Org: "o"}).OrUnassigned(), (Owner{User: Unassigned, Org: "o"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := (Owner{User: "u"}).OrUnassigned(), (Owner{User: "u"}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestStatesAndQualitiesAreThreeEach(t *testing.T) {
	for _, s := range []State{Running, Paused, Stopped} {
		if !s.Valid() {
			t.Errorf("%s: got invalid", s)
		}
	}
	for _, q := range []Quality{Measured, Estimated, Gap} {
		if !q.Valid() {
			t.Errorf("%s: got invalid", q)
		}
	}
	if State("crashed").Valid() || State("").Valid() || Quality("").Valid() || Quality("Measured").Valid() {
		t.Error("got valid, want invalid")
	}
}
