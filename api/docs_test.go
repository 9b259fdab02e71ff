package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// page is what the template of /docs shows.
type page struct {
	Title, Description, Version string
	Style                       template.CSS
	Groups                      []pageGroup
	Problems                    []pageAnswer
	Schemas                     []pageSchema
}

type pageGroup struct {
	Name, Description string
	Operations        []pageOperation
}

type pageOperation struct {
	ID, Method, Path, Summary, Description, Access string
	Parameters                                     []pageMember
	Bodies                                         []pageBody
	Answers                                        []pageAnswer
}

// pageMember is a parameter, a header or a member of an object.
type pageMember struct {
	Name, In, Description, Example string
	Required                       bool
	Type                           template.HTML
}

type pageBody struct {
	Media, Example string
	Type           template.HTML
}

type pageAnswer struct {
	Status, Description string
	Shared              bool // by many operations: its example is shown apart
	Headers             []pageMember
	Bodies              []pageBody
}

type pageSchema struct {
	Name, Description string
	Type              template.HTML
	Members           []pageMember
}

// render returns the page of a document.
func render(doc schema) ([]byte, error) {
	style, err := os.ReadFile("docs/page.css")
	if err != nil {
		return nil, err
	}
	t, err := template.New("page.tmpl").Funcs(template.FuncMap{"prose": prose}).ParseFiles("docs/page.tmpl")
	if err != nil {
		return nil, err
	}
	info := doc["info"].(schema)
	p := page{Title: said(info["title"]), Description: said(info["description"]), Version: said(doc["openapi"]), Style: template.CSS(style)}
	components := doc["components"].(schema)
	for _, tag := range doc["tags"].([]any) {
		g := pageGroup{Name: said(tag.(schema)["name"]), Description: said(tag.(schema)["description"])}
		for path, item := range ordered(doc["paths"].(schema)) {
			for method, o := range ordered(item.(schema)) {
				if op := o.(schema); op["tags"].([]any)[0] == g.Name {
					g.Operations = append(g.Operations, operationOf(components, method, path, op))
				}
			}
		}
		p.Groups = append(p.Groups, g)
	}
	for status, f := range failures {
		if r, ok := components["responses"].(schema)[f.name].(schema); ok {
			p.Problems = append(p.Problems, answerOf(components, fmt.Sprint(status), r))
		}
	}
	slices.SortFunc(p.Problems, func(a, b pageAnswer) int { return strings.Compare(a.Status, b.Status) })
	for name, s := range ordered(components["schemas"].(schema)) {
		p.Schemas = append(p.Schemas, schemaOf(name, s.(schema)))
	}
	var b bytes.Buffer
	err = t.Execute(&b, p)
	return b.Bytes(), err
}

var quoted = regexp.MustCompile("`([^`]*)`")

// prose returns a text with what backticks quote as code.
func prose(text string) template.HTML {
	return template.HTML(quoted.ReplaceAllString(html.EscapeString(text), "<code>$1</code>"))
}

func said(v any) string {
	s, _ := v.(string)
	return s
}

// ordered yields members in the order of their names.
func ordered(s schema) func(func(string, any) bool) {
	return func(yield func(string, any) bool) {
		for _, name := range slices.Sorted(maps.Keys(s)) {
			if !yield(name, s[name]) {
				return
			}
		}
	}
}

func operationOf(components schema, method, path string, op schema) pageOperation {
	o := pageOperation{
		ID: said(op["operationId"]), Method: strings.ToUpper(method), Path: path,
		Summary: said(op["summary"]), Description: said(op["description"]), Access: accessText(op["security"].([]any)),
	}
	list, _ := op["parameters"].([]any)
	for _, v := range list {
		param := v.(schema)
		if ref, ok := param["$ref"].(string); ok {
			param = components["parameters"].(schema)[ref[strings.LastIndex(ref, "/")+1:]].(schema)
		}
		example := fmt.Sprint(param["example"])
		if several, ok := param["example"].([]any); ok {
			example = strings.Trim(strings.ReplaceAll(fmt.Sprint(several), " ", ","), "[]")
		}
		o.Parameters = append(o.Parameters, pageMember{
			Name: said(param["name"]), In: said(param["in"]), Description: said(param["description"]), Example: example,
			Required: param["required"] == true, Type: typeText(param["schema"].(schema)),
		})
	}
	if body, ok := op["requestBody"].(schema); ok {
		o.Bodies = bodiesOf(body)
	}
	for status, r := range ordered(op["responses"].(schema)) {
		response := r.(schema)
		ref, shared := response["$ref"].(string)
		if shared {
			response = components["responses"].(schema)[ref[strings.LastIndex(ref, "/")+1:]].(schema)
		}
		answer := answerOf(components, status, response)
		answer.Shared = shared
		o.Answers = append(o.Answers, answer)
	}
	return o
}

func answerOf(components schema, status string, response schema) pageAnswer {
	a := pageAnswer{Status: status, Description: said(response["description"]), Bodies: bodiesOf(response)}
	headers, _ := response["headers"].(schema)
	for name, h := range ordered(headers) {
		a.Headers = append(a.Headers, pageMember{Name: name, Description: said(h.(schema)["description"])})
	}
	return a
}

func bodiesOf(s schema) (list []pageBody) {
	content, _ := s["content"].(schema)
	for media, c := range ordered(content) {
		b := pageBody{Media: media, Type: typeText(c.(schema)["schema"].(schema))}
		switch example := c.(schema)["example"].(type) {
		case nil:
		case string:
			b.Example = example
		default:
			text, _ := json.MarshalIndent(example, "", "  ")
			b.Example = string(text)
		}
		list = append(list, b)
	}
	return list
}

func schemaOf(name string, s schema) pageSchema {
	out := pageSchema{Name: name, Description: said(s["description"]), Type: typeText(s)}
	add := func(s schema) {
		required, _ := s["required"].([]any)
		properties, _ := s["properties"].(schema)
		for member, v := range ordered(properties) {
			out.Members = append(out.Members, pageMember{
				Name: member, Description: said(v.(schema)["description"]), Type: typeText(v.(schema)), Required: slices.Contains(required, any(member)),
			})
		}
	}
	add(s)
	if then, ok := s["then"].(schema); ok {
		add(then)
	}
	return out
}

// accessText says in words who may use an operation.
func accessText(security []any) string {
	var says []string
	for _, alternative := range security {
		scopes, ok := alternative.(schema)["token"].([]any)
		switch {
		case !ok:
			says = append(says, "no token is needed")
		case len(scopes) == 0:
			says = append(says, "any valid token")
		default:
			says = append(says, "a token with the scope "+fmt.Sprint(scopes[0]))
		}
	}
	text := strings.Join(says, "; more with ")
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// typeText says in words what a schema takes, with links to the schemas that it
// refers to.
func typeText(s schema) template.HTML {
	var parts []string
	if ref, ok := s["$ref"].(string); ok {
		name := html.EscapeString(ref[strings.LastIndex(ref, "/")+1:])
		parts = append(parts, `<a href="#schema-`+name+`">`+name+`</a>`)
	}
	for _, keyword := range []string{"oneOf", "anyOf"} {
		if list, ok := s[keyword].([]any); ok {
			var of []string
			for _, v := range list {
				of = append(of, string(typeText(v.(schema))))
			}
			parts = append(parts, strings.Join(of, " or "))
		}
	}
	switch t := s["type"].(type) {
	case string:
		parts = append(parts, typeName(t, s))
	case []any:
		var of []string
		for _, v := range t {
			of = append(of, typeName(v.(string), s))
		}
		parts = append(parts, strings.Join(of, " or "))
	}
	if v, ok := s["const"]; ok {
		parts = append(parts, "<code>"+html.EscapeString(fmt.Sprint(v))+"</code>")
	}
	if list, ok := s["enum"].([]any); ok {
		var of []string
		for _, v := range list {
			of = append(of, "<code>"+html.EscapeString(fmt.Sprint(v))+"</code>")
		}
		parts = append(parts, "one of "+strings.Join(of, ", "))
	}
	for _, bound := range []struct{ keyword, says string }{
		{"format", "%v"}, {"pattern", "matching <code>%v</code>"}, {"minimum", "from %v"}, {"maximum", "to %v"}, {"minLength", "at least %v long"},
		{"maxLength", "at most %v long"}, {"minItems", "at least %v"}, {"maxItems", "at most %v"}, {"default", "<code>%v</code> where absent"},
	} {
		if v, ok := s[bound.keyword]; ok {
			parts = append(parts, fmt.Sprintf(bound.says, html.EscapeString(fmt.Sprint(v))))
		}
	}
	if parts == nil {
		parts = []string{"anything"}
	}
	return template.HTML(strings.Join(parts, ", "))
}

func typeName(t string, s schema) string {
	switch t {
	case "array":
		if items, ok := s["items"].(schema); ok {
			return "list of " + string(typeText(items))
		}
		return "list"
	case "object":
		if values, ok := s["additionalProperties"].(schema); ok {
			return "object of " + string(typeText(values))
		}
		return "object"
	case "string":
		return "text"
	}
	return html.EscapeString(t)
}

// TestDocsAreCurrent renders the pages anew. With -update it writes them.
func TestDocsAreCurrent(t *testing.T) {
	for _, d := range documents(t) {
		got, err := render(read(generate(t, d)))
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(d.page, got, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if !bytes.Equal(got, d.shown) {
			t.Errorf("%s is not what the document says; go generate ./api writes it:\n%s", d.page, difference(string(d.shown), string(got)))
		}
	}
}

// TestDocsWorkUnderTheirPolicy reads the page as a browser does that keeps to the
// Content-Security-Policy: nothing is loaded or run, and the one style has the hash
// that is named.
func TestDocsWorkUnderTheirPolicy(t *testing.T) {
	f := NewFixture(t)
	for name, h := range handlers(t, f) {
		w := send(h, "GET", "/docs", "")
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusOK || got != "text/html; charset=utf-8" {
			t.Fatalf("%s: got %d, %s", name, w.Code, got)
		}
		policy := w.Header().Get("Content-Security-Policy")
		text := w.Body.String()
		style := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindAllStringSubmatch(text, -1)
		if len(style) != 1 {
			t.Fatalf("%s: got %d styles, want 1", name, len(style))
		}
		want := "default-src 'none'; style-src '" + hashOf(style[0][1]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
		if policy != want {
			t.Errorf("%s: got the policy %q, want %q", name, policy, want)
		}
		if found := regexp.MustCompile(`(?i)<(script|link|img|iframe|object|embed|form|base|audio|video|svg)\b|\s(on[a-z]+|style|src|srcset|action)=|javascript:|url\(|@import`).FindString(text); found != "" {
			t.Errorf("%s: the page has %q, which its policy forbids", name, found)
		}
		ids := map[string]bool{}
		for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(text, -1) {
			if ids[m[1]] {
				t.Errorf("%s: the anchor %s is there twice", name, m[1])
			}
			ids[m[1]] = true
		}
		for _, m := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(text, -1) {
			if anchor, ok := strings.CutPrefix(m[1], "#"); ok && !ids[anchor] || !ok && m[1] != "openapi.json" {
				t.Errorf("%s: the link %s leads nowhere", name, m[1])
			}
		}
		for pattern, row := range h.table {
			if !ids[row.id] {
				t.Errorf("%s: %s is not shown", name, pattern)
			}
		}
		if len(text) > 1<<20 {
			t.Errorf("%s: the page has %d bytes", name, len(text))
		}
	}
}
