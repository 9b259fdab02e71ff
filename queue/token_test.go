package queue

import (
	"errors"
	"strings"
	"testing"

	"example.org/odometer"
)

func TestToken(t *testing.T) {
	for _, c := range []struct{ name, id, want string }{
		{"a plain id stands for itself", "host-12_A", "host-12_A"},
		{"no id is an underscore", "", "_"},
		{"an id that is an underscore is told from no id", "_", "=5F"},
		{"an id of two underscores stands for itself", "__", "__"},
		{"a dot would make two tokens", "web.example", "web=2Eexample"},
		{"wildcards and spaces are encoded", "a*b>c d", "a=2Ab=3Ec=20d"},
		{"the escape itself is encoded", "a=2E", "a=3D2E"},
		{"UTF-8 goes byte by byte", "ä", "=C3=A4"},
		{"an operator's colon", "host:vm", "host=3Avm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Token(c.id); got != c.want {
				t.Errorf("Token(%q): got %q, want %q", c.id, got, c.want)
			}
			if got, err := ParseToken(c.want); err != nil || got != c.id {
				t.Errorf("ParseToken(%q): got %q, %v, want %q", c.want, got, err, c.id)
			}
		})
	}
	for _, c := range []struct{ name, token string }{
		{"nothing", ""},
		{"a dot", "a.b"},
		{"an escape that is cut off", "a=2"},
		{"lower-case digits", "a=2e"},
		{"an escape of what stands for itself", "=41"},
		{"something else than digits", "=GG"},
		{"a wildcard", "*"},
	} {
		t.Run(c.name+" is refused", func(t *testing.T) {
			if got, err := ParseToken(c.token); !errors.Is(err, odometer.ErrInvalid) {
				t.Errorf("ParseToken(%q): got %q, %v, want an error wrapping ErrInvalid", c.token, got, err)
			}
		})
	}
}

func TestUsageSubject(t *testing.T) {
	for _, c := range []struct {
		owner odometer.Owner
		vm    odometer.InstanceID
		want  string
	}{
		{odometer.Owner{User: "u-ada", Org: "o-acme"}, "vm-7", "odometer.usage.o-acme.u-ada.vm-7"},
		{odometer.Owner{User: "unassigned"}, "h:vm.7", "odometer.usage._.unassigned.h=3Avm=2E7"},
		{odometer.Owner{User: "u", Org: "_"}, "v", "odometer.usage.=5F.u.v"},
	} {
		if got := UsageSubject(c.owner, c.vm); got != c.want {
			t.Errorf("UsageSubject(%v, %s): got %s, want %s", c.owner, c.vm, got, c.want)
		}
	}
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "_", "=5F", "host.1", "a b*c>", "\x00\xff", "=41", strings.Repeat("é", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token := Token(s)
		if token == "" || strings.ContainsAny(token, ". \t\r\n*>$/") {
			t.Fatalf("Token(%q) = %q is no token", s, token)
		}
		if got, err := ParseToken(token); err != nil || got != s {
			t.Fatalf("ParseToken(Token(%q)): got %q, %v", s, got, err)
		}
		if id, err := ParseToken(s); err == nil && Token(id) != s {
			t.Fatalf("ParseToken(%q) = %q, whose token is %q", s, id, Token(id))
		}
	})
}

func FuzzEntryID(f *testing.F) {
	for _, s := range []string{"0-1", "63-18446744073709551615", "64-1", "-1-1", "1-", "01-1", "1-+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if id, ok := parseEntryID(s); ok && (id.String() != s || id.Partition < 0 || id.Partition >= odometer.Partitions) {
			t.Fatalf("parseEntryID(%q) = %v", s, id)
		}
	})
}
