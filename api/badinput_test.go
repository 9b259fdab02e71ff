package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"example.org/odometer"
)

// hostile are values that some parameter should not take.
func hostile(p *parameter) []string {
	long := strings.Repeat("a", 2000)
	all := []string{
		"x y", "a/b", "..", "a\x00b", "a\nb", "\xff\xfe", "%", "%00", "<script>", "\u202e", "🜚", long, strings.Repeat("ä", 600), strings.Repeat(",", 500),
		"-1", "0", "1e3", "0x10", "1.5", "+1", " 1", "１", "NaN", "null", "true", "[]", "{}", "9223372036854775808", "-9223372036854775809", strings.Repeat("9", 400),
		"soon", "1969-12-31", "10000-01-01T00:00:00Z", "2026-02-30", "2026-01-01T25:00:00Z", "-1h1d", "--1h", "-99999999w", "now+", "1", "2026-01-02T03:04:05 02:00",
	}
	switch p.kind {
	case asNumber:
		all = append(all, fmt.Sprint(p.least-1))
		if p.most != anyNumber {
			all = append(all, fmt.Sprint(p.most+1))
		}
	case asWord, asWords:
		w := p.words[0]
		all = append(all, strings.ToUpper(w), w+" x", w+","+w, ","+w, w+",,"+w, w+";"+w)
	}
	return all
}

// takenAs says without the parser whether a declared parameter takes a text.
func takenAs(p *parameter, text string) bool {
	switch p.kind {
	case asNumber:
		n := json.Number(text)
		v, err := n.Int64()
		return err == nil && v >= p.least && v <= p.most
	case asMoment:
		_, err := ParseTime(text, Now)
		return err == nil
	case asWord:
		return slices.Contains(p.words, text)
	case asWords:
		seen := map[string]bool{}
		for w := range strings.SplitSeq(text, ",") {
			w = strings.TrimSpace(w)
			if seen[w] || !slices.Contains(p.words, w) {
				return false
			}
			seen[w] = true
		}
	case asCursor:
		return false // none of these is a cursor
	case asText:
		if p.valid == nil {
			return int64(len(text)) <= p.most
		}
	}
	return p.valid == nil || p.valid(text) == nil
}

// requestFor makes a request to a row whose path has the examples, but for one
// parameter of it.
func requestFor(row *route, query url.Values, segment *parameter, text string) *http.Request {
	method, path, _ := strings.Cut(row.pattern, " ")
	for _, p := range row.params {
		if p.in == inPath {
			value := p.example
			if p == segment {
				value = text
			}
			path = strings.ReplaceAll(path, "{"+p.name+"}", url.PathEscape(value))
		}
	}
	body, media := "", ""
	if row.takes != nil {
		media = row.takes[0].media
		example, _ := json.Marshal(exampleBodies()[row.id][media])
		body = string(example)
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer secret")
	if media != "" {
		r.Header.Set("Content-Type", media)
	}
	return r
}

// TestBadParametersAreRefusedByName asks every route for every parameter that it
// declares with values of every kind, with two, and for one that nobody declared.
// What is refused is refused with a 400 that names the parameter and no other, and
// changes nothing.
func TestBadParametersAreRefusedByName(t *testing.T) {
	f, _ := prepared(t)
	before, _ := json.Marshal(f.entries)
	requests := 0
	for name, h := range handlers(t, f) {
		for pattern, row := range h.table {
			ask := func(what string, in place, param string, refused bool, r *http.Request) {
				requests++
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if !refused {
					if w.Code == http.StatusBadRequest && slices.ContainsFunc(problem(t, w).Errors, func(e FieldError) bool {
						return e.Name == param && !strings.Contains(e.Detail, "without top") && !strings.Contains(e.Detail, "must be later")
					}) {
						t.Errorf("%s: %s: %s: got it refused: %s", name, pattern, what, w.Body)
					}
					return
				}
				p := problem(t, w)
				if w.Code != http.StatusBadRequest || p.Code != "invalid_request" || len(p.Errors) == 0 {
					t.Errorf("%s: %s: %s: got %d %s, want 400 for it", name, pattern, what, w.Code, w.Body)
				}
				for _, e := range p.Errors {
					if e.Name != param || e.In != in.String() || e.Detail == "" || !utf8.ValidString(e.Detail) || len(e.Detail) > 600 {
						t.Errorf("%s: %s: %s: got the error %+v", name, pattern, what, e)
					}
				}
			}
			if !row.lenient {
				ask("an unknown parameter", inQuery, "nobody", true, requestFor(&row, url.Values{"nobody": {"1"}}, nil, ""))
				ask("an unknown parameter without a value", inQuery, "nobody", true, requestFor(&row, url.Values{"nobody": {""}}, nil, ""))
			}
			for _, p := range row.params {
				if row.lenient || p.in == inHeader || row.access == administrator && p.in == inPath && !strings.HasPrefix(pattern, "GET") && row.takes == nil {
					continue // what an administrator may change is not to be changed by what is taken
				}
				if p.in == inQuery {
					ask(p.name+" twice", inQuery, p.name, true, requestFor(&row, url.Values{p.name: {p.example, p.example}}, nil, ""))
					ask(p.name+" in capitals", inQuery, strings.ToUpper(p.name), true, requestFor(&row, url.Values{strings.ToUpper(p.name): {p.example}}, nil, ""))
				}
				wrong := 0
				for _, text := range hostile(p) {
					taken := takenAs(p, text)
					if !taken {
						wrong++
					}
					if taken && row.takes != nil {
						continue // it would be done
					}
					what := fmt.Sprintf("%s=%.80q", p.name, text)
					if p.in == inPath {
						if text == ".." { // no segment of a path
							continue
						}
						ask(what, inPath, p.name, !taken, requestFor(&row, nil, p, text))
					} else {
						ask(what, inQuery, p.name, !taken, requestFor(&row, url.Values{p.name: {text}}, nil, ""))
					}
				}
				if wrong == 0 {
					t.Errorf("%s: %s takes anything as %s", name, pattern, p.name)
				}
			}
		}
	}
	if after, _ := json.Marshal(f.entries); string(after) != string(before) {
		t.Error("got other entries than before")
	}
	t.Logf("%d requests", requests)
}

// FuzzQuery reads a query by what all routes declare. What is read is within what
// the declaration says, and what is wrong is named.
func FuzzQuery(f *testing.F) {
	var declared []*parameter
	seen := map[string]bool{}
	s := &server{router: &router{metrics: &metrics{}}}
	for _, row := range s.routes(s.router) {
		for _, p := range row.params {
			if p.in == inQuery && !seen[p.name] {
				seen[p.name] = true
				declared = append(declared, p)
				f.Add(p.name + "=" + url.QueryEscape(p.example))
			}
		}
	}
	f.Add("from=soon&limit=1001&group_by=hour,day&nobody=1&limit=%zz")
	f.Add("group_by=" + strings.Repeat("instance,", 100) + "&from=-1w1d&to=%2B1h&top=0&;=&=&&")
	f.Fuzz(func(t *testing.T, raw string) {
		r := &http.Request{URL: &url.URL{RawQuery: raw}}
		q := readQuery(declared, r, Now, nil)
		wrong := map[string]bool{}
		for _, err := range q.errs {
			fe, ok := errors.AsType[FieldError](err)
			if !ok || !errors.Is(err, odometer.ErrInvalid) || fe.In != "query" || fe.Detail == "" {
				t.Errorf("%q: got the error %#v, want one that names a parameter", raw, err)
			}
			wrong[fe.Name] = true
		}
		given, err := url.ParseQuery(raw)
		if (err != nil) != wrong["?"] && given["?"] == nil {
			t.Errorf("%q: got it well formed: %v, want %v", raw, !wrong["?"], err == nil)
		}
		for i, p := range declared {
			v := q.values[i]
			list := given[p.name]
			switch {
			case len(list) > 1 != (wrong[p.name] && len(list) > 1):
				t.Errorf("%q: got %s taken, which is there %d times", raw, p.name, len(list))
			case len(list) == 1 && list[0] != "" && p.kind != asFlag && takenAs(p, list[0]) == wrong[p.name]:
				t.Errorf("%q: got %s refused: %v", raw, p.name, wrong[p.name])
			case p.kind == asNumber && !wrong[p.name] && v.number != p.standard && (v.number < p.least || v.number > p.most):
				t.Errorf("%q: got %d as %s", raw, v.number, p.name)
			}
		}
		for name := range given {
			if !seen[name] && !wrong[clip(name)] {
				t.Errorf("%q: got the unknown %q taken", raw, name)
			}
		}
	})
}
