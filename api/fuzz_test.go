package api

import (
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"example.org/odometer"
)

// FuzzCursor opens cursors: one leads on only as it was given out, to the question and
// the caller that it was given to.
func FuzzCursor(f *testing.F) {
	ask := func(user odometer.UserID, key string) *query {
		c := &cursors{CursorKey(key), "GET /api/v1/instances", odometer.Caller{Bound: odometer.Bound{User: user}}}
		r := httptest.NewRequest("GET", "/api/v1/instances?limit=2", nil)
		return readQuery([]*parameter{limitParam, afterCursor}, r, Now, c)
	}
	mine := ask("u-ada", "secret")
	f.Add("", "vm-1")
	f.Add("rkpwdlCF8tXJcAWVRajpmnZtLTF", "vm-1") // its last bits are not as they were given out
	f.Add(mine.cursors.seal(mine, "vm-1"), "vm-1")
	f.Add(base64.RawURLEncoding.EncodeToString(make([]byte, cursorSum)), "ü/%\x00")
	f.Fuzz(func(t *testing.T, text, position string) {
		if got, ok := mine.cursors.open(mine, text); ok && mine.cursors.seal(mine, got) != text {
			t.Errorf("%q: leads to %q, whose cursor it is not", text, got)
		}
		if position == "" {
			return // no list goes on from there
		}
		sealed := mine.cursors.seal(mine, position)
		if got, ok := mine.cursors.open(mine, sealed); !ok || got != position {
			t.Errorf("%q: got %q, %v from its own cursor", position, got, ok)
		}
		for name, other := range map[string]*query{"another user": ask("u-bob", "secret"), "another server": ask("u-ada", "another")} {
			if got, ok := other.cursors.open(other, sealed); ok {
				t.Errorf("%s: got %q from the cursor of %q", name, got, position)
			}
		}
	})
}

// FuzzCSV writes texts into cells of an export: a reader of RFC 4180 has them back, and
// no spreadsheet takes one for a formula.
func FuzzCSV(f *testing.F) {
	for _, s := range []string{"", "vm-1", "=1+1", "'", "''=1", "a,b", "a\"b", "\"", "\t=1", "a\nb", " a ", "\xff", `\.`} {
		f.Add(s, "x")
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		line := appendText(appendText(nil, first), second)
		r := csv.NewReader(strings.NewReader(string(line) + "end\n"))
		cells, err := r.Read()
		if err != nil || len(cells) != 3 || cells[2] != "end" {
			t.Fatalf("%q: got %q, %v, want three cells", line, cells, err)
		}
		if _, err := r.Read(); !errors.Is(err, io.EOF) {
			t.Fatalf("%q: got a second line", line)
		}
		for i, want := range []string{first, second} {
			got := cells[i]
			if got != "" && strings.ContainsRune("=+-@\t\r\n", rune(got[0])) {
				t.Errorf("%q: got the cell %q, which is a formula", line, got)
			}
			// The reader has a line break as one character.
			if got, want = strings.TrimPrefix(got, "'"), strings.ReplaceAll(want, "\r\n", "\n"); got != want {
				t.Errorf("%q: got %q, want %q", line, got, want)
			}
		}
	})
}

// FuzzRow reads lines of usage in NDJSON: what is read is written as the same.
func FuzzRow(f *testing.F) {
	var full Row
	full.Instance, full.User, full.Org, full.Known = "vm-1", "u-ada", "o-1", odometer.AllKnown
	for q := range full.Totals {
		full.Totals[q] = odometer.SumOf(int64(q) + 1)
	}
	f.Add([]byte(`{}`))
	f.Add(full.appendJSON(nil))
	f.Fuzz(func(t *testing.T, line []byte) {
		var r, again Row
		if json.Unmarshal(line, &r) != nil {
			return
		}
		b := r.appendJSON(nil)
		if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(r, again) {
			t.Errorf("%q: got %+v, %v from %s, want %+v", line, again, err, b, r)
		}
	})
}

// FuzzChange reads bodies of changes as every route does that has one: what is taken is
// one object, and reads back as the same; what is refused names where.
func FuzzChange(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `[]`, `{}{}`, `{} x`, `{"cause":7}`, `{"user_id":"u","org_id":null,"from":"-2d","cause":"x","dry_run":true}`,
		`{"accept_gaps":true}`, `{"nobody":1}`, `{"name":"a","name":"b"}`, `{"scopes":["read"]}`, "\xff", strings.Repeat("[", 20000),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, ask := range []any{
			new(ReverseRequest), new(ConsumerRequest), new(GrantRequest), new(EnrolmentRequest), new(EnrolRequest), new(IdentityRequest), new(MemberRequest),
			new(MonthCloseRequest), new(OrganisationRequest), new(OwnershipRequest), new(InstanceRequest), new(TokenRequest), new(UserRequest),
		} {
			read := func(body string, v any) error {
				r := httptest.NewRequest("POST", (&url.URL{Path: "/x"}).String(), strings.NewReader(body))
				r.Header.Set("Content-Type", odometer.ContentJSON)
				return readJSON(r, v)
			}
			err := read(body, ask)
			if err != nil {
				if fe, ok := errors.AsType[FieldError](err); !ok || fe.In != "body" || fe.Name == "" || fe.Detail == "" {
					t.Errorf("%q: got %#v, want an error that names the body", body, err)
				}
				continue
			}
			if !strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), "{") {
				t.Errorf("%q: taken as a %T, which is an object", body, ask)
			}
			text, err := json.Marshal(ask)
			again := reflect.New(reflect.TypeOf(ask).Elem()).Interface()
			if err == nil {
				err = read(string(text), again)
			}
			if twice, _ := json.Marshal(again); err != nil || string(twice) != string(text) {
				t.Errorf("%q: got %s, %v the second time, want %s", body, twice, err, text)
			}
		}
	})
}
